"""The model of a result for export: the procedure that was scored, run once more without an outer fold.

At the logits level of ``crossfit`` that is the K networks `{k}`, their logits averaged, and a head fitted on
each fold's rows of the network that held it out. At the embedding level it is the network `{}`, which saw
every clip; its head's settings are chosen within the networks `{k}`, as each outer fold did within its pairs.
Under ``no-crossfit`` the network `{}` is exported at both levels, and the head keeps its defaults, as it was
scored. Sources without logits get them from as many fits as a tuned source would have networks.

In the run, the temperature of a head is learned on inner folds. There a row has the logits of one network,
and the heads are fitted on fewer rows, so the scored probabilities, which are made from the mean of several
networks by a head fitted on all training rows, are slightly under- or over-confident. The model's temperature
is corrected for that: it is multiplied by the temperature that fits the run's out-of-fold probabilities. The
run cannot correct its own, since for outer fold k only one network saw neither fold k nor another given fold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import single_holdouts
from moodfuse.cache.recipe import IMPORT
from moodfuse.cache.records import Block, Holdout
from moodfuse.cache.runs import LEAKY
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import SAW_ALL, fit_logits, make_fitted_block, select_logits
from moodfuse.fuse.design import DesignInputs, assemble
from moodfuse.fuse.fitting import fit_head, fit_temperature
from moodfuse.fuse.heads import ClassWeight, HeadSettings
from moodfuse.fuse.inference import TEMPERATURES, Floats, FusedSource, Fusion, Level, LinearArrays
from moodfuse.fuse.leak_guard import ClipRows, Features, get_values, make_clip_rows
from moodfuse.fuse.run_inputs import can_cross_fit_sources
from moodfuse.fuse.settings import CROSSFIT, PlannedResult


@dataclass(frozen=True)
class ScoredResult(PlannedResult):
    """The result to export, and how it was scored.

    `run_sources` are all sources of its run, which decided whether logits could be cross-fitted. With
    `defaults` it was scored, and is exported, with default settings. `class_weight` is that of its heads.
    """

    protocol: str
    run_sources: tuple[str, ...]
    defaults: bool = False
    class_weight: ClassWeight | None = None


@dataclass(frozen=True)
class FinalModel:
    """The model of a result.

    `networks` are those of each source, in the order in which their logits are averaged; ``*`` for a frozen
    one. `trees` is LightGBM's own text of a head of boosted trees, empty for other heads.
    """

    fusion: Fusion
    networks: Mapping[str, tuple[Holdout, ...]]
    trees: str = ""


def why_not_exportable(cache: FeatureCache, scored: ScoredResult) -> str:
    """Why a result cannot be exported; empty where it can."""
    if scored.protocol == LEAKY:
        return "a leaky run measures a leak; its networks saw the clips that they were tested on"
    missing: dict[str, Holdout] = {}
    for source in scored.sources:
        recipe = cache.recipe(source)
        if recipe.network == IMPORT and not recipe.made_by:
            return (
                f"{source} was imported, so nothing here can compute it for a new file; if its network is "
                "one of `moodfuse networks`, import it under another name with --made-by"
            )
        for holdout in list_networks_needed(cache, source, scored):
            if not cache.has_block(source, holdout):
                missing.setdefault(source, holdout)
    if not missing:
        return ""
    networks = ", ".join(f"the network {holdout} of {source}" for source, holdout in missing.items())
    option = " --for-export" if SAW_ALL in missing.values() else ""
    command = " --source ".join((f"extract again{option}", *missing))
    return f"{networks} {'is' if len(missing) == 1 else 'are'} missing; run {command}"


def list_networks_needed(cache: FeatureCache, source: str, scored: ScoredResult) -> tuple[Holdout, ...]:
    """Holdouts of a source's networks in the model, in the order in which their logits are averaged."""
    recipe = cache.recipe(source)
    if not recipe.sees_labels:
        return (Holdout.frozen(),)
    singles = single_holdouts(cache.plan.folds)
    if scored.level == "embedding" and not recipe.embedding_tuned:
        return singles  # one embedding, which saw no label; their logits give the source's own prediction
    if scored.level == "logits" and scored.protocol == CROSSFIT:
        return singles
    return (SAW_ALL,)


def fit_final_model(
    cache: FeatureCache, scored: ScoredResult, out_of_fold: Floats | None = None
) -> FinalModel:
    """Fit the model of a result.

    `out_of_fold` are the result's probabilities [R, N, C] in its run, under each of R fold plans. Their
    calibration corrects the temperature of the model; without them it is that of the inner folds.

    Raises
    ------
    InputError
        If the result cannot be exported; the message has the cause and the remedy.
    """
    if why := why_not_exportable(cache, scored):
        raise InputError(f"{scored.name} cannot be exported: {why}")
    rows, level = make_clip_rows(cache.plan, cache.clips), scored.level
    head_settings = HeadSettings(cache.plan.seed, scored.class_weight)
    networks = {source: list_networks_needed(cache, source, scored) for source in scored.sources}
    cross_fit = level == "logits" and can_cross_fit_sources(cache, scored.run_sources)
    features, sources = [], []
    for source, holdouts in networks.items():
        blocks = {holdout: cache.block(source, holdout) for holdout in holdouts}
        part, own = _make_features(rows, blocks, level, head_settings, cross_fit=cross_fit)
        features.append(part)
        sources.append(FusedSource(source, own, _fill(part, level, rows)))
    pairs = _read_pairs(cache, scored)
    design = assemble(DesignInputs(rows, features, level, pairs=pairs, seed=cache.plan.seed))
    if scored.defaults:
        design = replace(design, inner=())
    model, chosen, temperature = fit_head(design, scored.head, head_settings)
    if chosen is not None and out_of_fold is not None:
        labels = np.tile(rows.labels, len(out_of_fold))
        correction = fit_temperature(np.concatenate(out_of_fold), labels)
        temperature = float(np.clip(temperature * correction, *TEMPERATURES))
    head = model.to_arrays(columns=design.x.shape[1], classes=len(design.classes))
    fusion = Fusion(design.classes, level, tuple(sources), head, temperature, chosen is not None)
    return FinalModel(fusion, networks, model.to_text() if head.kind == "trees" else "")


def _read_pairs(cache: FeatureCache, scored: ScoredResult) -> dict[int, list[Block]]:
    """For each fold the blocks of the networks that held it out, where settings are chosen within them."""
    tuned = any(cache.recipe(source).embedding_tuned for source in scored.sources)
    if scored.level != "embedding" or scored.protocol != CROSSFIT or not tuned:
        return {}
    return {
        fold: [cache.block(source, fold) for source in scored.sources] for fold in range(cache.plan.folds)
    }


def _make_features(
    rows: ClipRows,
    blocks: Mapping[Holdout, Block],
    level: Level,
    settings: HeadSettings,
    *,
    cross_fit: bool,
) -> tuple[Features, tuple[LinearArrays, ...]]:
    """The features of one source for the head, with the fits that make its logits where it has none."""
    first, own = next(iter(blocks.values())), []
    if first.logits is None:
        fitted: dict[Holdout, Block] = {}
        for holdout in single_holdouts(int(rows.folds.max()) + 1) if cross_fit else (SAW_ALL,):
            head, fit = fit_logits(first, holdout, rows, settings)
            fitted[holdout] = make_fitted_block(first, holdout, fit, rows)
            own.append(head.to_arrays(columns=first.embedding.shape[1], classes=len(rows.classes)))
        blocks = fitted
    return (select_logits(blocks, rows) if level == "logits" else first), tuple(own)


def _fill(features: Features, level: Level, rows: ClipRows) -> Floats:
    """Mean of the rows of clips with the modality that the source reads."""
    values = get_values(features, level).astype(np.float64)
    present = ~rows.mask(features.absent)
    return np.asarray(values[present].mean(axis=0) if present.any() else np.zeros(values.shape[1]))
