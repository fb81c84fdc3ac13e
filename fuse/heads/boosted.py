"""The head `lightgbm`: gradient-boosted trees for hundreds of clips by thousands of columns.

Few leaves, few bins, a sample of the columns per tree and an L2 penalty keep it from memorising the training
rows. The numbers of leaves and of rounds (`n_estimators`) are chosen together on inner grouped folds; all
numbers of rounds come from one fit, since fewer rounds are the first trees of more. One thread, column-wise
histograms and a seed give the same trees every time.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from moodfuse.fuse.heads.linear import BALANCED, FusionHead, fit_offsets
from moodfuse.fuse.inference import TINY, Floats, Ints, TreeArrays, softmax

COLUMN_FRACTION, MIN_COLUMNS = 1 / 6, 64
"""A tree chooses from a sample of the columns: the larger of the two, and all where there are fewer."""


class LightGBMHead(FusionHead):
    """Gradient-boosted trees.

    With ``class_weight="balanced"`` classes have the same total weight in fitting, and the scores are then
    corrected as in `moodfuse.fuse.heads.linear`. Other parameters are those of LightGBM; of `n_estimators`
    rounds each has one tree per class. Their defaults hold for what no candidate of `grid` has. Fitting adds
    `classes_`, `model_` (a `LGBMClassifier` over class indices), and `tuned_`, whether settings were chosen.
    """

    def __init__(
        self,
        *,
        num_leaves: int = 2,
        n_estimators: int = 50,
        learning_rate: float = 0.2,
        min_child_samples: int = 3,
        reg_lambda: float = 1.0,
        grid: tuple[Mapping[str, float], ...] = (),
        class_weight: str | None = None,
        random_state: int = 0,
    ) -> None:
        self.num_leaves = num_leaves
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.min_child_samples = min_child_samples
        self.reg_lambda = reg_lambda
        self.grid = grid
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, x: NDArray[Any], y: Ints, chosen: Mapping[str, float]) -> None:
        self.model_ = self._grow(x, y, chosen)
        if self.class_weight == BALANCED:
            booster = self.model_.booster_
            _add_to_scores(booster, self._offsets(booster, x, y))

    def settings(self, columns: int, chosen: Mapping[str, float]) -> dict[str, Any]:
        """Parameters of LightGBM for a number of columns, under the chosen settings."""
        return {
            "num_leaves": self.num_leaves,
            "n_estimators": self.n_estimators,
            "learning_rate": self.learning_rate,
            "min_child_samples": self.min_child_samples,
            "reg_lambda": self.reg_lambda,
            "colsample_bytree": min(1.0, max(COLUMN_FRACTION, MIN_COLUMNS / columns)),
            "max_bin": 15,
            "min_data_in_bin": 1,
            "class_weight": self.class_weight,
            "random_state": self.random_state,
            "n_jobs": 1,
            "deterministic": True,
            "force_col_wise": True,
            "enable_bundle": False,
            "is_enable_sparse": False,
            "verbosity": -1,
            **chosen,
        }

    def _grow(self, x: NDArray[Any], y: Ints, chosen: Mapping[str, float]) -> LGBMClassifier:
        return LGBMClassifier(**self.settings(x.shape[1], chosen)).fit(x, y)

    def _offsets(self, booster: Any, x: NDArray[Any], y: Ints, rounds: int | None = None) -> Floats:
        scores = np.log(np.maximum(_probabilities(booster, x, rounds), TINY))
        return fit_offsets(scores, y, "softmax")

    def try_candidates(self, x: NDArray[Any], y: Ints, held_out: NDArray[Any]) -> Floats:
        """See `FusionHead`; fewer rounds are the first trees of more."""
        index = np.unique(y, return_inverse=True)[1]
        tried = []
        for _, group in groupby(self.grid, key=lambda candidate: {**candidate, "n_estimators": 0}):
            candidates = list(group)
            rounds = [candidate.get("n_estimators", self.n_estimators) for candidate in candidates]
            booster = self._grow(x, index, {**candidates[0], "n_estimators": max(rounds)}).booster_
            for count in rounds:
                probabilities = _probabilities(booster, held_out, count)
                if self.class_weight == BALANCED:
                    offsets = self._offsets(booster, x, index, count)
                    probabilities = softmax(np.log(np.maximum(probabilities, TINY)) + offsets)
                tried.append(probabilities)
        return np.stack(tried)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return _probabilities(self.model_.booster_, x)

    def to_arrays(self, *, columns: int, classes: int) -> TreeArrays:
        """See `FusionHead`."""
        structures = [tree["tree_structure"] for tree in self.model_.booster_.dump_model()["tree_info"]]
        roots = np.arange(len(structures))
        nodes: list[tuple[int, float, int, int, float]] = []
        for structure in structures:  # children are appended while their parents are read
            if "leaf_value" in structure:
                nodes.append((-1, 0.0, -1, -1, structure["leaf_value"]))
                continue
            left = len(structures)
            nodes.append((structure["split_feature"], structure["threshold"], left, left + 1, 0.0))
            structures += [structure["left_child"], structure["right_child"]]
        feature, threshold, left_child, right_child, value = map(np.array, zip(*nodes, strict=True))
        threshold, value = threshold.astype(np.float64), value.astype(np.float64)  # LightGBM writes 0 as int
        index = np.asarray(self.classes_, np.int64)
        return TreeArrays(
            feature, threshold, left_child, right_child, value, roots, index, columns=columns, count=classes
        )

    def to_text(self) -> str:
        """The trees in LightGBM's own format."""
        return str(self.model_.booster_.model_to_string())


def _add_to_scores(booster: Any, offsets: Floats) -> None:
    """Add offsets [C] to the scores: to the leaves of the first trees."""
    if len(offsets) == 2:  # one score, that of the second class
        offsets = offsets[1:] - offsets[:1]
    trees = booster.dump_model(num_iteration=1)["tree_info"]
    for number, (tree, offset) in enumerate(zip(trees, offsets, strict=True)):
        for leaf in range(tree["num_leaves"]):
            booster.set_leaf_output(number, leaf, booster.get_leaf_output(number, leaf) + offset)


def _probabilities(booster: Any, x: NDArray[Any], rounds: int | None = None) -> Floats:
    """Probabilities [N, C] by the first `rounds` rounds, or all."""
    raw = np.asarray(booster.predict(x, num_iteration=rounds, num_threads=1), dtype=np.float64)
    return raw if raw.ndim == 2 else np.stack([1.0 - raw, raw], axis=1)
