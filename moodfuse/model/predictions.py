"""What a model says: of one file, of a file over time, and of a file that it cannot label."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DEFAULT_THRESHOLD = 0.5
"""A prediction of less confidence is uncertain, unless told otherwise."""


@dataclass(frozen=True)
class SourceSays:
    """One source's part in a prediction.

    Attributes
    ----------
    source : str
    own : ndarray of float64, shape (C,), or None
        Probabilities by the source's own softmax; `None` where the clip lacks what it reads.
    without : ndarray of float64, shape (C,)
        Probabilities of the model with this source left out.
    """

    source: str
    own: Floats | None
    without: Floats


@dataclass(frozen=True)
class Prediction:
    """What a model says of one window of a file.

    Attributes
    ----------
    file : str
        As it was asked for.
    classes : tuple of str
        Sorted labels; the class axis.
    probabilities : ndarray of float64, shape (C,)
        Calibrated; they sum to 1.
    start_s, end_s : float
        The window that was read, in seconds of the file.
    missing : str
        The view that the file lacks and that was filled in, ``"sound"`` or ``"picture"``; empty where it has both.
    sources : tuple of SourceSays
        In the order of the model's sources.
    partial : str
        What of the window could not be decoded; empty where 95 % could.
    duration_s : float
        Length of the whole file, as its headers say.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: Floats
    start_s: float
    end_s: float
    missing: str = ""
    sources: tuple[SourceSays, ...] = ()
    partial: str = ""
    duration_s: float = 0.0

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def confidence(self) -> float:
        """Its probability."""
        return float(self.probabilities.max())

    def is_uncertain(self, threshold: float = DEFAULT_THRESHOLD) -> bool:
        """Whether the confidence is under a threshold."""
        return self.confidence < threshold


@dataclass(frozen=True)
class Refusal:
    """A file, or a window of one, that cannot be labelled.

    Attributes
    ----------
    file : str
    code : str
        Of `moodfuse.extract.media.container.REASONS`, such as ``"no_audio"`` or ``"truncated"``.
    detail : str
        A sentence.
    found : str
        What of it is particular to this file.
    """

    file: str
    code: str
    detail: str
    found: str = ""


@dataclass(frozen=True)
class Timeline:
    """What a model says of a file over time.

    Attributes
    ----------
    file : str
    classes : tuple of str
    starts_s, ends_s : ndarray of float64, shape (N,)
        Each window, in seconds from the start of the file's presentation, rising.
    probabilities : ndarray of float64, shape (N, C)
        NaN in the rows of windows that could not be read.
    refusals : tuple of (int, Refusal)
        Those windows, by number.
    duration_s : float
        Of the file.
    missing : str
        As in `Prediction`.
    """

    file: str
    classes: tuple[str, ...]
    starts_s: Floats
    ends_s: Floats
    probabilities: Floats
    refusals: tuple[tuple[int, Refusal], ...] = ()
    duration_s: float = 0.0
    missing: str = ""

    @cached_property
    def middles_s(self) -> Floats:
        """Where a window's row is drawn: its middle, [N]."""
        return (self.starts_s + self.ends_s) / 2

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable label of each window; empty where it could not be read."""
        return tuple(
            "" if np.isnan(row).any() else self.classes[int(np.argmax(row))] for row in self.probabilities
        )
