"""Digests found among many."""

import numpy as np

from moodfuse.cache.digests import digest, digest_array, lookup, repeated


def test_indices_equal_those_of_a_dictionary() -> None:
    """Half of the wanted digests are there; each is found, and the others are not."""
    known = np.sort(digest_array(digest(number) for number in range(500)))
    wanted = digest_array(digest(number) for number in range(1000))
    places = {name: place for place, name in enumerate(known.tolist())}
    assert lookup(known, wanted).tolist() == [places.get(name, -1) for name in wanted.tolist()]
    assert lookup(known[:0], wanted[:2]).tolist() == [-1, -1] and not len(lookup(known, wanted[:0]))


def test_a_digest_that_occurs_twice_is_found() -> None:
    """And none where all differ."""
    digests = digest_array(digest(number) for number in range(50))
    assert repeated(digests) is None and repeated(digests[:0]) is None
    assert repeated(np.concatenate([digests, digests[7:8]])) == digests[7]
