"""Logistic regressions with an L2 penalty along the axes of a span: what `sklearn.linear_model.LogisticRegression`
finds with balanced class weights, to the tolerance stated here, in fewer and cheaper steps.

The loss is that of scikit-learn: C times the sum of weighted log losses, plus half the sum of squared coefficients;
intercepts are free. Every coordinate is scaled by the root of its curvature, which along the axes of a span is the mean
weight of a row times the axis's length, plus the penalty: then L-BFGS (Nocedal 1980) needs some twenty steps where it
takes hundreds on raw columns. The regressions of one class against the rest do not touch each other, so their sum is
minimised at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.fuse.heads.span import Span

Floats = NDArray[np.float64]

TOLERANCE = 1e-6
"""Greatest slope, in scaled coordinates, at which a fit ends; the loss is then within about its square of the least."""
_MAX_ITERATIONS = 2000
_LEAST_CURVATURE = 1e-4


@dataclass(frozen=True)
class Fit:
    """Coefficients [K, R] along the axes of a span, and intercepts [K]."""

    weights: Floats
    intercept: Floats


def softmax_path(span: Span, y: NDArray[np.int64], penalties: Sequence[float]) -> list[Fit]:
    """One softmax over the classes 0, 1, ... of `y`, for each C, each begun where the last one ended."""
    targets = np.eye(int(y.max()) + 1)[y]
    weights = np.repeat(_balanced(targets)[:, None], targets.shape[1], axis=1)
    return _path(_Problem(span, targets, weights, softmax=True), penalties)


def one_class_paths(span: Span, targets: Floats, penalties: Sequence[float]) -> list[Fit]:
    """One regression a column of `targets` [N, K] of 0 and 1, for each C: a row's chance to be 1."""
    weights = np.stack([_balanced(np.stack([1 - column, column], axis=1)) for column in targets.T], axis=1)
    return _path(_Problem(span, targets, weights, softmax=False), penalties)


def _balanced(targets: Floats) -> Floats:
    """Weight [N] of each row, so that classes count alike and the mean is 1."""
    counts = targets.sum(axis=0)
    weights: Floats = targets @ (len(targets) / (len(counts) * counts))
    return weights


@dataclass(frozen=True)
class _Problem:
    span: Span
    targets: Floats
    weights: Floats
    softmax: bool

    def curvature(self, chances: Floats) -> Floats:
        """Mean weight [K] of a row in the second derivative of each score's loss."""
        found: Floats = np.mean(self.weights * chances * (1 - chances), axis=0)
        return np.maximum(found, _LEAST_CURVATURE)

    def chances(self, scores: Floats) -> tuple[Floats, float]:
        """Probabilities [N, K] of scores, and their mean loss."""
        if self.softmax:
            top = scores - scores.max(axis=1, keepdims=True)
            powers = np.exp(top)
            total = powers.sum(axis=1, keepdims=True)
            losses = np.log(total[:, 0]) - (top * self.targets).sum(axis=1)
            return powers / total, float(losses @ self.weights[:, 0]) / len(scores)
        powers = np.exp(-np.abs(scores))
        losses = np.maximum(scores, 0) + np.log1p(powers) - scores * self.targets
        return np.where(scores >= 0, 1, powers) / (1 + powers), float((losses * self.weights).sum()) / len(
            scores
        )


def _path(problem: _Problem, penalties: Sequence[float]) -> list[Fit]:
    rows, count = problem.targets.shape
    weights, intercept = np.zeros((len(problem.span.lengths), count)), np.zeros(count)
    found = []
    for penalty in penalties:
        chances, _ = problem.chances(problem.span.rows @ weights + intercept)
        weights, intercept = _minimise(
            problem, 1 / (penalty * rows), problem.curvature(chances), (weights, intercept)
        )
        found.append(Fit(weights.T, intercept))
    return found


def _minimise(
    problem: _Problem, decay: float, curvature: Floats, start: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Coefficients [R, K] and intercepts [K] of least mean loss plus ``decay / 2`` times the sum of squares."""
    from scipy.optimize import minimize

    rows, count = problem.targets.shape
    x = problem.span.rows
    roots = np.sqrt(
        np.concatenate([np.outer(problem.span.lengths / rows, curvature) + decay, curvature[None]])
    )

    def loss(point: Floats) -> tuple[float, Floats]:
        place = point.reshape(-1, count) / roots
        weights = place[:-1]
        chances, value = problem.chances(x @ weights + place[-1])
        residuals = (chances - problem.targets) * problem.weights / rows
        slope = np.concatenate([x.T @ residuals + decay * weights, residuals.sum(axis=0)[None]]) / roots
        return value + decay / 2 * float(np.vdot(weights, weights)), slope.ravel()

    first = (np.concatenate([start[0], start[1][None]]) * roots).ravel()
    options = {
        "maxiter": _MAX_ITERATIONS,
        "maxfun": 10 * _MAX_ITERATIONS,
        "gtol": TOLERANCE,
        "ftol": 0.0,
        "maxcor": 20,
    }
    place = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x.reshape(-1, count) / roots
    return place[:-1], place[-1]
