"""Import precomputed features as a source: `moodfuse cache import`.

Everything is read, matched with the clips and checked before anything is written. The user states the
holdout: ``*`` for features that used no label of these clips, otherwise the folds whose labels were not used.
"""

import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.cache.blocks import PART_BYTES, open_features, part_files, read_rows
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.console import first_few, short_repr
from moodfuse.cache.csv_rows import (
    LABEL_COLUMNS,
    OPTIONAL_LABEL_COLUMNS,
    describe_doubtful_labels,
    describe_unused_columns,
    read_labels,
)
from moodfuse.cache.errors import DamagedPartError, InputError
from moodfuse.cache.folds import PlanChoice, clip_groups, imported_training_clips, next_plan, plan_line
from moodfuse.cache.manifest import MARKER
from moodfuse.cache.recipe import (
    IMPORT,
    MODALITY_NAMES,
    Modality,
    Recipe,
    find_import_recipe,
    import_recipe,
)
from moodfuse.cache.records import ClipStatus, Holdout, Plan
from moodfuse.cache.store import FeatureCache, TrainingClips
from moodfuse.cache.transfer.readers import LOGIT, Features, check_label_columns, read_features

log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ImportSettings:
    """The options of `cache import`.

    `holdout` are the folds whose labels were not used to make the features. `labels` is a CSV that declares
    the clips, `ids` names the rows of a ``.npy``, and `columns` are the embedding columns of a table. With
    `replace`, `labels` may have no clip in common with the current ones. `made_by` is the source, perhaps
    with ``=WEIGHTS``, whose frozen network made the features, for models that contain it. `modality` is
    what that network read, for the report. `command` is kept in the cache for reports.
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
    made_by: str = ""
    modality: Modality | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if self.made_by and self.holdout.folds is not None:
            raise InputError("--made-by is for features of a frozen network; give --holdout '*'")
        if not _NAME.fullmatch(self.source):
            raise InputError(
                f"source name {self.source!r} is not plain; use letters, digits, '.', '_' and '-', at most 64"
            )


@dataclass(frozen=True)
class Imported:
    """Clips of the plan, rows written, columns of each array, and the holdouts that `fuse` still needs."""

    clips: int
    written: int
    embedding: int
    logits: int
    missing_holdouts: tuple[Holdout, ...] = ()


def import_features(settings: ImportSettings, *, report: Callable[[str], None] = log.info) -> Imported:
    """Write a file of features into a cache; `report` receives each line that the user should read.

    Raises `InputError`, and writes nothing, if the features, labels, holdout or name cannot be used.
    """
    features = read_features(settings.file, ids=settings.ids, columns=settings.columns)
    for line in features.describe_columns():
        report(f"{settings.file}: {line}")
    cache = None
    if (settings.cache / MARKER).is_file():
        cache = FeatureCache(settings.cache, create=settings.labels is not None)
    dataset = _choose_dataset(cache, settings, report)
    report(plan_line(dataset.plan, dataset.clips))
    recipe = import_recipe(
        settings.source,
        sees_labels=settings.holdout.folds is not None,
        made_by=settings.made_by,
        modality=settings.modality,
    )
    if settings.made_by and "logits" in features.arrays:
        raise InputError(f"{settings.file}: has logits, and --made-by is for features without them")
    _check_holdout(settings.holdout, dataset)
    _check_source(cache, recipe, settings.holdout)
    training_clips = None
    if recipe.sees_labels:
        training_clips = imported_training_clips(clip_groups(dataset.clips), dataset.plan, settings.holdout)
    classes = tuple(sorted({status.clip.label for status in dataset.clips}))
    features = _order_classes(features, classes, report)
    rows = _match_rows(features, dataset, report)
    label_of = {status.digest: status.clip.label for status in dataset.clips}
    check_label_columns(features, [*rows.values()], [label_of[digest] for digest in rows])
    stored: set[str] = set()
    if cache is not None:
        _check_shapes(cache, recipe, features)
        stored = cache.held(recipe, training_clips)
        _check_equal(
            cache, recipe, training_clips, features, {name: rows[name] for name in rows if name in stored}
        )
    if missing := [clip.clip.id for clip in dataset.clips if clip.digest not in rows.keys() | stored]:
        raise InputError(
            f"{settings.file}: has no features of {len(missing)} of {len(dataset.clips)} clips (first: "
            f"{first_few(missing)}); a clip without features cannot be fused: add them"
        )
    new = {digest: row for digest, row in rows.items() if digest not in stored}
    cache = _write(settings, dataset, recipe, training_clips, features, new)
    if dataset.changes:
        report(f"{settings.labels} replaces the current clips and folds: {dataset.changes}")
    embedding, logits = features.arrays["embedding"], features.arrays.get("logits")
    holdouts = map(Holdout.of, range(cache.plan.folds))
    return Imported(
        clips=len(dataset.clips),
        written=len(new),
        embedding=embedding.shape[1],
        logits=0 if logits is None else logits.shape[1],
        missing_holdouts=tuple(k for k in holdouts if not cache.has_block(settings.source, k)),
    )


# Clips and plan


@dataclass(frozen=True)
class _Dataset:
    """All clips and their plan.

    `is_new`: a table of labels declares them. `assigns_folds`: this import assigns a clip to its fold.
    """

    statuses: Sequence[ClipStatus]
    plan: Plan
    is_new: bool = False
    assigns_folds: bool = False
    changes: str = ""

    @cached_property
    def clips(self) -> tuple[ClipStatus, ...]:
        """The clips that the plan covers, by id."""
        clips = (status for status in self.statuses if status.ok and status.digest in self.plan.assignment)
        return tuple(sorted(clips, key=lambda status: status.clip.id))


def _choose_dataset(
    cache: FeatureCache | None, settings: ImportSettings, report: Callable[[str], None]
) -> _Dataset:
    """The current clips, or those that a table of labels declares.

    A changed table makes a new plan, in which clips keep their folds.
    """
    labels, choice = settings.labels, settings.plan
    plans = cache.plans if cache is not None else ()
    current = plans[-1] if plans else None
    if labels is None:
        if cache is None or current is None:
            raise InputError(
                "the cache has no clips yet; add --labels FILE.csv with id,label[,group][,fold], or run: "
                "moodfuse extract DATA --cache DIR"
            )
        if choice.folds not in (None, current.folds) or choice.seed not in (None, current.seed):
            raise InputError(
                f"the current plan has {current.folds} folds and seed {current.seed}; drop --folds and --seed"
            )
        return _Dataset(cache.statuses, current)
    declared = sorted(read_labels(labels), key=lambda status: status.clip.id)
    if labels.resolve() != settings.file.resolve():  # whose columns are listed already
        for line in describe_unused_columns(labels, LABEL_COLUMNS, OPTIONAL_LABEL_COLUMNS):
            report(line)
    for line in describe_doubtful_labels(status.clip for status in declared):
        report(f"WARNING {labels}: {line}")
    previous: Sequence[ClipStatus] = declared
    # A current table of these very clips may be damaged: it is not read, but written again.
    if cache is not None and current is not None and current.records != (table_name(declared),):
        previous = cache.statuses
        if any(status.decoder != IMPORT for status in previous):
            raise InputError(f"{cache.path}: extract declared its clips; drop --labels {labels}")
        names, known = ([status.clip.id for status in clips] for clips in (declared, previous))
        if not settings.replace and set(names).isdisjoint(known):
            raise InputError(
                f"{labels}: none of its {len(names)} ids ({first_few(names)}) is one of the {len(known)} "
                f"clips of {cache.path} ({first_few(known)}); name another --cache folder, or add --replace: "
                "then no present source has features of these clips"
            )
    plan = next_plan(plans, declared, choice)
    folds = current.assignment if current else {}
    moved = sum(folds.get(digest, fold) != fold for digest, fold in plan.assignment.items())
    declares_folds = any(s.clip.fold is not None for s in declared if s.digest in plan.assignment)
    assigns_folds = not declares_folds and (moved > 0 or not plan.assignment.keys() <= folds.keys())
    return _Dataset(declared, plan, True, assigns_folds, _describe_changes(previous, declared, moved))


def _describe_changes(previous: Sequence[ClipStatus], declared: Sequence[ClipStatus], moved: int) -> str:
    old, new = ({status.clip.id: status for status in statuses} for statuses in (previous, declared))
    both = old.keys() & new.keys()
    counts = {
        "clips added": len(new) - len(both),
        "clips removed": len(old) - len(both),
        "labels changed": sum(old[name].clip.label != new[name].clip.label for name in both),
        "groups changed": sum(old[name].group != new[name].group for name in both),
        "clips in another fold": moved,
    }
    return ", ".join(f"{count} {change}" for change, count in counts.items() if count)


def _check_holdout(holdout: Holdout, dataset: _Dataset) -> None:
    count = dataset.plan.folds
    if not holdout.folds:
        return
    if outside := sorted(fold for fold in holdout.folds if not 0 <= fold < count):
        raise InputError(f"--holdout {holdout}: the plan has the folds 0..{count - 1}, not {outside[0]}")
    if len(holdout.folds) == count:
        raise InputError(
            f"--holdout {holdout} names every fold: features that used no label have --holdout '*'"
        )
    if dataset.assigns_folds:
        raise InputError(
            f"--holdout {holdout}: this command assigns clips to folds, so no network can have held out a "
            "fold of them before; add a column 'fold' to --labels, with the folds that the features were "
            "made under"
        )


def _check_source(cache: FeatureCache | None, recipe: Recipe, holdout: Holdout) -> None:
    """Check that the name is new in the cache, or has the same meaning there."""
    source = recipe.source
    if cache is None or cache.selection.get(source) in (None, recipe.digest16):
        return
    current = find_import_recipe(source, cache.selection[source]) or cache.recipe(source)
    if current.network != IMPORT:
        raise InputError(f"source {source!r} was made by extract; use another --source name")
    if current.sees_labels != recipe.sees_labels:
        raise InputError(
            f"source {source!r} was imported with holdout {'folds' if current.sees_labels else '*'}, and "
            f"this is {holdout}; use another --source name"
        )
    made_by = f"--made-by {current.made_by}" if current.made_by else "no --made-by"
    modality = current.declared_modality
    declared = f"--modality {MODALITY_NAMES[modality]}" if modality else "no --modality"
    raise InputError(f"source {source!r} was imported with {made_by}, {declared}; use another --source name")


# Classes, rows and columns


def _order_classes(features: Features, classes: tuple[str, ...], report: Callable[[str], None]) -> Features:
    """The features with logits in sorted label order; reports the order of the file."""
    logits, given = features.arrays.get("logits"), features.classes
    if logits is None:
        return features
    if given is None and (logits.shape[1] != len(classes) or _sort_as_numbers(classes) != classes):
        raise InputError(
            f"{features.file}: has no class names for its {logits.shape[1]} logits; expected "
            f"{len(classes)}, in the order {', '.join(classes)}; name them in an array 'classes' of the "
            f".npz (classes_ of a scikit-learn classifier), or in columns {LOGIT}CLASS of a .csv or "
            ".parquet"
        )
    named = "not named, so in sorted order" if given is None else "as named in the file"
    given = given or classes
    report(f"{features.file}: classes of the logits, {named}: {', '.join(given)}")
    if sorted(given) != list(classes):
        raise InputError(f"{features.file}: logits are of {', '.join(given)}; expected {', '.join(classes)}")
    ordered = logits[:, [given.index(label) for label in classes]]
    return replace(features, arrays={**features.arrays, "logits": ordered}, classes=classes)


def _sort_as_numbers(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Classes in the order of their values if all are numbers, else as they are."""
    try:
        return tuple(sorted(classes, key=float))
    except ValueError:
        return classes


def _match_rows(features: Features, dataset: _Dataset, report: Callable[[str], None]) -> dict[str, int]:
    """Clip digest to row of the file, for every clip of the plan that has a row."""
    known = dict.fromkeys(status.clip.id for status in dataset.statuses)
    if unknown := [name for name in features.ids if name not in known]:
        raise InputError(
            f"{features.file}: {len(unknown)} of {len(features.ids)} ids are not clips of the cache (first: "
            f"{first_few(unknown)}); its ids look like {first_few(known)}"
        )
    row_of_id = {name: row for row, name in enumerate(features.ids)}
    matched = [status for status in dataset.clips if status.clip.id in row_of_id]
    if dropped := len(features.ids) - len(matched):
        report(f"{dropped} rows dropped: their clips are refused, or held out for testing (split = test)")
    rows: dict[str, int] = {}
    for status in matched:  # two ids may be one clip, the same seconds of equal files
        rows.setdefault(status.digest, row_of_id[status.clip.id])
    return rows


# Comparison with the stored features


def _check_shapes(cache: FeatureCache, recipe: Recipe, features: Features) -> None:
    """Check that the source has the same arrays, of the same widths, under its other holdouts."""
    given = _describe_shapes(features.arrays)
    folder = cache.block_folder(recipe, None).parent
    for file in (part for network in sorted(folder.glob("[!.]*/")) for part in part_files(network)):
        try:
            with open_features(file) as (part, _):
                stored = _describe_shapes(part)
        except DamagedPartError:
            continue  # quarantined when its rows are read
        if stored != given:
            raise InputError(
                f"{features.file}: has {given}, but source {recipe.source!r} has {stored}; use another "
                "--source name"
            )
        return


def _describe_shapes(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} [N, {arrays[name].shape[1]}]" for name in sorted(arrays) if name != "clip")


def _check_equal(
    cache: FeatureCache,
    recipe: Recipe,
    training_clips: TrainingClips | None,
    features: Features,
    rows: Mapping[str, int],
) -> None:
    """Check that rows which the source has already have the same values."""
    if not rows:
        return
    digests = np.array(list(rows), dtype="S64")
    stored = read_rows(cache.owner(recipe, training_clips), digests, tuple(features.arrays)).arrays
    different = np.zeros(len(rows), dtype=bool)
    for name in stored:
        different |= (features.arrays[name][list(rows.values())] != stored[name]).any(axis=1)
    if different.any():
        first = features.ids[list(rows.values())[int(np.argmax(different))]]
        raise InputError(
            f"{features.file}: source {recipe.source!r} has other values of {int(different.sum())} clips "
            f"(first: {short_repr(first)}); nothing is overwritten: use another --source name, or remove "
            f"the old one first: moodfuse cache prune --cache {shlex.quote(str(cache.path))} --source "
            f"{recipe.source} --yes"
        )


def _write(
    settings: ImportSettings,
    dataset: _Dataset,
    recipe: Recipe,
    training_clips: TrainingClips | None,
    features: Features,
    rows: Mapping[str, int],
) -> FeatureCache:
    """Write the plan, the recipe, the training clips and the rows; the source becomes current last."""
    cache = FeatureCache(settings.cache, create=True)
    if dataset.is_new:
        cache.write_plan(dataset.plan, dataset.statuses)
    cache.write_recipe(recipe)
    if training_clips is not None:
        cache.write_training_clips(recipe, training_clips)
    digests = list(rows)
    row_bytes = 64 + 4 * sum(values.shape[1] for values in features.arrays.values())
    step = max(1, PART_BYTES // row_bytes)
    for start in range(0, len(digests), step):
        chunk = digests[start : start + step]
        row_numbers = [rows[digest] for digest in chunk]
        arrays = {name: values[row_numbers] for name, values in features.arrays.items()}
        cache.write_block_part(recipe, training_clips, chunk, arrays)
    cache.select([recipe], command=settings.command if rows else "")
    return cache
