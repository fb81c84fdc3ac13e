"""Metrics of class probabilities, vectorised over sample weights.

Conventions: `labels` is an integer array [N] of class indices, `probabilities` float64 [N, C]. `weights` is [..., N],
not negative, with a positive sum along the last axis; a metric of it has the leading shape, so that counts of
bootstrap draws [B, N] give [B] values at once, and a count of 2 is the same as the clip standing there twice.
Without weights each clip counts once. The predicted class is the most probable, the first of equals.
Inputs are taken as checked: `moodfuse.evaluate.scoring` refuses what cannot be scored.
"""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

LOG_EPS = float(np.finfo(np.float64).eps)
ECE_BINS = 15
_IN_CACHE = 2**17
"""Weights sorted and summed at once for an area: half a megabyte to one, what a core's cache holds."""


def _weights(labels: Labels, weights: Floats | None) -> Floats:
    return np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)


def _one_hot(index: Labels, count: int) -> Floats:
    """Float64 [N, count] with a 1 in column `index[i]` of row i."""
    return (index[:, None] == np.arange(count)).astype(np.float64)


def accuracy(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Share of clips whose most probable class is the true one.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    weights : ndarray of float64, shape (..., N), optional

    Returns
    -------
    ndarray of float64, shape (...), in [0, 1]
    """
    w = _weights(labels, weights)
    return np.asarray(w @ (probabilities.argmax(axis=1) == labels).astype(np.float64) / w.sum(axis=-1))


def macro_f1(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean over classes of F1 = 2 TP / (true + predicted), on the most probable class.

    A class that is neither true nor predicted for any clip of positive weight is left out of the mean, as in
    scikit-learn's ``f1_score(labels=<present in either>, average="macro", zero_division=0)``.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    weights : ndarray of float64, shape (..., N), optional

    Returns
    -------
    ndarray of float64, shape (...), in [0, 1]
    """
    w = _weights(labels, weights)
    count = probabilities.shape[1]
    truth, predicted = _one_hot(labels, count), _one_hot(probabilities.argmax(axis=1), count)
    hits, size = w @ (truth * predicted), w @ (truth + predicted)
    present = size > 0
    f1 = np.divide(2 * hits, size, out=np.zeros_like(hits), where=present)
    return np.asarray(f1.sum(axis=-1) / present.sum(axis=-1))


def class_aucs(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Area under the ROC curve of each class against the rest; a tie counts one half.

    The area is the chance that a clip of the class scores higher than one of the rest (Hanley and McNeil 1982,
    Radiology 143:29), from cumulative weights in the order of the scores: O(N log N + B N) a class.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    weights : ndarray of float64 or float32, shape (..., N), optional
        float32 is summed in float32, which is 1.4 times faster and right to about 6 digits.

    Returns
    -------
    ndarray of float64, shape (..., C)
        NaN where a class is absent, or alone, among the clips of positive weight.
    """
    w = weights if weights is not None and weights.dtype == np.float32 else _weights(labels, weights)
    rows = w.reshape(-1, len(labels))
    areas = [_auc(rows, labels == index, column) for index, column in enumerate(probabilities.T)]
    return np.stack(areas, axis=-1).reshape(*w.shape[:-1], probabilities.shape[1])


def _auc(weights: Floats, positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """Area of each row of weights [B, N], so many rows at a time as a core's cache holds."""
    order = np.argsort(scores, kind="stable")
    hits, rest = order[positive[order]], order[~positive[order]]
    below = np.searchsorted(scores[rest], scores[hits], side="left")
    up_to = np.searchsorted(scores[rest], scores[hits], side="right")
    areas = np.empty(len(weights))
    size = max(1, _IN_CACHE // len(scores))
    for start in range(0, len(weights), size):
        w = weights[start : start + size]
        cumulative = np.zeros((len(w), len(rest) + 1), dtype=w.dtype)
        np.cumsum(w[:, rest], axis=1, out=cumulative[:, 1:])
        of_hits = w[:, hits]
        wins = (of_hits * (cumulative[:, below] + cumulative[:, up_to])).sum(axis=1).astype(np.float64) / 2
        pairs = of_hits.sum(axis=1).astype(np.float64) * cumulative[:, -1]
        areas[start : start + size] = np.divide(wins, pairs, out=np.full(len(w), np.nan), where=pairs > 0)
    return areas


def auc(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Macro one-vs-rest area under the ROC curve: the mean of `class_aucs` over the classes where it is defined.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    weights : ndarray of float64, shape (..., N), optional

    Returns
    -------
    ndarray of float64, shape (...)
        In [0, 1]; NaN where it is defined for no class, as with clips of one class only.
    """
    areas = class_aucs(labels, probabilities, weights)
    defined = ~np.isnan(areas)
    count = defined.sum(axis=-1)
    total = np.where(defined, areas, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def log_loss(
    labels: Labels, probabilities: Floats, weights: Floats | None = None, *, eps: float = LOG_EPS
) -> Floats:
    """Mean negative natural logarithm of the true class's probability, which is raised to `eps` where it is lower.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    weights : ndarray of float64, shape (..., N), optional
    eps : float
        The default is float64's machine epsilon, as in scikit-learn; a clip costs 36 nats at most.

    Returns
    -------
    ndarray of float64, shape (...), in nats, not negative
    """
    w = _weights(labels, weights)
    of_truth = probabilities[np.arange(len(labels)), labels]
    return np.asarray(w @ -np.log(np.clip(of_truth, eps, 1.0)) / w.sum(axis=-1))


def expected_calibration_error(
    labels: Labels, probabilities: Floats, weights: Floats | None = None, *, bins: int = ECE_BINS
) -> Floats:
    """Mean gap between confidence and accuracy over bins of the top probability.

    ECE of Guo et al. 2017 (arXiv:1706.04599, eq. 3): `bins` bins of equal width, bin m holding top probabilities in
    ((m - 1) / bins, m / bins]. The choice of 15 bins is that paper's; with few clips most bins hold few of them and
    the error is biased upwards, so it compares results on the same clips and is no absolute measure.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    weights : ndarray of float64, shape (..., N), optional
    bins : int

    Returns
    -------
    ndarray of float64, shape (...), in [0, 1]
    """
    w = _weights(labels, weights)
    gap = (probabilities.argmax(axis=1) == labels) - probabilities.max(axis=1)
    cells = _one_hot(confidence_bins(probabilities, bins=bins), bins)
    return np.asarray(np.abs(w @ (cells * gap[:, None])).sum(axis=-1) / w.sum(axis=-1))


def confidence_bins(probabilities: Floats, *, bins: int = ECE_BINS) -> Labels:
    """The bin of each clip's top probability: m for (m / bins, (m + 1) / bins].

    Parameters
    ----------
    probabilities : ndarray of float64, shape (N, C)
    bins : int

    Returns
    -------
    ndarray of int64, shape (N,), in 0 to bins - 1
    """
    return np.clip(np.ceil(probabilities.max(axis=1) * bins).astype(np.int64) - 1, 0, bins - 1)


def confusion_matrix(labels: Labels, probabilities: Floats) -> NDArray[np.int64]:
    """Clips by true class (rows) and most probable class (columns).

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)

    Returns
    -------
    ndarray of int64, shape (C, C), summing to N
    """
    count = probabilities.shape[1]
    cells = labels * count + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64)


def roc_curve(labels: Labels, probabilities: Floats, index: int) -> tuple[Floats, Floats]:
    """ROC curve of one class against the rest.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    index : int
        The class; it must be present, and not alone.

    Returns
    -------
    false_positive_rate, true_positive_rate : ndarray of float64, shape (T,)
        From (0, 0) to (1, 1), one point a distinct score; straight lines between them give ties one half.
    """
    order = np.argsort(-probabilities[:, index], kind="stable")
    ranked, positive = probabilities[order, index], labels[order] == index
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits, alarms = np.cumsum(positive)[last], np.cumsum(~positive)[last]
    return np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])


def macro_roc_curve(labels: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    """Mean of the classes' ROC curves at equal false positive rates; the area under it is `auc`.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)

    Returns
    -------
    false_positive_rate, true_positive_rate : ndarray of float64, shape (T,)
        Empty where no class has a curve.
    """
    defined = np.flatnonzero(~np.isnan(class_aucs(labels, probabilities)))
    curves = [roc_curve(labels, probabilities, int(index)) for index in defined]
    if not curves:
        return np.zeros(0), np.zeros(0)
    grid = np.unique(np.concatenate([rate for rate, _ in curves]))
    # A curve may rise at one false positive rate: both ends of the rise are kept.
    foot, top = (
        np.mean([_at(grid, *curve, side=side) for curve in curves], axis=0) for side in ("left", "right")
    )
    return np.repeat(grid, 2), np.stack([foot, top], axis=1).ravel()


def _at(grid: Floats, rate: Floats, height: Floats, *, side: str) -> Floats:
    """Height of a curve at `grid`: its lowest there for side ``"left"``, its highest for ``"right"``."""
    values = np.interp(grid, rate, height)
    low, high = np.searchsorted(rate, grid, side="left"), np.searchsorted(rate, grid, side="right") - 1
    exact = low <= high
    values[exact] = height[(low if side == "left" else high)[exact]]
    return np.asarray(values)
