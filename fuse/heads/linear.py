"""The heads `softmax`, `logistic` and `mean`.

The first two are logistic regression on standardised columns, C chosen on inner grouped folds. Standardised
columns are divided by the square root of their number, so that one C means the same for 12 columns as for
2000. Classes are weighted to count alike, in fitting and in the inner log loss. `heads/logistic.py` fits them.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from moodfuse.fuse.heads.exported import (
    Floats,
    HeadArrays,
    Ints,
    LinearArrays,
    Link,
    MeanArrays,
    link_probabilities,
    softmax,
)
from moodfuse.fuse.heads.inner_folds import choose_on_rows
from moodfuse.fuse.heads.logistic import fit_path
from moodfuse.fuse.workers import one_thread

DEFAULT_C = 10.0
"""Inverse strength of the L2 penalty where none can be chosen."""
GRID = (1.0, 10.0, 100.0, 1000.0)
"""Values of C that are tried; of equals the smallest wins."""


class FusionHead(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier whose `fit` takes groups."""

    def _validated(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], Ints]:
        """Features [N, D], and class indices [N] after setting `classes_`; at least 2 classes."""
        x, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs rows of at least 2 classes; got one class")
        return x, index

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        raise NotImplementedError

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each row."""
        best = np.argmax(self.predict_proba(X), axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def to_arrays(self, *, columns: int, classes: int) -> HeadArrays:
        """The head, fitted on class indices, for export; `classes` is the length of the class axis."""
        raise NotImplementedError


class SoftmaxHead(FusionHead):
    """Multinomial logistic regression: one softmax over all classes.

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
        The penalty in use.
    tuned_ : bool
        Whether it was chosen: `False` where a class has fewer than 3 groups, or `tune` is off.
    """

    _link: Link = "softmax"

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
            If the data are not finite, hold one class only, or there is not one group per row.
        """
        x, index = self._validated(X, y)
        chosen = choose_on_rows(self, x, index, groups, seed=self.random_state) if self.tune else None
        self.tuned_ = chosen is not None
        self.C_ = self.C if chosen is None else float(chosen["C"])
        with one_thread():
            path = fit_path(x, index, (self.C_,), self._link)
        self.mean_, self.scale_ = path.mean, path.scale
        self.coef_, self.intercept_ = path.coef[0], path.intercept[0]
        return self

    def candidates(self) -> list[dict[str, Any]]:
        """Settings to choose from, the simplest first."""
        return [{"C": value} for value in sorted(self.grid)]

    def try_candidates(self, x: NDArray[Any], y: Ints, held_out: NDArray[Any]) -> Floats:
        """Probabilities [candidates, N_held_out, C] by fits on `x` and class indices `y`.

        Classes are those of `y` in rising order. Scaling is learned on `x`. The head is not changed.
        """
        index = np.unique(y, return_inverse=True)[1]
        with one_thread():
            path = fit_path(x, index, sorted(self.grid), self._link)
            scores = (held_out - path.mean) / path.scale @ path.coef.transpose(0, 2, 1)
        return link_probabilities(scores + path.intercept[:, None], self._link)

    def decision_scores(self, X: ArrayLike) -> Floats:
        """Linear scores [N, C], one per class (for two classes as well)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores: Floats = (x - self.mean_) / self.scale_ @ self.coef_.T + self.intercept_
        return scores

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        return link_probabilities(self.decision_scores(X), self._link)

    def to_arrays(self, *, columns: int, classes: int) -> LinearArrays:
        """The fitted head for export; see `FusionHead.to_arrays`."""
        index = np.asarray(self.classes_, np.int64)
        return LinearArrays(self._link, self.mean_, self.scale_, self.coef_, self.intercept_, index, classes)


class LogisticHead(SoftmaxHead):
    """One logistic regression per class against the rest, normalised; parameters as for `SoftmaxHead`."""

    _link: Link = "logistic"


class MeanHead(FusionHead):
    """Average of the softmax of each source's logits. Nothing is fitted but the classes.

    Parameters
    ----------
    classes : sequence or None
        Classes of each source's columns, in their order; the number of columns must be a multiple of theirs.
        By default the classes of `y`, and logits that are missing at the end count as 0.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
    """

    def __init__(self, *, classes: Sequence[Any] | None = None) -> None:
        self.classes = classes

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Record the classes; X is [N, S * C], the logits of S sources side by side.

        Raises
        ------
        ValueError
            If the columns are not a multiple of the given classes.
        """
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
        """The fitted head for export; see `FusionHead.to_arrays`."""
        return MeanArrays(columns, classes)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # columns are taken as logits, whatever they are
        return tags
