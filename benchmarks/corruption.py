"""10 000 mutants of the files of a cache: bits flipped, bytes smashed, pages zeroed, ends cut, blocks swapped, edits.

Usage: corruption.py [COUNT]. Parts of features, plans, tables, media and predictions, networks, and the small records
beside them. Bar: each mutant is detected, or what is read is identical; all in one process, which lives, in bounded
memory and time. Exits 1 if the bar is missed.
"""

import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cache"))

from faults.targets import harm, make_targets

COUNT = 10_000
MOST_MEGABYTES, MOST_SECONDS = 64.0, 5.0


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> int:
    """Print the table; 1 if the bar is missed."""
    found: Counter[tuple[str, str]] = Counter()
    slowest, faults = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder) / "cache")
        before = megabytes()
        for mutant in harm(targets, count):
            good = mutant.verdict in ("detected", "identical")
            found[mutant.kind, mutant.verdict if good else "wrong"] += 1
            slowest = max(slowest, mutant.seconds)
            if not good:
                faults += 1
                print(f"  {mutant.kind}, {mutant.mutation}: {mutant.verdict}", flush=True)
    print("| file | detected | read as identical | wrong |\n| --- | ---: | ---: | ---: |")
    for kind in dict.fromkeys(target.kind for target in targets):
        print(
            f"| {kind} | {' | '.join(str(found[kind, name]) for name in ('detected', 'identical', 'wrong'))} |"
        )
    more = megabytes() - before
    held = not faults and more < MOST_MEGABYTES and slowest < MOST_SECONDS
    print(
        f"{count} mutants, {faults} not borne; slowest {slowest:.2f} s, {more:.0f} MB more memory at the peak"
    )
    print(f"bar 5: {'held' if held else 'missed'}")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT))
