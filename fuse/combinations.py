"""Which sources are fused with which: ``seed``, ``all``, or names joined by ``+``."""

import logging
from collections.abc import Iterator, Sequence
from itertools import combinations

from moodfuse.cache.errors import InputError, UnknownNameError

log = logging.getLogger(__name__)

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
"""Most combinations of ``all``: those of eight sources, such as four networks under two recipes, and not of nine.

Eight sources have 255: with seven pairs of head and level and six folds some 10 700 fits, about a quarter of an hour on
two cores for 52 clips (0.2 s of a core each), and five times that under the five fold plans that sources without tuning
are tested under unless told otherwise. Each further source doubles it.
"""


def parse_combinations(values: Sequence[str], sources: Sequence[str]) -> tuple[Combination, ...]:
    """Combinations of sources by name, each sorted, none twice.

    Parameters
    ----------
    values : sequence of str
        ``"seed"`` (`SEED_COMBINATIONS`, for each recipe under which the cache holds all four networks; the members
        of one combination share a recipe), ``"all"`` (every set of sources, of one as well, also of one network under
        two recipes), or names joined by ``+``.
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
    """The seed's combinations of each recipe that has all four networks, the default recipe first."""
    needed = {name for item in SEED_COMBINATIONS for name in item}
    recipes = sorted(
        {source.partition("@")[2] for source in sources if source.partition("@")[0] in needed} or {""}
    )
    lacking = {recipe: sorted({_with(name, recipe) for name in needed} - set(sources)) for recipe in recipes}
    if all(lacking.values()):
        recipe, least = min(lacking.items(), key=lambda item: len(item[1]))
        how = f" with --recipe {recipe}" if recipe else ""
        raise InputError(f"--combine seed needs {', '.join(least)} as well; run extract for them{how}")
    for recipe, names in lacking.items():
        if names:
            log.info("--combine seed leaves recipe %s out: no %s", recipe or "default", ", ".join(names))
            continue
        for item in SEED_COMBINATIONS:
            yield tuple(_with(name, recipe) for name in item)


def _with(network: str, recipe: str) -> str:
    return f"{network}@{recipe}" if recipe else network


def _all_combinations(sources: Sequence[str]) -> Iterator[Combination]:
    count = 2 ** len(sources) - 1
    if count > MOST_SUBSETS:
        first, recipe = sources[0], sources[0].partition("@")[2]
        second = next((name for name in sources[1:] if name.partition("@")[2] == recipe), sources[1])
        raise InputError(
            f"--combine all, the default: {len(sources)} sources have {count} combinations, more than {MOST_SUBSETS}; "
            f"name those that you want instead, such as --combine seed or --combine {first}+{second}"
        )
    for size in range(1, len(sources) + 1):
        yield from combinations(sorted(sources), size)
