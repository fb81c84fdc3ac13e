"""Logistic regression with an L2 penalty for several C: the solution of scikit-learn's `LogisticRegression`.

Classes are weighted to count alike. scikit-learn's own solver on the same axes takes 1.2 times as long for
`softmax` at its default tolerance and 2 to 3 times for `logistic`, and twice and four times at the tolerance
of this one.

Columns are standardised and divided by the root of their number. An L2 penalty does not depend on the axes,
so the fit runs along the rows' principal axes: at most as many as there are rows, uncorrelated, so that the
curvature of the loss along each is nearly known in advance. With every coordinate scaled by the root of its
curvature, L-BFGS needs some twenty steps where it takes hundreds on raw columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.fuse.heads.exported import Floats, Link

_NEGLIGIBLE = 1e-13
"""Axes of less than this fraction of the largest squared length hold rounding errors alone."""
_OPTIONS = {"maxiter": 2000, "maxfun": 20_000, "gtol": 1e-6, "ftol": 0.0, "maxcor": 20}
_MIN_CURVATURE = 1e-4


@dataclass(frozen=True)
class Path:
    """Fits for several C: ``(x - mean) / scale @ coef[i].T + intercept[i]`` are linear scores [N, C]."""

    mean: Floats
    scale: Floats
    coef: Floats
    intercept: Floats


def fit_path(x: NDArray[Any], y: NDArray[np.int64], penalties: Sequence[float], link: Link) -> Path:
    """Fit rows [N, D] with class indices [N], all classes present, for each C, starting from the last fit."""
    mean, scale = _scaling(x)
    standard = (x - mean) / scale
    wide = x.shape[1] > x.shape[0]
    lengths, axes = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
    used = lengths > _NEGLIGIBLE * max(lengths[-1], np.finfo(np.float64).tiny)
    lengths, axes = lengths[used], axes[:, used]
    rows = axes * np.sqrt(lengths) if wide else standard @ axes
    targets = np.eye(int(y.max()) + 1)[y]
    if link == "softmax" and targets.shape[1] == 2:  # one score: that of the second class against the first
        weights, intercept = _solve(rows, lengths, targets[:, 1:], penalties, "logistic")
        weights, intercept = (np.concatenate([-part, part], axis=1) / 2 for part in (weights, intercept))
    else:
        weights, intercept = _solve(rows, lengths, targets, penalties, link)
    coef = weights / np.sqrt(lengths) @ axes.T @ standard if wide else weights @ axes.T
    return Path(mean, scale, coef, intercept)


def _scaling(x: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean, and deviation times the root of the number of columns; a constant column is left as it is."""
    x = x.astype(np.float64, copy=False)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    constant = deviation <= 10 * np.finfo(np.float64).eps * np.abs(x).max(axis=0)
    mean = np.where(constant, x[0], mean)  # else its rounding error would be the only variation
    return mean, np.where(constant, 1.0, deviation) * np.sqrt(x.shape[1])


def _solve(
    rows: Floats, lengths: Floats, targets: Floats, penalties: Sequence[float], link: Link
) -> tuple[Floats, Floats]:
    """Coefficients [P, K, R] and intercepts [P, K] of targets [N, K] for each of P penalties."""
    balance = _row_weights(targets, link)
    path = [np.zeros((len(lengths) + 1, targets.shape[1]))]
    for penalty in penalties:
        decay = 1 / (penalty * len(targets))
        probabilities, _ = _loss(rows @ path[-1][:-1] + path[-1][-1], targets, balance, link)
        curvature = np.mean(balance * probabilities * (1 - probabilities), axis=0).clip(_MIN_CURVATURE)
        along_axes = np.outer(lengths / len(targets), curvature) + decay
        roots = np.sqrt(np.concatenate([along_axes, curvature[None]]))
        path.append(_minimise(rows, targets, balance, link, decay, roots, path[-1]))
    solved = np.stack(path[1:])
    return solved[:, :-1].transpose(0, 2, 1), solved[:, -1]


def _minimise(
    rows: Floats, targets: Floats, balance: Floats, link: Link, decay: float, roots: Floats, start: Floats
) -> Floats:
    """Coefficients and, as last row, intercepts [R + 1, K] of least loss, in steps scaled by `roots`."""
    from scipy.optimize import minimize

    def objective(scaled: Floats) -> tuple[float, Floats]:
        point = scaled.reshape(roots.shape) / roots
        probabilities, loss = _loss(rows @ point[:-1] + point[-1], targets, balance, link)
        residuals = (probabilities - targets) * balance / len(targets)
        slope = np.concatenate([rows.T @ residuals + decay * point[:-1], residuals.sum(axis=0)[None]])
        return loss + decay / 2 * float(np.sum(point[:-1] ** 2)), (slope / roots).ravel()

    found = minimize(objective, (start * roots).ravel(), jac=True, method="L-BFGS-B", options=_OPTIONS)
    point: Floats = found.x.reshape(roots.shape) / roots
    return point


def _row_weights(targets: Floats, link: Link) -> Floats:
    """Weight of each row in each column of targets [N, K], so that classes count alike and the mean is 1."""
    positive = targets.sum(axis=0)
    count, classes = targets.shape
    if link == "softmax":
        return np.repeat((targets @ (count / (classes * positive)))[:, None], classes, axis=1)
    return np.where(targets == 1, count / (2 * positive), count / (2 * (count - positive)))


def _loss(scores: Floats, targets: Floats, balance: Floats, link: Link) -> tuple[Floats, float]:
    """Probabilities [N, K] of scores, and their mean weighted log loss."""
    if link == "softmax":
        top = scores - scores.max(axis=1, keepdims=True)
        powers = np.exp(top)
        total = powers.sum(axis=1, keepdims=True)
        losses = np.log(total[:, 0]) - (top * targets).sum(axis=1)
        return powers / total, float(losses @ balance[:, 0]) / len(scores)
    powers = np.exp(-np.abs(scores))
    losses = np.maximum(scores, 0) + np.log1p(powers) - scores * targets
    probabilities = np.where(scores >= 0, 1, powers) / (1 + powers)
    return probabilities, float((losses * balance).sum()) / len(scores)
