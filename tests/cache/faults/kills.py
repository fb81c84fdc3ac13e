"""Every state that a killed process leaves, after each of its calls and within each write, and what is read of it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from faults.calls import CHANGES, Call, linked_copy, make_again, torn, tree, watched
from faults.samples import Sample
from moodfuse.cache.storage import files

PIECE_BYTES = 8192
"""Files are written in pieces of so many bytes here, so that larger ones take several calls."""


@dataclass(frozen=True)
class Point:
    """A kill.

    Attributes
    ----------
    call : Call
        The last one; of a torn write what was made of it.
    whole : bool
    faults : tuple of str
        What is wrong after it: nothing may be.
    """

    call: Call
    whole: bool
    faults: tuple[str, ...]


def record(sample: Sample, folder: Path) -> tuple[list[Call], dict[str, bytes]]:
    """The calls that extend a sample's cache, and the tree that they leave; `folder/base` is the cache before.

    Raises
    ------
    AssertionError
        If the calls, made again, leave another tree: something wrote that was not recorded.
    """
    base = sample.fill(folder / "base")
    ran = linked_copy(base, folder / "ran")
    with patch.object(files, "_PIECE_BYTES", PIECE_BYTES), watched(ran) as calls:
        sample.extend(ran)
    again = linked_copy(base, folder / "again")
    for call in calls:
        make_again(again, call)
    if tree(again) != tree(ran) or not sample.judge(again).sound:
        raise AssertionError("the recorded calls do not make what was made")
    return [call for call in calls if call.kind in CHANGES], tree(ran)


def kill_points(
    sample: Sample, folder: Path, *, tears: int | None = None, resumes: int = 1
) -> Iterator[Point]:
    """Stop after every call, and within every write.

    Parameters
    ----------
    sample : Sample
    folder : Path
        Empty; left with what was made.
    tears : int, optional
        How many of the ways to tear each write are taken; all by default.
    resumes : int
        Every so manieth state is resumed from, too.
    """
    calls, final = record(sample, folder)
    state = linked_copy(folder / "base", folder / "state")
    done, number = 0, 0
    for call in calls:
        pieces = torn(call) if call.kind == "write" else []
        for piece in [*(pieces if tears is None else pieces[:: max(1, len(pieces) // tears)]), call]:
            make_again(state, piece)
            whole = piece is call
            done += (
                whole
                and call.kind == "rename"
                and call.target.startswith("features/")
                and ".h5" in call.target
            )
            faults = _faults(sample, state, sample.parts + done)
            if not number % resumes:
                faults += _faults_of_resuming(sample, state, final)
            number += 1
            yield Point(piece, whole, tuple(faults))


def _faults(sample: Sample, state: Path, expected: int) -> list[str]:
    before = sorted(state.rglob("*"))
    verdict = sample.judge(state)
    faults = [*verdict.wrong, *verdict.lost]
    if verdict.accepted != expected:
        faults.append(f"{verdict.accepted} parts are accepted, not the {expected} that were finished")
    if sorted(state.rglob("*")) != before:
        faults.append("reading changed the folder")
    return faults


def _faults_of_resuming(sample: Sample, state: Path, final: dict[str, bytes]) -> list[str]:
    resumed = linked_copy(state, state.with_name("resumed"))
    sample.extend(resumed)
    found = tree(resumed)
    shutil.rmtree(resumed)
    differing = sorted(name for name in {*found, *final} if found.get(name) != final.get(name))
    return [f"after a resume {name} is not what an unbroken run leaves" for name in differing]
