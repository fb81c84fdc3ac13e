"""The heads `softmax` and `logistic`: logistic regression on standardised columns, its C chosen on inner grouped folds.

Standardised columns are divided by the square root of their number, so that one C means the same for 12 columns as
for 2 000. Classes are weighted to count alike, in fitting and in the inner log loss. The fit runs in the rows' own
span: an L2 penalty is blind to rotation, so the solution is that of scikit-learn's LogisticRegression, found faster.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from moodfuse.fuse.heads.logistic import Fit, one_class_paths, softmax_path
from moodfuse.fuse.heads.span import Span, scores_of, span_of
from moodfuse.fuse.matrix import Values
from moodfuse.fuse.tuning import choose_on_rows
from moodfuse.fuse.workers import one_thread

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEFAULT_C = 10.0
"""Inverse strength of the L2 penalty where none can be chosen."""
GRID = (1.0, 10.0, 100.0, 1000.0)
"""Values of C that are tried; of equals the smallest wins."""


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
        self,
        *,
        C: float = DEFAULT_C,
        grid: tuple[float, ...] = GRID,
        tune: bool = True,
        random_state: int = 0,
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
        x, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs rows of at least 2 classes; got one class")
        chosen = choose_on_rows(self, x, index, groups, seed=self.random_state) if self.tune else None
        self.tuned_ = chosen is not None
        self.C_ = self.C if chosen is None else float(chosen["C"])
        span = span_of(x)
        self.mean_, self.scale_ = span.mean, span.scale
        self.coef_, self.intercept_ = self._solve(span, index, (self.C_,))[0]
        return self

    def candidates(self) -> list[dict[str, Any]]:
        """Settings to choose from, the simplest first."""
        return [{"C": value} for value in sorted(self.grid)]

    def try_candidates(self, x: Values, y: Ints, held: Values) -> Floats:
        """Probabilities [candidates, N_held, C] of rows `held` by fits on `x` and class indices `y`.

        Classes are those of `y` in rising order. Scaling is learned on `x`. The head is left as it was.
        """
        _, index = np.unique(y, return_inverse=True)
        span = span_of(x)
        solved = self._solve(span, index, sorted(self.grid))
        return np.stack([self._probabilities(scores_of(held, span.mean, span.scale, *fit)) for fit in solved])

    def _solve(self, span: Span, y: Ints, penalties: Sequence[float]) -> list[tuple[Floats, Floats]]:
        """Coefficients [C, D] and intercepts [C] of each penalty, in scaled columns."""
        with one_thread():
            if y.max() == 1:  # one score z for two classes, whose shares are the sigmoids of -z and z
                fits = one_class_paths(span, y[:, None].astype(np.float64), penalties)
                return [
                    (self._sides(span.in_columns(fit.weights)), self._sides(fit.intercept)) for fit in fits
                ]
            return [
                (span.in_columns(fit.weights), fit.intercept) for fit in self._fit_all(span, y, penalties)
            ]

    def _sides(self, score: Floats) -> Floats:
        """What gives the scores of two classes, from what gives the one score of the second against the first."""
        raise NotImplementedError

    def _fit_all(self, span: Span, y: Ints, penalties: Sequence[float]) -> list[Fit]:
        """Fits of three classes or more."""
        raise NotImplementedError

    def _probabilities(self, scores: Floats) -> Floats:
        raise NotImplementedError

    def decision_scores(self, X: ArrayLike) -> Floats:
        """Linear scores [N, C], one a class (for two classes as well)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return scores_of(x, self.mean_, self.scale_, self.coef_, self.intercept_)

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

    def _sides(self, score: Floats) -> Floats:
        return np.concatenate([-score, score]) / 2

    def _fit_all(self, span: Span, y: Ints, penalties: Sequence[float]) -> list[Fit]:
        return softmax_path(span, y, penalties)

    def _probabilities(self, scores: Floats) -> Floats:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares


class LogisticHead(_LinearHead):
    """One logistic regression a class against the rest, normalised. Parameters as stated in `_LinearHead`."""

    def _sides(self, score: Floats) -> Floats:
        return np.concatenate([-score, score])

    def _fit_all(self, span: Span, y: Ints, penalties: Sequence[float]) -> list[Fit]:
        return one_class_paths(span, np.eye(int(y.max()) + 1)[y], penalties)

    def _probabilities(self, scores: Floats) -> Floats:
        logs = -np.logaddexp(0.0, -scores)
        powers = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares
