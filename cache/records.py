"""The records that cross between the packages: frozen, and validated once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moodfuse.cache.console import comparison_key
from moodfuse.cache.errors import InputError

Role = Literal["tune", "stop"]
WINDOW_S = 30.0
"""Maximum length of a clip in seconds."""
SAMPLE_RATE_HZ = 16_000
"""Sampling rate of the audio of every clip; networks may read it at other rates too."""
FRAMES = 32
"""Number of frames at even times of every clip; networks may read other frames too."""
MAX_FRAMES = 1024


@dataclass(frozen=True)
class FrameWindows:
    """Frames in short windows, one in the middle of each of `windows` equal parts of a clip.

    A window has `frames` frames, ``1 / rate_hz`` seconds apart.
    """

    windows: int
    frames: int
    rate_hz: float

    def __post_init__(self) -> None:
        counts = (self.windows, self.frames)
        is_usable = all(type(count) is int and count > 0 for count in counts)
        if not (is_usable and self.windows * self.frames <= MAX_FRAMES and 0 < self.rate_hz <= 1000):
            raise InputError(
                f"{self}; expected 1 window or more, at most {MAX_FRAMES} frames in all, and a rate of more "
                "than 0 and at most 1000 per second"
            )

    def __str__(self) -> str:
        plural = "" if self.windows == 1 else "s"
        return f"{self.windows} window{plural} of {self.frames} frames at {self.rate_hz} per second"

    def times_s(self, start_s: float, end_s: float) -> np.ndarray:
        """The times of the frames of a clip in seconds, window by window, float64 [windows * frames].

        A window that would reach beyond the clip is moved into it; in a clip that is shorter than a window,
        the last frame is repeated.
        """
        length_s = (self.frames - 1) / self.rate_hz
        middles_s = start_s + (np.arange(self.windows) + 0.5) * ((end_s - start_s) / self.windows)
        starts_s = np.clip(middles_s - length_s / 2, start_s, max(start_s, end_s - length_s))
        times_s = starts_s[:, None] + np.arange(self.frames) / self.rate_hz
        return np.minimum(times_s, end_s).reshape(-1)


@dataclass(frozen=True)
class ExtraMedia:
    """What to decode of clips besides audio at 16 kHz and the frames at even times."""

    rates_hz: tuple[int, ...] = ()
    frames: tuple[FrameWindows, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A labelled window of a media file, as the dataset declares it.

    Attributes
    ----------
    id : str
        Name of the clip, unique in the dataset: path below the data folder, with the window if one is given.
    path : str
        Absolute path of the media file.
    label : str
        Emotion, spelled as in the dataset.
    group, fold : str, int or None
        `None` where the dataset declares none.
    start_s, end_s : float, float or None
        Window in seconds; `end_s=None` is 30 s after the start or the end of the file.
    split : str
        ``"train"``, or ``"test"`` for a clip that belongs to no plan.
    """

    id: str
    path: str
    label: str
    group: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    fold: int | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        check_label(self.label, self.id)
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= self.start_s):
            raise InputError(
                f"{self.id}: window {self.start_s}-{self.end_s} s is empty; start_s must be >= 0 and < end_s"
            )
        if self.split not in ("train", "test"):
            raise InputError(f"{self.id}: split is {self.split!r}; expected 'train' or 'test'")

    @property
    def window_s(self) -> tuple[float, float]:
        """Start and end of the window in seconds, at most 30 s; the file may end earlier."""
        longest = self.start_s + WINDOW_S
        return self.start_s, longest if self.end_s is None else min(self.end_s, longest)


def check_label(label: str, where: str) -> None:
    """Check that a label is a plain name; `InputError` if it is empty or a path."""
    is_path = label in (".", "..") or "/" in label or "\\" in label
    if is_path or not comparison_key(label):
        raise InputError(f"{where}: label {label!r} is empty or a path; expected a plain name such as 'sad'")


@dataclass(frozen=True)
class ClipStatus:
    """A clip with the result of decoding it.

    Attributes
    ----------
    clip : Clip
        The clip as declared.
    digest, file_sha256 : str
        Digests of the file's bytes and the window, and of the bytes; empty where the file cannot be read.
    group : str
        The current group: clips with the same declared group or with identical files are joined.
    ok : bool
        Whether the clip was decoded; otherwise `reason` and `detail` are code and sentence of the refusal.
    duration_s : float
        Seconds of the window that were in the file.
    decoder : str
        Version of the decoder and its rules.
    missing : str
        The modality that the file does not have and that is imputed, ``"sound"`` or ``"picture"``; empty if
        it has both.
    """

    clip: Clip
    digest: str
    file_sha256: str
    group: str
    ok: bool
    reason: str = ""
    detail: str = ""
    duration_s: float = 0.0
    decoder: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of decoding a clip, by one version of the decoder; attributes as in `ClipStatus`."""

    digest: str
    ok: bool
    reason: str = ""
    detail: str = ""
    duration_s: float = 0.0
    decoder: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Holdout:
    """The folds that a network never saw in tuning; `Holdout.frozen()` (``*``) saw no label at all.

    Examples
    --------
    >>> str(Holdout.of({1, 4})), Holdout.of(2).covers(2), Holdout.of("*").covers(5)
    ('{1,4}', True, True)
    """

    folds: frozenset[int] | None

    @classmethod
    def frozen(cls) -> "Holdout":
        """The holdout ``*`` of features that used no label."""
        return cls(None)

    @classmethod
    def of(cls, value: "HoldoutLike") -> "Holdout":
        """Make a holdout from itself, a fold, folds, or text such as ``*``, ``2`` or ``{1,4}``."""
        if isinstance(value, Holdout):
            return value
        if not isinstance(value, str):
            return cls(frozenset([value] if isinstance(value, int) else value))
        text = value.strip()
        if text == "*":
            return cls(None)
        is_set = text[:1] == "{" and text[-1:] == "}"
        names = text[1:-1].strip() if is_set else text
        folds = [] if is_set and not names else names.split(",")
        if not all(re.fullmatch(r"\s*-?[0-9]+\s*", fold) for fold in folds):
            raise InputError(f"holdout {value!r} is not '*', a fold, or folds such as '{{1,4}}'")
        return cls(frozenset(map(int, folds)))

    def covers(self, fold: int) -> bool:
        """Whether rows of `fold` may be tested with this block."""
        return self.folds is None or fold in self.folds

    def __str__(self) -> str:
        return "*" if self.folds is None else "{" + ",".join(map(str, sorted(self.folds))) + "}"


HoldoutLike = Holdout | int | str | Iterable[int]


@dataclass(frozen=True)
class Plan:
    """Assignment of clips to K folds. Immutable; a change makes a new plan with a higher sequence.

    Attributes
    ----------
    folds, seed : int
        Number of folds K, and random seed of the assignment.
    group_rule : str
        How groups were found.
    assignment : mapping of str to int
        Clip digest to fold, for every clip that could be read and is not `split = test`.
    records : tuple of str
        Name of the table of the dataset's clips, refused and test clips included.
    sequence : int
        The plan with the highest sequence of its repeat is the current one.
    repeat : int
        0 for the plan of all results; 1, 2, ... for further plans of repeated cross-validation.
    """

    folds: int
    seed: int
    group_rule: str
    assignment: Mapping[str, int]
    records: tuple[str, ...]
    sequence: int = 0
    repeat: int = 0

    def __post_init__(self) -> None:
        if outside := set(self.assignment.values()) - set(range(self.folds)):
            raise InputError(f"plan: fold {min(outside)} is outside 0..{self.folds - 1}")

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The assignment as arrays: ``clip`` S64 [N], sorted, and ``fold`` int16 [N]."""
        digests = sorted(self.assignment)
        folds = [self.assignment[digest] for digest in digests]
        return {"clip": np.array(digests, dtype="S64"), "fold": np.array(folds, dtype=np.int16)}


@dataclass(frozen=True)
class Block:
    """Features of clips from one source under one holdout.

    Attributes
    ----------
    source : str
        Source name.
    holdout : Holdout
        Folds that the network never saw.
    ids, digests : sequence of str, length N
        The clip of each row.
    embedding : ndarray of float32, shape (N, D)
        Input of the last linear layer.
    logits : ndarray of float32, shape (N, C), or None
        Output of the last linear layer, classes in sorted label order.
    training_clips : frozenset of str
        Digests of the clips whose labels the network saw (tuned on or stopped by).
    embedding_tuned : bool
        Whether the embedding depends on labels; `False` where only the classifier was tuned.
    absent : frozenset of str
        Digests of clips without the modality that the source reads; their rows are 0 and are imputed by the
        reader.
    """

    source: str
    holdout: Holdout
    ids: Sequence[str]
    digests: Sequence[str]
    embedding: np.ndarray
    logits: np.ndarray | None = None
    training_clips: frozenset[str] = frozenset()
    embedding_tuned: bool = False
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        rows = len(self.ids)
        for name, array in (("embedding", self.embedding), ("logits", self.logits)):
            if array is None:
                continue
            if array.ndim != 2 or array.shape[0] != rows or array.dtype != np.float32:
                raise InputError(
                    f"{self.source} {self.holdout}: {name} is {array.dtype}{list(array.shape)}; "
                    f"expected float32 [{rows}, D], one row per clip"
                )
            if not np.isfinite(array).all():
                raise InputError(f"{self.source} {self.holdout}: {name} has a value that is not finite")
