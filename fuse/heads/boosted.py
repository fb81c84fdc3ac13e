"""The head `lightgbm`: gradient-boosted trees for hundreds of clips by thousands of columns.

One split per tree, few bins, a sample of the columns per tree and a strong L2 penalty keep it from memorising
the training rows; columns then add up without interactions. The number of rounds is chosen on inner grouped
folds, from one fit per fold, since fewer rounds are the first trees of more. One thread, column-wise
histograms and a seed give the same trees every time.
"""

from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from moodfuse.cache.errors import InputError
from moodfuse.fuse.heads.linear import BALANCED, FusionHead, fit_offsets
from moodfuse.fuse.inference import TINY, Floats, Ints, TreeArrays, softmax

GRID = (5, 10, 25, 50, 100)
"""Numbers of rounds that are tried; of equals the fewest are chosen."""
COLUMN_FRACTION, MIN_COLUMNS = 1 / 6, 64
"""A tree chooses from a sample of the columns: the larger of the two, and all where there are fewer."""


class LightGBMHead(FusionHead):
    """Gradient-boosted trees.

    With ``class_weight="balanced"`` classes have the same total weight in fitting, and the scores are then
    corrected as in `moodfuse.fuse.heads.linear`. `rounds`, each one tree per class, is chosen from `grid`
    where `tune` is on. From 3 `leaves` on columns may interact, and the head cannot be exported. Fitting adds
    `classes_`, `model_` (a `LGBMClassifier` over class indices), `rounds_`, the number in use, and `tuned_`,
    whether it was chosen.
    """

    setting = "rounds"

    def __init__(
        self,
        *,
        rounds: int = 50,
        grid: tuple[int, ...] = GRID,
        class_weight: str | None = None,
        tune: bool = True,
        learning_rate: float = 0.2,
        leaves: int = 2,
        random_state: int = 0,
    ) -> None:
        self.rounds = rounds
        self.grid = grid
        self.class_weight = class_weight
        self.tune = tune
        self.learning_rate = learning_rate
        self.leaves = leaves
        self.random_state = random_state

    def _fit(self, x: NDArray[Any], y: Ints, value: int) -> None:
        self.rounds_ = int(value)
        self.model_ = self._grow(x, y, self.rounds_)
        if self.class_weight == BALANCED:
            booster = self.model_.booster_
            _add_to_scores(booster, self._offsets(booster, x, y, self.rounds_))

    def settings(self, columns: int, rounds: int) -> dict[str, Any]:
        """Parameters of LightGBM for a number of columns."""
        return {
            "n_estimators": rounds,
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_child_samples": 3,
            "colsample_bytree": min(1.0, max(COLUMN_FRACTION, MIN_COLUMNS / columns)),
            "max_bin": 15,
            "min_data_in_bin": 1,
            "reg_lambda": 1.0,
            "class_weight": self.class_weight,
            "random_state": self.random_state,
            "n_jobs": 1,
            "deterministic": True,
            "force_col_wise": True,
            "enable_bundle": False,
            "is_enable_sparse": False,
            "verbosity": -1,
        }

    def _grow(self, x: NDArray[Any], y: Ints, rounds: int) -> LGBMClassifier:
        return LGBMClassifier(**self.settings(x.shape[1], rounds)).fit(x, y)

    def _offsets(self, booster: Any, x: NDArray[Any], y: Ints, rounds: int) -> Floats:
        scores = np.log(np.maximum(_probabilities(booster, x, rounds), TINY))
        return fit_offsets(scores, y, "softmax")

    def try_candidates(self, x: NDArray[Any], y: Ints, held_out: NDArray[Any]) -> Floats:
        """See `FusionHead`; fewer rounds are the first trees of more."""
        index = np.unique(y, return_inverse=True)[1]
        booster = self._grow(x, index, max(self.grid)).booster_
        tried = {rounds: _probabilities(booster, held_out, rounds) for rounds in sorted(self.grid)}
        if self.class_weight == BALANCED:
            for rounds, probabilities in tried.items():
                offsets = self._offsets(booster, x, index, rounds)
                tried[rounds] = softmax(np.log(np.maximum(probabilities, TINY)) + offsets)
        return np.stack(list(tried.values()))

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities [N, C], in the order of `classes_`."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return _probabilities(self.model_.booster_, x, self.rounds_)

    def to_arrays(self, *, columns: int, classes: int) -> TreeArrays:
        """See `FusionHead`; `InputError` if a tree has more than one split."""
        nodes: list[tuple[int, float, int, int, float]] = []
        roots = []
        for tree in self.model_.booster_.dump_model(num_iteration=self.rounds_)["tree_info"]:
            root, number = tree["tree_structure"], len(nodes)
            roots.append(number)
            if "leaf_value" in root:
                nodes.append((-1, 0.0, -1, -1, root["leaf_value"]))
                continue
            leaves = [root["left_child"], root["right_child"]]
            if not all("leaf_value" in leaf for leaf in leaves):
                raise InputError("lightgbm: only trees of one split can be exported; use 2 leaves")
            nodes.append((root["split_feature"], root["threshold"], number + 1, number + 2, 0.0))
            nodes.extend((-1, 0.0, -1, -1, leaf["leaf_value"]) for leaf in leaves)
        feature, threshold, left, right, value = (np.array(column) for column in zip(*nodes, strict=True))
        threshold, value = threshold.astype(np.float64), value.astype(np.float64)  # LightGBM writes 0 as int
        index = np.asarray(self.classes_, np.int64)
        return TreeArrays(
            feature, threshold, left, right, value, np.array(roots), index, columns=columns, count=classes
        )

    def to_text(self) -> str:
        """The trees in LightGBM's own format."""
        return str(self.model_.booster_.model_to_string(num_iteration=self.rounds_))


def _add_to_scores(booster: Any, offsets: Floats) -> None:
    """Add offsets [C] to the scores: to the leaves of the first trees."""
    if len(offsets) == 2:  # one score, that of the second class
        offsets = offsets[1:] - offsets[:1]
    trees = booster.dump_model(num_iteration=1)["tree_info"]
    for number, (tree, offset) in enumerate(zip(trees, offsets, strict=True)):
        for leaf in range(tree["num_leaves"]):
            booster.set_leaf_output(number, leaf, booster.get_leaf_output(number, leaf) + offset)


def _probabilities(booster: Any, x: NDArray[Any], rounds: int) -> Floats:
    """Probabilities [N, C] by the first `rounds` rounds."""
    raw = np.asarray(booster.predict(x, num_iteration=rounds, num_threads=1), dtype=np.float64)
    return raw if raw.ndim == 2 else np.stack([1.0 - raw, raw], axis=1)
