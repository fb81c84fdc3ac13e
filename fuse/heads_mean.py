"""The baseline to beat: the average of the networks' own probabilities. Nothing is learned."""

from typing import Any

import numpy as np

from cache.errors import InputError


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


class MeanHead:
    """Average of softmax probabilities; columns are the logits of one source after another, C each."""

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "MeanHead":  # noqa: N803
        """Learn the classes, and that the columns are a multiple of them."""
        self.classes_ = np.unique(y)
        if np.shape(X)[1] % len(self.classes_):
            raise InputError(f"mean: {np.shape(X)[1]} columns are no multiple of {len(self.classes_)} classes; use logits")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities [n, C]."""
        logits = np.asarray(X, dtype=np.float64)
        return softmax(logits.reshape(len(logits), -1, len(self.classes_))).mean(axis=1)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Labels [n]."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
