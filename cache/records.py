"""The records that cross between the stages. Each is frozen and validated once."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Literal

import numpy as np

from moodfuse.cache.columns import Assignment
from moodfuse.cache.console import comparison_key
from moodfuse.cache.errors import InputError

Role = Literal["tune", "stop"]
_VALUES_AT_ONCE = 1 << 22
_FOLD = re.compile(r"-?[0-9]+")
_HOLDOUT = re.compile(r"\{\s*\}|(\{)?\s*-?[0-9]+(?:\s*,\s*-?[0-9]+)*\s*(?(1)\})")
WINDOW_S = 30.0
"""Seconds of a clip at most."""


@dataclass(frozen=True)
class Clip:
    """A labelled window of a media file, as the data set declares it.

    Attributes
    ----------
    id : str
        Name of the clip, unique in the data set: path below the data folder, with the window if one is given.
    path : str
        Absolute path of the media file.
    label : str
        Emotion, spelled as in the data set.
    group : str or None
        Declared group; `None` where the data set names none.
    start_s, end_s : float, float or None
        Window in seconds; `end_s=None` is 30 s after the start or the end of the file.
    fold : int or None
        Declared fold.
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
        """Start and end of what is read, in seconds; the file may end before."""
        longest = self.start_s + WINDOW_S
        return self.start_s, longest if self.end_s is None else min(self.end_s, longest)


def check_label(label: str, where: str) -> None:
    """Refuse a label that is empty or a path."""
    if not _is_plain(label):
        raise InputError(f"{where}: label {label!r} is empty or a path; expected a plain name such as 'sad'")


@lru_cache(maxsize=1024)
def _is_plain(label: str) -> bool:
    return (
        bool(comparison_key(label))
        and label not in (".", "..")
        and len(PurePath(label).parts) == 1
        and "\\" not in label
    )


@dataclass(frozen=True)
class ClipStatus:
    """What became of a clip: its identity, and features or a reason.

    Attributes
    ----------
    clip : Clip
        The clip as declared.
    digest : str
        Digest of the file's bytes and the window; empty where the file could not be read at all.
    file_sha256 : str
        Digest of the file's bytes.
    group : str
        The group in force: declared names and identical files joined.
    ok : bool
        Whether the clip was decoded.
    reason, detail : str
        Code and sentence of a refusal; empty where `ok`.
    duration_s : float
        Seconds of the window that were found.
    decoder : str
        Version of the decoder and its rules that came to this.
    missing : str
        The view that the file lacks and that is imputed, ``"sound"`` or ``"picture"``; empty where it has both.
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
    """What came of decoding a clip once, under one version of the decoder; kept as soon as it is known.

    Attributes
    ----------
    digest : str
        Of the clip.
    ok, reason, detail, duration_s, decoder, missing
        As in `ClipStatus`.
    """

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
    >>> str(Holdout.of({1, 4})), Holdout.of(2).covers(2), Holdout.of("*").covers(5), Holdout.of("{}").covers(0)
    ('{1,4}', True, True, False)
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
        if isinstance(value, str):
            text = value.strip()
            if text == "*":
                return cls(None)
            if not _HOLDOUT.fullmatch(text):
                raise InputError(f"holdout {value!r} is not '*', a fold, or folds such as '{{1,4}}'")
            return cls(frozenset(int(item) for item in _FOLD.findall(text)))
        return cls(frozenset([value] if isinstance(value, int) else value))

    def covers(self, fold: int) -> bool:
        """Whether rows of `fold` may be tested with this block."""
        return self.folds is None or fold in self.folds

    def __str__(self) -> str:
        return "*" if self.folds is None else "{" + ",".join(map(str, sorted(self.folds))) + "}"


HoldoutLike = Holdout | int | str | Iterable[int]


@dataclass(frozen=True)
class Plan:
    """Which clip is in which of K folds. Immutable; a change makes a new plan with a higher sequence.

    Attributes
    ----------
    folds : int
        Number of folds K.
    seed : int
        Seed of the assignment.
    group_rule : str
        How groups were found.
    assignment : mapping of str to int
        Clip digest to fold, for every clip that could be read and is not `split = test`.
    records : tuple of str
        Name of the table of the clips of the data set, refused and test clips included.
    sequence : int
        The highest of its repeat is in force.
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
        folds = Assignment.of(self.assignment).folds
        if len(folds) and not 0 <= folds.min() <= folds.max() < self.folds:
            wrong = folds.min() if folds.min() < 0 else folds.max()
            raise InputError(f"plan: fold {wrong} is outside 0..{self.folds - 1}")


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
        Clip of each row.
    embedding : ndarray of float32, shape (N, D)
        What enters the last linear layer.
    logits : ndarray of float32, shape (N, C), or None
        What leaves it, classes in sorted label order.
    seen : set of str
        Digests of the clips whose labels the network saw (tuned on or stopped by).
    embedding_tuned : bool
        Whether the embedding depends on labels; `False` where only the classifier was tuned.
    absent : frozenset of str
        Digests of clips that lack what the source reads; their rows are 0 here, and filled in where they are used.
    """

    source: str
    holdout: Holdout
    ids: Sequence[str]
    digests: Sequence[str]
    embedding: np.ndarray
    logits: np.ndarray | None = None
    seen: Set[str] = field(default_factory=frozenset)
    embedding_tuned: bool = False
    absent: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        rows = len(self.ids)
        for name, array in (("embedding", self.embedding), ("logits", self.logits)):
            if array is None:
                continue
            if array.ndim != 2 or array.shape[0] != rows or array.dtype != np.float32:
                raise InputError(
                    f"{self.source} {self.holdout}: {name} is {array.dtype}{list(array.shape)}; "
                    f"expected float32 [{rows}, D], one row a clip"
                )
            if not all_finite(array):
                raise InputError(f"{self.source} {self.holdout}: {name} has a value that is not finite")


def all_finite(array: np.ndarray) -> bool:
    """Whether every value is finite; a bounded number of rows is looked at at a time."""
    rows = max(1, _VALUES_AT_ONCE // max(1, int(np.prod(array.shape[1:]))))
    return all(np.isfinite(array[start : start + rows]).all() for start in range(0, len(array), rows))
