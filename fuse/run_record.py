"""The record of a run: results put together from the fits of all folds, and notes for the reader."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata

import numpy as np

from moodfuse.cache.fits import KeptFit
from moodfuse.cache.folds import MIN_INNER_GROUPS, groups_per_label
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.runs import FEW_GROUPS, LEAKY, LEAKY_MARK, UNCALIBRATED, Result, Run
from moodfuse.fuse.inference import apply_temperature
from moodfuse.fuse.leak_guard import ClipRows
from moodfuse.fuse.run_inputs import RunInputs
from moodfuse.fuse.settings import NO_CROSSFIT, PlannedResult, Task

LIBRARIES = ("moodfuse", "numpy", "scipy", "scikit-learn", "lightgbm", "torch", "torchvision", "av")


def make_run(
    name: str,
    inputs: RunInputs,
    clips: Sequence[ClipRows],
    fits: Sequence[Mapping[Task, KeptFit]],
    *,
    note: str,
    commands: Sequence[str],
) -> Run:
    """The run of the clips and the fits of each fold plan; `note` is that of `choose_plans`."""
    first, leaky = clips[0], inputs.protocol == LEAKY
    default = FEW_GROUPS if _has_few_groups(inputs) else UNCALIBRATED
    results = dict.fromkeys(result for result, _ in fits[0])
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
        results=tuple(_make_result(result, clips, fits, default=default, leaky=leaky) for result in results),
        notes=(*make_run_notes(inputs), *([note] if note else [])),
        digests=first.digests,
        missing=missing_modalities(inputs.clips),
        repeat_folds=tuple(tuple(further.folds.tolist()) for further in clips[1:]),
        commands=tuple(command for command in commands if command),
        versions=library_versions(),
    )


def _make_result(
    result: PlannedResult,
    clips: Sequence[ClipRows],
    fits: Sequence[Mapping[Task, KeptFit]],
    *,
    default: str,
    leaky: bool,
) -> Result:
    """One result: rows of all folds in the order of the clips, under each plan."""
    unscaled, scaled, temperatures, chosen = [], [], [], []
    for rows, plan_fits in zip(clips, fits, strict=True):
        folds = [plan_fits[result, fold] for fold in range(int(rows.folds.max()) + 1)]
        probabilities = np.empty((len(rows.ids), len(rows.classes)))
        for fold, fit in enumerate(folds):
            probabilities[rows.folds == fold] = fit.values
        unscaled.append(probabilities)
        temperatures.append([fit.temperature for fit in folds])
        scaled.append(apply_temperature(probabilities, np.array(temperatures[-1])[rows.folds]))
        chosen.append(all(fit.chosen for fit in folds))
    return Result(
        sources=result.sources,
        head=result.head,
        level=result.level,
        probabilities=scaled[0],
        notes=make_result_notes(chosen, default=default, leaky=leaky),
        unscaled=unscaled[0],
        temperatures=tuple(temperatures[0]),
        repeats=np.stack(scaled[1:]) if len(scaled) > 1 else None,
    )


def accuracies(run: Run) -> list[float]:
    """Out-of-fold accuracy of every result of a run."""
    y_true = np.array([run.classes.index(label) for label in run.labels])
    return [float(np.mean(np.argmax(result.probabilities, axis=1) == y_true)) for result in run.results]


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


def missing_modalities(clips: Sequence[ClipStatus]) -> tuple[tuple[str, ...], ...]:
    """The modality that each clip does not have; nothing where every clip has both."""
    missing = tuple((status.missing,) if status.missing else () for status in clips)
    return missing if any(missing) else ()


def make_run_notes(inputs: RunInputs) -> Iterator[str]:
    """Notes on a whole run."""
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


def library_versions() -> tuple[tuple[str, str], ...]:
    """Installed versions of the libraries that decide a run's numbers; nothing is imported for it."""
    versions = []
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append((name, metadata.version(name)))
    return tuple(versions)
