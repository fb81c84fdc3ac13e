"""Export a result of a run as a model: fit its head on all clips and write it with its networks."""

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.files import check_checksum
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import WINDOW_S, Holdout
from moodfuse.cache.runs import DEFAULTS, Result, Run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import run_labels
from moodfuse.evaluate.intervals import DRAWS, GroupResamples, resample_groups
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.scoring import repeated_score, score_resamples
from moodfuse.evaluate.selection import (
    class_frequency_loss,
    estimate_best,
    find_results_within_one_error,
    rank_result,
)
from moodfuse.extract.recipe_files import check_network
from moodfuse.fuse.ablation import list_missing_modalities, read_library_versions
from moodfuse.fuse.final_fit import (
    FinalModel,
    ScoredResult,
    fit_final_model,
    list_networks_needed,
    why_not_exportable,
)
from moodfuse.fuse.inference import check_level
from moodfuse.fuse.run_inputs import choose_protocol
from moodfuse.fuse.settings import AblationSettings, PlannedResult, collect_sources, list_planned_results
from moodfuse.model.folder import (
    ARRAYS,
    TRAINING,
    ModelCard,
    ModelFile,
    ModelSource,
    pack_arrays,
    pack_training_clips,
    write_model,
)
from moodfuse.model.summary import summarize

log = logging.getLogger(__name__)
BEST = "best"
"""The result of lowest cross-validated log loss."""
SIMPLEST = "simplest"
"""The smallest result whose log loss is within one standard error of that of the best."""
_Named = TypeVar("_Named", Result, PlannedResult)


@dataclass(frozen=True)
class ExportSettings:
    """Which result to export (a name, `BEST` or `SIMPLEST`), and to which new folder.

    `impute` decides whether the model labels files without audio or video; by default it does if `extract`
    kept such clips. With `force` a result that is no better than the class frequencies is exported too.
    """

    result: str
    folder: Path
    impute: bool | None = None
    force: bool = False


def check_planned(cache: FeatureCache, ablation: AblationSettings, settings: ExportSettings) -> None:
    """Raise InputError if a planned ablation will have no such result, or none that can be exported."""
    _check_folder(settings.folder)
    rows = list_planned_results(cache, ablation)
    sources = collect_sources(rows)
    protocol = choose_protocol(cache, sources, ablation.protocol)
    chosen = rows if settings.result in (BEST, SIMPLEST) else [find_result(rows, settings.result)]
    scored = [ScoredResult(row.sources, row.head, row.level, protocol, run_sources=sources) for row in chosen]
    reasons = [why_not_exportable(cache, result) for result in scored]
    if all(reasons):
        raise InputError(
            f"--export {settings.result}: cannot be exported, so nothing was fused: {reasons[0]}"
        )
    exportable = [row for row, why in zip(chosen, reasons, strict=True) if not why]
    for source in collect_sources(exportable):
        if not cache.recipe(source).made_by:
            check_network(cache.recipe(source))


def _check_folder(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder}: already exists; remove it, or name another folder with --model")


def export_model(
    cache: FeatureCache, run: Run, settings: ExportSettings, *, echo: Callable[[str], None] = log.info
) -> ModelCard:
    """Fit the head of a result on all clips, write the model, and return its card.

    `echo` receives each line for the user.

    Raises
    ------
    InputError
        If the cache has changed since the run, or the result is unknown, cannot be exported, or is no better
        than the class frequencies.
    """
    _check_folder(settings.folder)
    _check_unchanged(cache, run)
    resamples = resample_groups(run.groups, draws=DRAWS, seed=0)
    result, notes = select_result(cache, run, settings, resamples)
    notes += _reading_notes(cache)
    for note in notes:
        echo(note)
    final = fit_final_model(cache, _scored(run, result), result.over_plans)
    fusion = final.fusion
    recipes = {source: cache.recipe(source) for source in result.sources}
    for source, recipe in recipes.items():
        if recipe.made_by:
            from moodfuse.extract.imported_network import store_network  # imports torch

            recipes[source] = store_network(cache, source)
        check_network(recipes[source])
    files: dict[str, Path | bytes] = {ARRAYS: pack_arrays(fusion), TRAINING: pack_training_clips(cache)}
    sources = tuple(
        _add_source(cache, final, number, recipes, files) for number in range(len(fusion.sources))
    )
    if final.trees:
        files["trees.txt"] = final.trees.encode()
    decoder, *others = {status.decoder for status in cache.clips}
    if others:
        raise InputError("the clips were read by several decoders; run extract again, then fuse")
    impute = settings.impute
    if impute is None:
        impute = cache.reading.get("missing") == "impute" or any(status.missing for status in cache.clips)
    card = ModelCard(
        name=f"{result.name} of {run.name}",
        run=run.name,
        protocol=run.protocol,
        head=result.head,
        level=result.level,
        classes=fusion.classes,
        sources=sources,
        head_kind=fusion.head.kind,
        head_facts=fusion.head.facts(),
        temperature=fusion.temperature,
        chosen=fusion.chosen,
        decoder=decoder,
        impute=impute,
        training={
            "clips": len(cache.clips),
            "groups": len({status.group for status in cache.clips}),
            "labels": dict(sorted(Counter(status.clip.label for status in cache.clips).items())),
        },
        expected=_expected_scores(run, result, resamples) | {"best": settings.result == BEST},
        notes=tuple(dict.fromkeys((*result.notes, *notes))),
        versions=dict(read_library_versions()),
        commands=run.commands,
        files=dict.fromkeys(files, ModelFile("", 0)),
    )
    files["MODEL.md"] = summarize(card).encode()
    return write_model(settings.folder, card, files)


def find_result(results: Sequence[_Named], name: str) -> _Named:
    """Find a result of a run, or of a planned run, by name; words are separated by spaces or slashes."""
    sources, *others = name.replace("/", " ").split() or [""]
    full_name = " ".join(["+".join(sorted(sources.split("+"))), *others])
    for result in results:
        if result.name == full_name:
            return result
    raise UnknownNameError("result", name, tuple(result.name for result in results))


def _scored(run: Run, result: Result) -> ScoredResult:
    sources = tuple(source for source, _ in run.recipes)
    return ScoredResult(
        result.sources,
        result.head,
        check_level(result.level),
        run.protocol,
        sources,
        defaults=not set(DEFAULTS).isdisjoint(result.notes),
        class_weight="balanced" if run.class_weight == "balanced" else None,
    )


def _check_unchanged(cache: FeatureCache, run: Run) -> None:
    """Check that clips, labels, folds, recipes and the fitting of heads are still those of the run."""
    if not run.class_weight:
        raise InputError(
            f"run {run.name!r} was made by an older version, whose heads were fitted in another way; "
            "run fuse again, then export from the new run"
        )
    known = cache.sources()
    current = (
        tuple(status.digest for status in cache.clips),
        tuple(status.clip.label for status in cache.clips),
        tuple(status.group for status in cache.clips),
        tuple(cache.plan.assignment[status.digest] for status in cache.clips),
        list_missing_modalities(cache.clips),
        tuple((source, cache.recipe(source).digest16) for source, _ in run.recipes if source in known),
    )
    if current != (run.digests, run.labels, run.groups, run.folds, run.missing, run.recipes):
        raise InputError(
            f"run {run.name!r} has other clips, labels, groups, folds or recipes than {cache.path} has now; "
            "run fuse again, then export from the new run"
        )


def select_result(
    cache: FeatureCache, run: Run, settings: ExportSettings, resamples: GroupResamples
) -> tuple[Result, list[str]]:
    """Select the result to export, by name or by log loss, and return it with notes on the selection.

    Raises
    ------
    InputError
        If the result is unknown or, without `force`, no better than the class frequencies, or if none can be
        exported.
    """
    labels = run_labels(run)
    baseline = class_frequency_loss(labels, run)
    if settings.result == BEST:
        result, notes = _select_best(cache, run)
    elif settings.result == SIMPLEST:
        result, notes = _select_simplest(cache, run, resamples, baseline)
    else:
        result, notes = find_result(run.results, settings.result), []
    loss = rank_result(labels, result).log_loss
    if loss >= baseline:
        verdict = (
            f"the cross-validated log loss of {result.name}, {loss:.3f}, is not below that of the class "
            f"frequencies, {baseline:.3f}"
        )
        if not settings.force:
            raise InputError(f"{verdict}: it is no better than guessing; add --force to export it anyway")
        notes.append(f"{verdict}; it was exported with --force")
    return result, notes


def _select_best(cache: FeatureCache, run: Run) -> tuple[Result, list[str]]:
    """Select the best of the results that can be exported."""
    exportable, notes = _find_exportable(cache, run)
    best = exportable[0]
    loss = rank_result(run_labels(run), best).log_loss
    count = f"{len(exportable)} results" + " that can be exported" * (len(exportable) < len(run.results))
    plans = f" over {1 + len(run.repeat_folds)} fold plans" if run.repeat_folds else ""
    return best, [*notes, f"selected as the best of {count}, by cross-validated log loss{plans} ({loss:.3f})"]


def _select_simplest(
    cache: FeatureCache, run: Run, resamples: GroupResamples, baseline: float
) -> tuple[Result, list[str]]:
    """Select the smallest exportable result within one standard error of the best, and below `baseline`."""
    exportable, notes = _find_exportable(cache, run)
    ranks = {result.name: rank_result(run_labels(run), result) for result in exportable}
    near, error = find_results_within_one_error(run_labels(run), exportable, resamples)
    best = near[0]
    candidates = [result for result in near if ranks[result.name].log_loss < baseline] or [best]
    sizes = {result.name: _network_bytes(cache, _scored(run, result)) for result in candidates}
    simplest = min(candidates, key=lambda one: (sizes[one.name], len(one.sources), ranks[one.name]))
    if len(candidates) == 1:
        why = f"selected: no other result is within one standard error ({error:.3f}) of its log loss"
        return simplest, [*notes, why]
    return simplest, [
        *notes,
        f"selected as the smallest of {len(candidates)} results whose cross-validated log loss is within one "
        f"standard error ({error:.3f}) of that of the best, {best.name} ({ranks[best.name].log_loss:.3f}); "
        f"its own is {ranks[simplest.name].log_loss:.3f}",
    ]


def _find_exportable(cache: FeatureCache, run: Run) -> tuple[list[Result], list[str]]:
    """Return the results that can be exported, the best first, and a note if the best of all cannot."""
    ranks = {result.name: rank_result(run_labels(run), result) for result in run.results}
    ranked = sorted(run.results, key=lambda result: ranks[result.name])
    best, why = ranked[0], why_not_exportable(cache, _scored(run, ranked[0]))
    exportable = [result for result in ranked if not why_not_exportable(cache, _scored(run, result))]
    if not exportable:
        raise InputError(f"no result of run {run.name!r} can be exported: {why}")
    loss = ranks[best.name].log_loss
    note = f"the best result, {best.name} with a log loss of {loss:.3f}, cannot be exported: {why}"
    return exportable, [note] if why else []


# Networks


def _network_paths(
    cache: FeatureCache, source: str, holdouts: Sequence[Holdout]
) -> tuple[list[Path], list[Path]]:
    """Return the file of the layers that are not fine-tuned, if any, and those of fine-tuned networks."""
    recipe = cache.recipe(source)
    body = [] if recipe.tunes_trunk else [cache.network_path(recipe, None)]
    training_clips = (
        [cache.training_clips(recipe, holdout) for holdout in holdouts] if recipe.sees_labels else []
    )
    return body, [cache.network_path(recipe, clips) for clips in training_clips if clips is not None]


def _network_bytes(cache: FeatureCache, scored: ScoredResult) -> int:
    paths: set[Path] = set()
    for source in scored.sources:
        body, networks = _network_paths(cache, source, list_networks_needed(cache, source, scored))
        paths.update(body, networks)
    return sum(path.stat().st_size for path in paths if path.is_file())


def _add_source(
    cache: FeatureCache,
    final: FinalModel,
    number: int,
    recipes: Mapping[str, Recipe],
    files: dict[str, Path | bytes],
) -> ModelSource:
    """Add the networks of a source to the files of the model, and return its entry in the card."""
    fused = final.fusion.sources[number]
    body, networks = _network_paths(cache, fused.source, final.networks[fused.source])
    names = [f"networks/{number:02d}-{index:03d}.safetensors" for index in range(len(networks))]
    body_name = f"networks/{number:02d}-body.safetensors" if body else None
    for path in (*body, *networks):
        if not path.is_file():
            raise InputError(f"{path} is missing; run extract again with --source {fused.source}")
        check_checksum(path)
    files.update(zip((body_name, *names) if body_name else names, (*body, *networks), strict=True))
    return ModelSource(recipes[fused.source], body_name, tuple(names), len(fused.own))


# Texts and scores of the card


def _reading_notes(cache: FeatureCache) -> list[str]:
    """Return a note for each option of `extract` that the user must also pass to `predict`."""
    notes = []
    # The model has `impute` instead of --missing.
    options = " ".join(
        f"--{name}" if value is True else f"--{name} {value:g}"
        for name, value in cache.reading.items()
        if name not in ("missing", "group-pattern")
    )
    if options:
        notes.append(f"extract read the training clips with `{options}`; pass the same options to `predict`")
    if "group-pattern" in cache.reading:
        pattern = shlex.quote(str(cache.reading["group-pattern"]))
        notes.append(
            f"extract grouped the training clips with `--group-pattern {pattern}`; pass the same to "
            "`evaluate --model`"
        )
    clips = [status.clip for status in cache.clips]
    windows = [clip.end_s - clip.start_s for clip in clips if clip.end_s is not None]
    lengths = [length for length in windows if abs(length - WINDOW_S) > 1e-3]
    if lengths:
        span = " to ".join(dict.fromkeys(f"{length:g}" for length in (min(lengths), max(lengths))))
        notes.append(
            f"{len(lengths)} of {len(clips)} training clips are windows of {span} s, but predict reads the "
            f"first {WINDOW_S:g} s of a file; pass a CSV with `path,start_s,end_s` to label such windows"
        )
    return notes


def _expected_scores(run: Run, result: Result, resamples: GroupResamples) -> dict[str, object]:
    """Return the cross-validated scores of a result with 95 % confidence intervals, as JSON types."""
    labels = run_labels(run)
    score = score_resamples(labels, result.probabilities, resamples, classes=run.classes)
    scores: dict[str, object] = {"clips": score.clips, "groups": score.groups, "results": len(run.results)}
    scores["fold_plans"] = 1 + len(run.repeat_folds)
    for name in METRICS:
        scores[name] = _json_number(getattr(score, name))
        scores[f"{name}_ci95"] = [_json_number(end) for end in getattr(score, f"{name}_ci95").ends]
    if run.repeat_folds:
        repeated = repeated_score(labels, result.over_plans, np.array([run.folds, *run.repeat_folds]))
        scores["accuracy"] = _json_number(repeated.accuracy)
        scores["accuracy_ci95"] = [_json_number(end) for end in repeated.ci95.ends]
    if len(run.results) > 1:
        best = estimate_best(labels, run.results, resamples)
        scores["best_corrected"] = _json_number(best.corrected)
        scores["best_corrected_ci95"] = [_json_number(end) for end in best.corrected_ci95.ends]
    return scores


def _json_number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 12)
