"""Stop after every call that writes 3 parts into a cache of 100, and within every write: what is left, what is read.

Usage: crash_points.py [PARTS]. The calls of the operating system are recorded while clips, a plan, three parts, a
network and a selection are added; every state that they pass is made, opened as a new process would, and resumed from.
The same for a cache that is made anew. Bar: at every point all accepted parts are right, all earlier ones are intact,
and a resume leaves what an unbroken run does. Exits 1 if one point misses it.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cache"))

from faults.kills import kill_points
from faults.samples import Sample

PARTS = 100


def measure(title: str, sample: Sample) -> int:
    """Print how many points there are and hold; returns how many do not."""
    whole: Counter[str] = Counter()
    torn = bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for point in kill_points(sample, Path(folder)):
            whole[point.call.kind] += point.whole
            torn += not point.whole
            if point.faults:
                bad += 1
                print(f"  after {point.call.kind} {point.call.path}: {point.faults[0]}", flush=True)
    count = whole.total() + torn
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(whole.items()) if number)
    print(f"{title}: {count} points ({kinds}; {torn} torn writes), {count - bad} hold", flush=True)
    return bad


def main(parts: int) -> int:
    """Both scenarios; 1 if a point of either misses the bar."""
    bad = measure(f"3 parts into a cache of {parts}", Sample(parts=parts))
    bad += measure("a new cache of 3 parts", Sample(parts=0, clips_per_part=4))
    print(f"bar 1: {'missed' if bad else 'held'}: {bad} points with a fault, expected 0")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else PARTS))
