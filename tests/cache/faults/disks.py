"""A disk that loses power: what was not synced is there, gone, or there in pieces, and nothing says which.

The model is harsher than any file system. Of data written since a file's last fsync, every page of 4 096 bytes is new,
old, zero or torn between sectors, and the size is any that the file has had. Of names made, moved and removed since a
folder's last fsync any subset has happened; a rename that happened in half leaves both names, or none. fsync of a file
does not save its name, fsync of a folder does not save the folder's own.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from faults.calls import SECTOR_BYTES, Call

PAGE_BYTES = 4096


@dataclass(eq=False)
class File:
    """A file: what is on the disk, and what a process that reads it gets."""

    saved: bytes = b""
    live: bytearray = field(default_factory=bytearray)
    sizes: set[int] = field(default_factory=set)
    pages: set[int] = field(default_factory=set)
    origin: Path | None = None
    """Where it lies, whole and untouched, if it was there before."""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset."""
        end = offset + len(data)
        self.live.extend(bytes(max(0, end - len(self.live))))
        self.live[offset:end] = data
        self.pages |= set(range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)))
        self.sizes.add(len(self.live))

    def truncate(self, size: int) -> None:
        """Cut or lengthen it."""
        self.live = self.live[:size] + bytearray(max(0, size - len(self.live)))
        self.sizes.add(size)

    def sync(self) -> None:
        """Save the data and the size."""
        self.saved, self.sizes, self.pages = bytes(self.live), set(), set()

    def after_loss(self, random: np.random.Generator, share: float) -> bytes:
        """What is on the disk when the power is back; each page not synced was written with a chance of `share`."""
        sizes = [len(self.live), int(random.choice(sorted({*self.sizes, len(self.saved)})))]
        size = int(random.choice(sizes)) if self.sizes else len(self.saved)
        found = bytearray(self.saved[:size].ljust(size, b"\0"))
        for page in sorted(self.pages):
            start = page * PAGE_BYTES
            new = self.live[start : min(start + PAGE_BYTES, size)]
            if random.random() < share:
                found[start : start + len(new)] = new
            elif new and random.random() < 0.5:
                end = int(random.integers(0, PAGE_BYTES // SECTOR_BYTES)) * SECTOR_BYTES
                found[start : start + len(new[:end])] = new[:end]
            elif random.random() < 0.25:
                found[start : start + len(new)] = bytes(len(new))
        return bytes(found)


@dataclass(eq=False)
class Folder:
    """A folder: names on the disk, names as they are, and what happened since the last fsync, in order."""

    saved: dict[str, "File | Folder"] = field(default_factory=dict)
    live: dict[str, "File | Folder"] = field(default_factory=dict)
    since: list[tuple[str, "File | Folder | None"]] = field(default_factory=list)

    def put(self, name: str, node: "File | Folder | None") -> None:
        """Give a name to a file or folder, or take the name away."""
        if node is None:
            self.live.pop(name)
        else:
            self.live[name] = node
        self.since.append((name, node))

    def sync(self) -> None:
        """Save the names."""
        self.saved, self.since = dict(self.live), []

    def after_loss(self, random: np.random.Generator, share: float) -> dict[str, "File | Folder"]:
        """The names on the disk: the saved ones, and the events up to one of them, or any subset of them."""
        happened = [True] * len(self.since)
        if random.random() < 0.5:
            first = int(random.integers(0, len(self.since) + 1))
            happened = [place < first for place in range(len(self.since))]
        else:
            happened = [bool(random.random() < share) for _ in self.since]
        names = dict(self.saved)
        for (name, node), did in zip(self.since, happened, strict=True):
            if did and node is None:
                names.pop(name, None)
            elif did and node is not None:
                names[name] = node
        return names


class Disk:
    """A folder tree on such a disk; everything that is there at the start is saved."""

    def __init__(self, start: Path) -> None:
        self.root = _load(start)

    def _folder(self, path: str) -> Folder:
        folder = self.root
        for name in PurePosixPath(path).parts:
            found = folder.live[name]
            if not isinstance(found, Folder):
                raise NotADirectoryError(path)
            folder = found
        return folder

    def _place(self, path: str) -> tuple[Folder, str]:
        pure = PurePosixPath(path)
        return self._folder(str(pure.parent)), pure.name

    def _file(self, path: str) -> File:
        folder, name = self._place(path)
        file = folder.live[name]
        if not isinstance(file, File):
            raise IsADirectoryError(path)
        if file.origin is not None:
            file.saved = file.origin.read_bytes()
            file.live, file.origin = bytearray(file.saved), None
        return file

    def make(self, call: Call) -> None:
        """Make a call."""
        _CALLS[call.kind](self, call)

    def make_folder(self, call: Call) -> None:
        """``mkdir``."""
        folder, name = self._place(call.path)
        folder.put(name, Folder())

    def make_file(self, call: Call) -> None:
        """``open``."""
        folder, name = self._place(call.path)
        folder.put(name, File())

    def rename(self, call: Call) -> None:
        """``rename``: the new name comes, the old one goes."""
        folder, name = self._place(call.path)
        to, new = self._place(call.target)
        to.put(new, folder.live[name])
        folder.put(name, None)

    def unlink(self, call: Call) -> None:
        """``unlink``."""
        folder, name = self._place(call.path)
        folder.put(name, None)

    def lose_power(self, target: Path, random: np.random.Generator) -> None:
        """Write what is left to a new folder; files that nothing has touched are linked there."""
        share = float(random.choice([0.0, 0.1, 0.5, 0.9, 1.0]))
        contents: dict[File, bytes] = {}

        def put(folder: Folder, place: Path) -> None:
            place.mkdir()
            for name, node in folder.after_loss(random, share).items():
                if isinstance(node, Folder):
                    put(node, place / name)
                elif node.origin is not None:
                    os.link(node.origin, place / name)
                else:
                    if node not in contents:
                        contents[node] = node.after_loss(random, share)
                    (place / name).write_bytes(contents[node])

        put(self.root, target)


def _load(start: Path) -> Folder:
    folder = Folder()
    for path in sorted(start.iterdir()):
        folder.put(path.name, _load(path) if path.is_dir() else File(origin=path))
    folder.sync()
    return folder


_CALLS: dict[str, Callable[[Disk, Call], None]] = {
    "mkdir": Disk.make_folder,
    "open": Disk.make_file,
    "write": lambda disk, call: disk._file(call.path).write(call.offset, call.data),
    "truncate": lambda disk, call: disk._file(call.path).truncate(call.offset),
    "fsync": lambda disk, call: disk._file(call.path).sync(),
    "sync": lambda disk, call: disk._folder(call.path).sync(),
    "rename": Disk.rename,
    "unlink": Disk.unlink,
}


def promises(calls: Sequence[Call]) -> dict[str, bytes]:
    """What a writer has said to be safe once these calls were made: files renamed, and their folder synced after it.

    A name that was written twice may hold either content between the second rename and its sync, so it is left out.
    """
    written: dict[str, bytearray] = {}
    renamed: dict[str, bytes] = {}
    safe: dict[str, bytes] = {}
    for call in calls:
        if call.kind == "open":
            written[call.path] = bytearray()
        elif call.kind == "write":
            written[call.path] += call.data
        elif call.kind == "rename" and call.path in written:
            renamed[call.target] = bytes(written[call.path])
            safe.pop(call.target, None)
        elif call.kind == "sync":
            done = [name for name in renamed if str(PurePosixPath(name).parent) == call.path]
            safe |= {name: renamed.pop(name) for name in done}
    return safe
