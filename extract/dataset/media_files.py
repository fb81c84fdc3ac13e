"""Media files in a folder: which files `check`, `extract` and `predict` take, and what they leave out and why."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.console import first_few
from moodfuse.cache.errors import InputError

_VIDEO = """
3g2 3gp 3gpp asf avi divx dv evo f4v flv gxf h264 hevc ivf m1v m2p m2t m2ts m2v m4v mj2 mk3d mkv mov mp4 mpe mpeg mpg
mpv mts mxf nut ogm ogv qt rm rmvb ts vob webm wmv
"""
_AUDIO = """
aac ac3 adts aif aifc aiff amr ape au awb caf eac3 ec3 flac m4a m4b m4r mka mp2 mp3 mpa mpc oga ogg opus ra snd spx w64
wav wave weba wma wv
"""
AUDIO_SUFFIXES = frozenset(f".{name}" for name in _AUDIO.split())
MEDIA_SUFFIXES = AUDIO_SUFFIXES | frozenset(f".{name}" for name in _VIDEO.split())
"""The suffixes of the files of a folder that are taken, in lower case; docs/media.md lists them too."""
SYSTEM_FOLDERS = frozenset(
    {"$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx"}
    | {"@eadir", "#recycle", "@recycle", "#snapshot"}
)
"""Folders of operating systems and network drives, for trash and thumbnails; names in lower case."""

HIDDEN = "hidden or system files and folders"
OTHER = "files without a media suffix"
BROKEN = "broken links"
REPEATED = "links to folders that are read under another path"


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder.

    Attributes
    ----------
    media : tuple of Path
        Media files at any depth: of each folder the files by name, then its subfolders by name; those behind links to
        folders come last.
    ignored : mapping of str to list of Path
        What is left out, by reason.
    """

    media: tuple[Path, ...]
    ignored: Mapping[str, list[Path]]


def find_media(folder: Path) -> FolderFiles:
    """Find the media files of a folder at any depth.

    Links to folders are followed, after all real folders were read. Each folder is read once, so a link to a folder
    above it ends, and a folder keeps the name that it has without links.

    Raises
    ------
    InputError
        If a folder cannot be read.
    """
    media: list[Path] = []
    ignored: dict[str, list[Path]] = defaultdict(list)
    waiting, links, visited = [folder], list[Path](), set[str]()
    while waiting or links:
        if not waiting:  # the link nearest to the top comes first: its name may be a label
            links.sort(key=lambda path: (len(path.parts), path))
            waiting.append(links.pop(0))
        current = waiting.pop()
        if (real := os.path.realpath(current)) in visited:
            ignored[REPEATED].append(current)
            continue
        visited.add(real)
        subfolders: list[Path] = []
        for path in _entries(current):
            if _is_hidden(path.name):
                ignored[HIDDEN].append(path)
            elif os.path.isdir(path):
                (links if path.is_symlink() else subfolders).append(path)
            elif path.suffix.lower() in MEDIA_SUFFIXES:
                media.append(path)  # a broken link too: it is refused later, by its name
            else:
                ignored[OTHER if os.path.exists(path) else BROKEN].append(path)
        waiting += reversed(subfolders)
    return FolderFiles(tuple(media), ignored)


def _is_hidden(name: str) -> bool:
    """Whether a name is one of a hidden file, or of a folder that a system keeps for itself."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, by name; one that cannot be listed is an error, for its files would be missing silently."""
    try:
        return sorted(folder / entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise InputError(
            f"{folder}: the folder cannot be read ({error.strerror or error}); correct its permissions, or name the "
            "others instead of the one above it"
        ) from error


def ignored_lines(folder: Path, ignored: Mapping[str, Sequence[Path]]) -> list[str]:
    """One line for each reason: how many were left out of a folder, and the first of them."""
    lines = []
    for reason, paths in ignored.items():
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
        lines.append(f"ignored in {folder}: {len(names)} {reason}: {first_few(names)}")
    return lines
