"""The head `lightgbm`: gradient-boosted trees for hundreds of clips by thousands of columns.

One split a tree, few bins, a share of the columns a tree and a strong L2 penalty keep it from learning the training
rows by heart; columns add up then, and do not act on one another. The number of rounds is chosen on inner grouped
folds, from one fit a fold, since fewer rounds are the first trees of more. One thread, column-wise histograms and a
seed give the same trees every time.
"""

from typing import Any, Self

import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from moodfuse.fuse.matrix import Values
from moodfuse.fuse.tuning import choose_on_rows

GRID = (5, 10, 25, 50, 100)
"""Numbers of rounds that are tried; of equals the fewest win."""


class LightGBMHead(ClassifierMixin, BaseEstimator):
    """Gradient-boosted trees with balanced class weights.

    Parameters
    ----------
    rounds : int
        Boosting rounds where none can be chosen; each grows one tree a class.
    grid : tuple of int
        Numbers of rounds to choose from.
    tune : bool
        Whether to choose; set it to `False` where training rows are in sample.
    learning_rate : float
    leaves : int
        Leaves of a tree at most; from 3 on columns may act on one another.
    min_rows : int
        Rows of a leaf at least.
    share : float
        Share of the columns that a tree may choose from, drawn anew for each.
    columns : int
        The same as a number: the larger of the two counts, and all columns where there are fewer.
    bins : int
        Histogram bins of a column at most.
    l2 : float
        L2 penalty of leaf values.
    random_state : int

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
    model_ : lightgbm.LGBMClassifier
        The fitted trees, over class indices.
    rounds_ : int
        The number of rounds in force.
    tuned_ : bool
        Whether it was chosen: `False` where a class has fewer than 3 groups, or `tune` is off.
    """

    def __init__(
        self,
        *,
        rounds: int = 50,
        grid: tuple[int, ...] = GRID,
        tune: bool = True,
        learning_rate: float = 0.2,
        leaves: int = 2,
        min_rows: int = 3,
        share: float = 1 / 6,
        columns: int = 64,
        bins: int = 15,
        l2: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.rounds = rounds
        self.grid = grid
        self.tune = tune
        self.learning_rate = learning_rate
        self.leaves = leaves
        self.min_rows = min_rows
        self.share = share
        self.columns = columns
        self.bins = bins
        self.l2 = l2
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
            raise ValueError("LightGBMHead needs rows of at least 2 classes; got one class")
        chosen = choose_on_rows(self, x, index, groups, seed=self.random_state) if self.tune else None
        self.tuned_ = chosen is not None
        self.rounds_ = self.rounds if chosen is None else int(chosen["rounds"])
        self.model_ = self._grow(x, index, self.rounds_)
        return self

    def settings(self, columns: int, rounds: int) -> dict[str, Any]:
        """What LightGBM is asked for, over so many columns."""
        return {
            "n_estimators": rounds,
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_child_samples": self.min_rows,
            "colsample_bytree": min(1.0, max(self.share, self.columns / columns)),
            "max_bin": self.bins,
            "min_data_in_bin": 1,
            "reg_lambda": self.l2,
            "class_weight": "balanced",
            "random_state": self.random_state,
            "n_jobs": 1,
            "deterministic": True,
            "force_col_wise": True,
            "enable_bundle": False,
            "is_enable_sparse": False,
            "verbosity": -1,
        }

    def _grow(self, x: Values, y: NDArray[np.int64], rounds: int) -> LGBMClassifier:
        return LGBMClassifier(**self.settings(x.shape[1], rounds)).fit(x, y)

    def candidates(self) -> list[dict[str, Any]]:
        """Settings to choose from, the simplest first."""
        return [{"rounds": value} for value in sorted(self.grid)]

    def try_candidates(self, x: Values, y: NDArray[np.int64], held: Values) -> NDArray[np.float64]:
        """Probabilities [candidates, N_held, C] of rows `held` by trees grown on `x` and class indices `y`.

        Classes are those of `y` in rising order. The head is left as it was.
        """
        _, index = np.unique(y, return_inverse=True)
        booster = self._grow(x, index, max(self.grid)).booster_
        return np.stack([_chances(booster, held, rounds) for rounds in sorted(self.grid)])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities [N, C], in the order of `classes_`."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return _chances(self.model_.booster_, x, self.rounds_)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each row."""
        chosen = np.argmax(self.predict_proba(X), axis=1)
        labels: NDArray[Any] = self.classes_[chosen]
        return labels


def _chances(booster: Any, x: Values, rounds: int) -> NDArray[np.float64]:
    """Probabilities [N, C] by the first `rounds` rounds."""
    raw = np.asarray(booster.predict(x, num_iteration=rounds, num_threads=1), dtype=np.float64)
    return raw if raw.ndim == 2 else np.stack([1.0 - raw, raw], axis=1)
