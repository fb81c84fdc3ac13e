"""The kind of each file in a cache folder, given by its path, and a walk over all of them.

Readers find a file by its path alone, so a file at such a path counts as that kind, valid or not; a file
anywhere else is unknown, and left alone. `cache/FORMAT.md` has the same table in words.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.storage.files import BAD_SUFFIX, TEMPORARY_PREFIX

_NAME = r"[^/.][^/]*"
_PREFIX = r"[^/.][^/]"
"""The first two digits of a clip's digest."""
REPEAT = r"repeat-[1-9][0-9]*"
"""Folder of the plans of a further repeat."""
KINDS = {
    "marker": r"moodfuse-cache\.json",
    "view": r"clips\.csv",
    "plan": rf"plans/(?:{REPEAT}/)?plan-[^/]*\.h5",
    "table": r"tables/clips-[^/]*\.h5",
    "outcome": rf"clips/{_PREFIX}/{_NAME}\.json",
    "choice": rf"sources/{_NAME}\.json",
    "audit": rf"audits/{_NAME}\.json",
    "marks": rf"audits/{_NAME}/{_PREFIX}/{_NAME}\.h5",
    "media": rf"media/{_NAME}/{_PREFIX}/{_NAME}\.h5",
    "recipe": rf"features/{_NAME}/{_NAME}/recipe\.json",
    "training": rf"features/{_NAME}/{_NAME}/{_NAME}/trained\.json",
    "features": rf"features/{_NAME}/{_NAME}/{_NAME}/{_NAME}\.h5",
    "network": rf"networks/{_NAME}/{_NAME}/{_NAME}\.safetensors",
    "checkpoint": rf"networks/{_NAME}/{_NAME}/{_NAME}\.checkpoint",
    "fits": rf"fits/{_NAME}/{_NAME}\.h5",
    "run": rf"runs/{_NAME}/run\.json",
    "predictions": rf"runs/{_NAME}/predictions-[^/]*\.h5",
    "output": rf"runs/{_NAME}/(?:report|model)/.*|logs/[^/.][^/]*\.log",
}
"""Kind of file to its path below the cache folder, as a pattern."""
TEMPORARY, BAD, UNKNOWN, FOLDER = "temporary", "bad", "unknown", "folder"
"""Kinds in addition to `KINDS`; a folder is listed only if it cannot be read."""
_FOLDERS = {
    "plans": rf"plans(?:/{REPEAT})?",
    "tables": "tables",
    "clips": rf"clips(?:/{_PREFIX})?",
    "sources": "sources",
    "audits": rf"audits(?:/{_NAME}(?:/{_PREFIX})?)?",
    "media": rf"media(?:/{_NAME}(?:/{_PREFIX})?)?",
    "features": rf"features(?:/{_NAME}){{0,3}}",
    "networks": rf"networks(?:/{_NAME}){{0,2}}",
    "fits": rf"fits(?:/{_NAME})?",
    "runs": rf"runs(?:/{_NAME}(?:/(?:report|model)(?:/[^/]+){{0,6}})?)?",
    "logs": "logs",
}
_KIND = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in KINDS.items()), re.DOTALL)
_FOLDER = re.compile("|".join(_FOLDERS.values()), re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """A file of a cache, as a listing shows it.

    Attributes
    ----------
    path : Path
    relative_path : str
        Path below the cache folder, parts joined by ``/``.
    kind : str
        A key of `KINDS`, or ``temporary``, ``bad`` (a quarantined file), ``unknown`` or ``folder``.
    bytes : int
        Of the file; of a temporary folder, all that is in it.
    modified_s : float
        When it was last written, or renamed if it is temporary or quarantined; in seconds since 1970.
    fault : str
        Why it is not a regular file that can be read; empty if it is.
    denied : bool
        Whether the fault is that the system refuses access, which is not damage.
    """

    path: Path
    relative_path: str
    kind: str
    bytes: int = 0
    modified_s: float = 0.0
    fault: str = ""
    denied: bool = False

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the folders above it, from the cache folder down."""
        return tuple(self.relative_path.split("/")[:-1])


def find_kind(relative_path: str) -> str:
    """The kind of the file at a path below the cache folder."""
    name = relative_path.rpartition("/")[2]
    if name.startswith(TEMPORARY_PREFIX):
        return TEMPORARY
    if name.endswith(BAD_SUFFIX):
        return BAD
    match = _KIND.fullmatch(relative_path)
    return UNKNOWN if match is None else str(match.lastgroup)


def is_cache_folder(relative_path: str) -> bool:
    """Whether a cache has a folder at this path."""
    return _FOLDER.fullmatch(relative_path) is not None


def entries(folder: Path, relative_path: str = "") -> Iterator[Entry]:
    """Every file of a cache by name; a folder that does not belong to a cache is one unknown entry.

    `relative_path` is the path of `folder` below the cache. Links are followed, as readers follow them. Files
    that disappear meanwhile are skipped.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        yield Entry(
            folder, relative_path, FOLDER, fault=f"cannot be listed ({error.strerror or error})", denied=True
        )
        return
    for name in names:
        yield from _entry(folder / name, f"{relative_path}/{name}" if relative_path else name)


def _entry(path: Path, relative_path: str) -> Iterator[Entry]:
    kind = find_kind(relative_path)
    try:
        facts = path.stat()
    except OSError as error:
        if path.is_symlink():
            yield Entry(path, relative_path, kind, fault="is a broken link")
        elif not isinstance(error, FileNotFoundError):
            fault = f"cannot be read ({error.strerror or error})"
            yield Entry(path, relative_path, kind, fault=fault, denied=True)
        return
    modified_s = max(facts.st_mtime, facts.st_ctime) if kind in (TEMPORARY, BAD) else facts.st_mtime
    if not stat.S_ISDIR(facts.st_mode):
        fault = (
            "" if stat.S_ISREG(facts.st_mode) else "is not a regular file but a pipe, a socket or a device"
        )
        yield Entry(path, relative_path, kind, facts.st_size, modified_s, fault)
    elif kind not in (TEMPORARY, BAD) and is_cache_folder(relative_path) and not _links_to_parent(path):
        yield from entries(path, relative_path)
    else:
        size = 0 if kind == UNKNOWN else tree_bytes(path)
        yield Entry(path, relative_path, kind, size, modified_s, "is a folder")


def _links_to_parent(path: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def is_behind_link(root: Path, relative_path: str) -> bool:
    """Whether a folder between the cache and a path in it is a link, so that the file may be elsewhere."""
    folders = [
        root.joinpath(*relative_path.split("/")[:count]) for count in range(1, relative_path.count("/") + 1)
    ]
    return any(folder.is_symlink() for folder in folders)


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def folder_of(source: str) -> str:
    """Name of a source's folder under ``features`` and ``networks``."""
    return source.replace(":", "_")
