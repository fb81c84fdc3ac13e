"""What a cache holds and what of it is stale: from listings, headers, the plans and the table in force.

Rows of features are counted by the headers of their parts, 512 bytes each. Only where clips may have left the data
set, and the parts are small, are they opened, so that rows of such clips do not count. Columns stay columns: a million
clips cost no record each.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from moodfuse.cache.errors import CacheError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.folds import VIEWS
from moodfuse.cache.maintenance.holdings import ClipCounts, HeldRun, Inventory, PlanFacts, PlanFile
from moodfuse.cache.maintenance.recipe_listing import RecipeListing, Wanted
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.storage.json_files import read_json
from moodfuse.cache.storage.layout import Entry, entries, folder_of
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache


def take_stock(cache: FeatureCache, *, without: Collection[str] = ()) -> Inventory:
    """What a cache holds. Files are listed before plans are read, so that a plan in force names the newest of them.

    Parameters
    ----------
    cache : FeatureCache
    without : collection of str
        Sources that are looked at as if they were in force no more.

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
    found = tuple(entries(cache.path))
    table = cache.statuses if cache.plans else None
    covered = None if table is None else _covered(table)
    wanted = None if covered is None else _wanted(cache, covered)
    listing = RecipeListing(cache, found, wanted, selection=selection)
    return Inventory(
        path=cache.path,
        clips=None if table is None else _clip_counts(table),
        plan=None if covered is None else _plan_facts(cache, covered),
        plans=_plan_files(found),
        recipes=listing.recipes(),
        runs=tuple(_runs(selection, found)),
        entries=found,
        unreadable=tuple(listing.unreadable),
        fits=clips_digest16(cache.clips)
        if cache.plans and any(entry.kind == "fits" for entry in found)
        else "",
    )


# Clips and plans


def _clip_counts(statuses: Sequence[ClipStatus]) -> ClipCounts:
    readable = [status for status in statuses if status.ok]
    test = sum(status.clip.split == "test" for status in readable)
    return ClipCounts(len(statuses), len(readable), len(statuses) - len(readable), test)


def _covered(statuses: Sequence[ClipStatus]) -> list[ClipStatus]:
    """The clips that a plan covers."""
    return [status for status in statuses if status.ok and status.clip.split != "test"]


def _wanted(cache: FeatureCache, covered: Sequence[ClipStatus]) -> Wanted:
    """How many different clips there are to have rows of."""
    lacking = {view: len({clip.digest for clip in covered if clip.missing == view}) for view in VIEWS}
    return Wanted(len(cache.plan.assignment), lacking)


def _plan_facts(cache: FeatureCache, covered: Sequence[ClipStatus]) -> PlanFacts:
    plan = cache.plan
    groups = len({status.group for status in covered})
    return PlanFacts(
        plan.folds, plan.seed, plan.sequence, len(plan.assignment), groups, 1 + len(cache.repeat_plans)
    )


def _plan_files(found: Sequence[Entry]) -> tuple[PlanFile, ...]:
    """Every plan, oldest first. Of those of one repeat, K and seed clips are dealt from the last.

    The one before it is kept too: should the last be lost to damage, clips keep the folds that they had there.
    """
    plans = []
    for entry in found:
        if entry.kind == "plan" and not entry.fault:
            values = read_part(entry.path, names=())[1]
            folds, seed, repeat, sequence = (values[name] for name in ("folds", "seed", "repeat", "sequence"))
            records = tuple(values["records"])
            plans.append(PlanFile(entry.place, folds, seed, repeat, sequence, records, entry.bytes))
    plans.sort(key=lambda plan: (plan.sequence, plan.place.rpartition("/")[2]))
    later: Counter[tuple[int, int, int]] = Counter()
    counted: list[PlanFile] = []
    for plan in reversed(plans):
        kind = (plan.repeat, plan.folds, plan.seed)
        counted.append(replace(plan, superseded=later[kind] > 1))
        later[kind] += 1
    return tuple(reversed(counted))


# Runs


def _runs(selection: Mapping[str, str], found: Sequence[Entry]) -> Iterator[HeldRun]:
    """Every folder of a run, by name."""
    inside: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.parents[:1] == ("runs",) and len(entry.parents) > 1:
            inside.setdefault(entry.parents[1], []).append(entry)
    there = {entry.parents[1:3] for entry in found if entry.parents[:1] == ("features",)}
    for name, files in sorted(inside.items()):
        recipes = _recipes_of_run(files)
        kept = [item for item in recipes or () if (folder_of(item[0]), item[1]) in there]
        yield HeldRun(
            name=name,
            whole=recipes is not None,
            bytes=sum(entry.bytes for entry in files),
            gone=tuple(source for source, digest in recipes or () if (source, digest) not in kept),
            replaced=tuple(source for source, digest in kept if selection.get(source) != digest),
        )


def _recipes_of_run(files: Sequence[Entry]) -> tuple[tuple[str, str], ...] | None:
    """Sources of a run with their recipes; `None` where its record is missing or cannot be read."""
    for entry in files:
        if entry.kind == "run" and not entry.fault:
            try:
                return tuple(
                    (str(source), str(digest)) for source, digest in read_json(entry.path)["recipes"]
                )
            except (CacheError, KeyError, TypeError, ValueError):
                return None
    return None
