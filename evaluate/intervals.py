"""95 % confidence intervals of metrics: t intervals over groups, from a bootstrap of groups.

Groups are resampled, since clips of one group resemble each other (Field and Welsh 2007, J. R. Stat. Soc. B
69:369); G groups of unequal size count as Kish's effective number (Kish 1965, Survey Sampling, sec. 8.2). The
interval is the estimate plus and minus t(G - 1) bootstrap standard errors times sqrt(G / (G - 1)), on the
logit of a proportion or the logarithm of a loss (DiCiccio and Efron 1996, Statist. Sci. 11:189). Where all
resamples are equal, it is Clopper and Pearson's (1934, Biometrika 26:404) for G agreeing groups.
`docs/evaluation.md` has the reasons; `benchmarks/coverage.py` and `class_sizes.py` measure the coverage.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.evaluate.metrics import (
    LOG_EPS,
    METRICS,
    Floats,
    Labels,
    all_metrics,
    ece_if_calibrated,
    expected_calibration_error,
    is_correct,
)

DRAWS = 2000
COVERAGE = 0.95
UNKNOWN = "–"
"""Shown for a number that is not defined."""
MAX_LOSS = float(-np.log(LOG_EPS))
"""The largest loss of a clip, in nats: about 36."""
MIN_GROUPS, FEW_GROUPS = 2, 30
SIMULATED = {
    3: {"accuracy": 0.99, "macro_f1": 0.98, "auc": 0.99, "log_loss": 0.94},
    6: {"accuracy": 0.98, "macro_f1": 0.96, "auc": 0.99, "log_loss": 0.91},
    12: {"accuracy": 0.97, "macro_f1": 0.95, "auc": 0.95, "log_loss": 0.90},
    20: {"accuracy": 0.96, "macro_f1": 0.96, "auc": 0.95, "log_loss": 0.93},
}
"""Equal groups -> least coverage in simulations; `benchmarks/coverage.py` measures it again."""
RARE, RARE_UNEQUAL = 8, 15
"""A class is rare below so many groups; `RARE_UNEQUAL` if it has less than a quarter of the mean class."""
FEW_WRONG, MAX_WRONG = 15, 0.1
"""With fewer wrongly predicted groups, also as a fraction of all, the interval of log loss is too narrow."""
ECE_RATIO = 3.0
"""Smallest ratio to the calibration error of a calibrated classifier at which it has an interval."""
SIMULATED_RARE = {"macro_f1": 0.84, "auc": 0.9}
SIMULATED_WRONG = {"log_loss": 0.84}
"""Least coverage in simulations of such results; `benchmarks/class_sizes.py` measures it again."""
_WEIGHTS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; both ends are NaN where it is not defined."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether it is defined."""
        return not math.isnan(self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high

    def shown(self, form: str = ".2f", *, scale: float = 1.0) -> str:
        """The ends in brackets, times `scale`, such as ``"[0.41, 0.67]"``; a dash where not defined."""
        if not self.known:
            return f"[{UNKNOWN}]"
        return f"[{format(scale * self.low, form)}, {format(scale * self.high, form)}]"


UNDEFINED = Interval(float("nan"), float("nan"))


@dataclass(frozen=True)
class Scale:
    """The range of a metric; with `logarithm` that of a loss, between 0 and `MAX_LOSS`."""

    low: float
    high: float
    logarithm: bool = False


PROPORTION, DIFFERENCE = Scale(0.0, 1.0), Scale(-1.0, 1.0)
LOSS_DIFFERENCE = Scale(-MAX_LOSS, MAX_LOSS)


@dataclass(frozen=True)
class GroupResamples:
    """Bootstrap resamples of groups, which several results share.

    `member` [N] is the index of each clip's group, and `counts` [B, G] how often each of B resamples has each
    of G groups; its rows sum to G.
    """

    member: Labels
    counts: NDArray[np.uint16]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.counts.shape[1]

    @property
    def effective(self) -> float:
        """Effective number of groups, see `effective_groups`."""
        return _effective(np.bincount(self.member))

    def group_sums(self, values: ArrayLike) -> Floats:
        """Sums [G, ...] over the clips of each group, of values [N, ...]."""
        given = np.asarray(values, dtype=np.float64)
        sums = np.zeros((self.groups, *given.shape[1:]))
        np.add.at(sums, self.member, given)
        return sums

    def weights(self) -> Iterator[Floats]:
        """How often each clip counts: float64 [b, N] integers, a bounded number of draws at a time."""
        for counts in self.chunks(len(self.member)):
            yield counts[:, self.member].astype(np.float64)

    def chunks(self, width: int) -> Iterator[NDArray[np.uint16]]:
        """Rows of `counts`, a number at a time that keeps [b, `width`] small."""
        size = max(1, _WEIGHTS_AT_ONCE // max(width, 1))
        for start in range(0, len(self.counts), size):
            yield self.counts[start : start + size]

    def means(self, values: ArrayLike) -> Floats:
        """Mean over the drawn clips [B, k], of values [N, k]."""
        sums, sizes = self.group_sums(values), self.group_sums(np.ones(len(self.member)))
        chunks = (counts.astype(np.float64) for counts in self.chunks(self.groups))
        return np.concatenate([(chunk @ sums) / (chunk @ sizes)[:, None] for chunk in chunks])


def resample_groups(groups: Sequence[object], *, draws: int = DRAWS, seed: int = 0) -> GroupResamples:
    """Draw groups with replacement; `groups` has the group of each of N clips."""
    names, member = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    count = len(names)
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, count), dtype=np.uint16)
    size = max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        cells = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(cells.ravel(), minlength=rows * count).reshape(rows, count)
    return GroupResamples(member, counts)


def effective_groups(groups: Sequence[object]) -> float:
    """Kish's effective number of groups: how many equal groups carry as much information."""
    return _effective(np.unique(np.asarray(groups, dtype=str), return_counts=True)[1])


def _effective(sizes: Labels) -> float:
    return int(sizes.sum()) ** 2 / int((sizes**2).sum())


def format_group_count(groups: int, effective: float) -> str:
    """``"52 groups"``, or ``"40 groups (effective number 14)"`` where their sizes differ."""
    about = f"{effective:.0f}" if effective >= 2 else f"{effective:.1f}"
    text = f"{groups} group" if groups == 1 else f"{groups} groups"
    return text if groups < 2 or about == str(groups) else f"{text} (effective number {about})"


def few_groups_warning(groups: int, effective: float) -> str | None:
    """Warn, with the coverage that simulations show, where groups are too few for reliable intervals."""
    if effective >= FEW_GROUPS:
        return None
    if groups < 2:
        return "only one group: no interval can be computed"
    counted = format_group_count(groups, effective)
    if effective < MIN_GROUPS:
        return f"{counted}: no interval can be computed"
    known = max((count for count in SIMULATED if count <= effective), default=min(SIMULATED))
    covered = {name: _percent(share) for name, share in SIMULATED[known].items()}
    return (
        f"only {counted}: in simulations of {known} equal groups, the 95 % intervals covered the true value "
        f"in {covered['log_loss']} (log loss, too narrow), {covered['macro_f1']} (macro F1), "
        f"{covered['auc']} (AUC) and {covered['accuracy']} (accuracy); all are wide"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def rare_class_warning(labels: Labels, member: Labels, classes: Sequence[str]) -> str | None:
    """Warn where the rarest class of `labels` [N] has too few groups (`member` [N]) for macro F1 and AUC."""
    groups = {index: len(np.unique(member[labels == index])) for index in np.unique(labels).tolist()}
    rarest = min(groups, key=lambda index: groups[index])
    unequal = groups[rarest] < np.mean(list(groups.values())) / 4
    if groups[rarest] >= (RARE_UNEQUAL if unequal else RARE):
        return None
    counted = format_group_count(groups[rarest], groups[rarest])
    covered = {name: _percent(share) for name, share in SIMULATED_RARE.items()}
    return (
        f"the class with the fewest groups, {classes[rarest]!r}, has only {counted}: in simulations of such "
        "classes, the "
        f"95 % intervals covered the true value in {covered['macro_f1']} (macro F1) and {covered['auc']} "
        "(AUC) at worst"
    )


def few_wrong_warning(labels: Labels, probabilities: Floats, member: Labels) -> str | None:
    """Warn where so few groups (`member` [N]) have a wrong prediction that log loss depends on them alone."""
    wrong = len(np.unique(member[is_correct(labels, probabilities) == 0]))
    if wrong >= FEW_WRONG or wrong >= MAX_WRONG * len(np.unique(member)):
        return None
    covered = _percent(SIMULATED_WRONG["log_loss"])
    return (
        f"fewer than {FEW_WRONG} groups, and less than a tenth of all, have a wrong prediction: in "
        "simulations of such results, the 95 % interval of log loss covered the true value in "
        f"{covered} at worst; it is too narrow"
    )


def has_calibration_interval(labels: Labels, probabilities: Floats) -> bool:
    """Whether the calibration error is well above that of a calibrated classifier, which is all bias."""
    error = float(expected_calibration_error(labels, probabilities))
    return error >= ECE_RATIO * float(ece_if_calibrated(probabilities, draws=200).mean())


def interval_warnings(
    labels: Labels, probabilities: Floats, resamples: GroupResamples, classes: Sequence[str]
) -> tuple[str, ...]:
    """What simulations show against the `bootstrap_intervals` of these clips, the most serious first."""
    few_groups = few_groups_warning(resamples.groups, resamples.effective)
    if resamples.effective < MIN_GROUPS:
        return (str(few_groups),)
    warnings = (
        few_groups,
        rare_class_warning(labels, resamples.member, classes),
        few_wrong_warning(labels, probabilities, resamples.member),
    )
    return tuple(warning for warning in warnings if warning)


def bootstrap_intervals(
    labels: Labels, probabilities: Floats, resamples: GroupResamples
) -> dict[str, Interval]:
    """A 95 % interval of every metric; undefined for fewer than 2 effective groups.

    That of the calibration error is undefined as well unless `has_calibration_interval`: the error of few
    clips is biased upwards, and that of a calibrated classifier is all bias.
    """
    if resamples.effective < MIN_GROUPS:
        return dict.fromkeys(METRICS, UNDEFINED)
    chunks = [all_metrics(labels, probabilities, weights) for weights in resamples.weights()]
    best, worst = np.clip([probabilities.max(), probabilities.min()], LOG_EPS, 1.0)
    scales = {"log_loss": Scale(float(-np.log(best)), float(-np.log(worst)), logarithm=True)}
    intervals = {}
    for name, estimate in all_metrics(labels, probabilities).items():
        if name == "ece" and not has_calibration_interval(labels, probabilities):
            intervals[name] = UNDEFINED
            continue
        values = np.concatenate([chunk[name] for chunk in chunks])
        intervals[name] = interval(float(estimate), values, resamples.effective, scales.get(name, PROPORTION))
    return intervals


def interval(estimate: float, values: Floats, groups: float, scale: Scale = PROPORTION) -> Interval:
    """A 95 % interval of an estimate, from its values [B] in bootstrap draws of so many effective groups.

    Undefined draws are NaN. The interval is undefined for fewer than 2 effective groups or 2 defined draws.
    """
    defined = values[~np.isnan(values)]
    if groups < MIN_GROUPS or len(defined) < 2 or np.isnan(estimate):
        return UNDEFINED
    return t_interval(estimate, float(defined.std(ddof=1)) * np.sqrt(groups / (groups - 1)), groups, scale)


def mean_intervals(
    values: Floats, resamples: GroupResamples, scale: Scale = DIFFERENCE
) -> list[tuple[float, Interval]]:
    """Mean over clips of each column of `values` [N, k], with its 95 % interval."""
    means, resampled = values.mean(axis=0), resamples.means(values)
    return [
        (float(mean), interval(float(mean), column, resamples.effective, scale))
        for mean, column in zip(means, resampled.T, strict=True)
    ]


def t_interval(estimate: float, error: float, groups: float, scale: Scale = PROPORTION) -> Interval:
    """A 95 % t interval from a standard error over groups, with `groups` - 1 degrees of freedom.

    Where `error` is 0 all groups agree, and a fraction 1 - 0.025**(1 / groups) of unseen groups may have any
    value within `scale`.
    """
    from scipy.special import expit, logit, stdtrit

    if groups < MIN_GROUPS:
        return UNDEFINED
    width = scale.high - scale.low
    tail = (1 - COVERAGE) / 2
    if error <= 1e-9 * width or not scale.low < estimate < scale.high:
        unseen = 1 - tail ** (1 / groups)
        low, high = (estimate + unseen * (end - estimate) for end in (scale.low, scale.high))
        return Interval(float(min(low, estimate)), float(max(high, estimate)))
    reach = float(stdtrit(groups - 1, 1 - tail)) * error
    if scale.logarithm:
        low, high = -reach / estimate, min(reach / estimate, np.log(MAX_LOSS / estimate))
        return Interval(float(estimate * np.exp(low)), float(min(estimate * np.exp(high), MAX_LOSS)))
    fraction = (estimate - scale.low) / width
    middle, step = logit(fraction), reach / width / (fraction * (1 - fraction))
    low, high = (scale.low + width * float(expit(end)) for end in (middle - step, middle + step))
    return Interval(low, high)
