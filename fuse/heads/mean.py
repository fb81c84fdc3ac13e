"""The head `mean`: the average of the networks' own probabilities. Nothing is fitted but the classes."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class MeanHead(ClassifierMixin, BaseEstimator):
    """Average of the softmax of each source's logits.

    Parameters
    ----------
    classes : sequence or None
        Classes of each source's columns, in their order; the number of columns must be a multiple of theirs. By
        default the classes of `y`, and logits that are missing at the end count as 0.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
    """

    def __init__(self, *, classes: Sequence[Any] | None = None) -> None:
        self.classes = classes

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Take note of the classes; X is [N, S * C], the logits of S sources side by side.

        Raises
        ------
        ValueError
            If the columns are no multiple of the given classes.
        """
        x, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels) if self.classes is None else np.asarray(self.classes)
        if self.classes is not None and x.shape[1] % len(self.classes_):
            raise ValueError(
                f"{x.shape[1]} columns are no whole number of sources with {len(self.classes_)} classes"
            )
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities [N, C], in the order of `classes_`."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        x = np.pad(x, ((0, 0), (0, -x.shape[1] % len(self.classes_))))
        logits = x.reshape(len(x), -1, len(self.classes_))
        powers = np.exp(logits - logits.max(axis=2, keepdims=True))
        mean: NDArray[np.float64] = (powers / powers.sum(axis=2, keepdims=True)).mean(axis=1)
        return mean

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each row."""
        chosen = np.argmax(self.predict_proba(X), axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # columns are taken as logits, whatever they are
        return tags
