"""From fitted heads to the arrays that ship."""

from collections.abc import Callable
from typing import Any

import numpy as np

from moodfuse.cache.errors import MoodfuseError
from moodfuse.fuse.heads.exported import HeadArrays, LinearArrays, MeanArrays, TreeArrays


def head_arrays(name: str, model: Any, *, columns: int, classes: int) -> HeadArrays:
    """A fitted head as arrays.

    Parameters
    ----------
    name : str
        Of `moodfuse.fuse.heads.registry.HEADS`.
    model : classifier
        Fitted on class indices.
    columns, classes : int
        Width of its design matrix, and length of the class axis.
    """
    makers: dict[str, Callable[[], HeadArrays]] = {
        "softmax": lambda: linear_arrays(model, classes=classes),
        "logistic": lambda: linear_arrays(model, classes=classes, link="logistic"),
        "lightgbm": lambda: tree_arrays(model, columns=columns, classes=classes),
        "mean": lambda: MeanArrays(columns, classes),
    }
    return makers[name]()


def linear_arrays(model: Any, *, classes: int, link: Any = "softmax") -> LinearArrays:
    """A fitted `softmax` or `logistic` head as arrays."""
    return LinearArrays(
        link,
        model.mean_,
        model.scale_,
        model.coef_,
        model.intercept_,
        np.asarray(model.classes_, np.int64),
        classes,
    )


def tree_arrays(model: Any, *, columns: int, classes: int) -> TreeArrays:
    """A fitted `lightgbm` head as arrays.

    Raises
    ------
    MoodfuseError
        If a tree asks another question than whether a number is at most a threshold.
    """
    nodes = _Nodes()
    trees = model.model_.booster_.dump_model(num_iteration=model.rounds_)["tree_info"]
    roots = [nodes.add(tree["tree_structure"]) for tree in trees]
    return TreeArrays(
        feature=np.array(nodes.feature, np.int64),
        threshold=np.array(nodes.threshold, np.float64),
        left=np.array(nodes.left, np.int64),
        right=np.array(nodes.right, np.int64),
        value=np.array(nodes.value, np.float64),
        roots=np.array(roots, np.int64),
        classes=np.asarray(model.classes_, np.int64),
        columns=columns,
        count=classes,
    )


def trees_text(model: Any) -> str:
    """The trees of a fitted `lightgbm` head in LightGBM's own format."""
    return str(model.model_.booster_.model_to_string(num_iteration=model.rounds_))


class _Nodes:
    """Nodes in the order in which they are met, each before those below it."""

    def __init__(self) -> None:
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.left: list[int] = []
        self.right: list[int] = []
        self.value: list[float] = []

    def add(self, node: dict[str, Any]) -> int:
        """Add a tree; returns the number of its first node."""
        number = len(self.feature)
        leaf = "leaf_value" in node
        if not leaf and (node["decision_type"] != "<=" or node["missing_type"] != "None"):
            raise MoodfuseError(
                f"a tree asks {node['decision_type']!r}, missing {node['missing_type']!r}; report this"
            )
        self.feature.append(-1 if leaf else node["split_feature"])
        self.threshold.append(0.0 if leaf else node["threshold"])
        self.value.append(node["leaf_value"] if leaf else 0.0)
        self.left.append(-1)
        self.right.append(-1)
        if not leaf:
            self.left[number] = self.add(node["left_child"])
            self.right[number] = self.add(node["right_child"])
        return number
