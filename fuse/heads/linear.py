"""The heads `softmax`, `logistic` and `mean`.

The first two are the solution of scikit-learn's `LogisticRegression`, up to the tolerance of L-BFGS, with an
L2 penalty on standardised columns, in about half its time. Standardised columns are divided by the square
root of their number, so that one C means the same for 12 columns as for 2000, and so that of several sources
each has the same total variance: otherwise a source of 1024 columns outweighs one of 160. With
``class_weight="balanced"`` every class has the same total weight, and the scores are then corrected, so that
the mean probability of a class over the training rows is its frequency (`fit_offsets`).

An L2 penalty does not depend on the axes, so the fit runs along the rows' principal axes: at most as many as
there are rows, uncorrelated, so that the curvature of the loss along each is nearly known in advance. With
every coordinate scaled by the root of its curvature, L-BFGS needs some twenty steps instead of hundreds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from moodfuse.cache.errors import InputError
from moodfuse.fuse.heads.inner_folds import choose_on_rows, limit_to_one_thread
from moodfuse.fuse.inference import (
    Floats,
    Ints,
    LinearArrays,
    Link,
    MeanArrays,
    apply_link,
    softmax,
)

DEFAULT_C = 10.0
"""Inverse strength of the L2 penalty where none can be chosen."""
BALANCED = "balanced"
"""The class weights with which every class has the same total weight."""
_ROUNDING = 10 * float(np.finfo(np.float32).eps)
"""Features are float32: a column that varies by less, relative to its size, varies by rounding alone."""
_NEGLIGIBLE = 1e-13
"""Axes of less than this fraction of the largest squared length hold rounding errors alone."""
_OPTIONS = {"maxiter": 2000, "maxfun": 20_000, "gtol": 1e-6, "ftol": 0.0, "maxcor": 20}
_MIN_CURVATURE = 1e-4
_MAX_STEPS, _SMALL_STEP = 200, 1e-6


class FusionHead(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier whose `fit` takes groups, and chooses settings if there are candidates.

    The candidates are mappings in `grid`, the simplest first; none is chosen where it is empty. A subclass
    defines, on class indices `y`:

    * ``_fit(x, y, chosen)`` under the chosen settings, and its own parameters for the others;
    * ``try_candidates(x, y, held_out)``: probabilities [candidates, N_held_out, C] by fits on `x` under each
      candidate; classes are those of `y`, rising; the head is not changed;
    * ``predict_proba(X)``: class probabilities [N, C], in the order of `classes_`;
    * ``to_arrays(columns=D, classes=C)``: the head for export; C is the length of the class axis.

    A head without settings overrides `fit`.
    """

    grid: tuple[Mapping[str, Any], ...]
    class_weight: str | None
    random_state: int
    _fit: Callable[..., None]
    predict_proba: Callable[..., Floats]

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit on [N, D] features and [N] labels; rows of one of the [N] `groups` stay in one inner fold.

        Raises
        ------
        ValueError
            If the data are not finite, hold one class only, or there is not one group per row.
        """
        x, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs rows of at least 2 classes; got one class")
        if self.class_weight not in (None, BALANCED):
            raise InputError(f"class_weight is {self.class_weight!r}; expected None or {BALANCED!r}")
        chosen = choose_on_rows(self, x, index, groups, seed=self.random_state) if self.grid else None
        self.tuned_ = chosen is not None
        self._fit(x, index, chosen or {})
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each row."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return np.asarray(self.classes_[best])


class SoftmaxHead(FusionHead):
    """Multinomial logistic regression: one softmax over all classes.

    Parameters
    ----------
    C : float
        Inverse penalty where none is chosen.
    grid : tuple of mapping
        Candidates ``{"C": value}`` to choose from on inner folds; by default none, and `C` is used.
    widths : tuple of int, optional
        Number of columns of each source, in their order. Every source then has the same total variance after
        standardisation; by default every column has.
    class_weight : None or "balanced"
        Whether classes have the same total weight in fitting; scores are then corrected by `fit_offsets`.
    random_state : int
        Seed of the inner folds.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
    coef_, intercept_, mean_, scale_ : ndarray of float64
        Linear scores are ``(x - mean_) / scale_ @ coef_.T + intercept_``.
    C_, tuned_ : float, bool
        The penalty in use, and whether it was chosen: not where a class has fewer than 3 groups.
    """

    _link: Link = "softmax"

    def __init__(
        self,
        *,
        C: float = DEFAULT_C,
        grid: tuple[Mapping[str, float], ...] = (),
        widths: tuple[int, ...] | None = None,
        class_weight: str | None = None,
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.grid = grid
        self.widths = widths
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, x: NDArray[Any], y: Ints, chosen: Mapping[str, float]) -> None:
        self.C_ = float(chosen.get("C", self.C))
        with limit_to_one_thread():
            balanced = self.class_weight == BALANCED
            path = fit_path(x, y, (self.C_,), self._link, self.widths, balanced=balanced)
        self.mean_, self.scale_ = path.mean, path.scale
        self.coef_, self.intercept_ = path.coef[0], path.intercept[0]

    def try_candidates(self, x: NDArray[Any], y: Ints, held_out: NDArray[Any]) -> Floats:
        """See `FusionHead`; the scaling is learned on `x`."""
        index = np.unique(y, return_inverse=True)[1]
        with limit_to_one_thread():
            balanced = self.class_weight == BALANCED
            penalties = [candidate.get("C", self.C) for candidate in self.grid]
            path = fit_path(x, index, penalties, self._link, self.widths, balanced=balanced)
            scores = (held_out - path.mean) / path.scale @ path.coef.transpose(0, 2, 1)
        return apply_link(scores + path.intercept[:, None], self._link)

    def decision_scores(self, X: ArrayLike) -> Floats:
        """Linear scores [N, C], one per class (for two classes as well)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores: Floats = (x - self.mean_) / self.scale_ @ self.coef_.T + self.intercept_
        return scores

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        return apply_link(self.decision_scores(X), self._link)

    def to_arrays(self, *, columns: int, classes: int) -> LinearArrays:
        """See `FusionHead`."""
        index = np.asarray(self.classes_, np.int64)
        return LinearArrays(self._link, self.mean_, self.scale_, self.coef_, self.intercept_, index, classes)


class LogisticHead(SoftmaxHead):
    """One logistic regression per class against the rest, normalised; parameters as for `SoftmaxHead`."""

    _link: Link = "logistic"


class MeanHead(FusionHead):
    """Average of the softmax of each source's logits. Nothing is fitted but the classes.

    `classes` are those of each source's columns, in their order; by default those of `y`, and logits that are
    missing at the end count as 0.
    """

    def __init__(self, *, classes: Sequence[Any] | None = None) -> None:
        self.classes = classes

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Record the classes; X is [N, S * C], the logits of S sources side by side."""
        x, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels) if self.classes is None else np.asarray(self.classes)
        if self.classes is not None and x.shape[1] % len(self.classes_):
            raise ValueError(
                f"{x.shape[1]} columns are not a multiple of the {len(self.classes_)} logits of each source"
            )
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        x = np.pad(x, ((0, 0), (0, -x.shape[1] % len(self.classes_))))
        mean: Floats = softmax(x.reshape(len(x), -1, len(self.classes_))).mean(axis=1)
        return mean

    def to_arrays(self, *, columns: int, classes: int) -> MeanArrays:
        """See `FusionHead`."""
        return MeanArrays(columns, classes)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # columns are taken as logits, whether they are or not
        return tags


@dataclass(frozen=True)
class Path:
    """Fits for several C: ``(x - mean) / scale @ coef[i].T + intercept[i]`` are linear scores [N, C]."""

    mean: Floats
    scale: Floats
    coef: Floats
    intercept: Floats


def fit_path(
    x: NDArray[Any],
    y: Ints,
    penalties: Sequence[float],
    link: Link,
    widths: Sequence[int] | None = None,
    *,
    balanced: bool = False,
) -> Path:
    """Fit rows [N, D] with class indices [N], all classes present, for each C, starting from the last fit.

    With `balanced`, classes have the same total weight, and the intercepts are corrected for that.
    """
    mean, scale = _fit_scaling(x, widths or (x.shape[1],))
    standard = (x - mean) / scale
    wide = x.shape[1] > x.shape[0]
    lengths, axes = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
    used = lengths > _NEGLIGIBLE * max(lengths[-1], np.finfo(np.float64).tiny)
    lengths, axes = lengths[used], axes[:, used]
    rows = axes * np.sqrt(lengths) if wide else standard @ axes
    targets = np.eye(int(y.max()) + 1)[y]
    if link == "softmax" and targets.shape[1] == 2:  # one score: that of the second class against the first
        row_weights = _weigh_rows(targets[:, 1:], "logistic", balanced=balanced)
        weights, intercept = _solve(rows, lengths, targets[:, 1:], row_weights, penalties, "logistic")
        weights, intercept = (np.concatenate([-part, part], axis=1) / 2 for part in (weights, intercept))
    else:
        row_weights = _weigh_rows(targets, link, balanced=balanced)
        weights, intercept = _solve(rows, lengths, targets, row_weights, penalties, link)
    if balanced:
        scores = rows @ weights.transpose(0, 2, 1) + intercept[:, None]
        intercept = intercept + [fit_offsets(one, y, link) for one in scores]
    coef = weights / np.sqrt(lengths) @ axes.T @ standard if wide else weights @ axes.T
    return Path(mean, scale, coef, intercept)


def fit_offsets(scores: Floats, y: Ints, link: Link) -> Floats:
    """Offsets [C] for the scores [N, C] of a fit whose rows of class indices `y` [N] had balanced weights.

    With them, the mean probability of each class over these rows is its frequency. They start from the
    logarithms of the frequencies, or their log odds: the logit adjustment of Menon et al. (2021,
    arXiv:2007.07314), which penalised fits overshoot.
    """
    frequency = np.bincount(y) / len(y)
    offsets = np.log(frequency) if link == "softmax" else logit(frequency)
    for _ in range(_MAX_STEPS):
        step = np.log(frequency / apply_link(scores + offsets, link).mean(axis=0))
        offsets = offsets + step
        if np.abs(step).max() < _SMALL_STEP:
            break
    return np.asarray(offsets)


def _fit_scaling(x: NDArray[Any], widths: Sequence[int]) -> tuple[Floats, Floats]:
    """Mean and scale of each column; a constant column is left as it is.

    Sources of `widths` columns have the same total variance after scaling, and all of them together 1.
    """
    if sum(widths) != x.shape[1]:
        raise InputError(f"widths {tuple(widths)} do not sum to the {x.shape[1]} columns")
    x = x.astype(np.float64, copy=False)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    constant = deviation <= _ROUNDING * np.abs(x).max(axis=0)
    mean = np.where(constant, x[0], mean)  # else its rounding error would be the only variation
    return mean, np.where(constant, 1.0, deviation) * np.sqrt(len(widths) * np.repeat(widths, widths))


def _solve(
    rows: Floats, lengths: Floats, targets: Floats, balance: Floats, penalties: Sequence[float], link: Link
) -> tuple[Floats, Floats]:
    """Coefficients [P, K, R] and intercepts [P, K] of targets [N, K], weighted by `balance`, per penalty."""
    path = [np.zeros((len(lengths) + 1, targets.shape[1]))]
    for penalty in penalties:
        decay = 1 / (penalty * len(targets))
        probabilities, _ = _compute_loss(rows @ path[-1][:-1] + path[-1][-1], targets, balance, link)
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

    def objective(scaled: Floats) -> tuple[float, Floats]:
        point = scaled.reshape(roots.shape) / roots
        probabilities, loss = _compute_loss(rows @ point[:-1] + point[-1], targets, balance, link)
        residuals = (probabilities - targets) * balance / len(targets)
        slope = np.concatenate([rows.T @ residuals + decay * point[:-1], residuals.sum(axis=0)[None]])
        return loss + decay / 2 * float(np.sum(point[:-1] ** 2)), (slope / roots).ravel()

    solution = minimize(objective, (start * roots).ravel(), jac=True, method="L-BFGS-B", options=_OPTIONS)
    point: Floats = solution.x.reshape(roots.shape) / roots
    return point


def _weigh_rows(targets: Floats, link: Link, *, balanced: bool) -> Floats:
    """Weight of each row in each column of targets [N, K]; the mean is 1."""
    if not balanced:
        return np.ones_like(targets)
    positive = targets.sum(axis=0)
    count, classes = targets.shape
    if link == "softmax":
        return np.repeat((targets @ (count / (classes * positive)))[:, None], classes, axis=1)
    return np.where(targets == 1, count / (2 * positive), count / (2 * (count - positive)))


def _compute_loss(scores: Floats, targets: Floats, balance: Floats, link: Link) -> tuple[Floats, float]:
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
