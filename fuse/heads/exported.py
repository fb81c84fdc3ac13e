"""Fitted heads as plain arrays, as a model folder holds them, scored by NumPy alone.

Each record is checked when it is made, so that arrays of a damaged or foreign folder are refused. Rows are
scored one by one: a matrix product of many rows may differ in its last bits from that of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Link = Literal["softmax", "logistic"]

TEMPERATURES = (0.05, 20.0)
"""Least and greatest temperature; log loss is convex in its inverse."""
TINY = 1e-12
ZERO_THRESHOLD = float(np.float32(1e-35))
"""LightGBM takes values this small for 0 (`kZeroThreshold` in its include/LightGBM/meta.h)."""


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def link_probabilities(scores: Floats, link: Link) -> Floats:
    """Probabilities of linear scores over the last axis: one softmax, or each score's sigmoid, normalised."""
    return softmax(scores if link == "softmax" else -np.logaddexp(0.0, -scores))


def apply_temperature(probabilities: Floats, temperature: float | Floats) -> Floats:
    """Probabilities [..., C] under a temperature, or one per row: above 1 closer to uniform. Ranks stay."""
    divisor = np.asarray(temperature)[..., None]
    scaled = softmax(np.log(np.maximum(probabilities, TINY)) / divisor)
    return np.where(divisor == 1.0, probabilities, scaled)


class _Arrays:
    """What the records of all heads have."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def facts(self) -> dict[str, Any]:
        """The rest of it as JSON types."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}


@dataclass(frozen=True)
class LinearArrays(_Arrays):
    """One linear score per class over standardised columns.

    Attributes
    ----------
    link : str
        ``"softmax"``: one softmax over all; ``"logistic"``: each score's sigmoid, normalised.
    mean, scale : ndarray of float64, shape (D,)
    weights : ndarray of float64, shape (S, D)
    intercept : ndarray of float64, shape (S,)
    classes : ndarray of int64, shape (S,)
        Index of each score on the class axis, rising; a class without training rows is missing.
    count : int
        Length C of the class axis.
    """

    link: Link
    mean: Floats
    scale: Floats
    weights: Floats
    intercept: Floats
    classes: Ints
    count: int

    kind = "linear"

    def __post_init__(self) -> None:
        if self.link not in ("softmax", "logistic"):
            raise InputError(f"head: link {self.link!r}; expected 'softmax' or 'logistic'")
        columns, scores = np.size(self.mean), np.size(self.intercept)
        _check("mean", self.mean, (columns,))
        _check("scale", self.scale, (columns,))
        _check("weights", self.weights, (scores, columns))
        _check("intercept", self.intercept, (scores,))
        _check_classes(self.classes, scores, self.count)
        if not (self.scale > 0).all():
            raise InputError("head: scale holds a value that is not above 0")

    @property
    def columns(self) -> int:
        """Number of columns D."""
        return len(self.mean)

    def scores(self, row: Floats) -> Floats:
        """Linear scores [S] of one row [D]."""
        return np.asarray(((row - self.mean) / self.scale)[None] @ self.weights.T + self.intercept)[0]

    def centred_logits(self, row: Floats) -> NDArray[np.float32]:
        """Logits [C] of one row [D]; see `centred_logits`."""
        return centred_logits(self.scores(row), self.classes, self.count)

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]; a class without a score gets 0."""
        return _on_axis(link_probabilities(self.scores(row), self.link), self.classes, self.count)


@dataclass(frozen=True)
class TreeArrays(_Arrays):
    """Boosted trees of one split each, as nodes: left where a column's value is at most the threshold.

    Attributes
    ----------
    feature : ndarray of int64, shape (M,)
        Column that a node compares; -1 for a leaf.
    threshold : ndarray of float64, shape (M,)
    left, right : ndarray of int64, shape (M,)
        The leaves of a node; -1 for a leaf.
    value : ndarray of float64, shape (M,)
        What a leaf adds to its class; 0 for a node.
    roots : ndarray of int64, shape (T,)
        First node of each tree, a leaf where nothing could be split; trees are ordered by round, one per
        score.
    classes : ndarray of int64, shape (S,)
        Index of each score on the class axis, rising. With two classes there is one score, of the latter.
    columns : int
        Number of columns D.
    count : int
        Length C of the class axis.
    """

    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    roots: Ints
    classes: Ints
    columns: int
    count: int

    kind = "trees"

    def __post_init__(self) -> None:
        nodes, trees = np.size(self.feature), np.size(self.roots)
        for name in ("threshold", "value"):
            _check(name, getattr(self, name), (nodes,))
        for name in ("feature", "left", "right"):
            _check(name, getattr(self, name), (nodes,), dtype=np.int64)
        _check("roots", self.roots, (trees,), dtype=np.int64)
        _check_classes(self.classes, np.size(self.classes), self.count)
        if len(self.classes) < 2 or not trees or trees % self._scores:
            raise InputError(f"head: {trees} trees for {len(self.classes)} classes")
        if not ((self.roots >= 0) & (self.roots < nodes)).all():
            raise InputError(f"head: a root is outside the {nodes} nodes")
        split = self.roots[self.feature[self.roots] != -1]
        if not ((self.feature[split] >= 0) & (self.feature[split] < self.columns)).all():
            raise InputError(f"head: a tree reads a column outside 0..{self.columns - 1}")
        for name in ("left", "right"):
            leaves = getattr(self, name)[split]
            if not ((leaves >= 0) & (leaves < nodes)).all() or (self.feature[leaves] != -1).any():
                raise InputError(f"head: the {name} child of a split is not a leaf")

    @property
    def _scores(self) -> int:
        return 1 if len(self.classes) == 2 else len(self.classes)

    def raw_scores(self, row: Floats) -> Floats:
        """Sums [S] of the leaves of one row [D], added in the order of the trees as LightGBM does."""
        row = np.where(np.abs(row) <= ZERO_THRESHOLD, 0.0, row)
        feature = self.feature[self.roots]
        goes_left = row[feature] <= self.threshold[self.roots]
        children = np.where(goes_left, self.left[self.roots], self.right[self.roots])
        leaves = np.where(feature == -1, self.roots, children)
        sums: Floats = np.cumsum(self.value[leaves].reshape(-1, self._scores), axis=0)[-1]
        return sums

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]; a class without trees gets 0."""
        sums = self.raw_scores(row)
        if len(sums) > 1:
            return _on_axis(softmax(sums), self.classes, self.count)
        second = 1.0 / (1.0 + np.exp(-sums[0]))
        return _on_axis(np.array([1.0 - second, second]), self.classes, self.count)


@dataclass(frozen=True)
class MeanArrays(_Arrays):
    """The average of the sources' own softmax: nothing is stored but the number of logits per source."""

    columns: int
    count: int

    kind = "mean"

    def __post_init__(self) -> None:
        if self.count < 2 or self.columns < self.count or self.columns % self.count:
            raise InputError(
                f"head: {self.columns} columns are not a multiple of the {self.count} logits of each source"
            )

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]."""
        return np.asarray(softmax(row.reshape(-1, self.count)).mean(axis=0))


HeadArrays = LinearArrays | TreeArrays | MeanArrays


def head_from_arrays(kind: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> HeadArrays:
    """A head from its kind, its facts and its arrays.

    Raises
    ------
    InputError
        If they do not make a head.
    """
    kinds: dict[str, Callable[..., HeadArrays]] = {
        item.kind: item for item in (LinearArrays, TreeArrays, MeanArrays)
    }
    try:
        return kinds[kind](**facts, **arrays)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"head: no head of kind {kind!r} can be made of these arrays ({error})") from error


def centred_logits(scores: Floats, classes: Ints, count: int) -> NDArray[np.float32]:
    """Scores [..., S] as logits [..., C] of mean 0; a class without a score gets the lowest one."""
    every = np.repeat(scores.min(axis=-1, keepdims=True), count, axis=-1)
    every[..., classes] = scores
    logits: NDArray[np.float32] = (every - every.mean(axis=-1, keepdims=True)).astype(np.float32)
    return logits


def _on_axis(probabilities: Floats, classes: Ints, count: int) -> Floats:
    every = np.zeros(count)
    every[classes] = probabilities
    return every / every.sum()


def _check(name: str, array: np.ndarray, shape: tuple[int, ...], *, dtype: type = np.float64) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = type(array).__name__
        if isinstance(array, np.ndarray):
            found = f"{array.dtype} {list(array.shape)}"
        raise InputError(f"head: {name} is {found}, expected {np.dtype(dtype)} {list(shape)}")
    if not np.isfinite(array).all():
        raise InputError(f"head: {name} holds NaN or infinity")


def _check_classes(classes: np.ndarray, scores: int, count: int) -> None:
    _check("classes", classes, (scores,), dtype=np.int64)
    rising = bool((np.diff(classes) > 0).all())
    if not (isinstance(count, int) and scores >= 1 and rising and classes[0] >= 0 and classes[-1] < count):
        raise InputError(f"head: classes {classes[:9].tolist()} are not rising indices on an axis of {count}")
