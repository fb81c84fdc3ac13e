"""Features that were made elsewhere become a source: `moodfuse cache import`.

Everything is read, matched with the clips and checked before the first byte is written, so that what is refused leaves
the cache as it was. The user states the holdout: ``*`` for features that used no label of these clips, else the folds
of the plan whose labels were not used; every clip outside those counts as seen.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.blocks import PART_BYTES, held, write_rows
from moodfuse.cache.digests import digest_array, lookup
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import imported_roles, single_holdouts, units_of
from moodfuse.cache.manifest import MARKER
from moodfuse.cache.planning import PlanChoice, plan_line
from moodfuse.cache.recipe import Recipe, import_recipe, imported_as
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache, Roles
from moodfuse.cache.transfer.datasets import DataSet, choose_data_set
from moodfuse.cache.transfer.features import Features, first_few
from moodfuse.cache.transfer.matching import (
    check_equal,
    check_shape,
    in_class_order,
    one_row_a_clip,
    places_of,
    refuse_label_columns,
)
from moodfuse.cache.transfer.readers import read_features

log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST_BYTES = 64


@dataclass(frozen=True)
class ImportSettings:
    """What `cache import` is asked to do.

    Attributes
    ----------
    cache, file : Path
    source : str
        Name of the source.
    holdout : Holdout
        Folds whose labels were not used to make the features; ``*`` if none was.
    labels : Path or None
        CSV that declares the clips.
    ids : Path or None
        Ids of the rows of a ``.npy``.
    columns : tuple of str
        Columns of a table that are the embedding: names, patterns, or several separated by commas.
    plan : PlanChoice
    replace : bool
        Whether `labels` may have no clip in common with those that are in force.
    command : str
        The command line, kept in the cache for reports.
    """

    cache: Path
    file: Path
    source: str
    holdout: Holdout
    labels: Path | None = None
    ids: Path | None = None
    columns: tuple[str, ...] = ()
    plan: PlanChoice = field(default_factory=PlanChoice)
    replace: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.source):
            raise InputError(
                f"source name {self.source!r} is not plain; use letters, digits, '.', '_' and '-', at most 64"
            )


@dataclass(frozen=True)
class Imported:
    """What `cache import` did.

    Attributes
    ----------
    clips : int
        Clips of the plan; each has features now.
    written : int
        Rows that were not there before.
    embedding, logits : int
        Columns; 0 where there are no logits.
    lacking : tuple of Holdout
        Holdouts ``{k}`` that the source still lacks, without which it cannot be fused.
    """

    clips: int
    written: int
    embedding: int
    logits: int
    lacking: tuple[Holdout, ...] = ()


@dataclass(frozen=True)
class _Ready:
    """What was decided: `places` [N] is the file's row of each clip, -1 where it has none; `new` [N] what to write.

    `there` says how many clips have rows already.
    """

    data: DataSet
    recipe: Recipe
    roles: Roles | None
    features: Features
    places: NDArray[np.int64]
    new: NDArray[np.bool_]
    there: int


def import_features(settings: ImportSettings, *, say: Callable[[str], None] = log.info) -> Imported:
    """Put a file of features into a cache.

    Parameters
    ----------
    settings : ImportSettings
    say : callable
        Takes each line that the user should read.

    Raises
    ------
    InputError
        If the features, the labels, the holdout or the name cannot be used; nothing is written then.
    """
    features = read_features(settings.file, ids=settings.ids, columns=settings.columns)
    for line in features.column_lines:
        say(f"{settings.file}: {line}")
    ready = _decide(settings, features, say)
    if ready.there:
        say(f"{ready.there} rows are there already, and equal where the file has them")
    cache = _act(settings, ready)
    if ready.data.changes:
        say(f"{settings.labels} replaces the clips and folds in force: {'; '.join(ready.data.changes)}")
        for line in _left_behind(cache, settings.source):
            say(line)
    widths = {name: values.shape[1] for name, values in features.arrays.items()}
    holdouts = single_holdouts(cache.plan.folds)
    return Imported(
        clips=len(ready.places),
        written=int(ready.new.sum()),
        embedding=widths["embedding"],
        logits=widths.get("logits", 0),
        lacking=tuple(holdout for holdout in holdouts if not cache.has_block(settings.source, holdout)),
    )


def _decide(settings: ImportSettings, features: Features, say: Callable[[str], None]) -> _Ready:
    """Match and check everything; reads, but writes nothing."""
    cache = None
    if (settings.cache / MARKER).is_file():
        cache = FeatureCache(settings.cache, create=settings.labels is not None)
    data = choose_data_set(cache, settings.labels, settings.plan, say, replace=settings.replace)
    say(plan_line(data.plan, data.clips))
    _check_holdout(settings, data)
    recipe = _recipe(cache, settings)
    features = in_class_order(features, data, say)
    features.check_values()
    roles = imported_roles(units_of(data.clips), data.plan, settings.holdout) if recipe.sees_labels else None
    places, first = one_row_a_clip(features, data, places_of(features, data, say))
    refuse_label_columns(features, data, places)
    have = np.zeros(len(places), dtype=bool)
    if cache is not None:
        check_shape(cache, recipe, features)
        owner = cache.owner(recipe, roles)
        have = lookup(held(owner), data.digests) >= 0
        check_equal(owner, data, features, np.where(have, places, -1))
    lacking = np.flatnonzero((places < 0) & ~have)
    if len(lacking):
        raise InputError(
            f"{settings.file}: has no features of {len(lacking)} of {len(places)} clips (first: "
            f"{first_few(data.clips[int(row)].clip.id for row in lacking[:4])}); a clip without features cannot be fused: "
            "add them"
        )
    return _Ready(data, recipe, roles, features, places, ~have & first, int(have.sum()))


def _check_holdout(settings: ImportSettings, data: DataSet) -> None:
    folds = settings.holdout.folds
    if not folds:
        return
    where, count = f"--holdout {settings.holdout}", data.plan.folds
    if beyond := sorted(fold for fold in folds if not 0 <= fold < count):
        raise InputError(f"{where}: the plan has the folds 0..{count - 1}, not {beyond[0]}")
    if len(folds) == count:
        raise InputError(f"{where} names every fold: features that used no label have --holdout '*'")
    if data.dealt:
        raise InputError(
            f"{where}: this command deals clips to folds, so nothing can have held out a fold of them before; add a "
            "column 'fold' to --labels, with the folds that the features were made under"
        )


def _recipe(cache: FeatureCache | None, settings: ImportSettings) -> Recipe:
    """The source's recipe; refuses a name that means something else in the cache."""
    source = settings.source
    recipe = import_recipe(source, sees_labels=settings.holdout.folds is not None)
    if cache is None or source not in cache.selection:
        return recipe
    current = imported_as(source, cache.selection[source])  # its record may be damaged: it is written anew
    if current is None:
        raise InputError(f"source {source!r} was made by extract; use another --source name")
    if current.sees_labels != recipe.sees_labels:
        kinds = ("*", "folds")
        raise InputError(
            f"source {source!r} was imported with holdout {kinds[current.sees_labels]}, and this is "
            f"{settings.holdout}; features that saw labels and those that did not are two sources: use another --source"
        )
    return recipe


def _left_behind(cache: FeatureCache, source: str) -> Iterator[str]:
    """Sentences on the other sources that lack features of clips, or of folds, that are in force now."""
    for other in cache.sources():
        recipe = imported_as(other, cache.selection[other])
        if other == source or recipe is None:
            continue
        named = ("*",) if not recipe.sees_labels else single_holdouts(cache.plan.folds)
        for holdout in named:
            roles = cache.roles(recipe, holdout)
            clips = digest_array(status.digest for status in cache.clips)
            lacking = int((lookup(held(cache.owner(recipe, roles)), clips) < 0).sum())
            if lacking:
                yield (
                    f"source {other} {holdout} lacks features of {lacking} of {len(cache.clips)} clips now; import "
                    f"them too, or take it out: moodfuse cache prune --source {other}"
                )


def _act(settings: ImportSettings, ready: _Ready) -> FeatureCache:
    """Write what is not there yet: the plan, the recipe, what was seen, the rows; put the source in force last."""
    cache = FeatureCache(settings.cache, create=True)
    if ready.data.declared:
        cache.write_plan(ready.data.plan, ready.data.statuses)
    cache.write_recipe(ready.recipe)
    if ready.roles is not None:
        cache.write_roles(ready.recipe, ready.roles)
    owner, digests = cache.owner(ready.recipe, ready.roles), ready.data.digests
    rows = np.flatnonzero(ready.new)
    columns = sum(values.shape[1] for values in ready.features.arrays.values())
    step = max(1, PART_BYTES // (4 * columns + _DIGEST_BYTES))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        values = ready.features.rows(ready.places[piece])
        write_rows(
            owner, digests[piece], values, stem=f"{piece[0]:08d}", classes=ready.features.classes or ()
        )
    cache.select([ready.recipe], command=settings.command if len(rows) else "")
    return cache
