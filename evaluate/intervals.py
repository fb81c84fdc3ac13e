"""Intervals of the metrics: a t interval over groups, from a bootstrap of groups, on a scale without ends.

Every metric is computed for many draws of `moodfuse.evaluate.resampling` at once. The predictions are held fixed: the interval says
how far the score depends on which clips were tested, not on which ones the models were trained on
(`moodfuse.evaluate.repeats`), nor on having chosen the best of many results (`moodfuse.evaluate.selection`).

The draws give a standard error, widened by sqrt(G / (G - 1)) as a mean's is, where G is the effective number of groups
(`moodfuse.evaluate.resampling`): their number where all are equal, fewer where not. The interval is the estimate plus and minus
t(G - 1) standard errors, on the logit of a share, so that it ends within the scale, and on the logarithm of a loss, cut
off at the most that a clip can cost (DiCiccio and Efron 1996, Statist. Sci. 11:189, on transformed t intervals).
Percentiles of the same draws hold the truth too seldom: 91 to 94 % for an accuracy over 52 groups, 84 % over 12, where
these do in 95 to 98 % (`benchmarks/coverage.py`). Where no draw differs from another, as at a score of 1, the draws
know no error; there the interval is Clopper and Pearson's (1934, Biometrika 26:404) for G groups that all agree: a
share of 1 - 0.025**(1 / G) of unseen groups may score anything.

The interval of a calibration error says how it varies over sets of as many clips; few clips raise the error itself
(`moodfuse.evaluate.calibration` gives what a perfect model would show).
"""

from dataclasses import dataclass

import numpy as np

from moodfuse.evaluate import metrics
from moodfuse.evaluate.metrics import Floats, Labels
from moodfuse.evaluate.records import Interval
from moodfuse.evaluate.resampling import GroupDraws, counted_groups

COVERAGE = 0.95
METRICS = {
    "accuracy": metrics.accuracy,
    "macro_f1": metrics.macro_f1,
    "auc": metrics.auc,
    "log_loss": metrics.log_loss,
    "ece": metrics.expected_calibration_error,
}
UNDEFINED = Interval(float("nan"), float("nan"))
LEAST_GROUPS, FEW_GROUPS = 2, 30
SIMULATED = {
    3: {"accuracy": 0.99, "macro_f1": 0.98, "auc": 0.99, "log_loss": 0.94},
    6: {"accuracy": 0.98, "macro_f1": 0.96, "auc": 0.99, "log_loss": 0.91},
    12: {"accuracy": 0.97, "macro_f1": 0.95, "auc": 0.95, "log_loss": 0.90},
    20: {"accuracy": 0.96, "macro_f1": 0.96, "auc": 0.95, "log_loss": 0.93},
}
"""Equal groups -> how often a 95 % interval held the truth, at worst; `benchmarks/coverage.py` measures it again."""


@dataclass(frozen=True)
class Span:
    """The ends of a scale.

    Attributes
    ----------
    low, high : float
    logarithm : bool
        For a loss: `low` and `high` are only the least and the most that these probabilities could cost; its interval
        is taken on the logarithm, and ends within 0 and `WORST_LOSS`.
    """

    low: float
    high: float
    logarithm: bool = False


SHARE, DIFFERENCE = Span(0.0, 1.0), Span(-1.0, 1.0)
WORST_LOSS = float(-np.log(metrics.LOG_EPS))
"""What a clip can cost at most, in nats: about 36."""


def bootstrap_metrics(labels: Labels, probabilities: Floats, draws: GroupDraws) -> dict[str, Floats]:
    """Every metric of every draw.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    draws : GroupDraws

    Returns
    -------
    dict of str to ndarray of float64, shape (B,)
        By the names of `METRICS`; `auc`, computed in float32, is NaN in a draw of one class only.
    """
    chunks = []
    for weights in draws.weights():
        small = weights.astype(np.float32)
        chunks.append(
            {
                name: metric(labels, probabilities, small if name == "auc" else weights)  # type: ignore[arg-type]
                for name, metric in METRICS.items()
            }
        )
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in METRICS}


def interval(estimate: float, values: Floats, groups: float, span: Span = SHARE) -> Interval:
    """A 95 % interval of a figure, from its bootstrap draws over groups.

    Parameters
    ----------
    estimate : float
        The figure over all clips.
    values : ndarray of float64, shape (B,)
        The same in each draw; NaN where not defined.
    groups : float
        The effective number.
    span : Span

    Returns
    -------
    Interval
        Around `estimate`, within its scale: `span`, or for a loss 0 to `WORST_LOSS`. Undefined for fewer than 2
        effective groups or defined draws.
    """
    defined = values[~np.isnan(values)]
    if groups < LEAST_GROUPS or len(defined) < 2 or np.isnan(estimate):
        return UNDEFINED
    return t_interval(estimate, float(defined.std(ddof=1)) * np.sqrt(groups / (groups - 1)), groups, span)


def t_interval(estimate: float, error: float, groups: float, span: Span = SHARE) -> Interval:
    """A 95 % t interval on the scale's logit (or logarithm), from a standard error over groups.

    Parameters
    ----------
    estimate, error : float
    groups : float
        The effective number: the degrees of freedom and one.
    span : Span

    Returns
    -------
    Interval
        Within its scale, as `interval` says; undefined for fewer than 2 effective groups. Where `error` is 0 all groups
        agree, and a share 1 - 0.025**(1 / groups) of unseen ones may lie anywhere within `span`.
    """
    from scipy.special import expit, logit, stdtrit

    if groups < LEAST_GROUPS:
        return UNDEFINED
    width = span.high - span.low
    tail = (1 - COVERAGE) / 2
    if error <= 1e-9 * width or not span.low < estimate < span.high:
        unseen = 1 - tail ** (1 / groups)
        low, high = (estimate + unseen * (end - estimate) for end in (span.low, span.high))
        return Interval(float(min(low, estimate)), float(max(high, estimate)))
    reach = float(stdtrit(groups - 1, 1 - tail)) * error
    if span.logarithm:
        low, high = -reach / estimate, min(reach / estimate, np.log(WORST_LOSS / estimate))
        return Interval(float(estimate * np.exp(low)), float(min(estimate * np.exp(high), WORST_LOSS)))
    place = (estimate - span.low) / width
    middle, step = logit(place), reach / width / (place * (1 - place))
    low, high = (span.low + width * float(expit(end)) for end in (middle - step, middle + step))
    return Interval(low, high)


def bootstrap_intervals(labels: Labels, probabilities: Floats, draws: GroupDraws) -> dict[str, Interval]:
    """A 95 % interval of every metric; undefined for fewer than 2 effective groups.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    draws : GroupDraws

    Returns
    -------
    dict of str to Interval, by the names of `METRICS`
    """
    groups = draws.effective
    values = bootstrap_metrics(labels, probabilities, draws) if groups >= LEAST_GROUPS else {}
    loss = Span(*_loss_ends(probabilities), logarithm=True)
    return {
        name: interval(
            float(metric(labels, probabilities)), values[name], groups, loss if name == "log_loss" else SHARE
        )
        if values
        else UNDEFINED
        for name, metric in METRICS.items()
    }


def _loss_ends(probabilities: Floats) -> tuple[float, float]:
    """The least and the greatest log loss that a clip with such probabilities could have."""
    best, worst = np.clip([probabilities.max(), probabilities.min()], metrics.LOG_EPS, 1.0)
    return float(-np.log(best)), float(-np.log(worst))


def few_groups_warning(groups: int, effective: float) -> str | None:
    """What to tell a reader where groups are too few for the intervals to be taken at their word; else `None`.

    Parameters
    ----------
    groups : int
    effective : float
        How many equal ones they count as. The shares are those of `SIMULATED` for that many or the next fewer.
    """
    if effective >= FEW_GROUPS:
        return None
    if groups < 2:
        return "one group only: no interval can be given"
    counted = counted_groups(groups, effective)
    if effective < LEAST_GROUPS:
        return f"{counted}: no interval can be given"
    known = max((count for count in SIMULATED if count <= effective), default=min(SIMULATED))
    held = {name: f"{share:.0%}".replace("%", " %") for name, share in SIMULATED[known].items()}
    return (
        f"only {counted}: the 95 % interval of the log loss is too narrow, in simulations of {known} equal groups it "
        f"held the truth in {held['log_loss']}; that of macro F1 did in {held['macro_f1']}, of AUC in {held['auc']}, "
        f"of accuracy in {held['accuracy']}; all are wide"
    )
