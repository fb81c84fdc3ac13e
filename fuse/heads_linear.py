"""The heads `softmax` and `logistic`: logistic regression on standardised columns, its C chosen on inner grouped folds.

Standardised columns are divided by the square root of their number, so that one C means the same for 12 columns as
for 2 000. Classes are weighted to count alike, in fitting and in the inner log loss. With more columns than rows the
fit runs in the rows' own span: an L2 penalty is blind to rotation, so the solution is the same one, found faster.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from fuse.choice import choose_on_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEFAULT_C = 10.0
"""Inverse strength of the L2 penalty where none can be chosen."""
GRID = (1.0, 10.0, 100.0, 1000.0)
"""Values of C that are tried; of equals the smallest wins."""
_MAX_ITERATIONS = 2000
_TOLERANCE = 1e-5


class _LinearHead(ClassifierMixin, BaseEstimator):
    """What the two share: standardising, the choice of C, and linear scores.

    Parameters
    ----------
    C : float
        Inverse penalty where none is chosen.
    grid : tuple of float
        Values to choose from.
    tune : bool
        Whether to choose; set it to `False` where training rows are in sample.
    random_state : int
        Seed of the inner folds.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
    coef_, intercept_ : ndarray of float64, shapes (C, D) and (C,)
        In scaled columns: ``(x - mean_) / scale_``.
    mean_, scale_ : ndarray of float64, shape (D,)
    C_ : float
        The penalty in force.
    tuned_ : bool
        Whether it was chosen: `False` where a class has fewer than 3 groups, or `tune` is off.
    """

    def __init__(
        self, *, C: float = DEFAULT_C, grid: tuple[float, ...] = GRID, tune: bool = True, random_state: int = 0
    ) -> None:
        self.C = C
        self.grid = grid
        self.tune = tune
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit on [N, D] features and [N] labels; rows of one of the [N] `groups` stay in one inner fold.

        Raises
        ------
        ValueError
            If the data are not finite, hold one class only, or there is not one group a row.
        """
        x, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs rows of at least 2 classes; got one class")
        chosen = choose_on_rows(self, x, index, groups, seed=self.random_state) if self.tune else None
        self.tuned_ = chosen is not None
        self.C_ = self.C if chosen is None else float(chosen["C"])
        self.mean_, self.scale_ = _scaling(x)
        with threadpool_limits(1):  # matrices this small lose more to waking threads than they gain
            self.coef_, self.intercept_ = self._solve(*_in_span((x - self.mean_) / self.scale_), index, (self.C_,))[0]
        return self

    def candidates(self) -> list[dict[str, Any]]:
        """Settings to choose from, the simplest first."""
        return [{"C": value} for value in sorted(self.grid)]

    def try_candidates(self, x: Floats, y: Ints, held: Floats) -> Floats:
        """Probabilities [candidates, N_held, C] of rows `held` by fits on `x` and class indices `y`.

        Classes are those of `y` in rising order. Scaling is learned on `x`. The head is left as it was.
        """
        _, index = np.unique(y, return_inverse=True)
        mean, scale = _scaling(x)
        with threadpool_limits(1):
            solved = self._solve(*_in_span((x - mean) / scale), index, sorted(self.grid))
        rows = (held - mean) / scale
        return np.stack([self._probabilities(rows @ weights.T + intercept) for weights, intercept in solved])

    def _solve(
        self, x: Floats, basis: Floats | None, y: Ints, penalties: "tuple[float, ...] | list[float]"
    ) -> list[tuple[Floats, Floats]]:
        """Coefficients and intercepts of each C, in scaled columns."""
        raise NotImplementedError

    def _probabilities(self, scores: Floats) -> Floats:
        raise NotImplementedError

    def decision_scores(self, X: ArrayLike) -> Floats:
        """Linear scores [N, C], one a class (for two classes as well)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        scores: Floats = (x - self.mean_) / self.scale_ @ self.coef_.T + self.intercept_
        return scores

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        return self._probabilities(self.decision_scores(X))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each row."""
        chosen = np.argmax(self.predict_proba(X), axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels


class SoftmaxHead(_LinearHead):
    """Multinomial logistic regression: one softmax over all classes. Parameters as stated in `_LinearHead`."""

    def _solve(
        self, x: Floats, basis: Floats | None, y: Ints, penalties: "tuple[float, ...] | list[float]"
    ) -> list[tuple[Floats, Floats]]:
        found = []
        for weights, intercept in _path(x, y, penalties):
            if len(weights) == 1:  # two classes: one score z, and softmax(-z/2, z/2) is its sigmoid
                weights = np.concatenate([-weights, weights]) / 2
                intercept = np.concatenate([-intercept, intercept]) / 2
            found.append((weights if basis is None else weights @ basis, intercept))
        return found

    def _probabilities(self, scores: Floats) -> Floats:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares


class LogisticHead(_LinearHead):
    """One logistic regression a class against the rest, normalised. Parameters as stated in `_LinearHead`."""

    def _solve(
        self, x: Floats, basis: Floats | None, y: Ints, penalties: "tuple[float, ...] | list[float]"
    ) -> list[tuple[Floats, Floats]]:
        count = int(y.max()) + 1
        one = count == 2
        numbers = [1] if one else range(count)
        paths = [_path(x, (y == number).astype(np.int64), penalties) for number in numbers]
        found = []
        for fits in zip(*paths, strict=True):
            weights = np.concatenate([item[0] for item in fits])
            intercept = np.concatenate([item[1] for item in fits])
            if one:
                weights, intercept = np.concatenate([-weights, weights]), np.concatenate([-intercept, intercept])
            found.append((weights if basis is None else weights @ basis, intercept))
        return found

    def _probabilities(self, scores: Floats) -> Floats:
        logs = -np.logaddexp(0.0, -scores)
        powers = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares


def _scaling(x: Floats) -> tuple[Floats, Floats]:
    """Mean, and deviation times the root of the number of columns; a constant column is left as it is."""
    deviation = x.std(axis=0)
    constant = deviation <= 10 * np.finfo(np.float64).eps * np.abs(x).max(axis=0)
    return x.mean(axis=0), np.where(constant, 1.0, deviation) * np.sqrt(x.shape[1])


def _in_span(x: Floats) -> tuple[Floats, Floats | None]:
    """Rows in the coordinates of their own span, and its basis; as they are where columns are few."""
    if x.shape[1] <= x.shape[0]:
        return x, None
    left, values, basis = np.linalg.svd(x, full_matrices=False)
    return left * values, basis


def _path(x: Floats, y: Ints, penalties: "tuple[float, ...] | list[float]") -> list[tuple[Floats, Floats]]:
    """Logistic regressions along rising C, each started from the last."""
    model = LogisticRegression(class_weight="balanced", tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True)
    found = []
    for penalty in penalties:
        model.set_params(C=penalty).fit(x, y)
        found.append((np.array(model.coef_), np.array(model.intercept_)))
    return found
