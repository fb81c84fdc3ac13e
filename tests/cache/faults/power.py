"""Power losses at random points of a record, on a disk that keeps no promise but that of fsync; and two straw men.

The straw men show that the model has teeth: parts moved into place without a sync, with and without the check of their
digest on reading, and an HDF5 file that grows in place with a sync after every append.
"""

import io
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np

from faults.calls import Call
from faults.disks import Disk, promises
from faults.samples import WIDTHS, Sample, Verdict, right_rows
from moodfuse.cache.storage import parts


@dataclass(frozen=True)
class Losses:
    """What so many power losses did.

    Attributes
    ----------
    trials : int
    wrong : int
        Trials after which something was read as good that is not what was written.
    lost : int
        Trials after which something was gone, or damaged, that was there before or that the writer had called done.
    first : str
        One example of either.
    """

    trials: int
    wrong: int
    lost: int
    first: str


def loss(base: Path, calls: Sequence[Call], target: Path, seed: int) -> int:
    """Lose power after a random number of calls, which is returned, and leave in `target` what is on the disk then."""
    random = np.random.default_rng(seed)
    stop = int(random.integers(0, len(calls) + 1))
    disk = Disk(base)
    for call in calls[:stop]:
        disk.make(call)
    disk.lose_power(target, random)
    return stop


def lose_power(
    sample: Sample, base: Path, calls: Sequence[Call], seeds: range, *, checked: bool = True
) -> Losses:
    """Lose power once a seed while a sample is extended, and judge what is left.

    Parameters
    ----------
    sample : Sample
    base : Path
        Its cache before; a folder beside it is used.
    calls : sequence of Call
    seeds : range
    checked : bool
        Whether readers check digests, as ours do.
    """
    left = base.with_name("left")
    counts: Counter[str] = Counter()
    first = ""
    reader = nullcontext() if checked else patch.object(parts, "check_part", lambda path: None)
    for seed in seeds:
        stop = loss(base, calls, left, seed)
        with reader:
            verdict = sample.judge(left)
        lost = [*verdict.lost, *_broken(left, promises(calls[:stop]))]
        shutil.rmtree(left)
        counts.update(wrong=bool(verdict.wrong), lost=bool(lost))
        first = first or next(iter([*verdict.wrong, *lost]), "")
    return Losses(len(seeds), counts["wrong"], counts["lost"], first)


def _broken(left: Path, promised: dict[str, bytes]) -> list[str]:
    """Files that were called done and are gone, or hold something else."""
    found = {name: (left / name).read_bytes() if (left / name).is_file() else None for name in promised}
    return [
        f"{name} was called done and is not there as it was"
        for name in promised
        if found[name] != promised[name]
    ]


def without_sync(calls: Sequence[Call]) -> list[Call]:
    """The calls of a writer that does not sync a file before it moves it into place."""
    return [call for call in calls if call.kind != "fsync"]


class _Appended(io.RawIOBase):
    """A file for HDF5 that records what is done to it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = bytearray(data), 0
        self.calls: list[Call] = []

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: len(self.data)}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self.data[self.place : self.place + len(buffer)]
        buffer[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        data = bytes(data)
        self.calls.append(Call("write", "all.h5", data, self.place))
        end = self.place + len(data)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[self.place : end] = data
        self.place = end
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        size = self.place if size is None else size
        self.calls.append(Call("truncate", "all.h5", offset=size))
        self.data = self.data[:size] + bytearray(max(0, size - len(self.data)))
        return size


def append_in_place(sample: Sample, base: Path) -> list[Call]:
    """Keep all rows in one file that grows in place; the calls of the last appends, each followed by a sync."""
    file = _Appended(b"")
    with h5py.File(file, "w", libver="latest") as growing:
        growing.create_dataset("clip", (0,), "S64", maxshape=(None,), chunks=(64,))
        for name, width in WIDTHS.items():
            growing.create_dataset(name, (0, width), np.float32, maxshape=(None, width), chunks=(64, width))
    for number in range(sample.parts):
        _append(sample, file, number)
    base.mkdir()
    (base / "all.h5").write_bytes(file.data)
    file.calls.clear()
    for number in range(sample.parts, sample.parts + sample.added):
        _append(sample, file, number)
        file.calls.append(Call("fsync", "all.h5"))
    return file.calls


def _append(sample: Sample, file: _Appended, number: int) -> None:
    digests = sample.clips_of(number)
    with h5py.File(file, "r+", libver="latest") as growing:
        rows = {"clip": np.array(digests, dtype="S64"), **right_rows(digests, "still")}
        for name, values in rows.items():
            before = len(growing[name])
            growing[name].resize(before + len(values), axis=0)
            growing[name][before:] = values


def lose_power_appending(sample: Sample, base: Path, calls: Sequence[Call], seeds: range) -> Losses:
    """Lose power once a seed while one file grows in place."""
    left = base.with_name("left")
    counts: Counter[str] = Counter()
    for seed in seeds:
        loss(base, calls, left, seed)
        verdict = _judge_grown(sample, left / "all.h5")
        shutil.rmtree(left)
        counts.update(wrong=bool(verdict.wrong), lost=bool(verdict.lost))
    return Losses(len(seeds), counts["wrong"], counts["lost"], "")


def _judge_grown(sample: Sample, path: Path) -> Verdict:
    earlier = {status.digest for status in sample.earlier}
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = {name: file[name][()] for name in ("clip", *WIDTHS)}
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        return Verdict((), (str(error),), 0)
    if len({len(values) for values in arrays.values()}) > 1:
        return Verdict((), ("its arrays differ in length",), 0)
    known = {status.digest for status in sample.statuses}
    digests = [clip.decode("latin-1") for clip in arrays["clip"].tolist()]
    wrong = [digest for digest in digests if digest not in known]
    kept = [place for place, digest in enumerate(digests) if digest in known]
    right = right_rows([digests[place] for place in kept], "still")
    for name in WIDTHS:
        same = (arrays[name][kept] == right[name]).all(axis=1)
        wrong += [digests[place] for place, good in zip(kept, same, strict=True) if not good]
    return Verdict(tuple(wrong), tuple(sorted(earlier - set(digests))), 1)
