"""Records of labelling: a window to label, its prediction or refusal, and a time line."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moodfuse.extract.decoding import MediaError

Floats = NDArray[np.float64]
MODALITY_NAMES = {"sound": "audio", "picture": "video"}
"""The names of modalities in recipes and records, and in texts."""
DEFAULT_THRESHOLD = 0.5
"""A prediction with a lower confidence is uncertain by default."""


@dataclass(frozen=True)
class LabelRequest:
    """A window of a file to label. Without `end_s` it is 30 s long, or ends with the file."""

    file: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class SourceContribution:
    """The contribution of one source to a prediction.

    `own` is the softmax of its logits [C], not calibrated, or `None` if the file does not have its modality;
    `without` are the probabilities [C] of the model without the source.
    """

    source: str
    own: Floats | None
    without: Floats


@dataclass(frozen=True)
class Prediction:
    """The prediction for one window of a file.

    Attributes
    ----------
    classes : tuple of str
        Sorted labels; the class axis.
    probabilities : ndarray of float64, shape (C,)
        Calibrated; they sum to 1.
    missing : str
        The modality that the file does not have and that was imputed; empty if it has both.
    partial : str
        Which part of the window could not be decoded; empty if at least 95 % could.
    duration_s : float
        Length of the whole file according to its headers.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: Floats
    start_s: float
    end_s: float
    missing: str = ""
    sources: tuple[SourceContribution, ...] = ()
    partial: str = ""
    duration_s: float = 0.0

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def confidence(self) -> float:
        """The probability of `label`."""
        return float(self.probabilities.max())

    def is_uncertain(self, threshold: float = DEFAULT_THRESHOLD) -> bool:
        """Whether the confidence is below a threshold."""
        return self.confidence < threshold


@dataclass(frozen=True)
class Refusal:
    """A file, or a window of a file, that cannot be labelled.

    `code` is a key of `extract.media.limits.REASONS`, or ``"no_numbers"``; `detail` is the reason as a
    sentence with the remedy, and `cause` what is specific to the file.
    """

    file: str
    code: str
    detail: str
    cause: str = ""


def make_refusal(file: str, error: "MediaError") -> Refusal:
    """Return the refusal that describes a decoder's error."""
    return Refusal(file, error.code, error.sentence, error.detail)


@dataclass(frozen=True)
class Timeline:
    """Predictions for a window that slides over a file.

    Attributes
    ----------
    starts_s, ends_s : ndarray of float64, shape (N,)
        Windows in seconds of the file, in ascending order.
    probabilities : ndarray of float64, shape (N, C)
        NaN in the rows of windows that could not be read.
    refusals : tuple of (int, Refusal)
        The windows that could not be read, by number.
    """

    file: str
    classes: tuple[str, ...]
    starts_s: Floats
    ends_s: Floats
    probabilities: Floats
    refusals: tuple[tuple[int, Refusal], ...] = ()
    duration_s: float = 0.0
    missing: str = ""

    @property
    def middles_s(self) -> Floats:
        """The middle of each window, [N]."""
        return (self.starts_s + self.ends_s) / 2

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable label of each window; empty for windows that could not be read."""
        return tuple(
            "" if np.isnan(row).any() else self.classes[int(np.argmax(row))] for row in self.probabilities
        )
