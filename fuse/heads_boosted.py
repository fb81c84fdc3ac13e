"""Gradient-boosted trees with settings for hundreds of clips and thousands of columns."""

import ctypes
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cache.errors import MoodfuseError

SETTINGS: dict[str, Any] = {
    "n_estimators": 120,
    "learning_rate": 0.08,
    "num_leaves": 5,
    "min_child_samples": 4,
    "colsample_bytree": 0.2,
    "subsample": 0.8,
    "subsample_freq": 1,
    "reg_lambda": 5.0,
    "max_bin": 31,
    "class_weight": "balanced",
    "n_jobs": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
"""Few leaves, few bins, a fifth of the columns a tree, a fixed number of rounds; threads belong to the ablation."""


def _lightgbm() -> ModuleType:
    """LightGBM; its wheel needs an OpenMP runtime, for which the one in torch's wheel serves where the system has none."""
    try:
        import lightgbm
    except OSError as error:
        torch = find_spec("torch")
        library = Path(torch.origin).parent / "lib" / "libgomp.so.1" if torch is not None and torch.origin else None
        if library is None or not library.is_file():
            raise MoodfuseError(f"LightGBM cannot load ({error}); install the OpenMP runtime (Debian: libgomp1)") from error
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        import lightgbm
    return lightgbm


class LightGBMHead(ClassifierMixin, BaseEstimator):
    """LightGBM through its scikit-learn API, with class weights.

    Parameters
    ----------
    random_state : int
        Seed of the row and column sampling.
    n_estimators : int
        Boosting rounds.

    Attributes
    ----------
    classes_ : ndarray
    """

    def __init__(self, random_state: int = 0, n_estimators: int = SETTINGS["n_estimators"]) -> None:
        self.random_state = random_state
        self.n_estimators = n_estimators

    def fit(self, X: Any, y: Any, groups: Any = None) -> "LightGBMHead":  # noqa: N803
        """Fit on ``X`` [n, D] and labels ``y`` [n]; ``groups`` are not used, as nothing is chosen."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"LightGBMHead needs at least 2 classes; got 1 class: {self.classes_[0]!r}")
        seed = int(self.random_state or 0)
        settings = {**SETTINGS, "n_estimators": self.n_estimators, "random_state": seed}
        self.model_ = _lightgbm().LGBMClassifier(**settings).fit(X, targets)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities [n, C], columns as `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        raw = np.asarray(self.model_.booster_.predict(X, num_threads=1))
        return raw if raw.ndim == 2 else np.column_stack([1.0 - raw, raw])

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Labels [n]."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
