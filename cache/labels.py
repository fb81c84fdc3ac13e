"""Labels without media: a CSV of ``id,label[,group][,fold][,split]`` that declares the clips of a cache."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cache.csv_rows import check_columns, check_text, csv_rows
from cache.errors import InputError
from cache.identity import digest
from cache.recipe import IMPORT
from cache.records import Clip, ClipStatus, check_label

COLUMNS = ("id", "label", "group", "fold", "split")
"""Columns that are read; others are passed over, so that an exported file declares its clips as well."""
_REQUIRED = COLUMNS[:2]
_MOST_FOLDS = int(np.iinfo(np.int16).max)
_FOLD = re.compile(r"([0-9]{1,5})(?:\.0*)?")  # "2.0" is what is left of a 2 in a column that had empty cells once


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
        If a column, an id or a label is missing, an id stands there twice, or a cell cannot be used; it names the line.
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
