"""A disk that refuses one call after the other: full, over quota, failing, closed to us, read-only."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.calls import Before, Call, tree, watched
from faults.samples import forget
from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.manifest import MARKER
from moodfuse.cache.storage.files import _REMEDIES, BAD_SUFFIX, TEMPORARY_PREFIX
from moodfuse.cache.storage.parts import verify_part
from moodfuse.cache.store import FeatureCache

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS)
LASTING = frozenset({errno.EROFS})
"""Once these are met, every later call that changes something meets them too."""
SAYS_READ_BACK = "read back differs from what was written; check the disk"
Undisturbed = tuple[list[Call], dict[str, bytes]]
"""Calls and tree of work that nothing disturbs."""
Work = Callable[[Path], tuple[int, str]]
"""Fills the cache in a folder; returns an exit code and what it said."""


@dataclass(frozen=True)
class Refusal:
    """The disk refuses call `number` (from 0) with an error; `short` lets half of a write through before it does."""

    number: int
    error: int
    short: bool = False

    def hook(self) -> Before:
        """What raises it."""
        count = -1
        cut = False

        def before(call: Call) -> int | None:
            nonlocal count, cut
            count += 1
            due = count == self.number or (
                self.error in LASTING and count > self.number and call.kind != "read back"
            )
            if count == self.number and self.short and len(call.data) > 1:
                cut = True
                return len(call.data) // 2
            if due or cut:
                cut = False
                raise OSError(self.error, os.strerror(self.error), call.path)
            return None

        return before


@dataclass(frozen=True)
class Refused:
    """What came of a refusal: the call, and what is wrong with how it was borne: nothing may be."""

    refusal: Refusal
    call: Call
    faults: tuple[str, ...]


def calls_of(work: Work, root: Path) -> Undisturbed:
    """The calls of undisturbed work, those that only may fail included, and what it leaves; `root` is removed."""
    with watched(root) as calls:
        code, said = work(root)
    if code:
        raise AssertionError(f"undisturbed work failed: {said}")
    left = tree(root)
    shutil.rmtree(root)
    return calls, left


def refusals(calls: list[Call], *, errors: tuple[int, ...] = ERRORS) -> Iterator[Refusal]:
    """Every error at every call, and a full disk after half of each write."""
    for number, call in enumerate(calls):
        for error in errors:
            yield Refusal(number, error)
        if call.kind == "write":
            yield Refusal(number, errno.ENOSPC, short=True)


def refuse(work: Work, root: Path, refusal: Refusal, undisturbed: Undisturbed) -> Refused:
    """Do the work on a disk that refuses once, look at what is left, and do it again on one that does not."""
    calls, final = undisturbed
    call = calls[refusal.number]
    forget()
    with watched(root, before=refusal.hook()):
        code, said = work(root)
    faults = faults_of_answer(call, refusal.error, (code, said), root)
    faults += faults_of_cache(root, swept=refusal.error not in LASTING)
    forget()
    code, said = work(root)
    if code:
        faults.append(f"the second run ends with {code}: {said}")
    found = tree(root)
    faults += [
        f"{name} differs from an undisturbed run's" for name in final if found.get(name) != final[name]
    ]
    faults += [f"{name} is left over" for name in found if name not in final]
    shutil.rmtree(root)
    return Refused(refusal, call, tuple(faults))


def faults_of_answer(call: Call, error: int, answer: tuple[int, str], root: Path) -> list[str]:
    """What is wrong with the answer: it is no failure, lacks the path or the remedy, or is a traceback."""
    code, said = answer
    faults = []
    if code != 1:
        faults.append(f"exit code {code}")
    if str(root) not in said:
        faults.append(f"names no path: {said}")
    if _REMEDIES[error] not in said and not (call.kind == "read back" and SAYS_READ_BACK in said):
        faults.append(f"names no remedy: {said}")
    if "Traceback" in said:
        faults.append(f"a traceback: {said}")
    return faults


def faults_of_cache(root: Path, *, swept: bool) -> list[str]:
    """What is wrong with a cache after work on it failed."""
    faults = []
    for file in root.rglob("*"):
        if file.name.startswith(TEMPORARY_PREFIX):
            faults += [f"{file} was left"] if swept else []
        elif file.name.endswith(BAD_SUFFIX):
            faults.append(f"{file} was set aside")
        elif file.suffix == ".h5":
            try:
                verify_part(file)
            except MoodfuseError as error:
                faults.append(str(error))
    try:
        if (root / MARKER).exists():
            store = FeatureCache(root)
            _ = store.all_plans, store.selection
    except MoodfuseError as error:
        faults.append(f"does not open: {error}")
    return faults
