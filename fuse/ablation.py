"""The ablation: combinations of sources x heads x levels x folds, with out-of-fold probabilities.

Under the protocol ``crossfit`` every setting (C, rounds, temperature) is chosen on rows that are out of
sample; where that is not possible, the result keeps its defaults and is marked ``uncalibrated``.
`moodfuse.fuse.cross_fitting` documents which networks each protocol reads.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from moodfuse.cache.digests import digest
from moodfuse.cache.fits import CachedFit, FitCache
from moodfuse.cache.folds import MIN_INNER_GROUPS, groups_per_label
from moodfuse.cache.records import ClipStatus, Plan
from moodfuse.cache.runs import FEW_GROUPS, LEAKY, LEAKY_MARK, UNCALIBRATED, Result, Run, resolve_run_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import fit_features
from moodfuse.fuse.fitting import Call, FitRunner, fitted_head, predict
from moodfuse.fuse.heads import get_head_spec
from moodfuse.fuse.inference import Floats, apply_temperature
from moodfuse.fuse.leak_guard import ClipRows, make_clip_rows
from moodfuse.fuse.run_inputs import (
    RunInputs,
    choose_plans,
    group_series,
    read_blocks,
    read_inputs,
    read_part_digests,
)
from moodfuse.fuse.settings import (
    NO_CROSSFIT,
    AblationSettings,
    PlannedResult,
    Task,
    collect_sources,
    list_planned_results,
)

log = logging.getLogger(__name__)

RULES = 3
"""Counts changes of the code that change the outcome of every fit: designs, inner folds, chosen settings."""
_FIT_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm")
"""Libraries whose version decides a fit."""
_LIBRARIES = ("moodfuse", *_FIT_LIBRARIES, "torch", "torchvision", "torchaudio", "timm", "transformers", "av")


def make_fit_keys(inputs: RunInputs, plan: Plan, parts: Mapping[str, tuple[str, str]]) -> Callable[..., str]:
    """A function of sources and further facts that gives the key of a fit: a digest of all that decides it.

    Clips, labels and groups are not in it: they name the folder of the cached fits (`moodfuse.cache.fits`).
    `parts` is as from `read_part_digests`.
    """
    common = {
        "rules": RULES,
        "libraries": {name: version for name, version in read_library_versions() if name in _FIT_LIBRARIES},
        "folds": plan.folds,
        "plan": sorted(plan.assignment.items()),
        "protocol": inputs.protocol,
        "crossfit": inputs.cross_fit,
        "seed": inputs.plan.seed,
        "class_weight": inputs.class_weight,
    }
    if inputs.has_series_as_groups:
        common["series"] = True
    common_digest = digest(common)

    def key(sources: Sequence[str], *facts: object) -> str:
        values = [common_digest, facts, [(source, parts[source]) for source in sources]]
        return hashlib.sha256(repr(values).encode()).hexdigest()

    return key


def run_ablation(cache: FeatureCache, settings: AblationSettings) -> Run:
    """Fit every combination, head and level, fold by fold; finished fits are cached, the run is not written.

    Returns the run: first a result with head `NETWORK` for each source, then the combinations.

    Raises
    ------
    InputError
        If the run's name is taken, before anything is fitted.
    LeakError
        If a block saw a clip that it would be tested on.
    MissingBlockError
        If features are not in the cache.
    """
    name, is_leaky = settings.run, settings.protocol == LEAKY
    if is_leaky and name is not None and not name.startswith(LEAKY):
        name = f"{LEAKY}-{name}"
    name = resolve_run_name(cache, name, prefix=LEAKY if is_leaky else "run")
    results = list_planned_results(cache, settings)
    inputs = read_inputs(cache, collect_sources(results), settings.protocol, settings.class_weight)
    plans, note = choose_plans(inputs, settings.repeats)
    log.info("%d results, %d fold plans", len(results), len(plans))
    done = []
    for number, plan in enumerate(plans, 1):
        title = f"Fitting heads, fold plan {number} of {len(plans)}"
        done.append(_fit_plan(cache, inputs, plan, results, settings, title))
    grouped = group_series(inputs)
    series = None
    if grouped is not None:
        title = "Fitting heads, series held out whole"
        series = _fit_plan(cache, grouped, grouped.plan, results, settings, title)
    return make_run(name, inputs, done, series, note=note, commands=(*cache.commands, settings.command))


@dataclass(frozen=True)
class PlanFits:
    """The fits of all results and folds under one plan."""

    clips: ClipRows
    fits: Mapping[Task, CachedFit]


def _fit_plan(
    cache: FeatureCache,
    inputs: RunInputs,
    plan: Plan,
    results: Sequence[PlannedResult],
    settings: AblationSettings,
    title: str,
) -> PlanFits:
    """The fits of all results and folds under one plan, under a progress bar with a title.

    Blocks are read only where one is missing.
    """
    key = make_fit_keys(inputs, plan, read_part_digests(cache, inputs, plan))
    rows = make_clip_rows(plan, inputs.clips)
    fits = FitCache(cache.path, cache.clips) if settings.keep else None
    runner = FitRunner(fits, settings.jobs, settings.scheduler)

    def make_calls(missing: list[Task]) -> list[Call]:
        features = fit_features(inputs, rows, read_blocks(cache, inputs, plan), key, runner)
        return [
            (
                (result, fold),
                predict,
                (
                    features.make_design_inputs(result.sources, result.level, fold),
                    result.head,
                    features.settings,
                ),
            )
            for result, fold in missing
        ]

    version = {result: get_head_spec(fitted_head(result.head)).version for result in results}
    keys = {
        (result, fold): key(result.sources, result.head, version[result], result.level, fold)
        for result in results
        for fold in range(plan.folds)
    }
    return PlanFits(rows, runner.run(title, keys, make_calls))


# The record of the run


def make_run(
    name: str,
    inputs: RunInputs,
    plans: Sequence[PlanFits],
    series: PlanFits | None,
    *,
    note: str,
    commands: Sequence[str],
) -> Run:
    """The run of the fits under each fold plan; `note` is that of `choose_plans`.

    `series` are the fits under the plan of `group_series`.
    """
    first, leaky = plans[0].clips, inputs.protocol == LEAKY
    default = FEW_GROUPS if _has_few_groups(inputs) else UNCALIBRATED
    results = dict.fromkeys(result for result, _ in plans[0].fits)
    return Run(
        name=name,
        protocol=inputs.protocol,
        classes=first.classes,
        ids=first.ids,
        labels=tuple(status.clip.label for status in inputs.clips),
        groups=first.group_names,
        folds=tuple(first.folds.tolist()),
        fold_count=inputs.plan.folds,
        seed=inputs.plan.seed,
        recipes=tuple((source, recipe.digest16) for source, recipe in inputs.recipes.items()),
        results=tuple(
            _make_result(result, plans, series, default=default, leaky=leaky) for result in results
        ),
        notes=(*make_run_notes(inputs), *([note] if note else [])),
        digests=first.digests,
        missing=list_missing_modalities(inputs.clips),
        repeat_folds=tuple(tuple(further.clips.folds.tolist()) for further in plans[1:]),
        series_folds=() if series is None else tuple(series.clips.folds.tolist()),
        commands=tuple(command for command in commands if command),
        versions=read_library_versions(),
        class_weight=inputs.class_weight or "none",
        modalities=tuple(
            (source, modality)
            for source, recipe in inputs.recipes.items()
            if (modality := recipe.declared_modality) is not None
        ),
    )


def _make_result(
    result: PlannedResult, plans: Sequence[PlanFits], series: PlanFits | None, *, default: str, leaky: bool
) -> Result:
    """One result: rows of all folds in the order of the clips, under each plan."""
    predictions = [_collect_folds(result, plan) for plan in plans]
    first = predictions[0]
    scaled = [one.scaled for one in predictions]
    return Result(
        sources=result.sources,
        head=result.head,
        level=result.level,
        probabilities=scaled[0],
        notes=make_result_notes([one.chosen for one in predictions], default=default, leaky=leaky),
        unscaled=first.unscaled,
        temperatures=first.temperatures,
        settings=first.settings if any(first.settings) else (),
        repeats=np.stack(scaled[1:]) if len(scaled) > 1 else None,
        series=None if series is None else _collect_folds(result, series).scaled,
    )


@dataclass(frozen=True)
class _Predictions:
    """Out-of-fold probabilities [N, C] under one plan, before and after temperature scaling."""

    unscaled: Floats
    scaled: Floats
    temperatures: tuple[float, ...]  # one per fold
    settings: tuple[Mapping[str, float], ...]  # one per fold
    chosen: bool  # whether settings were chosen in every fold


def _collect_folds(result: PlannedResult, plan: PlanFits) -> _Predictions:
    rows = plan.clips
    folds = [plan.fits[result, fold] for fold in range(int(rows.folds.max()) + 1)]
    unscaled = np.empty((len(rows.ids), len(rows.classes)))
    for fold, fit in enumerate(folds):
        unscaled[rows.folds == fold] = fit.values
    temperatures = tuple(fit.temperature for fit in folds)
    scaled = apply_temperature(unscaled, np.array(temperatures)[rows.folds])
    settings = tuple(fit.settings for fit in folds)
    return _Predictions(unscaled, scaled, temperatures, settings, all(fit.chosen for fit in folds))


def accuracies(run: Run) -> list[float]:
    """Out-of-fold accuracy of every result of a run, the mean over its fold plans."""
    y_true = np.array([run.classes.index(label) for label in run.labels])
    return [float(np.mean(np.argmax(result.over_plans, axis=-1) == y_true)) for result in run.results]


def make_result_notes(chosen: Sequence[bool], *, default: str, leaky: bool) -> tuple[str, ...]:
    """Notes on a result: for each fold plan, `chosen` is whether settings were chosen in every fold.

    `default` is the note where they were not.
    """
    notes = [LEAKY_MARK] if leaky else []
    if not chosen[0]:
        notes.append(default)
    if 0 < sum(chosen) < len(chosen):
        notes.append(f"settings were chosen under {sum(chosen)} of {len(chosen)} fold plans")
    return tuple(notes)


def _has_few_groups(inputs: RunInputs) -> bool:
    """Whether some class has fewer than 3 groups on the training side of some fold: nothing can be chosen."""
    labels, folds = groups_per_label(inputs.groups), inputs.plan.assignment
    sides = (
        groups_per_label(group for group in inputs.groups if folds[group.key] != fold)
        for fold in range(inputs.plan.folds)
    )
    return any(side[label] < MIN_INNER_GROUPS for side in sides for label in labels)


def list_missing_modalities(clips: Sequence[ClipStatus]) -> tuple[tuple[str, ...], ...]:
    """The modality that each clip does not have; nothing where every clip has both."""
    missing = tuple((status.missing,) if status.missing else () for status in clips)
    return missing if any(missing) else ()


def make_run_notes(inputs: RunInputs) -> Iterator[str]:
    """Notes on a whole run."""
    if inputs.class_weight is not None:
        yield "heads were fitted with balanced class weights; scores are corrected to their frequencies"
    if inputs.protocol == NO_CROSSFIT and inputs.tuned:
        why = (
            "no networks of pair holdouts" if inputs.cross_fit else "some class is missing without two folds"
        )
        yield (
            f"no-crossfit ({why}): a head over tuned features trains on rows that its networks saw, and "
            "keeps its default settings"
        )
    sources: dict[str, list[str]] = {}
    for source in inputs.fitted_logits:
        sources.setdefault(_describe_fit(inputs, source), []).append(source)
    for how, names in sources.items():
        yield f"logits of {', '.join(names)}: logistic regression on the embedding, {how}"
    if count := sum(bool(status.missing) for status in inputs.clips):
        yield f"{count} clips have no audio or no video; their features were filled in from training folds"


def _describe_fit(inputs: RunInputs, source: str) -> str:
    """Whether the fitted logits of a source are out of sample."""
    if inputs.protocol == LEAKY:
        return "in sample: LEAKY"
    if inputs.protocol == NO_CROSSFIT and source in inputs.tuned:
        return "in sample, because its embedding is"
    return "cross-fitted" if inputs.cross_fit else "in sample, because too few folds hold every class"


def read_library_versions() -> tuple[tuple[str, str], ...]:
    """Installed versions of the libraries that decide a run's numbers; nothing is imported for it."""
    versions = []
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append((name, metadata.version(name)))
    return tuple(versions)
