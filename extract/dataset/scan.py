"""Find media files, and read a dataset into clips: a folder per label, or a CSV. Nothing is decoded here.

A folder is ``DATA/<label>/<file>``; a CSV has the columns ``path,label`` and optionally ``group``, ``fold``,
``start_s``, ``end_s`` and ``split``, with paths relative to the CSV.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moodfuse.cache.console import first_few
from moodfuse.cache.csv_rows import (
    check_text,
    describe_unused_columns,
    read_fold,
    read_listed_path,
    read_number,
    read_records,
)
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import WINDOW_S, Clip, check_label

_VIDEO = """
3g2 3gp 3gpp asf avi divx dv evo f4v flv gxf h264 hevc ivf m1v m2p m2t m2ts m2v m4v mj2 mk3d mkv mov mp4 mpe
mpeg mpg mpv mts mxf nut ogm ogv qt rm rmvb ts vob webm wmv
"""
_AUDIO = """
aac ac3 adts aif aifc aiff amr ape au awb caf eac3 ec3 flac m4a m4b m4r mka mp2 mp3 mpa mpc oga ogg opus ra
snd spx w64 wav wave weba wma wv
"""
AUDIO_SUFFIXES = frozenset(f".{name}" for name in _AUDIO.split())
# Listed in docs/media.md too.
MEDIA_SUFFIXES = AUDIO_SUFFIXES | frozenset(f".{name}" for name in _VIDEO.split())
# Trash and thumbnails of operating systems and network drives; names in lower case.
_SYSTEM_FOLDERS = frozenset(
    {"$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx"}
    | {"@eadir", "#recycle", "@recycle", "#snapshot"}
)
HIDDEN = "hidden or system files and folders"
OTHER = "files without a media suffix"
BROKEN = "broken links"
REPEATED = "links to folders that are read under another path"

_REQUIRED = ("path", "label")
_OPTIONAL = ("group", "fold", "start_s", "end_s", "split")
_EXPECTED = "expected a folder DATA/<label>/*.mp4 or a CSV with path,label"
# Names of folders that hold a part of a dataset, not a label.
_SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|dev|eval|evaluation|holdout)([-_ ]?(set|split|data))?"
    r"|(fold|split)[-_ ]?[0-9]+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ScannedData:
    """The clips of a dataset, sorted by id, and `messages`: what was ignored, and warnings."""

    clips: list[Clip]
    messages: tuple[str, ...] = ()


def scan(data: str | Path, *, group_pattern: str | None = None) -> list[Clip]:
    """Clips of a dataset, sorted by id.

    Parameters
    ----------
    data : path-like
        ``DATA/<label>/*.mp4``, or a CSV file.
    group_pattern : str, optional
        Regular expression that is searched in each clip's id. The match of its group ``group``, or else of
        its first group that takes part, or of the whole pattern if it has no groups, is the clip's group.
        Groups of a CSV stay; a clip without a match has a group of its own.

    Raises
    ------
    InputError
        If `data` holds no clip or its CSV is invalid; if `group_pattern` is invalid or matches no clip.
    """
    return scan_data(data, group_pattern=group_pattern).clips


def scan_data(data: str | Path, *, group_pattern: str | None = None, audio_files: bool = True) -> ScannedData:
    """The clips of a dataset as from `scan`, with messages about what was ignored.

    Without `audio_files` the audio files of a folder are ignored, such as soundtracks next to the videos; a
    CSV names its files, so all of them are clips.
    """
    data = Path(data)
    if not data.exists() or (data.is_file() and data.suffix.lower() in MEDIA_SUFFIXES):
        problem = "is a media file" if data.exists() else "does not exist"
        raise InputError(f"{data} {problem}; {_EXPECTED}")
    clips, messages = _scan_folder(data, audio_files) if data.is_dir() else _scan_csv(data)
    if not clips:
        expected = f"{data} holds no clip; expected media files in a folder per label, DATA/<label>/*.mp4"
        raise InputError("\n".join([expected, *messages]))
    clips.sort(key=lambda clip: clip.id)
    if group_pattern is not None:
        clips = _group_by_name(clips, group_pattern)
    messages += describe_long_windows((clip.start_s, clip.end_s) for clip in clips)
    return ScannedData(clips, tuple(messages))


def describe_long_windows(windows: Iterable[tuple[float, float | None]]) -> list[str]:
    """A warning if windows (start and end in seconds) are longer than the audio that is read of each."""
    lengths = [0.0 if end_s is None else end_s - start_s for start_s, end_s in windows]
    long = [length for length in lengths if length > WINDOW_S + 1e-3]
    if not long:
        return []
    return [
        f"WARNING {len(long)} of {len(lengths)} windows are longer than {WINDOW_S:g} s (up to {max(long):g} "
        f"s): their frames come from the whole window, their audio only from its first {WINDOW_S:g} s; split "
        f"them into windows of {WINDOW_S:g} s or less to use all of the audio"
    ]


def _group_by_name(clips: Sequence[Clip], text: str) -> list[Clip]:
    where = f"--group-pattern {text!r}"
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"{where}: not a regular expression ({error})") from error
    matches = [pattern.search(clip.id) for clip in clips]
    if not any(matches):
        raise InputError(f"{where}: matches no clip; the first clip id is {clips[0].id!r}")
    groups = [match and _group_of(match) for match in matches]
    return [
        replace(clip, group=group) if group and clip.group is None else clip
        for clip, group in zip(clips, groups, strict=True)
    ]


def _group_of(match: re.Match[str]) -> str | None:
    """What a match of the user's pattern names as the group."""
    if not match.re.groups:
        return match[0]
    return match.groupdict().get("group") or next(filter(None, match.groups()), None)


def _scan_folder(data: Path, audio_files: bool) -> tuple[list[Clip], list[str]]:
    files = find_media(data)
    clips, audio, outside = list[Clip](), list[str](), list[str]()
    for file in files.media:
        name = file.relative_to(data).as_posix()
        if not audio_files and file.suffix.lower() in AUDIO_SUFFIXES:
            audio.append(name)
        elif "/" not in name:
            outside.append(name)
        else:
            clips.append(Clip(id=name, path=str(file.absolute()), label=name.partition("/")[0]))
    messages = describe_ignored(data, files.ignored)
    if audio:
        messages.append(
            f"ignored in {data}: {len(audio)} audio files: {first_few(sorted(audio))}; add --missing impute "
            "to use them as clips"
        )
    if outside:
        messages.append(
            f"WARNING ignored in {data}: {len(outside)} media files outside a label folder: "
            f"{first_few(sorted(outside))}; move each into a folder named after its label"
        )
    _check_splits(data, clips)
    return clips, messages


def _check_splits(data: Path, clips: Sequence[Clip]) -> None:
    """Raise `InputError` if the top-level folders look like splits instead of labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        split, *folders, _ = clip.id.split("/")
        if folders and _SPLIT.fullmatch(split):
            labels[split].add(folders[0])
    if labels:
        first = next((split for split in sorted(labels) if split.lower().startswith("train")), min(labels))
        raise InputError(
            f"{data}: its folders {first_few(sorted(labels))} are named like splits, not labels (inside "
            f"them: {first_few(sorted(set().union(*labels.values())))}); give one of them, such as "
            f"{data / first}, or a CSV with the columns path,label,split, where split is 'train' or 'test'"
        )


def _scan_csv(file: Path) -> tuple[list[Clip], list[str]]:
    clips: dict[str, tuple[int, Clip]] = {}
    for line, cells in read_records(file, _REQUIRED, _OPTIONAL):
        clip = _clip_of_row(file, f"{file}, line {line}", cells)
        if clip.id in clips:
            first = clips[clip.id][0]
            raise InputError(f"{file}, line {line}: {clip.id} is in line {first} already; remove one of them")
        clips[clip.id] = line, clip
    messages = describe_unused_columns(file, _REQUIRED, _OPTIONAL)
    return [clip for _, clip in clips.values()], messages


def _clip_of_row(file: Path, where: str, cells: Mapping[str, str]) -> Clip:
    values = {name: cell.strip() for name, cell in cells.items()}
    path = read_listed_path(file, cells["path"], where)
    check_text(values["label"], f"{where}, label")
    check_label(values["label"], where)
    start_s = read_number(where, "start_s", values["start_s"]) or 0.0
    end_s = read_number(where, "end_s", values["end_s"])
    window = "" if end_s is None and not start_s else f"@{start_s:g}-{'' if end_s is None else f'{end_s:g}'}"
    return Clip(
        id=path + window,
        path=str(file.absolute().parent / path),
        label=values["label"],
        group=values["group"] or None,
        start_s=start_s,
        end_s=end_s,
        fold=read_fold(where, values["fold"]),
        split=values["split"].lower() or "train",
    )


@dataclass(frozen=True)
class FolderFiles:
    """Media files of a folder at any depth, sorted by path, and what is ignored, by reason."""

    media: tuple[Path, ...]
    ignored: Mapping[str, list[Path]]


def find_media(folder: Path) -> FolderFiles:
    """Find the media files of a folder at any depth.

    Links to folders are followed after all real folders. Each folder is read once, so circular links
    are harmless, and a folder keeps the name that it has without links. A folder that cannot be read is an
    `InputError`.
    """
    media: list[Path] = []
    ignored: dict[str, list[Path]] = defaultdict(list)
    folders, links, visited = [folder], list[Path](), set[str]()
    while folders or links:
        if not folders:  # the link nearest to the top comes first, since its name may be a label
            links.sort(key=lambda path: (len(path.parts), path))
            folders.append(links.pop(0))
        current = folders.pop()
        if (real := os.path.realpath(current)) in visited:
            ignored[REPEATED].append(current)
            continue
        visited.add(real)
        try:
            entries = sorted(current.iterdir(), reverse=True)
        except OSError as error:
            raise InputError(
                f"{current}: the folder cannot be read ({error.strerror or error}); correct its permissions"
            ) from error
        for path in entries:
            if path.name.startswith(".") or path.name.lower() in _SYSTEM_FOLDERS:
                ignored[HIDDEN].append(path)
            elif os.path.isdir(path):
                (links if path.is_symlink() else folders).append(path)
            elif path.suffix.lower() in MEDIA_SUFFIXES:
                media.append(path)  # a broken link too: it is refused later, by its name
            else:
                ignored[OTHER if os.path.exists(path) else BROKEN].append(path)
    return FolderFiles(tuple(sorted(media)), ignored)


def describe_ignored(folder: Path, ignored: Mapping[str, Sequence[Path]]) -> list[str]:
    """One line for each reason: how many files of a folder were ignored, and the first of them."""
    lines = []
    for reason, paths in ignored.items():
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
        lines.append(f"ignored in {folder}: {len(names)} {reason}: {first_few(names)}")
    return lines
