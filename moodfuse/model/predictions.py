"""Records of labelling: a window to label, its prediction or refusal, and a timeline.

`to_dict` of each is its answer, the same in Python, in the JSON lines of `predict` and over HTTP;
``answer.schema.json`` describes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moodfuse.extract.decoding import MediaError

Floats = NDArray[np.float64]
Answer = dict[str, Any]
"""JSON types by name."""
SCHEMA = 1
"""Version of the schema of answers."""
DEFAULT_THRESHOLD = 0.5
"""A prediction with a lower confidence is uncertain by default."""


@dataclass(frozen=True)
class LabelRequest:
    """A window of a file to label. Without `end_s` it is 30 s long, or ends with the file."""

    file: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class ModelId:
    """Name of a model, and the first 16 digits of its digest, which changes with any of its files."""

    name: str = ""
    digest: str = ""


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
    start_s, end_s : float
        The window that was read, in seconds of the file.
    missing : str
        The modality that the file does not have and that was imputed, ``"audio"`` or ``"video"``; empty if
        none is missing.
    partial : str
        Which part of the window could not be decoded; empty if at least 95 % could.
    duration_s : float
        Length of the whole file according to its headers.
    requested_end_s : float, optional
        The end that was requested, `None` if none was given.
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
    requested_end_s: float | None = None
    model: ModelId = ModelId()

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

    def to_dict(self, *, threshold: float = DEFAULT_THRESHOLD) -> Answer:
        """Return the answer; below `threshold` it is uncertain. `docs/predict.md` describes the keys."""
        answer = _start_answer(self.file, self.model, self.start_s, self.requested_end_s)
        answer |= _label_fields(self.classes, self.probabilities, self.start_s, self.end_s, threshold)
        answer |= {"missing": self.missing or None, "partial": self.partial or None, "sources": {}}
        for source in self.sources:
            without = _by_label(self.classes, source.without)
            answer["sources"][source.source] = {
                "own": None if source.own is None else _by_label(self.classes, source.own),
                "without": without,
                "contribution": answer["confidence"] - without[self.label],
            }
        return answer


@dataclass(frozen=True)
class Refusal:
    """A file, or a window of a file, that cannot be labelled.

    `code` is a key of `extract.media.limits.REASONS`, or ``"no_numbers"``; `detail` is the reason as a
    sentence with the remedy, and `cause` what is specific to the file. The window is the one requested.
    """

    file: str
    code: str
    detail: str
    cause: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    model: ModelId = ModelId()

    @property
    def error(self) -> dict[str, str]:
        """Code and detail, as answers have them."""
        return {"code": self.code, "detail": self.detail}

    def to_dict(self, *, threshold: float = DEFAULT_THRESHOLD) -> Answer:
        """Return the answer. `threshold` is ignored; `Prediction.to_dict` has it."""
        return _start_answer(self.file, self.model, self.start_s, self.end_s) | {"error": self.error}


def make_refusal(request: LabelRequest, error: "MediaError", model: ModelId) -> Refusal:
    """Return the refusal that describes a decoder's error."""
    return Refusal(
        request.file, error.code, error.sentence, error.detail, request.start_s, request.end_s, model
    )


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
    missing : str
        As in `Prediction`.
    hop_s : float
        Seconds between the starts of two windows, as requested.
    """

    file: str
    classes: tuple[str, ...]
    starts_s: Floats
    ends_s: Floats
    probabilities: Floats
    refusals: tuple[tuple[int, Refusal], ...] = ()
    duration_s: float = 0.0
    missing: str = ""
    hop_s: float = 0.0
    model: ModelId = ModelId()

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

    def to_dict(self, *, threshold: float = DEFAULT_THRESHOLD) -> Answer:
        """Return the answer, with the windows as a list; below `threshold` a window is uncertain."""
        refusals, windows = dict(self.refusals), []
        borders = zip(self.starts_s.tolist(), self.ends_s.tolist(), self.probabilities, strict=True)
        for number, (start_s, end_s, row) in enumerate(borders):
            if number in refusals:
                window: Answer = {
                    "window": {"start_s": start_s, "end_s": end_s},
                    "error": refusals[number].error,
                }
            else:
                window = _label_fields(self.classes, row, start_s, end_s, threshold)
            windows.append(window)
        answer = _start_answer(self.file, self.model, 0.0, None)
        answer["timeline"] = {
            "hop_s": float(self.hop_s),
            "duration_s": float(self.duration_s),
            "missing": self.missing or None,
            "windows": windows,
        }
        return answer


def _start_answer(file: str, model: ModelId, start_s: float, end_s: float | None) -> Answer:
    return {
        "schema": SCHEMA,
        "file": file,
        "model": {"name": model.name, "digest": model.digest},
        "requested": {"start_s": float(start_s), "end_s": end_s},
    }


def _label_fields(
    classes: Sequence[str], probabilities: Floats, start_s: float, end_s: float, threshold: float
) -> Answer:
    by_label = _by_label(classes, probabilities)
    label = max(by_label, key=by_label.__getitem__)
    return {
        "window": {"start_s": float(start_s), "end_s": float(end_s)},
        "label": label,
        "confidence": by_label[label],
        "uncertain": by_label[label] < threshold,
        "probabilities": by_label,
    }


def _by_label(classes: Sequence[str], probabilities: Floats) -> dict[str, float]:
    return dict(zip(classes, probabilities.tolist(), strict=True))
