"""Columns of text, and digests found among many."""

import numpy as np
import pytest

from cache import columns
from cache.columns import lookup, repeated
from cache.identity import digest


def test_places_among_many_equal_those_of_a_dictionary() -> None:
    """Of 12 000 digests half are there; each is found at its place, and the others are not."""
    known = np.sort(np.array([digest(number) for number in range(6_000)], dtype="S64"))
    wanted = np.array([digest(number) for number in range(0, 12_000)], dtype="S64")
    places = {name: place for place, name in enumerate(known.tolist())}
    assert lookup(known, wanted).tolist() == [places.get(name, -1) for name in wanted.tolist()]


def test_digests_that_share_a_key_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 64 bits of two digests are the same, the whole texts decide."""
    monkeypatch.setattr(columns, "_keys", lambda digests: np.zeros(len(digests), dtype=np.uint64))
    monkeypatch.setattr(columns, "_MANY", 1)
    known = np.sort(np.array([digest(number) for number in range(50)], dtype="S64"))
    wanted = np.array([digest(number) for number in range(25, 75)], dtype="S64")
    places = {name: place for place, name in enumerate(known.tolist())}
    assert lookup(known, wanted).tolist() == [places.get(name, -1) for name in wanted.tolist()]


def test_a_digest_that_stands_there_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none where all differ, though they share a key."""
    digests = np.array([digest(number) for number in range(50)], dtype="S64")
    twice = np.concatenate([digests, digests[7:8]])
    for _ in range(2):
        assert repeated(digests) is None and repeated(twice) == digests[7] and repeated(digests[:0]) is None
        monkeypatch.setattr(columns, "_keys", lambda digests: np.zeros(len(digests), dtype=np.uint64))
