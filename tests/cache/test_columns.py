"""Columns of text, and digests found among many."""

import pickle

import numpy as np
import pytest

from moodfuse.cache import columns
from moodfuse.cache.columns import DigestSet, Texts, joined, lookup, marks, repeated, strangers
from moodfuse.cache.digests import digest


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


def test_a_digest_set_is_the_set_of_its_clips() -> None:
    """It equals, joins and lacks what a frozenset of the same digests does, before and after it was pickled."""
    names = [digest(number) for number in range(40)]
    column, mask = np.array(names, dtype="S64"), np.arange(40) % 3 == 0
    plain = frozenset(names[::3])
    for found in (DigestSet(column, mask), pickle.loads(pickle.dumps(DigestSet(column, mask)))):
        assert found == plain and plain == found and len(found) == 14
        assert found != plain - {names[0]} and found == DigestSet(column, mask)
        assert names[3] in found and names[4] not in found and 3 not in found and "é" not in found
        assert found | {"other"} == plain | {"other"} and found - {names[0]} == plain - {names[0]}
    with pytest.raises(ValueError, match="40 digests, but a mask of 39"):
        DigestSet(column, mask[1:])


def test_marks_are_those_of_any_set_over_any_column() -> None:
    """A set of the column itself, of the same digests in another order, and a plain one say the same."""
    names = [digest(number) for number in range(40)]
    column, mask = np.array(names, dtype="S64"), np.arange(40) % 3 == 0
    turned = column[::-1].copy()
    assert marks(DigestSet(column, mask), column).tolist() == mask.tolist()
    assert marks(DigestSet(column, mask), turned).tolist() == mask[::-1].tolist()
    assert marks(frozenset(names[::3]), column).tolist() == mask.tolist()
    assert (
        not marks(frozenset(), column).any() and not marks(frozenset({digest("none of them")}), column).any()
    )


def test_copies_have_one_digest_and_count_once() -> None:
    """A column may hold a digest twice; a set of it does not, and no stranger hides behind the copy."""
    names = [digest(number) for number in range(10)]
    column, mask = np.array([*names, names[1]], dtype="S64"), np.arange(11) % 9 == 1
    found = DigestSet(column, mask)
    assert found == frozenset({names[1]}) and len(found) == 1 and list(found) == [names[1]]
    strange = digest("none of them")
    known = frozenset({names[1], strange})
    assert strangers(known, column) == [strange] and strangers(found, column) == []
    assert joined(known, column, np.zeros(11, dtype=bool)) == known


def test_joining_loses_no_clip() -> None:
    """Nor one that is not in the column."""
    names = [digest(number) for number in range(10)]
    column, mask = np.array(names, dtype="S64"), np.arange(10) < 4
    assert joined(frozenset(), column, mask) == frozenset(names[:4])
    assert joined(frozenset({names[7]}), column, mask) == frozenset(names[:4]) | {names[7]}
    strange = digest("none of them")
    assert joined(frozenset({strange, names[1]}), column, mask) == frozenset(names[:4]) | {strange}


def test_equal_strings_have_the_place_of_the_first() -> None:
    """Whatever their length."""
    assert Texts.of(["b", "", "long name", "b", "", "c"]).first_places().tolist() == [0, 1, 2, 0, 1, 5]
