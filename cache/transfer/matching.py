"""Rows of a file of features matched with the clips of a cache, and held to what the source has already. No writing."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.blocks import CLASSES, Owner, open_features, part_files, read_rows
from moodfuse.cache.digests import repeated
from moodfuse.cache.errors import DamagedPartError, InputError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.datasets import DataSet
from moodfuse.cache.transfer.features import Features, first_few, listed, shown
from moodfuse.cache.transfer.readers import FEWEST_ROWS, LOGIT


def in_class_order(features: Features, data: DataSet, say: Callable[[str], None]) -> Features:
    """The features with logits in sorted label order; says in which order the columns of the file were taken."""
    classes = tuple(sorted({status.clip.label for status in data.clips}))
    if features.logits is None:
        return features
    width = features.logits.shape[1]
    if features.classes is None and width != len(classes):
        raise InputError(
            f"{features.file}: logits have {width} columns; expected {len(classes)}, one a label in sorted order: "
            f"{', '.join(classes)}"
        )
    if features.classes is None and (by_number := _by_number(classes)) != classes:
        raise InputError(
            f"{features.file}: has no class names for its logits, and the labels sort differently as text "
            f"({', '.join(classes)}) and as numbers ({', '.join(by_number)}); add an array 'classes' to the .npz "
            f"(classes_ of a scikit-learn classifier), or in a .csv or .parquet columns {LOGIT}CLASS"
        )
    named = "not named, so in sorted order" if features.classes is None else "as named in the file"
    say(f"{features.file}: classes of the logits, {named}: {', '.join(features.classes or classes)}")
    if features.classes is None:
        return replace(features, classes=classes)
    given, wanted = list(features.classes), list(classes)
    if sorted(given) != sorted(wanted):  # 1 and 1.0 are the same class
        given, wanted = [_whole_number(name) for name in given], [_whole_number(name) for name in wanted]
    if sorted(given) != sorted(wanted):
        raise InputError(
            f"{features.file}: logits are of {', '.join(features.classes)}; expected {', '.join(classes)}"
        )
    order = [given.index(label) for label in wanted]
    return replace(features, logits=features.logits[:, order], classes=classes)


def _whole_number(name: str) -> str:
    """A class such as ``1.0``, as whole numbers in a column of floats are written, without its fraction."""
    return re.sub(r"\.0+$", "", name)


def _by_number(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels in the order of their numbers, if all of them are numbers; else as they are."""
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
        return labels


def refuse_label_columns(features: Features, data: DataSet, places: NDArray[np.int64]) -> None:
    """Refuse guessed columns that are the label in another form: a code for it, or 0 and 1 for one of the labels.

    Such a column has few different values, and either each value has one label or each label has one value.
    """
    with_row = np.flatnonzero(places >= 0)
    labels = np.unique(np.array([clip.clip.label for clip in data.clips])[with_row], return_inverse=True)[1]
    count = int(labels.max(initial=-1)) + 1
    if len(with_row) < FEWEST_ROWS or count < 2:
        return
    telling = []
    for column, name in enumerate(features.columns):
        if name not in features.guessed:
            continue
        values, codes = np.unique(features.embedding[places[with_row], column], return_inverse=True)
        pairs = len(np.unique(codes * count + labels))
        if 2 <= len(values) <= len(with_row) // 2 and pairs in (len(values), count):
            telling.append(name)
    if telling:
        raise InputError(
            f"{features.file}: {len(telling)} column(s) encode the label in all {len(with_row)} clips, or whether it "
            f"is one of the labels, so heads would learn it from there: {listed(telling)}; drop them, or name them in "
            "full with --columns if they are features"
        )


def places_of(features: Features, data: DataSet, say: Callable[[str], None]) -> NDArray[np.int64]:
    """Row of the file of each clip of the plan, -1 where it has none; ids that the cache does not know are refused."""
    known = {status.clip.id for status in data.statuses}
    if strange := [name for name in features.ids if name not in known]:
        raise InputError(
            f"{features.file}: {len(strange)} of {len(features.ids)} ids are not clips of the cache (first: "
            f"{first_few(strange)}); its ids look like {first_few(status.clip.id for status in data.statuses)}"
        )
    found = features.places
    places = np.fromiter((found.get(status.clip.id, -1) for status in data.clips), np.int64, len(data.clips))
    if dropped := len(features.ids) - int((places >= 0).sum()):
        say(f"{dropped} rows dropped: their clips are refused, or held back for testing (split = test)")
    return places


def one_row_a_clip(
    features: Features, data: DataSet, places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The places where every copy of one clip has the row of one of them, and which clips are the first of theirs.

    Two ids may be two copies of one file: they are one clip with one row, so rows that differ are refused.
    """
    digests = data.digests
    if repeated(digests) is None:
        return places, np.ones(len(places), dtype=bool)
    _, first, clip = np.unique(digests, return_index=True, return_inverse=True)
    chosen = np.full(len(first), -1)
    given = np.flatnonzero(places >= 0)[::-1]
    chosen[clip[given]] = places[given]  # of several the first stands
    for row in given[places[given] != chosen[clip[given]]].tolist():
        one, other = (
            features.rows(np.array([place])) for place in (int(chosen[clip[row]]), int(places[row]))
        )
        if any(one[name].tobytes() != other[name].tobytes() for name in one):
            raise InputError(
                f"{features.file}: the rows of {shown(features.ids[int(chosen[clip[row]])])} and "
                f"{shown(features.ids[int(places[row])])} differ, but both are one clip: the same seconds of equal "
                "files; keep one of the rows"
            )
    is_first = np.zeros(len(places), dtype=bool)
    is_first[first] = True
    return chosen[clip], is_first


def check_shape(cache: FeatureCache, recipe: Recipe, features: Features) -> None:
    """Refuse arrays of other widths or classes than the source's rows have, under whatever holdout."""
    wanted = {name: values.shape[1] for name, values in features.arrays.items()}
    folder = cache.block_folder(recipe, None).parent
    for file in (part for network in sorted(folder.glob("[!.]*/")) for part in part_files(network)):
        try:
            with open_features(file) as (part, attributes):
                found = {name: part[name].shape[1] for name in part if name != "clip"}
                classes = attributes.get(CLASSES)
        except DamagedPartError:
            continue  # it is set aside when its rows are wanted
        if found != wanted:
            raise InputError(
                f"{features.file}: has {_widths(wanted)}, but source {recipe.source!r} holds {_widths(found)}; use "
                "another --source name"
            )
        if classes and features.classes and tuple(classes) != features.classes:
            raise InputError(
                f"{features.file}: its logits are of {', '.join(features.classes)}, but those of source "
                f"{recipe.source!r} are of {', '.join(classes)}; use another --source name"
            )
        return


def _widths(widths: dict[str, int]) -> str:
    return ", ".join(f"{name} [N, {width}]" for name, width in sorted(widths.items()))


def check_equal(owner: Owner, data: DataSet, features: Features, places: NDArray[np.int64]) -> None:
    """Refuse rows that the source holds already with other values; `places` [N] is -1 where nothing is to compare."""
    chosen = np.flatnonzero(places >= 0)
    if not len(chosen):
        return
    given = features.rows(places[chosen])
    kept = read_rows(owner, data.digests[chosen], tuple(given)).arrays
    different = np.zeros(len(chosen), dtype=bool)
    for name, values in given.items():
        different |= (np.ascontiguousarray(values).view(np.uint32) != kept[name].view(np.uint32)).any(axis=1)
    if different.any():
        first = data.clips[int(chosen[different][0])].clip.id
        raise InputError(
            f"{features.file}: source {owner.source!r} holds other values of {int(different.sum())} clips (first: "
            f"{shown(first)}); nothing is overwritten: use another --source name, or remove the old one first: "
            f"moodfuse cache prune --cache {shlex.quote(str(owner.folder.parents[3]))} --source {owner.source} --yes"
        )
