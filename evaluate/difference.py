"""Two results compared on the same clips: differences of metrics, a paired test, and the clips that changed.

Two results of cross-validation are tested as in `evaluate.planned`, so the report and this comparison give
one answer. Predictions from elsewhere are taken as given: how they vary with their training clips is not
known, so there is no correction for it. Then accuracy is tested by the exact sign-flip test over groups of
`evaluate.paired`, which has fewer false positives than a t test of few groups, and log loss by a t test.
`benchmarks/compare_systems.py` measures coverage and false positives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moodfuse.cache.csv_rows import read_number, read_records
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import LEAKY, LEAKY_MARK, Result, Run
from moodfuse.evaluate.intervals import (
    DIFFERENCE,
    DRAWS,
    LOSS_DIFFERENCE,
    GroupResamples,
    Interval,
    format_group_count,
    interval,
    resample_groups,
)
from moodfuse.evaluate.metrics import METRICS, Floats, Labels, clip_losses, is_correct
from moodfuse.evaluate.paired import match_clips, sign_flip_p
from moodfuse.evaluate.planned import (
    LEVEL,
    PLANNED_HEADS,
    corrected_t_test,
    format_p,
    plain_head,
    training_correction,
)
from moodfuse.evaluate.scoring import check_input

COMPARED = ("accuracy", "macro_f1", "auc", "log_loss")
FROM_LABELS = COMPARED[:2]
"""The metrics of a system whose probabilities are not known."""
_ROUNDING = 0.01
"""How far rounding may move the sum of the probabilities in a row of a CSV file."""


@dataclass(frozen=True)
class MetricDifference:
    """A metric of two results, and the second minus the first with its 95 % interval.

    All are means over the fold plans; log loss is in nats. `p_value` is two-sided, `None` for macro F1 and
    AUC, which are not tested.
    """

    first: float
    second: float
    difference: float
    ci95: Interval
    p_value: float | None = None


@dataclass(frozen=True)
class ChangedClip:
    """A clip that one of two results classifies correctly, under the first fold plan."""

    id: str
    label: str
    first: str
    second: str
    became: str
    """``"right"`` or ``"wrong"``, in the second result."""


@dataclass(frozen=True)
class Difference:
    """Two results on the same clips; `auc` and `log_loss` are `None` where only labels are known."""

    first: str
    second: str
    clips: int
    groups: int
    repeats: int
    test: str
    accuracy: MetricDifference
    macro_f1: MetricDifference
    auc: MetricDifference | None
    log_loss: MetricDifference | None
    changed: tuple[ChangedClip, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The difference of accuracy in words."""
        gain = self.accuracy
        low, high = (f"{100 * end:+.1f}" for end in gain.ci95.ends)
        known = f"95 % CI {low} to {high}" if gain.ci95.known else "no interval: too few groups"
        p_text = format_p(1.0 if gain.p_value is None else gain.p_value)
        if gain.p_value is not None and gain.p_value < LEVEL:
            verb, points = "raises" if gain.difference > 0 else "lowers", 100 * abs(gain.difference)
            return (
                f"{self.second} {verb} accuracy by {points:.1f} points ({known}, {p_text}), compared with "
                f"{self.first}."
            )
        excludes_zero = gain.ci95.known and low[0] == high[0]
        remark = "; the interval is approximate, the p-value is exact" if excludes_zero else ""
        return (
            f"No significant difference in accuracy ({100 * gain.difference:+.1f} points, {known}, {p_text}"
            f"{remark}): {self.second} compared with {self.first}."
        )


@dataclass(frozen=True)
class _System:
    """Probabilities [R, N, C] in the order of the run's clips; without `folds` they are taken as given."""

    name: str
    tables: Floats
    folds: int | None = None
    labels_only: bool = False
    leaky: bool = False


def compare(
    run: Run,
    first: str | Path | ArrayLike,
    second: str | Path | ArrayLike,
    *,
    against: Run | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare two results, or a result with the predictions of another system, on the clips of a run.

    Parameters
    ----------
    run : Run
        See `moodfuse.read_run`; its groups are the units of the test.
    first, second : str, Path, or array-like of float, shape (N, C)
        The name of a result, such as ``"c3d+i3d softmax logits"``, or its sources, such as ``"c3d+i3d"``:
        then both sides have the same head and level, the first of `PLANNED_HEADS` that both have. Another
        system is a CSV file (see `read_predictions`), or probabilities in the order of ``run.ids`` and
        ``run.classes``.
    against : Run, optional
        The run of `second`, if it is another one.
    draws, seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        If there is no such result, or clips, labels or classes differ.

    Examples
    --------
    >>> compare(run, "onedmcnn+twodmcnn", "c3d+i3d+onedmcnn+twodmcnn").accuracy.p_value  # doctest: +SKIP
    0.17
    """
    sides = ((run, first), (against or run, second))
    if against is not None and (_is_file(second) or not isinstance(second, str)):
        raise InputError(f"run {against.name} has no part in this comparison; name a result of it as second")
    named = [(own, given) for own, given in sides if isinstance(given, str) and not _is_file(given)]
    chosen = iter(_choose_results(named))
    systems = [
        _from_result(run, own, next(chosen), named=against is not None)
        if isinstance(given, str) and not _is_file(given)
        else _from_elsewhere(run, given)
        for own, given in sides
    ]
    if len(named) == 2 and systems[0].name == systems[1].name:
        raise InputError(f"both sides are {systems[0].name}; name two results")
    labels = np.array([run.classes.index(label) for label in run.labels], dtype=np.int64)
    resamples = resample_groups(run.groups, draws=draws, seed=seed)
    known = [system.folds for system in systems if system.folds]
    folds = min(known) if len(known) == 2 else None
    names = FROM_LABELS if any(system.labels_only for system in systems) else COMPARED
    values = {name: _compare_metric(name, labels, systems, folds, resamples) for name in names}
    repeats = max(len(system.tables) for system in systems)
    return Difference(
        first=systems[0].name,
        second=systems[1].name,
        clips=len(labels),
        groups=resamples.groups,
        repeats=repeats,
        test=_describe_test(folds, resamples, repeats, with_loss="log_loss" in values),
        accuracy=values["accuracy"],
        macro_f1=values["macro_f1"],
        auc=values.get("auc"),
        log_loss=values.get("log_loss"),
        changed=tuple(_changed_clips(run, labels, systems)),
        notes=tuple(_notes(systems)),
    )


def _is_file(given: object) -> bool:
    return isinstance(given, Path) or (isinstance(given, str) and given.lower().endswith(".csv"))


def _choose_results(sides: Sequence[tuple[Run, str]]) -> list[Result]:
    """The result that each name means: by full name, or by sources under a head and level that all have."""
    options = [_find_options(run, name) for run, name in sides]
    if all(len(option) == 1 for option in options):
        return [result for option in options for result in option.values()]
    keys = [key for key in (*PLANNED_HEADS, *options[0]) if all(key in option for option in options)]
    if not keys:
        names = " and ".join(repr(name) for _, name in sides)
        raise InputError(f"{names} have no head and level in common; name each result in full")
    return [option[keys[0]] for option in options]


def _find_options(run: Run, name: str) -> dict[tuple[str, str], Result]:
    """Results of this name, or of these sources, by head and level."""
    sources = tuple(sorted(name.split("+")))
    named = [result for result in run.results if result.name == name]
    results = named or [result for result in run.results if result.sources == sources]
    if not results:
        known = ", ".join(dict.fromkeys("+".join(result.sources) for result in run.results))
        raise InputError(
            f"run {run.name} has no result {name!r}; expected a name such as {run.results[-1].name!r}, a CSV "
            f"file, sources ({known}), or another --run"
        )
    return {(plain_head(result.head), result.level): result for result in reversed(results)}


def _from_result(run: Run, own: Run, result: Result, *, named: bool) -> _System:
    """A result of `own`, in the order of the clips of `run`; `named` adds the name of its run."""
    tables = result.over_plans if own is run else result.over_plans[:, match_clips(run, own)]
    name = f"{result.name} ({own.name})" if named else result.name
    return _System(name, tables, own.fold_count, leaky=own.protocol == LEAKY)


def _from_elsewhere(run: Run, given: Any) -> _System:
    """Probabilities of a CSV file, an array, or a DataFrame, whose index may have the ids of the clips."""
    if _is_file(given):
        probabilities, labels_only = read_predictions(run, Path(given))
        return _System(Path(given).name, probabilities[None], labels_only=labels_only)
    if hasattr(given, "loc") and sorted(map(str, given.index)) == sorted(run.ids):
        given = given.loc[list(run.ids)]
    _, _, values = check_input(run.labels, given, run.classes)
    return _System("the given probabilities", values[None])


def read_predictions(run: Run, file: Path) -> tuple[Floats, bool]:
    """Predictions of another system for the clips of a run, [N, C], and whether only labels are known.

    The CSV file has the columns `id` and one of probabilities for each class, or `id` and `predicted` (or
    `label`), the predicted class; then its probability is 1. Other columns and other clips are ignored.
    Rows of probabilities are rescaled to a sum of 1, from which rounding may move them by 0.01.

    Raises `InputError` if a clip of the run has no row or two, or a cell cannot be used.
    """
    rows: dict[str, tuple[str, dict[str, str]]] = {}
    for line, cells in read_records(file, ("id",), ()):
        where = f"{file}, line {line}"
        if cells["id"] in rows:
            raise InputError(f"{where}: {cells['id']!r} has a row already; expected one row for each clip")
        rows[cells["id"]] = where, cells
    if missing := [clip for clip in run.ids if clip not in rows]:
        raise InputError(
            f"{file}: has no row for {len(missing)} of {len(run.ids)} clips of run {run.name}, such as "
            f"{missing[0]!r}; give each clip a prediction"
        )
    columns = rows[run.ids[0]][1]
    if columns.keys() >= set(run.classes):
        table = np.array([_read_probabilities(run.classes, *rows[clip]) for clip in run.ids])
        return table, False
    column = next((name for name in ("predicted", "label") if name in columns), None)
    if column is None:
        raise InputError(
            f"{file}: has the columns {', '.join(columns)}; expected id and a column for each class "
            f"({', '.join(run.classes)}), or id and predicted"
        )
    table = np.zeros((len(run.ids), len(run.classes)))
    for row, clip in enumerate(run.ids):
        where, cells = rows[clip]
        label = cells[column].strip()
        if label not in run.classes:
            raise InputError(f"{where}: {column} is {label!r}; expected one of {', '.join(run.classes)}")
        table[row, run.classes.index(label)] = 1
    return table, True


def _read_probabilities(classes: Sequence[str], where: str, cells: dict[str, str]) -> Floats:
    if empty := [name for name in classes if not cells[name].strip()]:
        raise InputError(f"{where}: {empty[0]} is empty; expected a probability")
    values = np.array([read_number(where, name, cells[name]) for name in classes], dtype=np.float64)
    if (values < 0).any() or abs(values.sum() - 1) > _ROUNDING:
        raise InputError(f"{where}: probabilities are {values.tolist()}; expected values >= 0 that sum to 1")
    return np.asarray(values / values.sum())


def _compare_metric(
    name: str, labels: Labels, systems: Sequence[_System], folds: int | None, resamples: GroupResamples
) -> MetricDifference:
    first, second = (
        float(np.mean([METRICS[name](labels, table) for table in system.tables])) for system in systems
    )
    scale = LOSS_DIFFERENCE if name == "log_loss" else DIFFERENCE
    if name in ("accuracy", "log_loss"):
        measure = is_correct if name == "accuracy" else clip_losses
        before, after = (
            np.mean([measure(labels, table) for table in system.tables], axis=0) for system in systems
        )
        gains = after - before
        test = corrected_t_test(gains, folds, resamples, scale)
        p_value = test.p_value
        if name == "accuracy" and folds is None:
            # Gains of a result under R plans against given predictions are multiples of 1 / R.
            plans = max(len(system.tables) for system in systems)
            p_value = sign_flip_p(plans * resamples.group_sums(gains))
        return MetricDifference(first, second, test.mean, test.interval, p_value)
    before, after = (
        np.concatenate(
            [
                np.mean([METRICS[name](labels, table, weights) for table in system.tables], axis=0)
                for weights in resamples.weights()
            ]
        )
        for system in systems
    )
    # An interval depends on the draws by their standard deviation alone.
    spread = np.sqrt(training_correction(folds)) * (after - before)
    return MetricDifference(
        first, second, second - first, interval(second - first, spread, resamples.effective, scale)
    )


def _describe_test(folds: int | None, resamples: GroupResamples, repeats: int, *, with_loss: bool) -> str:
    groups = format_group_count(resamples.groups, resamples.effective)
    if folds is None:
        tests = "sign-flip test (accuracy) and paired t test (log loss)" if with_loss else "sign-flip test"
        return f"{tests} over {groups}"
    plans = f" and {repeats} fold plans" if repeats > 1 else ""
    return f"corrected resampled t test over {groups}{plans}"


def _changed_clips(run: Run, labels: Labels, systems: Sequence[_System]) -> Iterator[ChangedClip]:
    """The clips that one system classifies correctly, those that became right first."""
    first, second = (system.tables[0].argmax(axis=1) for system in systems)
    for became, right, wrong in (("right", second, first), ("wrong", first, second)):
        for row in np.flatnonzero((right == labels) & (wrong != labels)).tolist():
            predicted = (run.classes[first[row]], run.classes[second[row]])
            yield ChangedClip(run.ids[row], run.labels[row], *predicted, became)


def _notes(systems: Sequence[_System]) -> Iterator[str]:
    for system in systems:
        if system.leaky:
            yield f"{LEAKY_MARK}: {system.name} has networks that were trained on the test clips"
        if system.folds is None:
            yield (
                f"{system.name}: the predictions are taken as given, so the test has no correction for the "
                "variation between trainings"
            )
        if system.labels_only:
            yield f"{system.name}: labels without probabilities, so AUC and log loss are left out"
