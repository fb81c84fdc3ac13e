"""The kind of each file in a cache folder, given by its place, and a walk over all of them.

Readers find a file by its place alone, so whatever is at such a place counts as that kind of file, valid or
not; a file anywhere else is unknown, and left alone. `cache/FORMAT.md` has the same table in words.
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
    "output": rf"runs/{_NAME}/(?:report|model)/.*",
}
"""Kind of file to the places where it is, as patterns of the path below the cache folder."""
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
}
_KIND = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in KINDS.items()), re.DOTALL)
_FOLDER = re.compile("|".join(_FOLDERS.values()), re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """A file of a cache, as a listing shows it.

    Attributes
    ----------
    path : Path
    place : str
        Path below the cache folder, parts joined by ``/``.
    kind : str
        A key of `KINDS`, or ``temporary``, ``bad`` (set aside earlier), ``unknown`` or ``folder``.
    bytes : int
        Of the file; of a temporary folder, all that is in it.
    modified_s : float
        When it was last written, or renamed if it is temporary or set aside; in seconds since 1970.
    fault : str
        Why it is not a regular file that can be read, such as a pipe or a folder in its place; empty if it
        is.
    denied : bool
        Whether the fault is that the system refuses access, which is not damage.
    """

    path: Path
    place: str
    kind: str
    bytes: int = 0
    modified_s: float = 0.0
    fault: str = ""
    denied: bool = False

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the folders above it, from the cache folder down."""
        return tuple(self.place.split("/")[:-1])


def kind_of(place: str) -> str:
    """The kind of the file at a place."""
    name = place.rpartition("/")[2]
    if name.startswith(TEMPORARY_PREFIX):
        return TEMPORARY
    if name.endswith(BAD_SUFFIX):
        return BAD
    found = _KIND.fullmatch(place)
    return UNKNOWN if found is None else str(found.lastgroup)


def is_ours(place: str) -> bool:
    """Whether a cache has a folder at this place."""
    return _FOLDER.fullmatch(place) is not None


def entries(root: Path) -> Iterator[Entry]:
    """Every file of a cache by name; a folder that does not belong to a cache is one unknown entry.

    Links are followed, as readers follow them. Files that disappear meanwhile are skipped.
    """
    yield from _walk(root, "", frozenset())


def _walk(folder: Path, place: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
    try:
        here = os.stat(folder)
        with os.scandir(folder) as listing:
            found = sorted(listing, key=lambda item: item.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Entry(folder, place, FOLDER, fault=f"cannot be listed ({error.strerror or error})", denied=True)
        return
    key = (here.st_dev, here.st_ino)
    if key in above:
        yield Entry(folder, place, UNKNOWN, fault="is a link to a folder that contains it")
        return
    for item in found:
        yield from _entry(Path(item.path), f"{place}/{item.name}" if place else item.name, above | {key})


def _entry(path: Path, place: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
    kind = kind_of(place)
    try:
        facts = path.stat()
    except OSError as error:
        if path.is_symlink():
            yield Entry(path, place, kind, fault="is a link that leads nowhere")
        elif not isinstance(error, FileNotFoundError):
            yield Entry(
                path, place, kind, fault=f"cannot be looked at ({error.strerror or error})", denied=True
            )
        return
    modified_s = max(facts.st_mtime, facts.st_ctime) if kind in (TEMPORARY, BAD) else facts.st_mtime
    if not stat.S_ISDIR(facts.st_mode):
        fault = "" if stat.S_ISREG(facts.st_mode) else "is no plain file, but a pipe, a socket or a device"
        yield Entry(path, place, kind, facts.st_size, modified_s, fault)
    elif kind not in (TEMPORARY, BAD) and is_ours(place):
        yield from _walk(path, place, above)
    else:
        size = 0 if kind == UNKNOWN else tree_bytes(path)
        yield Entry(path, place, kind, size, modified_s, "is a folder")


def behind_link(root: Path, place: str) -> bool:
    """Whether a folder between the cache and a place in it is a link, so that the place may lie elsewhere."""
    parents = place.split("/")[:-1]
    return any(os.path.islink(os.path.join(root, *parents[: count + 1])) for count in range(len(parents)))


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def folder_of(source: str) -> str:
    """Name of a source's folder under ``features`` and ``networks``."""
    return source.replace(":", "_")
