"""Labels and groups as a dataset declares them: a CSV of ``id,label[,group][,fold][,split]``, and warnings on them."""

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

_REQUIRED = ("id", "label")
_COLUMNS = (*_REQUIRED, "group", "fold", "split")
_MAX_FOLDS = int(np.iinfo(np.int16).max)
_FOLD = re.compile(r"([0-9]{1,5})(?:\.0*)?")  # programs write 2 as "2.0" where a column has empty cells
_MISSING = frozenset(
    ["nan", "-nan", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "#na", "nat", "-", "?", "unknown"]
)
"""What programs write for a missing value, in lower case."""
_EXAMPLES = 3


def read_labels(file: Path) -> list[ClipStatus]:
    """The clips that a CSV declares, in its order; their decoder is ``"import"``.

    Parameters
    ----------
    file : Path
        Other columns are ignored, so an exported file declares its clips too. Ids are taken as they are, with spaces
        and line feeds; other cells are stripped. A clip without a group is its own group; ``split`` is ``train``
        where the column is absent or empty.

    Raises
    ------
    InputError
        If a column, an id or a label is missing, an id occurs twice, or a cell cannot be used; names the line.
    """
    rows = csv_rows(file)
    _, names = next(rows)
    check_columns(file, names, _REQUIRED)
    columns = {name: names.index(name) for name in _COLUMNS if name in names}
    lines: dict[str, int] = {}
    statuses = []
    for line, cells in rows:
        where = f"{file}, line {line}"
        status = _status({name: cells[column] for name, column in columns.items()}, where)
        if status.clip.id in lines:
            raise InputError(
                f"{where}: {status.clip.id!r} is already in line {lines[status.clip.id]}; remove one of the rows"
            )
        lines[status.clip.id] = line
        statuses.append(status)
    if not statuses:
        raise InputError(f"{file}: has no clips; expected a row of {','.join(_REQUIRED)} for each")
    return statuses


def _status(cells: Mapping[str, str], where: str) -> ClipStatus:
    clip_id = cells["id"]
    if not clip_id:
        raise InputError(f"{where}: the id is empty")
    label, group, fold, split = (cells.get(name, "").strip() for name in _COLUMNS[1:])
    check_label(label, where)
    for text in (label, fold, split):
        check_text(text, where)
    split = split.lower() or "train"
    if split not in ("train", "test"):
        raise InputError(f"{where}: split is {split!r}; expected 'train' or 'test'")
    clip = Clip(id=clip_id, path="", label=label, group=group or None, fold=_fold(fold, where), split=split)
    return ClipStatus(clip, digest({"id": clip_id}), "", group or clip_id, ok=True, decoder=IMPORT)


def _fold(text: str, where: str) -> int | None:
    if not text:
        return None
    if not (match := _FOLD.fullmatch(text)) or int(match[1]) >= _MAX_FOLDS:
        raise InputError(f"{where}: fold is {text!r}; expected a whole number from 0 to {_MAX_FOLDS - 1}")
    return int(match[1])


def label_warnings(clips: Iterable[Clip]) -> list[str]:
    """One line for each kind of label or group that is probably a mistake, with counts and what to do.

    Parameters
    ----------
    clips : iterable of Clip
        Every clip that the dataset declares.
    """
    clips = list(clips)
    labels = Counter(clip.label for clip in clips)
    groups = Counter(clip.group for clip in clips if clip.group is not None)
    return [
        *_similar_names("labels", "classes", labels),
        *_missing_values("labels", labels, "used as a class; fill in the labels, or remove these clips"),
        *_similar_names("groups", "groups", groups),
        *_missing_values(
            "groups", groups, "all kept in one fold; leave the cell empty where a clip has no group"
        ),
    ]


def _similar_names(what: str, counted_as: str, clips: Mapping[str, int]) -> list[str]:
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in clips:
        by_key[comparison_key(name)].append(name)
    similar = [sorted(names) for _, names in sorted(by_key.items()) if len(names) > 1]
    if not similar:
        return []
    examples = "; ".join(_counts(names, clips, " and ") for names in similar[:_EXAMPLES])
    more = "; ..." if len(similar) > _EXAMPLES else ""
    return [
        f"{sum(map(len, similar))} {what} differ only in case, Unicode form, spaces or invisible characters, and "
        f"count as different {counted_as}: {examples}{more}; if they mean the same, use one spelling"
    ]


def _missing_values(what: str, clips: Mapping[str, int], consequence: str) -> list[str]:
    names = sorted(name for name in clips if comparison_key(name) in _MISSING)
    if not names:
        return []
    return [f"{what} that look like a missing value: {_counts(names, clips, ', ')}, {consequence}"]


def _counts(names: list[str], clips: Mapping[str, int], separator: str) -> str:
    """Names with their counts of clips; in ASCII where only the Unicode form tells them apart."""
    show = repr if len({unicodedata.normalize("NFC", repr(name)) for name in names}) == len(names) else ascii
    return separator.join(
        f"{show(name)} ({clips[name]} clip{'' if clips[name] == 1 else 's'})" for name in names
    )
