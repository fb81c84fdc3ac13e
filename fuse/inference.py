"""A fusion as plain arrays: from the networks' outputs for a clip to calibrated probabilities, in NumPy.

Records check their arrays, which may come from the model folder of somebody else. Rows are scored one by one:
a matrix product of many rows may differ in its last bits from that of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError, UnknownNameError

Level = Literal["logits", "embedding"]
"""What a head reads of each source."""
LEVELS: tuple[Level, ...] = get_args(Level)
Link = Literal["softmax", "logistic"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Row = NDArray[np.float32]

TEMPERATURES = (0.05, 20.0)
"""Least and greatest temperature."""
TINY = 1e-12
ZERO_THRESHOLD = float(np.float32(1e-35))
"""LightGBM takes values this small for 0 (`kZeroThreshold` in its include/LightGBM/meta.h)."""


def check_level(level: str) -> Level:
    """Return the level; an unknown name raises `UnknownNameError`."""
    if level not in LEVELS:
        raise UnknownNameError("level", level, LEVELS)
    return level


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def apply_link(scores: Floats, link: Link) -> Floats:
    """Probabilities of linear scores over the last axis: one softmax, or each score's sigmoid, normalised."""
    return softmax(scores if link == "softmax" else -np.logaddexp(0.0, -scores))


def apply_temperature(probabilities: Floats, temperature: float | Floats) -> Floats:
    """Probabilities [..., C] under a temperature, or one per row: above 1 closer to uniform. Ranks stay."""
    divisor = np.asarray(temperature)[..., None]
    scaled = softmax(np.log(np.maximum(probabilities, TINY)) / divisor)
    return np.where(divisor == 1.0, probabilities, scaled)


def centre_logits(scores: Floats, classes: Ints, count: int) -> NDArray[np.float32]:
    """Scores [..., S] as logits [..., C] of mean 0; a class without a score gets the lowest one."""
    every = np.repeat(scores.min(axis=-1, keepdims=True), count, axis=-1)
    every[..., classes] = scores
    logits: NDArray[np.float32] = (every - every.mean(axis=-1, keepdims=True)).astype(np.float32)
    return logits


# Fitted heads


class _Arrays:
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def facts(self) -> dict[str, Any]:
        """The other fields, JSON types."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}

    def _check(self, dtype: type, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            _check_array(name, getattr(self, name), dtype, shape)


@dataclass(frozen=True)
class LinearArrays(_Arrays):
    """One linear score per class over standardised columns.

    `mean` and `scale` are float64 [D], `weights` [S, D] and `intercept` [S]; `classes` int64 [S] has the
    index of each score on the class axis of length `count`: a class without training rows has none.
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
        columns, scores = np.size(self.mean), np.size(self.classes)
        self._check(
            np.float64, mean=(columns,), scale=(columns,), intercept=(scores,), weights=(scores, columns)
        )
        self._check(np.int64, classes=(scores,))
        if self.link not in get_args(Link) or not _in_range(self.classes, self.count):
            raise InputError(
                f"head: link {self.link!r} or classes {self.classes[:9]} of {self.count} are unknown"
            )

    @property
    def columns(self) -> int:
        """Number of columns D."""
        return len(self.mean)

    def scores(self, row: Floats) -> Floats:
        """Linear scores [S] of one row [D]."""
        return np.asarray(((row - self.mean) / self.scale)[None] @ self.weights.T + self.intercept)[0]

    def centre_logits(self, row: Floats) -> NDArray[np.float32]:
        """Logits [C] of one row [D]."""
        return centre_logits(self.scores(row), self.classes, self.count)

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]; a class without a score gets 0."""
        return _fill_classes(apply_link(self.scores(row), self.link), self.classes, self.count)


@dataclass(frozen=True)
class TreeArrays(_Arrays):
    """Boosted binary trees, as M nodes: left where a column's value is at most the threshold.

    `feature` int64 [M] is the column that a node compares with `threshold` float64 [M], -1 for a leaf; `left`
    and `right` int64 [M] are its children, which stand after it; `value` float64 [M] is what a leaf adds to
    its class. `roots` int64 [T] has the root of each tree, a leaf where nothing could be split; trees are
    ordered by round, one per score. `classes` int64 [S] are indices on the class axis of length `count`; two
    classes have one score, that of the second.
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
        self._check(np.float64, threshold=(nodes,), value=(nodes,))
        self._check(np.int64, feature=(nodes,), left=(nodes,), right=(nodes,), roots=(trees,))
        self._check(np.int64, classes=(np.size(self.classes),))
        split = np.flatnonzero(self.feature != -1)
        children = np.stack([self.left[split], self.right[split]])
        if not (
            _in_range(self.classes, self.count)
            and _in_range(np.append(children, self.roots), nodes)
            and _in_range(self.feature[split], self.columns)
            and (children > split).all()  # so every path ends in a leaf
            and len(self.classes) > 1
            and trees > 0
            and trees % self._scores == 0
        ):
            raise InputError("head: feature, left, right, roots and classes are not binary trees")

    @property
    def _scores(self) -> int:
        return 1 if len(self.classes) == 2 else len(self.classes)

    def raw_scores(self, row: Floats) -> Floats:
        """Sums [S] of the leaves of one row [D], added in the order of the trees as LightGBM does."""
        row = np.where(np.abs(row) <= ZERO_THRESHOLD, 0.0, row)
        nodes = self.roots
        while (inner := self.feature[nodes] != -1).any():
            goes_left = row[self.feature[nodes]] <= self.threshold[nodes]
            nodes = np.where(inner, np.where(goes_left, self.left[nodes], self.right[nodes]), nodes)
        sums: Floats = np.cumsum(self.value[nodes].reshape(-1, self._scores), axis=0)[-1]
        return sums

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]; a class without trees gets 0."""
        sums = self.raw_scores(row)
        if len(sums) == 1:
            second = 1.0 / (1.0 + np.exp(-sums[0]))
            return _fill_classes(np.array([1.0 - second, second]), self.classes, self.count)
        return _fill_classes(softmax(sums), self.classes, self.count)


@dataclass(frozen=True)
class MeanArrays(_Arrays):
    """The average of the sources' own softmax, each of `count` logits."""

    columns: int
    count: int

    kind = "mean"

    def probabilities(self, row: Floats) -> Floats:
        """Probabilities [C] of one row [D]."""
        return np.asarray(softmax(row.reshape(-1, self.count)).mean(axis=0))


HeadArrays = LinearArrays | TreeArrays | MeanArrays


def head_from_arrays(kind: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> HeadArrays:
    """Make a head of its kind, facts and arrays."""
    kinds: dict[str, Any] = {"linear": LinearArrays, "trees": TreeArrays, "mean": MeanArrays}
    if kind not in kinds:
        raise UnknownNameError("kind of head", kind, tuple(kinds))
    head: HeadArrays = kinds[kind](**facts, **arrays)
    return head


def _fill_classes(probabilities: Floats, classes: Ints, count: int) -> Floats:
    every = np.zeros(count)
    every[classes] = probabilities
    return every / every.sum()


def _in_range(indices: Ints, count: int) -> bool:
    return bool(((indices >= 0) & (indices < count)).all())


def _check_array(name: str, array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)} {list(shape)}"
        raise InputError(f"head: {name} is {array.dtype} {list(array.shape)}, expected {expected}")
    if not np.isfinite(array).all():
        raise InputError(f"head: {name} holds NaN or infinity")


# The fusion of several sources


@dataclass(frozen=True)
class NetworkOutput:
    """The output of one network for a clip: `embedding` [D], and `logits` [C] where it has them; float32."""

    embedding: Row
    logits: Row | None = None


@dataclass(frozen=True)
class FusedSource:
    """One source of a fusion.

    `own` are fits that make logits of the embedding, averaged; empty where the networks have their own.
    `fill` float64 [D] are the columns of a clip without the modality that the source reads: the mean of the
    training rows.
    """

    source: str
    own: tuple[LinearArrays, ...]
    fill: Floats

    def __post_init__(self) -> None:
        _check_array(f"fill of {self.source}", self.fill, np.float64, (np.size(self.fill),))

    def logits(self, outputs: Sequence[NetworkOutput]) -> Row:
        """Logits [C], averaged over the networks, or over the fits on the embedding."""
        if self.own:
            rows = [fit.centre_logits(outputs[0].embedding.astype(np.float64)) for fit in self.own]
        else:
            rows = [output.logits for output in outputs if output.logits is not None]
        return np.asarray(np.stack(rows).mean(axis=0))


@dataclass(frozen=True)
class Fusion:
    """A head over the columns of several sources, in their order, for the sorted labels `classes`.

    `temperature` divides the logarithms of the head's probabilities; `chosen` is whether it and the head's
    settings were chosen on rows out of sample.
    """

    classes: tuple[str, ...]
    level: Level
    sources: tuple[FusedSource, ...]
    head: HeadArrays
    temperature: float
    chosen: bool

    def __post_init__(self) -> None:
        check_level(self.level)
        columns = sum(len(source.fill) for source in self.sources)
        counts = {self.head.count, *(fit.count for source in self.sources for fit in source.own)}
        if columns != self.head.columns or counts != {len(self.classes)}:
            raise InputError(
                f"fusion: {columns} columns and {len(self.classes)} classes for heads of "
                f"{self.head.columns} columns and {sorted(counts)} classes"
            )
        least, most = TEMPERATURES
        if not least <= self.temperature <= most:
            raise InputError(f"fusion: temperature {self.temperature}; expected {least} to {most}")

    def values(self, number: int, outputs: Sequence[NetworkOutput]) -> Floats:
        """Columns [D] of one source, float64; `InputError` if they do not fit the head or are not finite."""
        source = self.sources[number]
        row = outputs[0].embedding if self.level == "embedding" else source.logits(outputs)
        if row.shape != source.fill.shape or not np.isfinite(row).all():
            raise InputError(
                f"{source.source}: its network gave {list(row.shape)} values, finite or not; expected "
                f"{list(source.fill.shape)} finite ones"
            )
        return row.astype(np.float64)

    def probabilities(self, values: Sequence[Floats | None]) -> Floats:
        """Calibrated probabilities [C] of a clip; `None` for a source whose modality it does not have."""
        return self._calibrated(self.head, self._imputed(values))

    def without(self, number: int, values: Sequence[Floats | None]) -> Floats:
        """Probabilities [C] without one source: of the others alone under ``mean``, else with its mean."""
        if not isinstance(self.head, MeanArrays) or len(self.sources) == 1:
            return self.probabilities([*values[:number], None, *values[number + 1 :]])
        rows = self._imputed(values)
        del rows[number]
        return self._calibrated(MeanArrays(sum(map(len, rows)), self.head.count), rows)

    def own(self, number: int, outputs: Sequence[NetworkOutput]) -> Floats:
        """Probabilities [C] by a source's own softmax, as its networks were tuned: not calibrated."""
        return softmax(self.sources[number].logits(outputs).astype(np.float64))

    def _imputed(self, values: Sequence[Floats | None]) -> list[Floats]:
        return [source.fill if row is None else row for source, row in zip(self.sources, values, strict=True)]

    def _calibrated(self, head: HeadArrays, rows: Sequence[Floats]) -> Floats:
        return apply_temperature(head.probabilities(np.concatenate(rows)), self.temperature)
