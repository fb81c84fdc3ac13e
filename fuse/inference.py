"""A fusion model at work: from the networks' outputs for one clip to calibrated probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError
from moodfuse.fuse.heads import Level, check_level
from moodfuse.fuse.heads.exported import (
    TEMPERATURES,
    Floats,
    HeadArrays,
    LinearArrays,
    MeanArrays,
    apply_temperature,
    head_from_arrays,
    softmax,
)

__all__ = ["FusedSource", "Fusion", "LinearArrays", "NetworkOutput", "check_level", "head_from_arrays"]

Row = NDArray[np.float32]


@dataclass(frozen=True)
class NetworkOutput:
    """The output of one network for a clip: `embedding` [D], and `logits` [C] where it has them; float32."""

    embedding: Row
    logits: Row | None = None


@dataclass(frozen=True)
class FusedSource:
    """One source of a fusion.

    Attributes
    ----------
    source : str
    own : tuple of LinearArrays
        Fits that make logits of the embedding, averaged; empty where the networks have their own.
    fill : ndarray of float64, shape (D,)
        Columns of a clip without the modality that the source reads: the mean of the training rows.
    """

    source: str
    own: tuple[LinearArrays, ...]
    fill: Floats

    def __post_init__(self) -> None:
        if self.fill.ndim != 1 or self.fill.dtype != np.float64 or not np.isfinite(self.fill).all():
            found = f"{self.fill.dtype} {list(self.fill.shape)}"
            raise InputError(f"{self.source}: fill is {found}; expected finite float64 [D]")

    def logits(self, outputs: Sequence[NetworkOutput]) -> Row:
        """Logits [C], averaged over the networks, or over the fits on the embedding."""
        if self.own:
            rows = [fit.centred_logits(outputs[0].embedding.astype(np.float64)) for fit in self.own]
        else:
            rows = [output.logits for output in outputs if output.logits is not None]
        if not rows or (not self.own and len(rows) != len(outputs)):
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
            raise InputError(f"fusion: sources of {widths} columns for a head of {self.head.columns}")
        counts = {self.head.count, *(fit.count for item in self.sources for fit in item.own)}
        sorted_classes = tuple(sorted(set(self.classes)))
        if counts != {len(self.classes)} or sorted_classes != self.classes or len(self.classes) < 2:
            raise InputError(
                f"fusion: classes {self.classes[:9]} for parts made for {sorted(counts)} of them"
            )
        least, most = TEMPERATURES
        if not least <= self.temperature <= most:
            raise InputError(f"fusion: temperature {self.temperature}; expected {least} to {most}")

    def values(self, number: int, outputs: Sequence[NetworkOutput]) -> Floats:
        """Columns [D] of one source, float64; refuses another number of them, and any that is not finite."""
        source = self.sources[number]
        row = (outputs[0].embedding if self.level == "embedding" else source.logits(outputs)).astype(
            np.float64
        )
        if row.shape != source.fill.shape or not np.isfinite(row).all():
            raise InputError(
                f"{source.source}: its network gave {list(row.shape)} values, finite or not; expected "
                f"{list(source.fill.shape)} finite ones"
            )
        return row

    def probabilities(self, values: Sequence[Floats | None]) -> Floats:
        """Calibrated probabilities [C] of a clip; `None` for a source whose modality it does not have."""
        return self._calibrated(self.head, self.sources, values)

    def without(self, number: int, values: Sequence[Floats | None]) -> Floats:
        """Probabilities [C] without one source: of the others alone under ``mean``, else with its mean."""
        if not isinstance(self.head, MeanArrays) or len(self.sources) == 1:
            return self.probabilities([None if place == number else row for place, row in enumerate(values)])
        sources = [source for place, source in enumerate(self.sources) if place != number]
        rows = [row for place, row in enumerate(values) if place != number]
        head = MeanArrays(sum(len(source.fill) for source in sources), self.head.count)
        return self._calibrated(head, sources, rows)

    def own(self, number: int, outputs: Sequence[NetworkOutput]) -> Floats:
        """Probabilities [C] by a source's own softmax, as its networks were tuned: not calibrated."""
        return softmax(self.sources[number].logits(outputs).astype(np.float64))

    def _calibrated(
        self, head: HeadArrays, sources: Sequence[FusedSource], values: Sequence[Floats | None]
    ) -> Floats:
        rows = [item.fill if row is None else row for item, row in zip(sources, values, strict=True)]
        probabilities = apply_temperature(head.probabilities(np.concatenate(rows)), self.temperature)
        if not np.isfinite(probabilities).all():
            raise InputError(
                "fusion: the probabilities are not finite; the model cannot be used for this file"
            )
        return probabilities
