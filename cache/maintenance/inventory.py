"""What a cache holds and what of it is stale: from listings, headers, the plans and the table in force.

Rows of features are counted by the headers of their parts, 512 bytes each. Only where clips may have left the data
set, and the parts are small, are they opened, so that rows of such clips do not count. Columns stay columns: a million
clips cost no record each.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from moodfuse.cache.choices import MEND
from moodfuse.cache.clip_table import ClipTable
from moodfuse.cache.errors import CacheError, DamagedPartError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.folds import VIEWS
from moodfuse.cache.maintenance.holdings import ClipCounts, HeldRun, Inventory, PlanFacts, PlanFile
from moodfuse.cache.maintenance.recipe_listing import RecipeListing, Wanted
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.layout import Entry, entries, folder_of
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache

_COLUMNS = ("split", "missing")


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
    table = _columns(cache) if cache.plans else None
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


def _columns(cache: FeatureCache) -> ClipTable:
    """The columns of the table in force that are counted here; the others are not read."""
    (name,) = cache.plan.records
    file = cache.path / "tables" / f"clips-{name}.h5"
    texts = {name: f"{name}_ends" for name in ("group", *_COLUMNS)}
    arrays, _ = read_part(file, names=("ok", *texts, *texts.values(), *(f"{name}_row" for name in _COLUMNS)))
    try:
        return ClipTable.from_arrays(file, arrays, names=("ok", "group", *_COLUMNS))
    except DamagedPartError as error:
        raise DamagedPartError(f"{error}; {MEND}") from error


def _clip_counts(table: ClipTable) -> ClipCounts:
    ok, test = table.numbers["ok"], table.where("split", "test")
    return ClipCounts(len(table), int(ok.sum()), int((~ok).sum()), int((ok & test).sum()))


def _covered(table: ClipTable) -> ClipTable:
    """The clips that a plan covers."""
    return table.take(table.numbers["ok"] & ~table.where("split", "test"))


def _wanted(cache: FeatureCache, covered: ClipTable) -> Wanted:
    """How many different clips there are to have rows of; digests are read only where some clip lacks a view."""
    lacking = dict.fromkeys(VIEWS, 0)
    if any(covered.where("missing", view).any() for view in VIEWS):
        clips = cache.clips
        lacking = {view: len(np.unique(clips.digests[clips.where("missing", view)])) for view in VIEWS}
    return Wanted(len(cache.plan.assignment), lacking)


def _plan_facts(cache: FeatureCache, covered: ClipTable) -> PlanFacts:
    plan = cache.plan
    groups = covered.texts["group"].distinct()
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
