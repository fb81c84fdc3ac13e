"""Labels and groups as a data set declares them: a CSV of ``id,label[,group][,fold][,split]``, and what to doubt."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from moodfuse.cache.console import comparison_key
from moodfuse.cache.csv_rows import check_columns, check_text, csv_rows
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import IMPORT
from moodfuse.cache.records import Clip, ClipStatus, check_label

COLUMNS = ("id", "label", "group", "fold", "split")
"""Columns that are read; others are passed over, so that an exported file declares its clips as well."""
_REQUIRED = COLUMNS[:2]
_MOST_FOLDS = int(np.iinfo(np.int16).max)
_FOLD = re.compile(
    r"([0-9]{1,5})(?:\.0*)?"
)  # "2.0" is what is left of a 2 in a column that had empty cells once
_MISSING = frozenset(
    ("nan", "-nan", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "#na", "nat", "-", "?", "unknown")
)
"""What programs write for a missing value, in lower case."""
_EXAMPLES = 3


def read_labels(file: Path) -> list[ClipStatus]:
    """The clips that a CSV declares, in its order; their decoder is ``"import"``.

    Parameters
    ----------
    file : Path
        Ids are taken as they stand, spaces and line feeds too; of the other columns spaces around a cell are dropped.
        A clip without a group is its own; ``split`` is ``train`` where the column is absent or empty.

    Raises
    ------
    InputError
        If a column, an id or a label is missing, an id occurs twice, or a cell cannot be used; it names the line.
    """
    rows = csv_rows(file)
    _, names = next(rows)
    check_columns(file, names, _REQUIRED)
    places = {name: names.index(name) for name in COLUMNS if name in names}
    lines: dict[str, int] = {}
    found = []
    for line, cells in rows:
        where = f"{file}, line {line}"
        status = _status({name: cells[place] for name, place in places.items()}, where)
        if status.clip.id in lines:
            raise InputError(
                f"{where}: {status.clip.id!r} stands in line {lines[status.clip.id]} already; drop one of them"
            )
        lines[status.clip.id] = line
        found.append(status)
    if not found:
        raise InputError(f"{file}: holds no clip; expected a row of {','.join(_REQUIRED)} for each")
    return found


def _status(cells: Mapping[str, str], where: str) -> ClipStatus:
    values = {name: cells[name] if name == "id" else cells[name].strip() for name in cells}
    if not values["id"]:
        raise InputError(f"{where}: the id is empty")
    check_label(values["label"], where)
    for name in ("label", "fold", "split"):
        check_text(values.get(name, ""), where)
    group, split = values.get("group") or None, values.get("split", "").lower() or "train"
    if split not in ("train", "test"):
        raise InputError(f"{where}: split is {split!r}; expected 'train' or 'test'")
    fold = _fold(values.get("fold", ""), where)
    clip = Clip(id=values["id"], path="", label=values["label"], group=group, fold=fold, split=split)
    name = clip.id if group is None else group
    return ClipStatus(clip, digest({"id": clip.id}), "", name, ok=True, decoder=IMPORT)


def _fold(text: str, where: str) -> int | None:
    if not text:
        return None
    if not (match := _FOLD.fullmatch(text)) or int(match[1]) >= _MOST_FOLDS:
        raise InputError(f"{where}: fold is {text!r}; expected a whole number from 0 to {_MOST_FOLDS - 1}")
    return int(match[1])


def label_warnings(clips: Iterable[Clip]) -> list[str]:
    """One line for each kind of label or group that is probably a mistake, with counts and the remedy.

    Parameters
    ----------
    clips : iterable of Clip
        Every clip that the data set declares.
    """
    clips = list(clips)
    labels = Counter(clip.label for clip in clips)
    groups = Counter(clip.group for clip in clips if clip.group is not None)
    lines = []
    if alike := _alike(labels):
        lines.append(
            f"{sum(map(len, alike))} labels differ only in case, Unicode form, spaces or invisible characters, and "
            f"count as different classes: {_examples(alike, labels)}; if they mean the same, use one spelling"
        )
    if missing := _missing(labels):
        lines.append(
            f"labels that look like a missing value: {_counts(missing, labels)}, which are used as a class; fill "
            "in the labels, or drop these clips"
        )
    if alike := _alike(groups):
        lines.append(
            f"{sum(map(len, alike))} groups differ only in case, Unicode form, spaces or invisible characters, and "
            f"count as different groups: {_examples(alike, groups)}; if they mean the same, use one spelling"
        )
    if missing := _missing(groups):
        lines.append(
            f"groups that look like a missing value: {_counts(missing, groups)}, all kept in one fold; leave the cell "
            "empty where a clip has no group"
        )
    return lines


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that look alike, together."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_key[comparison_key(name)].append(name)
    return [sorted(alike) for _, alike in sorted(by_key.items()) if len(alike) > 1]


def _missing(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if comparison_key(name) in _MISSING)


def _examples(alike: list[list[str]], clips: Mapping[str, int]) -> str:
    few = [_counts(names, clips, joined=" and ") for names in alike[:_EXAMPLES]]
    return "; ".join(few) + ("; ..." if len(alike) > _EXAMPLES else "")


def _counts(names: list[str], clips: Mapping[str, int], *, joined: str = ", ") -> str:
    """Names with their counts of clips; in ASCII where only the Unicode form tells them apart."""
    show = repr if len({unicodedata.normalize("NFC", repr(name)) for name in names}) == len(names) else ascii
    return joined.join(
        f"{show(name)} ({clips[name]} clip{'' if clips[name] == 1 else 's'})" for name in names
    )
