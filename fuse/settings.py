"""What an ablation is asked for, and the results that it will have: known by name before anything is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from os import cpu_count

from moodfuse.cache.cluster import cluster_address
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import LEAKY, NETWORK, result_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.combinations import Combination, parse_combinations
from moodfuse.fuse.features import LEVELS, Level, check_level
from moodfuse.fuse.heads.registry import HEADS, head_spec
from moodfuse.fuse.protocols import check_protocol
from moodfuse.fuse.workers import Workers


@dataclass(frozen=True)
class AblationSettings:
    """What to fit.

    Attributes
    ----------
    run : str or None
        Name of the run; the next free ``run-N`` if `None`, ``leaky-N`` for the leaky protocol.
    combine : tuple of str
        As for `parse_combinations`.
    heads, levels : tuple of str
    protocol : str or None
        One of `moodfuse.fuse.protocols.PROTOCOLS`; `None` for ``crossfit`` where the cache holds pair networks.
    repeats : int or None
        Fold plans, as for `moodfuse.fuse.repeats.fold_plans`.
    jobs : int
        Worker processes; changes no result.
    scheduler : str or None
        Address of a Dask cluster that fits instead.
    command : str
        The command line, kept in the run.
    keep : bool
        Whether finished fits are kept in the cache, and those that are there are taken.
    """

    run: str | None = None
    combine: tuple[str, ...] = ("all",)
    heads: tuple[str, ...] = tuple(HEADS)
    levels: tuple[str, ...] = LEVELS
    protocol: str | None = None
    repeats: int | None = None
    jobs: int = cpu_count() or 1
    scheduler: str | None = None
    command: str = ""
    keep: bool = True

    def __post_init__(self) -> None:
        for head in self.heads:
            head_spec(head)
        for level in self.levels:
            check_level(level)
        if self.protocol is not None:
            check_protocol(self.protocol)
        if self.jobs < 1 or (self.repeats is not None and self.repeats < 1):
            raise InputError(f"--jobs is {self.jobs} and --repeats {self.repeats}; expected 1 or more")
        if self.scheduler is not None:
            cluster_address(self.scheduler)

    @property
    def workers(self) -> Workers:
        """Who fits."""
        return Workers(self.jobs, self.scheduler)


@dataclass(frozen=True)
class Row:
    """One result of the ablation's table."""

    sources: Combination
    head: str
    level: Level

    @property
    def name(self) -> str:
        """As `moodfuse.cache.runs.Result.name`."""
        return result_name(self.sources, self.head, self.level)

    @property
    def parts(self) -> tuple[Combination, str, Level]:
        """Sources, head and level."""
        return self.sources, self.head, self.level


Task = tuple[Row, int]
"""A result, and the outer fold that it is tested on."""


def leaky_name(name: str | None) -> str | None:
    """Name of a leaky run: it says so wherever it stands."""
    return name if name is None or name.startswith(LEAKY) else f"{LEAKY}-{name}"


def planned_rows(cache: FeatureCache, settings: AblationSettings) -> list[Row]:
    """The results that an ablation will have: every source's network, then heads on the combinations.

    The mean of one source is its network's row.

    Raises
    ------
    InputError, UnknownNameError
        As for `parse_combinations`.
    """
    chosen = parse_combinations(settings.combine, cache.sources())
    sources = sorted({source for item in chosen for source in item})
    networks = [Row((source,), NETWORK, "logits") for source in sources]
    rows = dict.fromkeys(
        Row(item, head, check_level(level))
        for item, head, level in product(chosen, settings.heads, settings.levels)
        if level in head_spec(head).levels and (len(item) > 1 or head_spec(head).fits)
    )
    return [*networks, *rows]


def sources_of(rows: Sequence[Row]) -> Combination:
    """All sources of some results, sorted."""
    return tuple(sorted({source for row in rows for source in row.sources}))
