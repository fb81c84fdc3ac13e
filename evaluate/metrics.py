"""Metrics of class probabilities, vectorised over sample weights.

`labels` is an int64 array [N] of class indices and `probabilities` a float64 array [N, C]. `weights` is [...,
N], not negative, with a positive sum along the last axis; the metric then has the leading shape, so that the
counts of B bootstrap draws [B, N] give B values at once. A weight of 2 equals repeating the clip, and without
weights each clip counts once. The predicted class is the most probable one, the first of ties. Inputs are not
checked here: `evaluate.scoring` does that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

LOG_EPS = float(np.finfo(np.float64).eps)
ECE_BINS = 15
_SAMPLES_AT_ONCE = 2_000_000


def _weights(labels: Labels, weights: Floats | None) -> Floats:
    return np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)


def _one_hot(index: Labels, count: int) -> Floats:
    return (index[:, None] == np.arange(count)).astype(np.float64)


def is_correct(labels: Labels, probabilities: Floats) -> Floats:
    """Return 1.0 for each clip whose most probable class is the true one, else 0.0."""
    return (probabilities.argmax(axis=1) == labels).astype(np.float64)


def accuracy(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Fraction of clips whose most probable class is the true one."""
    w = _weights(labels, weights)
    return np.asarray(w @ is_correct(labels, probabilities) / w.sum(axis=-1))


def macro_f1(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean over classes of F1 = 2 TP / (true + predicted).

    A class that is neither true nor predicted for any clip of positive weight is left out of the mean, as in
    scikit-learn's ``f1_score(labels=<present in either>, average="macro", zero_division=0)``.
    """
    w = _weights(labels, weights)
    count = probabilities.shape[1]
    y_true, y_pred = _one_hot(labels, count), _one_hot(probabilities.argmax(axis=1), count)
    hits, size = w @ (y_true * y_pred), w @ (y_true + y_pred)
    present = size > 0
    f1 = np.divide(2 * hits, size, out=np.zeros_like(hits), where=present)
    return np.asarray(f1.sum(axis=-1) / present.sum(axis=-1))


def class_aucs(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Area under the ROC curve of each class against the rest, [..., C]; ties count one half.

    NaN where a class is absent, or the only class, among the clips of positive weight. Weights of float32 are
    summed in float32, which is 1.4 times faster and accurate to about 6 digits.
    """
    w = weights if weights is not None and weights.dtype == np.float32 else _weights(labels, weights)
    rows = w.reshape(-1, len(labels))
    areas = [_auc(rows, labels == index, column) for index, column in enumerate(probabilities.T)]
    return np.stack(areas, axis=-1).reshape(*w.shape[:-1], probabilities.shape[1])


def _auc(weights: Floats, positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """Area for each row of weights [B, N]."""
    order = np.argsort(scores, kind="stable")
    hits, rest = order[positive[order]], order[~positive[order]]
    below = np.searchsorted(scores[rest], scores[hits], side="left")
    up_to = np.searchsorted(scores[rest], scores[hits], side="right")
    cumulative = np.zeros((len(weights), len(rest) + 1), dtype=weights.dtype)
    np.cumsum(weights[:, rest], axis=1, out=cumulative[:, 1:])
    of_hits = weights[:, hits]
    wins = (of_hits * (cumulative[:, below] + cumulative[:, up_to])).sum(axis=1).astype(np.float64) / 2
    pairs = of_hits.sum(axis=1).astype(np.float64) * cumulative[:, -1]
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def auc(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Macro one-vs-rest area under the ROC curve: the mean of the defined `class_aucs`, else NaN."""
    areas = class_aucs(labels, probabilities, weights)
    defined = ~np.isnan(areas)
    count = defined.sum(axis=-1)
    total = np.where(defined, areas, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def clip_losses(labels: Labels, probabilities: Floats) -> Floats:
    """Negative natural logarithm of each clip's true-class probability, [N].

    Probabilities are clipped to at least float64's machine epsilon, as in scikit-learn, so the loss of a clip
    is at most 36 nats.
    """
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], LOG_EPS, 1.0)))


def log_loss(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean of `clip_losses`, in nats."""
    w = _weights(labels, weights)
    return np.asarray(w @ clip_losses(labels, probabilities) / w.sum(axis=-1))


def confidence_bins(probabilities: Floats) -> Labels:
    """Bin of each clip's top probability: m for (m / ECE_BINS, (m + 1) / ECE_BINS]."""
    bins = np.ceil(probabilities.max(axis=1) * ECE_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, ECE_BINS - 1)


def expected_calibration_error(
    labels: Labels, probabilities: Floats, weights: Floats | None = None
) -> Floats:
    """Mean gap between confidence and accuracy over 15 bins of the top probability (Guo et al. 2017, eq. 3).

    With few clips it is biased upwards, so it compares results on the same clips only.
    """
    w = _weights(labels, weights)
    gap = (probabilities.argmax(axis=1) == labels) - probabilities.max(axis=1)
    cells = _one_hot(confidence_bins(probabilities), ECE_BINS)
    return np.asarray(np.abs(w @ (cells * gap[:, None])).sum(axis=-1) / w.sum(axis=-1))


METRICS = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "auc": auc,
    "log_loss": log_loss,
    "ece": expected_calibration_error,
}
"""The metrics of a result, by the names that `metrics.json` uses."""


def all_metrics(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> dict[str, Floats]:
    """Every metric by name; with weights, `auc` is computed in float32."""
    small = None if weights is None else weights.astype(np.float32)
    return {
        name: metric(labels, probabilities, small if name == "auc" else weights)  # type: ignore[arg-type]
        for name, metric in METRICS.items()
    }


def ece_if_calibrated(probabilities: Floats, *, draws: int, seed: int = 0) -> Floats:
    """Calibration errors [draws] that a perfectly calibrated model with these probabilities would show.

    The error of few clips is far from 0 even then (Vaicenavicius et al. 2019, arXiv:1902.06977). It depends
    on a label only by whether the top class is right, which it is with the top probability. Clips are taken
    as independent.
    """
    top = probabilities.max(axis=1)
    cells = _one_hot(confidence_bins(probabilities), ECE_BINS)
    generator = np.random.default_rng(seed)
    size = max(1, _SAMPLES_AT_ONCE // len(top))
    errors = []
    for start in range(0, draws, size):
        right = generator.random((min(size, draws - start), len(top))) < top
        errors.append(np.abs((right - top) @ cells).sum(axis=1) / len(top))
    return np.concatenate(errors)


@dataclass(frozen=True)
class ReliabilityBin:
    """Clips whose top probability lies in (`low`, `high`], with its mean and their accuracy."""

    low: float
    high: float
    clips: int
    confidence: float
    accuracy: float


def reliability_bins(labels: Labels, probabilities: Floats) -> tuple[ReliabilityBin, ...]:
    """Confidence and accuracy in the bins of the calibration error, from low to high, without empty bins."""
    bins = confidence_bins(probabilities)
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return tuple(
        ReliabilityBin(
            low=index / ECE_BINS,
            high=(index + 1) / ECE_BINS,
            clips=int((bins == index).sum()),
            confidence=float(top[bins == index].mean()),
            accuracy=float(right[bins == index].mean()),
        )
        for index in np.unique(bins).tolist()
    )


def confusion_matrix(labels: Labels, probabilities: Floats) -> NDArray[np.int64]:
    """Clips by true class (rows) and most probable class (columns)."""
    count = probabilities.shape[1]
    cells = labels * count + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64)


def roc_curve(labels: Labels, probabilities: Floats, index: int) -> tuple[Floats, Floats]:
    """False and true positive rates of one class against the rest, from (0, 0) to (1, 1).

    One point per distinct score; straight lines between them, so ties count one half. The class must be
    present, and not the only class.
    """
    order = np.argsort(-probabilities[:, index], kind="stable")
    ranked, positive = probabilities[order, index], labels[order] == index
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits, alarms = np.cumsum(positive)[last], np.cumsum(~positive)[last]
    return np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])


def macro_roc_curve(labels: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    """Mean of the classes' ROC curves at equal false positive rates; the area under it is `auc`.

    Empty where no class has a curve.
    """
    defined = np.flatnonzero(~np.isnan(class_aucs(labels, probabilities)))
    curves = [roc_curve(labels, probabilities, int(index)) for index in defined]
    if not curves:
        return np.zeros(0), np.zeros(0)
    grid = np.unique(np.concatenate([rate for rate, _ in curves]))
    # A curve may rise vertically at one false positive rate, so both ends of the rise are kept.
    foot, top = (
        np.mean([np.interp(grid + side, rate, height) for rate, height in curves], axis=0)
        for side in (-1e-15, 1e-15)
    )
    return np.repeat(grid, 2), np.stack([foot, top], axis=1).ravel()
