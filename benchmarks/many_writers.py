"""8 processes that write 500 overlapping parts into one cache while 4 others read it all the time.

Usage: many_writers.py [PARTS]. Every writer writes all rows of all clips, in an order and in parts of its own. Bar: no
bad read, no process stuck or failed, no part taken away, no stray file, and `clips.csv` and the block are those that a
single writer leaves. Then once more with a writer whose rows differ: that is reported, and no part is replaced. Exits 1
if a bar is missed. The time of a single writer is printed too.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cache"))

from faults.writers import Crowd, Outcome, run_crowd, twice_differing
from moodfuse.cache.store import FeatureCache

PARTS = 500


def describe(title: str, outcome: Outcome) -> None:
    """Print what came of a crowd."""
    reads, bad = sum(item.reads for item in outcome.readers), sum(item.bad for item in outcome.readers)
    print(
        f"{title}: {outcome.seconds:.1f} s; {reads} reads, {bad} bad; {outcome.stuck} processes stuck, "
        f"{len(outcome.failures)} failed; {outcome.gone} parts gone; {len(outcome.stray)} stray files",
        flush=True,
    )
    for failure in outcome.failures[:3]:
        print(failure)


def is_clean(outcome: Outcome) -> bool:
    """Whether all processes came through and nothing is left over."""
    bad = sum(item.bad + len(item.warnings) for item in outcome.readers)
    reads = sum(item.reads for item in outcome.readers)
    return not (bad or outcome.stuck or outcome.failures or outcome.gone or outcome.stray) and reads > 0


def main(parts: int) -> int:
    """Run the crowds; 1 if a bar is missed."""
    with tempfile.TemporaryDirectory() as folder:
        one, many, odd = (Path(folder) / name for name in ("one", "many", "odd"))
        describe("1 writer", run_crowd(Crowd(parts=parts, writers=1, readers=0), one))
        crowd = run_crowd(Crowd(parts=parts), many)
        describe("8 writers, 4 readers", crowd)
        same = (one / "clips.csv").read_bytes() == (many / "clips.csv").read_bytes()
        ours, theirs = (FeatureCache(root).block("still", "*").embedding for root in (many, one))
        same = same and np.array_equal(ours, theirs)
        told = sum(item.differing for item in crowd.writers)
        held = is_clean(crowd) and same and not told
        print(
            f"bar 4: {'held' if held else 'missed'}; clips.csv and block are {'' if same else 'NOT '}those of one"
        )
        drifting = run_crowd(Crowd(parts=parts, drifting=True), odd)
        describe("one of 8 writers differs", drifting)
        told, twice = sum(item.differing for item in drifting.writers), twice_differing(odd)
        reported = is_clean(drifting) and told >= max(1, twice)
        print(
            f"  {told} rows reported as nondeterminism, {twice} of {4 * parts} clips stand twice, the first counts"
        )
        print(f"  nondeterminism is {'reported, nothing overwritten' if reported else 'NOT handled'}")
    return int(not (held and reported))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else PARTS))
