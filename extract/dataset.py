"""Data sets: a folder per label, or a CSV, read into clips. Nothing is decoded here.

A folder is ``DATA/<label>/<file>``; a CSV has the columns ``path,label`` and may have ``group``, ``fold``,
``start_s``, ``end_s`` and ``split``, with paths relative to the CSV.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cache.errors import InputError
from cache.files import open_regular
from cache.records import Clip, check_label

MEDIA_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "mp4",
        "m4v",
        "mov",
        "mkv",
        "webm",
        "avi",
        "mpg",
        "mpeg",
        "ts",
        "m2ts",
        "mts",
        "flv",
        "wmv",
        "3gp",
        "ogv",
    )
)
_REQUIRED = ("path", "label")
_OPTIONAL = ("group", "fold", "start_s", "end_s", "split")


def scan(data: str | Path, *, group_pattern: str | None = None) -> list[Clip]:
    """Clips of a data set, sorted by id.

    Parameters
    ----------
    data : path-like
        ``DATA/<label>/*.mp4``, or a CSV file.
    group_pattern : str, optional
        Regular expression that is searched in each clip's id. What its group ``group`` matches, else its only group,
        else the whole, names the clip's group; a declared group stands, and a clip without a match is its own.

    Returns
    -------
    list of Clip

    Raises
    ------
    InputError
        If `data` does not exist, holds no clip, or its CSV cannot be used; if `group_pattern` is no regular expression,
        has several unnamed groups, or matches no clip.
    """
    data = Path(data)
    if not data.exists():
        raise InputError(f"{data} does not exist; expected a folder DATA/<label>/*.mp4 or a CSV with path,label")
    clips = sorted(_scan_folder(data) if data.is_dir() else _scan_csv(data), key=lambda clip: clip.id)
    if not clips:
        raise InputError(f"{data} holds no clip; expected media files in a folder per label, DATA/<label>/*.mp4")
    return clips if group_pattern is None else _group_by_name(clips, group_pattern)


def _group_by_name(clips: Sequence[Clip], text: str) -> list[Clip]:
    where = f"--group-pattern {text!r}"
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"{where}: not a regular expression ({error})") from error
    if pattern.groups > 1 and "group" not in pattern.groupindex:
        raise InputError(f"{where}: has {pattern.groups} groups; name the one that counts: (?P<group>...)")
    part: str | int = "group" if "group" in pattern.groupindex else min(pattern.groups, 1)
    found = [pattern.search(clip.id) for clip in clips]
    if not any(found):
        raise InputError(f"{where}: matches no clip; a clip is called {clips[0].id!r}")
    return [
        replace(clip, group=match[part]) if match and match[part] and clip.group is None else clip
        for clip, match in zip(clips, found, strict=True)
    ]


def ignored_files(data: str | Path) -> list[Path]:
    """Files below a data folder that `scan` passes over: hidden, beside the label folders, or of no media suffix."""
    data = Path(data)
    if not data.is_dir():
        return []
    taken = {Path(clip.path) for clip in _scan_folder(data)}
    return sorted(file for file in data.rglob("*") if not file.is_dir() and file.absolute() not in taken)


def _scan_folder(data: Path) -> Iterator[Clip]:
    for folder in sorted(data.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in MEDIA_SUFFIXES and not file.is_dir() and not file.name.startswith("."):
                yield Clip(id=file.relative_to(data).as_posix(), path=str(file.absolute()), label=folder.name)


def _scan_csv(file: Path) -> Iterator[Clip]:
    try:
        with open_regular(file, "r", newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            if missing := [name for name in _REQUIRED if name not in columns]:
                raise InputError(
                    f"{file}: column(s) {', '.join(missing)} missing, found {', '.join(columns) or 'none'}; expected a "
                    "first line such as path,label or path,label,group"
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{file}: not a readable CSV in UTF-8 ({error}); expected the columns path,label") from error
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        clip = _clip_of_row(file, line, row)
        if clip.id in seen:
            raise InputError(f"{file}, line {line}: {clip.id} stands in line {seen[clip.id]} already; drop one of them")
        seen[clip.id] = line
        yield clip


def _clip_of_row(file: Path, line: int, row: Mapping[str, str | None]) -> Clip:
    where = f"{file}, line {line}"
    values = {name: (row.get(name) or "").strip() for name in (*_REQUIRED, *_OPTIONAL)}
    if not values["path"]:
        raise InputError(f"{where}: the path is empty")
    check_label(values["label"], where)
    start_s = _number(where, "start_s", values["start_s"]) or 0.0
    end_s = _number(where, "end_s", values["end_s"])
    fold = _number(where, "fold", values["fold"])
    if fold is not None and (fold != int(fold) or fold < 0):
        raise InputError(f"{where}: fold is {values['fold']!r}; expected a whole number from 0")
    window = "" if end_s is None and not start_s else f"@{start_s:g}-{'' if end_s is None else f'{end_s:g}'}"
    return Clip(
        id=values["path"] + window,
        path=str(file.absolute().parent / values["path"]),
        label=values["label"],
        group=values["group"] or None,
        start_s=start_s,
        end_s=end_s,
        fold=None if fold is None else int(fold),
        split=values["split"].lower() or "train",
    )


def _number(where: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {name} is {text!r}; expected a number") from error
    if value != value or value in (float("inf"), float("-inf")):
        raise InputError(f"{where}: {name} is {text!r}; expected a finite number")
    return value
