"""Features that were made elsewhere become a source: `moodfuse cache import`.

Everything is read, matched with the clips and checked before anything is written. The user states the
holdout: ``*`` for features that used no label of these clips, otherwise the folds whose labels were not used.
"""

import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from moodfuse.cache.blocks import CLASSES, PART_BYTES, open_features, part_files, read_rows
from moodfuse.cache.console import first_few, short_repr
from moodfuse.cache.errors import DamagedPartError, InputError
from moodfuse.cache.folds import PlanChoice, clip_groups, imported_roles, plan_line, single_holdouts
from moodfuse.cache.manifest import MARKER
from moodfuse.cache.recipe import Recipe, import_recipe, imported_as
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache, Roles
from moodfuse.cache.transfer.datasets import Dataset, choose_dataset
from moodfuse.cache.transfer.readers import LOGIT, MAX_LISTED, MIN_ROWS, Features, read_features

log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ImportSettings:
    """The options of `cache import`.

    `holdout` are the folds whose labels were not used to make the features. `labels` is a CSV that declares
    the clips, `ids` names the rows of a ``.npy``, and `columns` are the embedding columns of a table. With
    `replace`, `labels` may have no clip in common with the current ones. `command` is kept in the cache for
    reports.
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
    """Clips of the plan, rows written, columns of each array, and the holdouts that `fuse` still needs."""

    clips: int
    written: int
    embedding: int
    logits: int
    missing_holdouts: tuple[Holdout, ...] = ()


def import_features(settings: ImportSettings, *, report: Callable[[str], None] = log.info) -> Imported:
    """Write a file of features into a cache.

    Parameters
    ----------
    settings : ImportSettings
    report : callable
        Receives each line that the user should read.

    Raises
    ------
    InputError
        If the features, the labels, the holdout or the name cannot be used; nothing is written then.
    """
    features = read_features(settings.file, ids=settings.ids, columns=settings.columns)
    for line in features.columns.lines():
        report(f"{settings.file}: {line}")
    cache = None
    if (settings.cache / MARKER).is_file():
        cache = FeatureCache(settings.cache, create=settings.labels is not None)
    dataset = choose_dataset(cache, settings.labels, settings.plan, report, replace=settings.replace)
    report(plan_line(dataset.plan, dataset.clips))
    recipe = import_recipe(settings.source, sees_labels=settings.holdout.folds is not None)
    _check_holdout(settings.holdout, dataset)
    _check_source(cache, recipe, settings.holdout)
    roles = None
    if recipe.sees_labels:
        roles = imported_roles(clip_groups(dataset.clips), dataset.plan, settings.holdout)
    features = _order_classes(features, dataset.classes, report)
    rows = _match_rows(features, dataset, report)
    _check_label_columns(features, dataset, rows)
    stored: set[str] = set()
    if cache is not None:
        _check_widths(cache, recipe, features)
        stored = cache.held(recipe, roles)
        _check_equal(cache, recipe, roles, features, {name: rows[name] for name in rows if name in stored})
    if missing := [clip.clip.id for clip in dataset.clips if clip.digest not in rows.keys() | stored]:
        raise InputError(
            f"{settings.file}: has no features of {len(missing)} of {len(dataset.clips)} clips (first: "
            f"{first_few(missing)}); a clip without features cannot be fused: add them"
        )
    new = {digest: row for digest, row in rows.items() if digest not in stored}
    cache = _write(settings, dataset, recipe, roles, features, new)
    if dataset.changes:
        report(f"{settings.labels} replaces the current clips and folds: {'; '.join(dataset.changes)}")
    widths = _get_widths(features)
    holdouts = single_holdouts(cache.plan.folds)
    return Imported(
        clips=len(dataset.clips),
        written=len(new),
        embedding=widths["embedding"],
        logits=widths.get("logits", 0),
        missing_holdouts=tuple(k for k in holdouts if not cache.has_block(settings.source, k)),
    )


def _check_holdout(holdout: Holdout, dataset: Dataset) -> None:
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
    if cache is None or source not in cache.selection:
        return
    current = imported_as(source, cache.selection[source])  # its file may be damaged; it is rewritten
    if current is None:
        raise InputError(f"source {source!r} was made by extract; use another --source name")
    if current.sees_labels != recipe.sees_labels:
        raise InputError(
            f"source {source!r} was imported with holdout {'folds' if current.sees_labels else '*'}, and "
            f"this is {holdout}; features that saw labels and those that did not are two sources: use "
            "another --source"
        )


# Classes, rows and columns


def _get_widths(features: Features) -> dict[str, int]:
    return {name: values.shape[1] for name, values in features.arrays.items()}


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


def _match_rows(features: Features, dataset: Dataset, report: Callable[[str], None]) -> dict[str, int]:
    """Clip digest to row of the file, for every clip of the plan that has a row; two ids may be one clip."""
    known = dict.fromkeys(status.clip.id for status in dataset.statuses)
    if unknown := [name for name in features.ids if name not in known]:
        raise InputError(
            f"{features.file}: {len(unknown)} of {len(features.ids)} ids are not clips of the cache (first: "
            f"{first_few(unknown)}); its ids look like {first_few(known)}"
        )
    row_of_id = {name: row for row, name in enumerate(features.ids)}
    matched = [(row_of_id[status.clip.id], status) for status in dataset.clips if status.clip.id in row_of_id]
    if dropped := len(features.ids) - len(matched):
        report(f"{dropped} rows dropped: their clips are refused, or held back for testing (split = test)")
    rows: dict[str, int] = {}
    for row, status in matched:
        first = rows.setdefault(status.digest, row)
        if first != row and any((values[first] != values[row]).any() for values in features.arrays.values()):
            raise InputError(
                f"{features.file}: the rows of {short_repr(features.ids[first])} and "
                f"{short_repr(features.ids[row])} differ, but both are one clip: the same seconds of equal "
                "files; keep one of the rows"
            )
    return rows


def _check_label_columns(features: Features, dataset: Dataset, rows: Mapping[str, int]) -> None:
    """Check that no guessed column encodes the label: a code for each label, or 0 and 1 for one of the
    labels.

    Such a column has few different values, and either each value has one label or each label has one value.
    """
    label_of = {status.digest: status.clip.label for status in dataset.clips}
    labels, codes = np.unique([label_of[digest] for digest in rows], return_inverse=True)
    if len(rows) < MIN_ROWS or len(labels) < 2:
        return
    embedding = features.arrays["embedding"][list(rows.values())]
    encoding = []
    for column, name in enumerate(features.columns.embedding):
        values, value_codes = np.unique(embedding[:, column], return_inverse=True)
        pairs = len(np.unique(value_codes * len(labels) + codes))
        is_code = 2 <= len(values) <= len(rows) // 2 and pairs in (len(values), len(labels))
        encoding += [name] if is_code and name in features.columns.guessed else []
    if encoding:
        raise InputError(
            f"{features.file}: {len(encoding)} column(s) encode the label in all {len(rows)} clips, or "
            "whether it is one of the labels, so heads would learn it from there: "
            f"{first_few(encoding, count=MAX_LISTED)}; remove them, or name them in full with --columns if "
            "they are features"
        )


# Comparison with the stored features


def _check_widths(cache: FeatureCache, recipe: Recipe, features: Features) -> None:
    """Check that arrays have the widths and classes of the source's parts under any holdout."""
    given = _get_widths(features)
    folder = cache.block_folder(recipe, None).parent
    for file in (part for network in sorted(folder.glob("[!.]*/")) for part in part_files(network)):
        try:
            with open_features(file) as (part, attributes):
                stored = {name: part[name].shape[1] for name in part if name != "clip"}
                classes = attributes.get(CLASSES)
        except DamagedPartError:
            continue  # quarantined when its rows are read
        if stored != given or (classes and features.classes and tuple(classes) != features.classes):
            raise InputError(
                f"{features.file}: has {_describe(given, features.classes)}, but source {recipe.source!r} "
                f"has {_describe(stored, classes)}; use another --source name"
            )
        return


def _describe(widths: Mapping[str, int], classes: Sequence[str] | None) -> str:
    shapes = ", ".join(f"{name} [N, {width}]" for name, width in sorted(widths.items()))
    return f"{shapes} of {', '.join(classes)}" if classes else shapes


def _check_equal(
    cache: FeatureCache, recipe: Recipe, roles: Roles | None, features: Features, rows: Mapping[str, int]
) -> None:
    """Check that rows which the source has already have the same values."""
    if not rows:
        return
    digests = np.array(list(rows), dtype="S64")
    stored = read_rows(cache.owner(recipe, roles), digests, tuple(features.arrays)).arrays
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
    dataset: Dataset,
    recipe: Recipe,
    roles: Roles | None,
    features: Features,
    rows: Mapping[str, int],
) -> FeatureCache:
    """Write the plan, the recipe, the training clips and the rows; the source becomes current last."""
    cache = FeatureCache(settings.cache, create=True)
    if dataset.is_new:
        cache.write_plan(dataset.plan, dataset.statuses)
    cache.write_recipe(recipe)
    if roles is not None:
        cache.write_roles(recipe, roles)
    digests = list(rows)
    step = max(1, PART_BYTES // (4 * sum(_get_widths(features).values()) + 64))
    for start in range(0, len(digests), step):
        chunk = digests[start : start + step]
        places = [rows[digest] for digest in chunk]
        arrays = {name: values[places] for name, values in features.arrays.items()}
        cache.write_block_part(recipe, roles, chunk, arrays)
    cache.select([recipe], command=settings.command if rows else "")
    return cache
