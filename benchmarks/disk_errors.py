"""Every write of a real `moodfuse extract` refused: disk full, over quota, failing, closed to us, read-only.

Usage: disk_errors.py [STEP]: every STEPth refusal; all by default. At every call of the frozen sound network's run each
error is raised, and a full disk after half of each write; of a run that tunes networks, once for each kind of call and
of file. As root also on small file systems in memory that are truly full. Bar: exit code 1, the path and the remedy are
named without a traceback, every part verifies and the cache opens, no temporary stays behind, and a second run leaves
what an undisturbed one does, bit for bit. Exits 1 if the bar is missed.
"""

import errno
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cache"))

from faults.calls import Call, tree
from faults.extracting import computing_once, extracting, make_clips
from faults.refusals import (
    Refusal,
    Undisturbed,
    Work,
    calls_of,
    faults_of_answer,
    faults_of_cache,
    refusals,
    refuse,
)

SIZES = 12
SPARE_KB = 1 << 16


def measure(title: str, work: Work, root: Path, chosen: Iterable[Refusal], undisturbed: Undisturbed) -> int:
    """Print how many refusals are borne; returns how many are not."""
    count = bad = 0
    for refusal in chosen:
        refused = refuse(work, root, refusal, undisturbed)
        count += 1
        if refused.faults:
            bad += 1
            name = errno.errorcode[refusal.error]
            print(f"  {name} at {refused.call.kind} {refused.call.path}: {refused.faults[0]}", flush=True)
    print(f"{title}: {len(undisturbed[0])} calls, {count} refusals, {count - bad} borne", flush=True)
    return bad


def of_each_kind(calls: Sequence[Call]) -> list[Refusal]:
    """A failing disk at the first call of each kind on each kind of file of a network."""
    first: dict[tuple[str, str], int] = {}
    for number, call in enumerate(calls):
        if call.path.startswith("networks"):
            first.setdefault((call.kind, PurePath(call.path).suffix), number)
    return [Refusal(number, errno.EIO) for number in first.values()]


def truly_full(work: Work, root: Path, final: dict[str, bytes]) -> int:
    """The same on file systems that are too small, in bytes or in files; returns how many are not borne."""
    need_kb = sum(-(-len(data) // 4096) * 4 for data in final.values()) + 4 * len(final)
    options = [f"size={need_kb * step // SIZES}k" for step in range(1, SIZES)]
    options += [f"size={SPARE_KB}k,nr_inodes={len(final) * step // SIZES + 1}" for step in range(1, SIZES)]
    full = bad = 0
    for option in options:
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(root)], check=True)
        try:
            code, said = work(root)
            faults = []
            if code:
                full += 1
                faults = faults_of_answer(Call("write", ""), errno.ENOSPC, (code, said), root)
                faults += faults_of_cache(root, swept=True)
            subprocess.run(["mount", "-o", f"remount,size={SPARE_KB}k,nr_inodes=9999", str(root)], check=True)
            code, said = work(root)
            faults += [f"the second run: {said}"] if code or tree(root) != final else []
        finally:
            subprocess.run(["umount", str(root)], check=True)
            root.rmdir()
        if faults:
            bad += 1
            print(f"  {option}: {faults[0]}", flush=True)
    print(f"file systems in memory of {len(options)} sizes: {full} too small, {bad} not borne", flush=True)
    return bad


def main(step: int) -> int:
    """All refusals; 1 if one is not borne."""
    with tempfile.TemporaryDirectory() as folder:
        clips, root = make_clips(Path(folder) / "clips"), Path(folder) / "work"
        with computing_once():
            work = extracting(clips)
            undisturbed = calls_of(work, root)
            bad = measure("extract, frozen", work, root, list(refusals(undisturbed[0]))[::step], undisturbed)
            if can_mount(root):
                bad += truly_full(work, root, undisturbed[1])
            else:
                print("file systems in memory: skipped, only root may mount them")
        with computing_once():
            work = extracting(clips, depth="full")
            undisturbed = calls_of(work, root)
            bad += measure("extract, tuned", work, root, of_each_kind(undisturbed[0])[::step], undisturbed)
    print(f"bar 6: {'missed' if bad else 'held'}: {bad} refusals not borne, expected 0")
    return int(bad > 0)


def can_mount(root: Path) -> bool:
    """Whether this user may mount a file system in memory."""
    if shutil.which("mount") is None:
        return False
    root.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(root)], capture_output=True)
    if not done.returncode:
        subprocess.run(["umount", str(root)], check=True)
    root.rmdir()
    return not done.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
