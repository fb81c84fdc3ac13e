"""What a cache holds and what of it is stale, from its listing, its headers, and the plans and clips in force."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.errors import CacheError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.maintenance.networks import RecipeInfo, list_recipes
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.layout import BAD, TEMPORARY, Entry, entries, folder_of
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache


@dataclass(frozen=True)
class RunInfo:
    """A run, and which of its sources are `gone` from the cache or `replaced` by another recipe."""

    name: str
    whole: bool
    bytes: int
    gone: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """What a cache holds.

    Attributes
    ----------
    path : Path
    clips : mapping or None
        Counts of clips: ``listed``, ``ok``, ``refused``, and ``test``, the readable ones in no plan.
    plan : mapping or None
        The plan in force: ``folds``, ``seed``, ``sequence``, its ``clips`` and ``groups``, and how many plans are in
        force (``repeats``). `None` before the first `extract`, as `clips` is.
    recipes : tuple of RecipeInfo
    runs : tuple of RunInfo
    entries : tuple of Entry
        Every file.
    old_plans, old_tables, old_fits : tuple of Entry
        Plans that no new plan starts from, tables of clips that neither the plan in force nor the one before it names,
        and kept fits of other clips, labels or groups.
    unreadable : tuple of str
        Parts without a valid header.
    """

    path: Path
    clips: Mapping[str, int] | None
    plan: Mapping[str, int] | None
    recipes: tuple[RecipeInfo, ...]
    runs: tuple[RunInfo, ...]
    entries: tuple[Entry, ...]
    old_plans: tuple[Entry, ...] = ()
    old_tables: tuple[Entry, ...] = ()
    old_fits: tuple[Entry, ...] = ()
    unreadable: tuple[str, ...] = ()

    def of_kind(self, *kinds: str) -> tuple[Entry, ...]:
        """Files of some kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)

    @property
    def leftovers(self) -> tuple[Entry, ...]:
        """Damaged files that were set aside, and temporaries."""
        return self.of_kind(BAD, TEMPORARY)


def read_inventory(cache: FeatureCache, *, without: Collection[str] = ()) -> Inventory:
    """What a cache holds, with the sources `without` treated as not in force.

    Raises
    ------
    DamagedPartError
        If a plan, the table of clips in force, or a choice of sources is damaged.
    UnknownNameError
        If `without` names no source in force.
    """
    for source in without:
        cache.check_source(source)
    selection = {source: digest for source, digest in cache.selection.items() if source not in without}
    found = tuple(entries(cache.path))  # before the plans, so that the plan in force names the newest files
    unreadable: list[str] = []
    recipes = tuple(list_recipes(cache, found, selection, unreadable))
    runs = tuple(_runs(selection, found))
    if not cache.plans:
        return Inventory(cache.path, None, None, recipes, runs, found, unreadable=tuple(unreadable))
    statuses, plan = cache.statuses, cache.plan
    ok = [status for status in statuses if status.ok]
    covered = [status for status in ok if status.clip.split != "test"]
    counts = (len(statuses), len(ok), len(statuses) - len(ok), len(ok) - len(covered))
    old_plans, old_tables = _old_plans_and_tables(found)
    fits = [entry for entry in found if entry.kind == "fits"]
    fits_folder = clips_digest16(cache.clips) if fits else ""
    return Inventory(
        path=cache.path,
        clips=dict(zip(("listed", "ok", "refused", "test"), counts, strict=True)),
        plan={
            "folds": plan.folds,
            "seed": plan.seed,
            "sequence": plan.sequence,
            "clips": len(plan.assignment),
            "groups": len({status.group for status in covered}),
            "repeats": 1 + len(cache.repeat_plans),
        },
        recipes=recipes,
        runs=runs,
        entries=found,
        old_plans=old_plans,
        old_tables=old_tables,
        old_fits=tuple(entry for entry in fits if entry.parents[1] != fits_folder),
        unreadable=tuple(unreadable),
    )


def _old_plans_and_tables(found: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Plans and tables that nothing reads.

    Of the plans of one repeat, K and seed a new plan starts from the last. The one before it is kept too: if the last
    is lost to damage, clips keep the folds that they had there.
    """
    plans = [
        (entry, read_part(entry.path, names=())[1])
        for entry in found
        if entry.kind == "plan" and not entry.fault
    ]
    plans.sort(key=lambda plan: (plan[1]["sequence"], plan[0].path.name), reverse=True)
    later: Counter[tuple[int, ...]] = Counter()
    old_plans, named = [], []
    for entry, values in plans:
        kind = (values["repeat"], values["folds"], values["seed"])
        if later[kind] > 1:
            old_plans.append(entry)
        later[kind] += 1
        if not values["repeat"]:
            named += [f"tables/clips-{name}.h5" for name in values["records"]]
    tables = (entry for entry in found if entry.kind == "table" and entry.place not in named[:2])
    return tuple(old_plans[::-1]), tuple(tables)


def _runs(selection: Mapping[str, str], found: Sequence[Entry]) -> Iterator[RunInfo]:
    inside: dict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        if entry.parents[:1] == ("runs",) and len(entry.parents) > 1:
            inside[entry.parents[1]].append(entry)
    there = {entry.parents[1:3] for entry in found if entry.parents[:1] == ("features",)}
    for name, files in sorted(inside.items()):
        recipes = next((_recipes_of_run(entry) for entry in files if entry.kind == "run"), None)
        kept = [item for item in recipes or () if (folder_of(item[0]), item[1]) in there]
        yield RunInfo(
            name=name,
            whole=recipes is not None,
            bytes=sum(entry.bytes for entry in files),
            gone=tuple(source for source, digest in recipes or () if (source, digest) not in kept),
            replaced=tuple(source for source, digest in kept if selection.get(source) != digest),
        )


def _recipes_of_run(entry: Entry) -> list[tuple[str, str]] | None:
    """Sources of a run with their recipes; `None` where its record cannot be read."""
    if entry.fault:
        return None
    try:
        return [(str(source), str(digest)) for source, digest in read_json(entry.path)["recipes"]]
    except (CacheError, KeyError, TypeError, ValueError):
        return None
