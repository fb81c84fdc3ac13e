"""Columns of text that stay small: a million names are one array of bytes, not a million objects.

A string that is no UTF-8 (a file name may be any bytes) is held by Python's ``surrogateescape``, so its very bytes
come back. Digests are 64 ASCII characters; arrays of them have dtype ``S64``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.bytes_]
"""Clip digests, S64 [N]."""
_PIECE = 1 << 16
_MANY = 10_000


class Texts(Sequence[str]):
    """An immutable sequence of strings, equal to any other of the same strings.

    Parameters
    ----------
    data : ndarray of uint8, shape (B,)
        The strings' UTF-8 bytes, one after the other.
    ends : ndarray of int64, shape (N,)
        Where each ends in `data`.
    """

    __slots__ = ("data", "ends")

    def __init__(self, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        if len(ends) and (ends[-1] != len(data) or ends[0] < 0 or (np.diff(ends) < 0).any()):
            raise ValueError("text column: ends do not fit the data")
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Texts":
        """The column of some strings; of a column, itself."""
        if isinstance(strings, Texts):
            return strings
        coded = [text.encode("utf-8", "surrogateescape") for text in strings]
        ends = np.cumsum([len(text) for text in coded], dtype=np.int64) if coded else np.zeros(0, np.int64)
        return cls(np.frombuffer(b"".join(coded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Texts": ...
    def __getitem__(self, place: int | slice) -> "str | Texts":
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        index = range(len(self))[place]
        start = int(self.ends[index - 1]) if index else 0
        return self.data[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _PIECE):
            ends = self.ends[first : first + _PIECE].tolist()
            piece, base = self.data[start : ends[-1]].tobytes(), start
            for end in ends:
                yield piece[start - base : end - base].decode("utf-8", "surrogateescape")
                start = end

    def take(self, rows: NDArray[np.int64]) -> "Texts":
        """The strings of some rows, in their order."""
        starts = np.concatenate([[0], self.ends[:-1]]) if len(self) else self.ends
        lengths = (self.ends - starts)[rows]
        ends = np.cumsum(lengths, dtype=np.int64)
        places = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return Texts(self.data[np.repeat(starts[rows], lengths) + places], ends)

    def distinct(self) -> int:
        """How many different strings there are."""
        starts = np.concatenate([[0], self.ends[:-1]]) if len(self) else self.ends
        lengths = self.ends - starts
        different = np.flatnonzero(np.bincount(lengths)).tolist()
        return sum(_distinct(self.data, starts[lengths == length], length) for length in different)

    def digests(self) -> Digests:
        """The strings as an S64 array; shares memory where all are whole digests."""
        if len(self) and (np.diff(self.ends, prepend=0) == 64).all():
            return self.data.view("S64")
        return np.array(list(self), dtype="S64")

    def first_places(self) -> NDArray[np.int64]:
        """Of each string the place where it stands first, int64 [N]: equal strings have equal numbers."""
        known: dict[str, int] = {}
        return np.fromiter(
            (known.setdefault(text, place) for place, text in enumerate(self)), np.int64, len(self)
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return np.array_equal(self.ends, other.ends) and np.array_equal(self.data, other.data)
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash((len(self), self.data.tobytes()))

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text, _ in zip(self, range(3), strict=False))
        return f"Texts([{shown}{', ...' if len(self) > 3 else ''}], {len(self)})"


class Assignment(Mapping[str, int]):
    """Fold of each clip digest, sorted by digest.

    Parameters
    ----------
    digests : ndarray of S64, shape (N,)
        Sorted, each once.
    folds : ndarray of int16, shape (N,)
    """

    __slots__ = ("digests", "folds")

    def __init__(self, digests: Digests, folds: NDArray[np.int16]) -> None:
        if len(digests) != len(folds) or (digests[1:] <= digests[:-1]).any():
            raise ValueError("assignment: digests must be sorted, each once, with a fold")
        self.digests, self.folds = digests, folds

    @classmethod
    def of(cls, folds: Mapping[str, int]) -> "Assignment":
        """The assignment that a mapping of digest to fold makes."""
        if isinstance(folds, Assignment):
            return folds
        digests = np.array(list(folds), dtype="S64")
        order = np.argsort(digests)
        return cls(digests[order], np.fromiter(folds.values(), np.int16, len(folds))[order])

    def folds_of(self, digests: Digests) -> NDArray[np.int16]:
        """Fold of each of some digests, int16 [N]; -1 for one that has none."""
        if np.array_equal(digests, self.digests):
            return self.folds
        places = lookup(self.digests, digests)
        return np.where(places < 0, np.int16(-1), self.folds[places] if len(self.folds) else np.int16(-1))

    def to_dict(self) -> dict[str, int]:
        """The same as a dict, which looks single clips up faster."""
        return dict(
            zip((digest.decode() for digest in self.digests.tolist()), self.folds.tolist(), strict=True)
        )

    def __getitem__(self, digest: str) -> int:
        if digest.isascii() and 0 < len(digest) <= 64:
            place = int(np.searchsorted(self.digests, digest.encode()))
            if place < len(self.digests) and self.digests[place] == digest.encode():
                return int(self.folds[place])
        raise KeyError(digest)

    def __iter__(self) -> Iterator[str]:
        return (digest.decode() for digest in self.digests.tolist())

    def __len__(self) -> int:
        return len(self.digests)

    def __repr__(self) -> str:
        return f"Assignment({len(self)} clips)"


class DigestSet(Set[str]):
    """Some clips of a column of digests, by a mask: a set of many thousands costs a byte a clip.

    Parameters
    ----------
    digests : ndarray of S64, shape (N,)
        Shared, not copied; a digest may stand there more than once, as copies of a file have one digest.
    chosen : ndarray of bool, shape (N,)
        Which of them are in the set; equal digests are chosen alike.
    """

    def __init__(self, digests: Digests, chosen: NDArray[np.bool_]) -> None:
        if digests.shape != chosen.shape:
            raise ValueError(f"digest set: {len(digests)} digests, but a mask of {len(chosen)}")
        self.digests, self.chosen = digests, chosen

    @classmethod
    def _from_iterable(cls, it: Iterable[str]) -> Set[str]:  # type: ignore[override]
        return frozenset(it)

    def __contains__(self, digest: object) -> bool:
        if not isinstance(digest, str) or not digest.isascii() or len(digest) > 64:
            return False
        return bool(lookup(self._ranked, np.array([digest], dtype="S64"))[0] >= 0)

    @cached_property
    def _ranked(self) -> Digests:
        return np.unique(self.digests[self.chosen])

    def __reduce__(self) -> tuple[Any, ...]:
        return DigestSet, (self.digests, self.chosen)

    def __iter__(self) -> Iterator[str]:
        return (digest.decode() for digest in self._ranked.tolist())

    def __len__(self) -> int:
        return len(self._ranked)

    def __repr__(self) -> str:
        return f"DigestSet({len(self)} of {len(self.digests)} clips)"

    def is_of(self, digests: Digests) -> bool:
        """Whether it is a set of this very column, or of one that is equal."""
        return self.digests is digests or np.array_equal(self.digests, digests)


def marks(chosen: Set[str], digests: Digests) -> NDArray[np.bool_]:
    """Which of some digests are in a set, bool [N]."""
    if isinstance(chosen, DigestSet) and chosen.is_of(digests):
        return chosen.chosen
    if not chosen:
        return np.zeros(len(digests), dtype=bool)
    ranked = np.sort(np.array(list(chosen), dtype="S64"))
    return lookup(ranked, digests) >= 0


def strangers(chosen: Set[str], digests: Digests) -> list[str]:
    """The digests of a set that stand nowhere in a column, sorted."""
    if isinstance(chosen, DigestSet) and chosen.is_of(digests):
        return []
    sought = np.array(sorted(chosen), dtype="S64")
    return [digest.decode() for digest in sought[lookup(np.sort(digests), sought) < 0].tolist()]


def joined(known: Set[str], digests: Digests, chosen: NDArray[np.bool_]) -> Set[str]:
    """A set, and some more clips of a column of digests by a mask."""
    more = DigestSet(digests, marks(known, digests) | chosen)
    return known | more if strangers(known, digests) else more


def lookup(ranked: Digests, wanted: Digests) -> NDArray[np.int64]:
    """Place of each wanted digest among sorted ones, int64 [N]; -1 where it is not there."""
    if not len(ranked):
        return np.full(len(wanted), -1, dtype=np.int64)
    if len(wanted) < _MANY:
        return _search(ranked, wanted)
    # Numbers sort much faster than texts: candidates come from 64 bits of each digest, and are then compared whole.
    keys, sought = _keys(ranked), _keys(wanted)
    order = np.argsort(keys)
    turn = np.argsort(
        sought
    )  # sought in rising order, each search begins where the last one ended, in the cache
    places = np.empty(len(wanted), dtype=np.int64)
    places[turn] = np.searchsorted(keys[order], sought[turn])
    places[places == len(order)] = 0
    places = order[places]
    places[keys[places] != sought] = -1
    alike = np.flatnonzero(places >= 0)
    clashing = alike[ranked[places[alike]] != wanted[alike]]
    places[clashing] = _search(ranked, wanted[clashing])
    return places


def repeated(digests: Digests) -> bytes | None:
    """A digest that stands among some more than once, or `None`."""
    keys = np.sort(_keys(digests))  # numbers sort much faster than texts
    if (keys[1:] != keys[:-1]).all():
        return None
    found, counts = np.unique(digests, return_counts=True)
    return next(iter(found[counts > 1].tolist()), None)


def _distinct(data: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> int:
    """How many different strings of one length begin at some places: as numbers, which sort much faster than texts."""
    words = np.zeros((len(starts), length // 8 + 1), dtype=np.uint64)
    letters = words.view(np.uint8)
    if len(starts) * length == len(data):
        letters[:, :length] = data.reshape(len(starts), length)
    else:
        for place in range(length):
            letters[:, place] = data[starts + place]
    names = letters.view(f"S{letters.shape[1]}").ravel()
    if (names[1:] > names[:-1]).all():
        return len(names)
    factors = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = (words * factors).sum(axis=1, dtype=np.uint64)
    order = np.argsort(keys)
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if (words[order[equal + 1]] != words[order[equal]]).any():  # two texts share a key
        return len(np.unique(words, axis=0))
    return len(words) - len(equal)


def _search(ranked: Digests, wanted: Digests) -> NDArray[np.int64]:
    places = np.searchsorted(ranked, wanted)
    places[places == len(ranked)] = 0
    return np.where(ranked[places] == wanted, places, -1)


def _keys(digests: Digests) -> NDArray[np.uint64]:
    """64 bits of each digest: its first 16 characters, mixed."""
    words = np.ascontiguousarray(digests, dtype="S64").view(np.uint64).reshape(-1, 8)
    return words[:, 0] * np.uint64(0x9E3779B97F4A7C15) + words[:, 1]
