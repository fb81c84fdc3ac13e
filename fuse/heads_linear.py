"""Linear heads: standardised logistic regression, C chosen by grouped inner cross-validation.

Where there are more columns than rows the fit runs in the rows' own space (an orthogonal rotation of the centred
matrix), which leaves an L2-penalised solution unchanged.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cache.folds import inner_folds
from fuse.design import row_units

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
DEFAULT_C = 0.01
INNER_FOLDS = 5
_MAX_ITERATIONS = 2000


class _LinearHead(ClassifierMixin, BaseEstimator):
    """Standardise, choose C, fit.

    Parameters
    ----------
    C : float or "auto"
        Inverse strength of the L2 penalty on standardised columns. ``"auto"`` chooses from `C_GRID` by the log loss of
        a grouped inner cross-validation, or takes `DEFAULT_C` where a class has fewer than 3 groups.
    random_state : int
        Seed of the inner folds.

    Attributes
    ----------
    classes_ : ndarray
    C_ : float
        The C in use.
    chosen_ : bool
        Whether inner cross-validation chose it.
    """

    def __init__(self, C: float | str = "auto", random_state: int = 0) -> None:  # noqa: N803 - scikit-learn's name
        self.C = C
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "_LinearHead":  # noqa: N803
        """Fit on ``X`` [n, D] and labels ``y`` [n]; ``groups`` [n] stay together in the inner folds."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 classes; got 1 class: {self.classes_[0]!r}")
        groups = np.arange(len(targets)) if groups is None else np.asarray(groups)
        inner = self._inner(targets, groups) if self.C == "auto" else None
        self.chosen_ = inner is not None
        self.C_ = self._choose(X, targets, inner) if inner is not None else self._fixed()
        self.model_ = _Standardised(self._estimator(self.C_)).fit(X, targets)
        return self

    def _fixed(self) -> float:
        return DEFAULT_C if self.C == "auto" else float(self.C)

    def _inner(self, targets: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
        assignment = inner_folds(row_units(targets, groups), most=INNER_FOLDS, seed=self._seed())
        return None if assignment is None else np.array([assignment[str(row)] for row in range(len(targets))])

    def _seed(self) -> int:
        return int(self.random_state or 0)

    def _choose(self, X: np.ndarray, targets: np.ndarray, inner: np.ndarray) -> float:  # noqa: N803
        losses = np.zeros(len(C_GRID))
        for fold in np.unique(inner):
            fit, test = inner != fold, inner == fold
            if len(np.unique(targets[fit])) < len(self.classes_):
                return DEFAULT_C
            for number, value in enumerate(C_GRID):
                model = _Standardised(self._estimator(value)).fit(X[fit], targets[fit])
                p = model.predict_proba(X[test])[np.arange(test.sum()), targets[test]]
                losses[number] -= np.log(np.clip(p, 1e-12, 1.0)).sum()
        return C_GRID[int(losses.argmin())]

    def _estimator(self, C: float) -> Any:  # noqa: N803
        raise NotImplementedError

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities [n, C], columns as `classes_`."""
        check_is_fitted(self)
        probabilities: np.ndarray = self.model_.predict_proba(validate_data(self, X, dtype=np.float64, reset=False))
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Labels [n]."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class SoftmaxHead(_LinearHead):
    """Standardised multinomial logistic regression."""

    def _estimator(self, C: float) -> Any:  # noqa: N803
        return LogisticRegression(C=C, max_iter=_MAX_ITERATIONS, solver="newton-cholesky")


class LogisticHead(_LinearHead):
    """Standardised one-vs-rest logistic regression; probabilities are normalised to sum to 1."""

    def _estimator(self, C: float) -> Any:  # noqa: N803
        return OneVsRestClassifier(LogisticRegression(C=C, max_iter=_MAX_ITERATIONS, solver="newton-cholesky"))


class _Standardised:
    """Columns to mean 0 and variance 1 (constant columns to 0), rotated to the rows' space, then an estimator."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: np.ndarray, targets: np.ndarray) -> "_Standardised":  # noqa: N803
        self.mean = X.mean(axis=0)
        scale = X.std(axis=0)
        self.scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(self.mean)), scale, np.inf)
        standard = (X - self.mean) / self.scale
        self.rotation = np.linalg.svd(standard, full_matrices=False)[2].T if X.shape[1] > X.shape[0] else None
        self.estimator.fit(self._rotate(standard), targets)
        return self

    def _rotate(self, standard: np.ndarray) -> np.ndarray:
        return standard if self.rotation is None else standard @ self.rotation

    def predict_proba(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        probabilities: np.ndarray = self.estimator.predict_proba(self._rotate((X - self.mean) / self.scale))
        return probabilities
