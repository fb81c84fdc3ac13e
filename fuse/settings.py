"""The settings of an ablation, and the results that it will have: known by name before anything is fitted."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from os import cpu_count
from typing import Literal

from moodfuse.cache.cluster import cluster_address
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.runs import LEAKY, NETWORK, result_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.heads import HEADS, SEARCH, ClassWeight, add_settings, get_head_spec, parse_head
from moodfuse.fuse.inference import LEVELS, Level, check_level

log = logging.getLogger(__name__)

Combination = tuple[str, ...]
Protocol = Literal["crossfit", "no-crossfit", "leaky"]
CROSSFIT: Protocol = "crossfit"
NO_CROSSFIT: Protocol = "no-crossfit"
PROTOCOLS: tuple[Protocol, ...] = (CROSSFIT, NO_CROSSFIT, LEAKY)
PAPER_COMBINATIONS: tuple[Combination, ...] = (
    ("c3d", "onedmcnn"),
    ("i3d", "onedmcnn"),
    ("c3d", "twodmcnn"),
    ("i3d", "twodmcnn"),
    ("c3d", "i3d", "onedmcnn", "twodmcnn"),
)
"""The audio-video pairs of the paper, and its integrated network of all four."""
PAPER = "zhou2022"
"""What `--combine` calls them; `OLD_PAPER` is accepted as well."""
OLD_PAPER = "seed"
MAX_COMBINATIONS = 256
"""Most combinations of ``all``: those of eight sources, a quarter of an hour on two cores for 52 clips."""


@dataclass(frozen=True)
class AblationSettings:
    """What to fit; the fields are the options of the command.

    `run` is by default the next free ``run-N``, ``leaky-N`` for the leaky protocol, `protocol` is
    ``crossfit`` where the cache holds pair networks, and `repeats`, the number of fold plans, is all.
    `class_weight` is as in `moodfuse.fuse.make_head`. Fits run in `jobs` processes, or on the Dask cluster at
    `scheduler`. `command` is stored in the run; `keep` is whether to use and store finished fits in the
    cache.
    """

    run: str | None = None
    combine: tuple[str, ...] = ("all",)
    heads: tuple[str, ...] = tuple(HEADS)
    levels: tuple[str, ...] = LEVELS
    protocol: str | None = None
    class_weight: ClassWeight | None = None
    repeats: int | None = None
    jobs: int = cpu_count() or 1
    scheduler: str | None = None
    command: str = ""
    keep: bool = True

    def __post_init__(self) -> None:
        for head in self.heads:
            get_head_spec(head)
        for level in self.levels:
            check_level(level)
        if self.protocol is not None:
            check_protocol(self.protocol)
        if self.jobs < 1 or (self.repeats is not None and self.repeats < 1):
            raise InputError(f"--jobs is {self.jobs} and --repeats {self.repeats}; expected 1 or more")
        if self.scheduler is not None:
            cluster_address(self.scheduler)


@dataclass(frozen=True)
class PlannedResult:
    """A result that an ablation will have."""

    sources: Combination
    head: str
    level: Level

    @property
    def name(self) -> str:
        """As `moodfuse.cache.runs.Result.name`."""
        return result_name(self.sources, self.head, self.level)


Task = tuple[PlannedResult, int]
"""A result, and the outer fold that it is tested on."""


def check_protocol(name: str) -> Protocol:
    """Return the protocol; an unknown name raises `UnknownNameError`."""
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return name


def resolve_heads(
    heads: Sequence[str], tables: Mapping[str, Mapping[str, object]], search: int | None = None
) -> tuple[str, ...]:
    """Heads, by default all, with settings by head from `tables`, and the number of random settings.

    Settings that a head has in its text stay.

    Raises
    ------
    UnknownNameError
        If a head or a setting is unknown.
    InputError
        If a value is wrong, or `tables` are not tables.
    """
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InputError("[heads]: expected a table of settings for each head, as in softmax = { C = 10 }")
    for name, table in tables.items():
        for key, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(
                    f"[heads] {name}: {key} is {value!r}; expected a number (for several values, give a "
                    "--head for each)"
                )
        parse_head(add_settings(name, table))
    resolved = []
    for head in heads or HEADS:
        further = {SEARCH: search} if search and get_head_spec(head).fits else {}
        resolved.append(add_settings(head, {**tables.get(head.partition(":")[0], {}), **further}))
    return tuple(resolved)


def list_planned_results(cache: FeatureCache, settings: AblationSettings) -> list[PlannedResult]:
    """The results that an ablation will have: every source's network, then heads on the combinations.

    The mean of one source is its network's result.
    """
    chosen = parse_combinations(settings.combine, cache.sources())
    heads = {name: get_head_spec(name) for name in settings.heads}
    results = dict.fromkeys(
        PlannedResult(combination, head, check_level(level))
        for combination, head, level in product(chosen, settings.heads, settings.levels)
        if level in heads[head].levels and (len(combination) > 1 or heads[head].fits)
    )
    sources = sorted(set().union(*chosen))
    return [*(PlannedResult((source,), NETWORK, "logits") for source in sources), *results]


def collect_sources(results: Sequence[PlannedResult]) -> Combination:
    """All sources of results, sorted."""
    return tuple(sorted({source for result in results for source in result.sources}))


def parse_combinations(values: Sequence[str], sources: Sequence[str]) -> tuple[Combination, ...]:
    """Combinations of sources by name, each sorted, none twice.

    Each value is ``"zhou2022"`` (`PAPER_COMBINATIONS`, for each recipe under which `sources` have all four
    networks), ``"all"`` (every set of sources, of one as well, also of one network under two recipes), or
    names joined by ``+``.

    Raises
    ------
    UnknownNameError
        If a name is not in `sources`.
    InputError
        If networks of ``"zhou2022"`` are missing, or ``"all"`` are more than `MAX_COMBINATIONS`.
    """
    if not sources:
        raise InputError("the cache holds no features; run: moodfuse extract DATA --cache DIR")
    chosen: dict[Combination, None] = {}
    for value in values:
        if value in (PAPER, OLD_PAPER):
            if value == OLD_PAPER:
                log.warning("--combine %s is now called %s", OLD_PAPER, PAPER)
            chosen.update(dict.fromkeys(_list_paper_combinations(sources)))
        elif value == "all":
            chosen.update(dict.fromkeys(_list_all_combinations(sources)))
        else:
            names = [name.strip() for name in value.split("+")]
            for name in names:
                if name not in sources:
                    raise UnknownNameError("source", name, tuple(sources))
            chosen[tuple(sorted(set(names)))] = None
    return tuple(chosen)


def _list_paper_combinations(sources: Sequence[str]) -> Iterator[Combination]:
    """The paper's combinations for each recipe with all four networks, the default recipe first."""
    networks = PAPER_COMBINATIONS[-1]
    names = [source.partition("@") for source in sources]
    suffixes = sorted(
        {separator + recipe for network, separator, recipe in names if network in networks}
    ) or [""]
    missing = {
        suffix: [network + suffix for network in networks if network + suffix not in sources]
        for suffix in suffixes
    }
    if all(missing.values()):
        suffix, fewest = min(missing.items(), key=lambda entry: len(entry[1]))
        option = f" with --recipe {suffix[1:]}" if suffix else ""
        raise InputError(f"--combine {PAPER} needs {', '.join(fewest)} as well; run extract for them{option}")
    for suffix in (suffix for suffix in suffixes if not missing[suffix]):
        yield from (tuple(name + suffix for name in combination) for combination in PAPER_COMBINATIONS)


def _list_all_combinations(sources: Sequence[str]) -> Iterator[Combination]:
    count = 2 ** len(sources) - 1
    if count > MAX_COMBINATIONS:
        raise InputError(
            f"--combine all, the default: {len(sources)} sources have {count} combinations, more than "
            f"{MAX_COMBINATIONS}; name those that you want, such as {'+'.join(sources[:2])}"
        )
    for size in range(1, len(sources) + 1):
        yield from combinations(sorted(sources), size)
