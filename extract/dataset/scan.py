"""Data sets: a folder per label, or a CSV, read into clips. Nothing is decoded here.

A folder is ``DATA/<label>/<file>``; a CSV has the columns ``path,label`` and may have ``group``, ``fold``,
``start_s``, ``end_s`` and ``split``, with paths relative to the CSV.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moodfuse.cache.console import first_few
from moodfuse.cache.csv_rows import check_columns, check_text, csv_rows
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import WINDOW_S, Clip, check_label
from moodfuse.extract.dataset.media_files import AUDIO_SUFFIXES, MEDIA_SUFFIXES, find_media, ignored_lines

_REQUIRED = ("path", "label")
_OPTIONAL = ("group", "fold", "start_s", "end_s", "split")
_SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|dev|eval|evaluation|holdout)([-_ ]?(set|split|data))?"
    r"|(fold|split)[-_ ]?[0-9]+",
    re.IGNORECASE,
)
"""Names of folders that hold a part of a data set, not a label."""


@dataclass(frozen=True)
class ScannedData:
    """The clips of a data set.

    Attributes
    ----------
    clips : list of Clip
        Sorted by id.
    messages : tuple of str
        One line for each reason for which files were left out, and warnings.
    """

    clips: list[Clip]
    messages: tuple[str, ...] = ()


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
    return scan_data(data, group_pattern=group_pattern).clips


def scan_data(data: str | Path, *, group_pattern: str | None = None, audio_files: bool = True) -> ScannedData:
    """The clips of a data set as `scan` gives them, with what was left out and why.

    Without `audio_files` the audio files of a folder are left out, such as the soundtracks next to the videos; a CSV
    names its files, so all of them are clips.
    """
    data = Path(data)
    if not data.exists():
        raise InputError(
            f"{data} does not exist; expected a folder DATA/<label>/*.mp4 or a CSV with path,label"
        )
    if data.is_file() and data.suffix.lower() in MEDIA_SUFFIXES:
        raise InputError(
            f"{data} is a media file; expected a folder DATA/<label>/*.mp4 or a CSV with path,label"
        )
    found = _scan_folder(data, audio_files) if data.is_dir() else ScannedData(list(_scan_csv(data)))
    if not found.clips:
        expected = f"{data} holds no clip; expected media files in a folder per label, DATA/<label>/*.mp4"
        raise InputError("\n".join([expected, *found.messages]))
    clips = sorted(found.clips, key=lambda clip: clip.id)
    clips = clips if group_pattern is None else _group_by_name(clips, group_pattern)
    return ScannedData(
        clips, (*found.messages, *long_window_lines((clip.start_s, clip.end_s) for clip in clips))
    )


def long_window_lines(windows: Iterable[tuple[float, float | None]]) -> list[str]:
    """A warning where windows, given by start and end in seconds, are longer than the audio that is read of each."""
    lengths = [0.0 if end_s is None else end_s - start_s for start_s, end_s in windows]
    long = [length for length in lengths if length > WINDOW_S + 1e-3]
    if not long:
        return []
    return [
        f"WARNING {len(long)} of {len(lengths)} windows are longer than {WINDOW_S:g} s (up to {max(long):g} s): their "
        f"frames come from the whole window, their audio only from its first {WINDOW_S:g} s; split them into windows "
        f"of {WINDOW_S:g} s or less to use all of the audio"
    ]


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


def _scan_folder(data: Path, audio_files: bool) -> ScannedData:
    """Clips of a folder per label."""
    files = find_media(data)
    audio = [] if audio_files else [file for file in files.media if file.suffix.lower() in AUDIO_SUFFIXES]
    clips, beside, split_of_label = [], list[Path](), defaultdict[str, list[str]](list)
    for file in sorted({*files.media} - {*audio}):
        parts = file.relative_to(data).parts
        if len(parts) == 1:
            beside.append(file)
            continue
        clips.append(Clip(id="/".join(parts), path=str(file.absolute()), label=parts[0]))
        if len(parts) > 2 and _SPLIT.fullmatch(parts[1]):
            split_of_label[f"{parts[0]}/{parts[1]}"].append(clips[-1].id)
    _refuse_split_folders(data, clips)
    messages = ignored_lines(data, files.ignored)
    if audio:
        names = first_few(sorted(file.relative_to(data).as_posix() for file in audio))
        messages.append(
            f"ignored in {data}: {len(audio)} audio files: {names}; add --missing impute to use them as clips"
        )
    if beside:
        messages.append(
            f"WARNING ignored in {data}: {len(beside)} media files outside a label folder: "
            f"{first_few(sorted(file.name for file in beside))}; move each into a folder named after its label"
        )
    if splits := sorted({clip.label for clip in clips if _SPLIT.fullmatch(clip.label)}):
        messages.append(
            f"WARNING label folders are named like splits: {first_few(splits)}; expected a folder per label, or a CSV "
            "with the columns path,label,split"
        )
    if split_of_label:
        count = sum(map(len, split_of_label.values()))
        messages.append(
            f"WARNING {count} clips are in folders named like splits ({first_few(sorted(split_of_label))}), but these "
            "names decide nothing; to keep test clips out of training, give a CSV with the columns path,label,split"
        )
    return ScannedData(clips, tuple(messages))


def _refuse_split_folders(data: Path, clips: Sequence[Clip]) -> None:
    """Refuse ``DATA/train/<label>/...``, where the names of the splits would be taken for labels."""
    labels = {clip.label for clip in clips}
    splits = sorted({clip.label for clip in clips if _SPLIT.fullmatch(clip.label) and clip.id.count("/") > 1})
    below = sorted(
        {clip.id.split("/")[1] for clip in clips if clip.label in splits and clip.id.count("/") > 1}
    )
    if splits and (len(splits) > 1 or len(splits) == len(labels) or labels.intersection(below)):
        first = next((split for split in splits if split.lower().startswith("train")), splits[0])
        raise InputError(
            f"{data}: its folders {first_few(splits)} are named like splits, not labels (below them: "
            f"{first_few(below)}); give one of them, such as {data / first}, or a CSV with the columns "
            "path,label,split, where split is 'train' or 'test'"
        )


def _scan_csv(file: Path) -> Iterator[Clip]:
    rows = csv_rows(file)
    _, names = next(rows)
    check_columns(file, names, _REQUIRED)
    columns = {name: names.index(name) for name in (*_REQUIRED, *_OPTIONAL) if name in names}
    seen: dict[str, int] = {}
    for line, cells in rows:
        clip = _clip_of_row(file, line, {name: cells[column] for name, column in columns.items()})
        if clip.id in seen:
            raise InputError(
                f"{file}, line {line}: {clip.id} stands in line {seen[clip.id]} already; drop one of them"
            )
        seen[clip.id] = line
        yield clip


def _clip_of_row(file: Path, line: int, row: Mapping[str, str]) -> Clip:
    where = f"{file}, line {line}"
    values = {name: row.get(name, "").strip() for name in (*_REQUIRED, *_OPTIONAL)}
    path = listed_path(file, row["path"], where)
    if not os.path.lexists(file.parent / path):
        check_text(path, f"{where}, path")  # else the file has these very bytes as its name
    for name in ("label", "split"):
        check_text(values[name], f"{where}, {name}")
    check_label(values["label"], where)
    start_s = number_in_row(where, "start_s", values["start_s"]) or 0.0
    end_s = number_in_row(where, "end_s", values["end_s"])
    fold = number_in_row(where, "fold", values["fold"])
    if fold is not None and (fold != int(fold) or fold < 0):
        raise InputError(f"{where}: fold is {values['fold']!r}; expected a whole number from 0")
    window = "" if end_s is None and not start_s else f"@{start_s:g}-{'' if end_s is None else f'{end_s:g}'}"
    return Clip(
        id=path + window,
        path=str(file.absolute().parent / path),
        label=values["label"],
        group=values["group"] or None,
        start_s=start_s,
        end_s=end_s,
        fold=None if fold is None else int(fold),
        split=values["split"].lower() or "train",
    )


def listed_path(file: Path, text: str, where: str) -> str:
    """A path that a table or list names, relative to its folder: as it stands if there is such a file, else stripped.

    Raises
    ------
    InputError
        If it is blank.
    """
    if not text.strip():
        raise InputError(f"{where}: the path is empty")
    return text if os.path.lexists(file.parent / text) else text.strip()


def number_in_row(where: str, name: str, text: str) -> float | None:
    """The number in a cell, `None` where it is blank.

    Raises
    ------
    InputError
        If it is not a finite number; it names the line.
    """
    text = text.strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {name} is {text!r}; expected a number such as 2.5") from error
    if not math.isfinite(value):
        raise InputError(f"{where}: {name} is {text!r}; expected a finite number")
    return value
