"""Fitted heads as plain arrays: what ships, and how it is walked in NumPy. Nothing here needs the libraries that fit.

Each record is checked whole when it is made, so that arrays from anywhere can do no worse than be refused. Rows are
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
MOST_NODES = 1 << 22
NEXT_TO_ZERO = float(np.float32(1e-35))
"""LightGBM takes values this small for 0 (`kZeroThreshold` in its include/LightGBM/meta.h)."""


@dataclass(frozen=True)
class LinearArrays:
    """One linear score a class over standardised columns.

    Attributes
    ----------
    link : str
        ``"softmax"``: one softmax over all; ``"logistic"``: each score's sigmoid, normalised.
    mean, scale : ndarray of float64, shape (D,)
    weights : ndarray of float64, shape (S, D)
    intercept : ndarray of float64, shape (S,)
    classes : ndarray of int64, shape (S,)
        Place of each score on the class axis, rising; a class that no training row had is missing.
    count : int
        Length C of the class axis.
    """

    link: Literal["softmax", "logistic"]
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
        columns, scores = len(np.atleast_1d(self.mean)), len(np.atleast_1d(self.intercept))
        _check("mean", self.mean, (columns,))
        _check("scale", self.scale, (columns,))
        _check("weights", self.weights, (scores, columns))
        _check("intercept", self.intercept, (scores,))
        _check_classes(self.classes, scores, self.count)
        if not (self.scale > 0).all():
            raise InputError("head: scale holds a value that is not above 0")

    @property
    def columns(self) -> int:
        """Columns D that it reads."""
        return len(self.mean)

    def scores(self, row: Floats) -> Floats:
        """Linear scores [S] of one row [D]."""
        return np.asarray(((row - self.mean) / self.scale)[None] @ self.weights.T + self.intercept)[0]

    def centred_logits(self, row: Floats) -> NDArray[np.float32]:
        """Logits [C] of one row: centred scores; a class without one gets the lowest (`moodfuse.fuse.cross_fitting.centred_scores`)."""
        seen = self.scores(row)
        every = np.full(self.count, seen.min())
        every[self.classes] = seen
        return (every - every.mean()).astype(np.float32)

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]; a class that it has no score for gets 0."""
        scores = self.scores(row)
        logs = scores if self.link == "softmax" else -np.logaddexp(0.0, -scores)
        return _spread(_softmax(logs), self.classes, self.count)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        return {name: getattr(self, name) for name in ("mean", "scale", "weights", "intercept", "classes")}

    def facts(self) -> dict[str, Any]:
        """What else makes it, as JSON types."""
        return {"link": self.link, "count": self.count}


@dataclass(frozen=True)
class TreeArrays:
    """Boosted trees, node by node: left where a column's value is at most the threshold.

    Attributes
    ----------
    feature : ndarray of int64, shape (M,)
        Column that a node asks for; -1 for a leaf.
    threshold : ndarray of float64, shape (M,)
    left, right : ndarray of int64, shape (M,)
        The nodes below, each after its own; -1 for a leaf.
    value : ndarray of float64, shape (M,)
        What a leaf adds to its class; 0 for a node.
    roots : ndarray of int64, shape (T,)
        First node of each tree; trees stand round by round, one a score.
    classes : ndarray of int64, shape (S,)
        Place of each score on the class axis, rising. With two classes there is one score, of the latter.
    columns : int
        Columns D that it reads.
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
        nodes = len(np.atleast_1d(self.feature))
        if not 0 < nodes <= MOST_NODES:
            raise InputError(f"head: {nodes} nodes of trees; expected 1 to {MOST_NODES}")
        for name in ("threshold", "value"):
            _check(name, getattr(self, name), (nodes,))
        for name in ("feature", "left", "right"):
            _check(name, getattr(self, name), (nodes,), dtype=np.int64)
        _check_classes(self.classes, len(np.atleast_1d(self.classes)), self.count)
        _check("roots", self.roots, (len(np.atleast_1d(self.roots)),), dtype=np.int64)
        if len(self.classes) < 2 or not len(self.roots) or len(self.roots) % self.scores_count:
            raise InputError(f"head: {len(self.roots)} trees for {len(self.classes)} classes")
        self._check_nodes(nodes)

    def _check_nodes(self, nodes: int) -> None:
        """Every node lies behind the one above it, so that each walk ends; no tree shares a node with another."""
        if self.roots[0] != 0 or (np.diff(self.roots) <= 0).any() or self.roots[-1] >= nodes:
            raise InputError("head: roots of trees are not rising from 0, or beyond the nodes")
        leaf, at = self.feature == -1, np.arange(nodes)
        ends = np.append(self.roots[1:], nodes)[np.searchsorted(self.roots, at, side="right") - 1]
        inner = ~leaf
        if (self.feature[inner] < 0).any() or (self.feature[inner] >= self.columns).any():
            raise InputError(f"head: a tree asks for a column outside 0..{self.columns - 1}")
        for name in ("left", "right"):
            child = getattr(self, name)
            if (
                (child[inner] <= at[inner]).any()
                or (child[inner] >= ends[inner]).any()
                or (child[leaf] != -1).any()
            ):
                raise InputError(f"head: the {name} child of a node lies outside its tree, or not below it")

    @property
    def scores_count(self) -> int:
        """Scores S, one for two classes."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def raw_scores(self, row: Floats) -> Floats:
        """Sums [S] of the leaves that one row [D] comes to, in the order of the trees."""
        row = np.where(np.abs(row) <= NEXT_TO_ZERO, 0.0, row)
        nodes = self.roots.copy()
        while (inner := np.flatnonzero(self.feature[nodes] >= 0)).size:
            at = nodes[inner]
            goes_left = row[self.feature[at]] <= self.threshold[at]
            nodes[inner] = np.where(goes_left, self.left[at], self.right[at])
        sums = np.zeros(self.scores_count)
        for values in self.value[nodes].reshape(-1, self.scores_count):
            sums += values
        return sums

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]; a class that no tree is for gets 0."""
        sums = self.raw_scores(row)
        if self.scores_count == 1:
            high = 1.0 / (1.0 + np.exp(-sums[0]))
            return _spread(np.array([1.0 - high, high]), self.classes, self.count)
        return _spread(_softmax(sums), self.classes, self.count)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        names = ("feature", "threshold", "left", "right", "value", "roots", "classes")
        return {name: getattr(self, name) for name in names}

    def facts(self) -> dict[str, Any]:
        """What else makes it, as JSON types."""
        return {"columns": self.columns, "count": self.count}


@dataclass(frozen=True)
class MeanArrays:
    """The average of the sources' own softmax; there is nothing to store but how many logits a source has."""

    columns: int
    count: int

    kind = "mean"

    def __post_init__(self) -> None:
        if self.count < 2 or self.columns < self.count or self.columns % self.count:
            raise InputError(
                f"head: {self.columns} columns are no whole number of sources with {self.count} classes"
            )

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]."""
        logits = row.reshape(-1, self.count)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray((powers / powers.sum(axis=1, keepdims=True)).mean(axis=0))

    def arrays(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What makes it, as JSON types."""
        return {"columns": self.columns, "count": self.count}


HeadArrays = LinearArrays | TreeArrays | MeanArrays


def head_from_arrays(kind: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> HeadArrays:
    """A head from its kind, its plain facts and its arrays.

    Raises
    ------
    InputError
        If they do not make one.
    """
    kinds: dict[str, Callable[..., HeadArrays]] = {
        item.kind: item for item in (LinearArrays, TreeArrays, MeanArrays)
    }
    try:
        return kinds[kind](**facts, **arrays)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"head: no head of kind {kind!r} can be made of what is there ({error})") from error


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def _spread(shares: Floats, classes: Ints, count: int) -> Floats:
    every = np.zeros(count)
    every[classes] = shares
    return every / every.sum()


def _check(name: str, array: np.ndarray, shape: tuple[int, ...], *, dtype: type = np.float64) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = (
            f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        )
        raise InputError(f"head: {name} is {found}, expected {np.dtype(dtype)} {list(shape)}")
    if not np.isfinite(array).all():
        raise InputError(f"head: {name} holds NaN or infinity")


def _check_classes(classes: np.ndarray, scores: int, count: int) -> None:
    _check("classes", classes, (scores,), dtype=np.int64)
    rising = bool((np.diff(classes) > 0).all())
    if not (isinstance(count, int) and scores >= 1 and rising and classes[0] >= 0 and classes[-1] < count):
        raise InputError(f"head: classes {classes[:9].tolist()} are not rising places on an axis of {count}")
