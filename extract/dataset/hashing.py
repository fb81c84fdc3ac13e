"""Digests of the files of clips, and whether a file is still the one that was hashed."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from moodfuse.cache.digests import stream_digest
from moodfuse.cache.records import Clip
from moodfuse.extract.media.limits import MAX_FILE_BYTES
from moodfuse.extract.progress import track

State = tuple[int, int, int, int]
"""Of a file: its device, number, bytes, and when it was written last, in nanoseconds."""


def hash_files(clips: Iterable[Clip]) -> dict[str, str]:
    """Digest of each clip's file by clip id; empty where it is no regular file, too large, or cannot be read."""
    paths = sorted({clip.path for clip in clips})
    found = {path: _hash(Path(path)) for path in track(paths, total=len(paths), what="Reading files")}
    return {clip.id: found[clip.path] for clip in clips}


def states_of(clips: Iterable[Clip]) -> dict[str, State | None]:
    """State of each clip's file by its path."""
    return {path: state_of(path) for path in {clip.path for clip in clips}}


def state_of(path: Path | str) -> State | None:
    """State of a file, which is another one once it was written to or replaced; `None` where there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _hash(path: Path) -> str:
    """Digest of as many bytes as a regular file has; opening waits for nobody, should it have become a pipe."""
    try:
        if not _is_read(os.stat(path)):
            return ""
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        ) as file:
            facts = os.fstat(file.fileno())
            return stream_digest(file, at_most=facts.st_size) if _is_read(facts) else ""
    except (OSError, ValueError):
        return ""


def _is_read(facts: os.stat_result) -> bool:
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_FILE_BYTES
