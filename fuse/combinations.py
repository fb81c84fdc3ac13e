"""Which sources are fused with which: ``seed``, ``all``, or names joined by ``+``."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from cache.errors import InputError, UnknownNameError

Combination = tuple[str, ...]

SEED_COMBINATIONS: tuple[Combination, ...] = (
    ("c3d", "onedmcnn"),
    ("i3d", "onedmcnn"),
    ("c3d", "twodmcnn"),
    ("i3d", "twodmcnn"),
    ("c3d", "i3d", "onedmcnn", "twodmcnn"),
)
"""The audio-video pairs of the seed, and its integrated network of all four."""

MOST_SUBSETS = 256
"""Those of eight sources: with seven heads and levels and six folds they are some ten thousand fits, half an hour."""


def parse_combinations(values: Sequence[str], sources: Sequence[str]) -> tuple[Combination, ...]:
    """Combinations of sources by name, each sorted, none twice.

    Parameters
    ----------
    values : sequence of str
        ``"seed"`` (`SEED_COMBINATIONS`, for each recipe under which the cache holds all four networks), ``"all"``
        (every set of two or more sources; the only source where there is one, since network rows show each alone), or
        names joined by ``+``.
    sources : sequence of str
        What the cache holds.

    Raises
    ------
    InputError
        If the cache holds no source, lacks one of the seed's, or holds too many for ``"all"``.
    UnknownNameError
        If a named source is not in the cache.
    """
    if not sources:
        raise InputError("the cache holds no features; run: moodfuse extract DATA --cache DIR")
    found: dict[Combination, None] = {}
    for value in values:
        if value == "seed":
            found.update(dict.fromkeys(_seed_combinations(sources)))
        elif value == "all":
            found.update(dict.fromkeys(_all_combinations(sources)))
        else:
            names = [name.strip() for name in value.split("+")]
            for name in names:
                if name not in sources:
                    raise UnknownNameError("source", name, tuple(sources))
            found[tuple(sorted(set(names)))] = None
    return tuple(found)


def _seed_combinations(sources: Sequence[str]) -> Iterator[Combination]:
    needed = {name for item in SEED_COMBINATIONS for name in item}
    recipes = sorted({source.partition("@")[2] for source in sources})
    lacking = {recipe: sorted({_with(name, recipe) for name in needed} - set(sources)) for recipe in recipes}
    if all(lacking.values()):
        least = min(lacking.values(), key=len)
        raise InputError(f"--combine seed needs {', '.join(least)} as well; run extract for them")
    for recipe in (recipe for recipe in recipes if not lacking[recipe]):
        for item in SEED_COMBINATIONS:
            yield tuple(_with(name, recipe) for name in item)


def _with(network: str, recipe: str) -> str:
    return f"{network}@{recipe}" if recipe else network


def _all_combinations(sources: Sequence[str]) -> Iterator[Combination]:
    count = 2 ** len(sources) - 1 - len(sources)
    if count > MOST_SUBSETS:
        raise InputError(
            f"--combine all: {len(sources)} sources have {count} combinations, more than {MOST_SUBSETS}; name those "
            f"that you want, such as --combine {sources[0]}+{sources[1]}"
        )
    for size in range(min(2, len(sources)), len(sources) + 1):
        yield from combinations(sorted(sources), size)
