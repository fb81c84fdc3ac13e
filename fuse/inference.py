"""A fusion that ships: from what the networks say of one clip to calibrated probabilities. NumPy alone, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError
from moodfuse.fuse.features import Level, check_level
from moodfuse.fuse.heads.exported import Floats, HeadArrays, LinearArrays, MeanArrays
from moodfuse.fuse.tuning import TEMPERATURES, soften

Row = NDArray[np.float32]


@dataclass(frozen=True)
class NetworkSays:
    """What one network gives for a clip: `embedding` [D], and `logits` [C] where it has them; float32."""

    embedding: Row
    logits: Row | None = None


@dataclass(frozen=True)
class FusedSource:
    """What a fusion knows of one source.

    Attributes
    ----------
    source : str
    own : tuple of LinearArrays
        Fits that make logits of the embedding, averaged; empty where the networks have their own.
    fill : ndarray of float64, shape (D,)
        What stands for a clip that lacks what the source reads: the mean of the training rows.
    """

    source: str
    own: tuple[LinearArrays, ...]
    fill: Floats

    def __post_init__(self) -> None:
        if self.fill.ndim != 1 or self.fill.dtype != np.float64 or not np.isfinite(self.fill).all():
            raise InputError(
                f"{self.source}: fill is {self.fill.dtype} {list(self.fill.shape)}; expected float64 [D]"
            )

    def logits(self, says: Sequence[NetworkSays]) -> Row:
        """Logits [C], averaged over the networks, or over the fits on the embedding.

        Raises
        ------
        InputError
            If there is no network, or one has no logits and nothing makes them.
        """
        if self.own:
            rows = [fit.centred_logits(says[0].embedding.astype(np.float64)) for fit in self.own]
        else:
            rows = [item.logits for item in says if item.logits is not None]
        if not rows or (not self.own and len(rows) != len(says)):
            raise InputError(f"{self.source}: a network without logits")
        return np.asarray(np.stack(rows).mean(axis=0))


@dataclass(frozen=True)
class Fusion:
    """A head over the columns of several sources, with its temperature.

    Attributes
    ----------
    classes : tuple of str
        Sorted labels.
    level : str
    sources : tuple of FusedSource
        In the order of the head's columns.
    head : LinearArrays, TreeArrays or MeanArrays
    temperature : float
        Divides the logarithms of the head's probabilities.
    chosen : bool
        Whether settings and temperature were chosen on rows out of sample.

    Raises
    ------
    InputError
        If the parts do not fit together.
    """

    classes: tuple[str, ...]
    level: Level
    sources: tuple[FusedSource, ...]
    head: HeadArrays
    temperature: float
    chosen: bool

    def __post_init__(self) -> None:
        check_level(self.level)
        names, widths = [item.source for item in self.sources], [len(item.fill) for item in self.sources]
        if not names or len(set(names)) != len(names):
            raise InputError(f"fusion: sources {names}; expected one or more different ones")
        if sum(widths) != self.head.columns:
            raise InputError(f"fusion: sources of {widths} columns for a head that reads {self.head.columns}")
        counts = {self.head.count, *(fit.count for item in self.sources for fit in item.own)}
        if (
            counts != {len(self.classes)}
            or tuple(sorted(set(self.classes))) != self.classes
            or len(self.classes) < 2
        ):
            raise InputError(
                f"fusion: classes {self.classes[:9]} for parts made for {sorted(counts)} of them"
            )
        if not TEMPERATURES[0] <= self.temperature <= TEMPERATURES[1]:
            raise InputError(
                f"fusion: temperature {self.temperature}; expected {TEMPERATURES[0]} to {TEMPERATURES[1]}"
            )

    def values(self, number: int, says: Sequence[NetworkSays]) -> Floats:
        """Columns [D] of one source, float64.

        Raises
        ------
        InputError
            If they are more or fewer than the head reads, or not finite.
        """
        source = self.sources[number]
        found = (says[0].embedding if self.level == "embedding" else source.logits(says)).astype(np.float64)
        if found.shape != source.fill.shape or not np.isfinite(found).all():
            raise InputError(
                f"{source.source}: its network gave {list(found.shape)} values, finite or not; expected "
                f"{list(source.fill.shape)} finite ones"
            )
        return found

    def probabilities(self, values: Sequence[Floats | None]) -> Floats:
        """Calibrated probabilities [C] of a clip; `None` for a source whose view it lacks."""
        rows = [
            item.fill if value is None else value for item, value in zip(self.sources, values, strict=True)
        ]
        return self._soft(self.head.probabilities(np.concatenate(rows)))

    def without(self, number: int, values: Sequence[Floats | None]) -> Floats:
        """Probabilities [C] without one source: of the others alone under ``mean``, else with its mean in its place."""
        others = [value for place, value in enumerate(values) if place != number]
        if isinstance(self.head, MeanArrays) and others:
            rest = [item for place, item in enumerate(self.sources) if place != number]
            rows = [item.fill if value is None else value for item, value in zip(rest, others, strict=True)]
            head = MeanArrays(sum(map(len, rows)), self.head.count)
            return self._soft(head.probabilities(np.concatenate(rows)))
        return self.probabilities([None if place == number else value for place, value in enumerate(values)])

    def own(self, number: int, says: Sequence[NetworkSays]) -> Floats:
        """Probabilities [C] by a source's own softmax, as its networks were tuned: not calibrated."""
        logits = self.sources[number].logits(says).astype(np.float64)
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())

    def _soft(self, shares: Floats) -> Floats:
        found = soften(shares[None], self.temperature)[0]
        if not np.isfinite(found).all():
            raise InputError("fusion: the head's answer is not finite; the model is no use for this file")
        return found
