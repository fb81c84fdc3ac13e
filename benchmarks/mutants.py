"""10 000 mutants of eight small videos, each in another container: bits, blocks, ends and sizes are changed.

Usage: mutants.py [COUNT]. Each is decoded in one of two workers. Bar: the parent lives, no task outlives its deadline
by 2 s, no worker passes its memory, and every outcome is features or a refusal with its reason. Exits 1 if the bar is
missed.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cache"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "extract"))

from hostile.mutants import LIMITS, run_mutants
from hostile.seeds import SEEDS

COUNT = 10_000


def main(count: int) -> int:
    """Print the table; 1 if the bar is missed."""
    outcomes: Counter[tuple[str, str]] = Counter()
    slowest = resident_mb = beyond_mb = 0.0
    deaths = faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for one in run_mutants(Path(folder), count):
            outcomes[one.outcome, one.request.seed] += 1
            slowest, deaths = max(slowest, one.seconds), deaths + one.died
            resident_mb, beyond_mb = max(resident_mb, one.resident_mb), max(beyond_mb, one.beyond_idle_mb)
            faults += len(one.faults)
            if one.faults or one.died:
                said = "; ".join(one.faults) or f"{one.outcome}: {one.detail}"
                print(
                    f"  mutant {one.request.number} ({one.request.seed}, {one.request.kind}): {said}",
                    flush=True,
                )
    print(f"| outcome | {' | '.join(SEEDS)} | all |\n| --- |{' ---: |' * (len(SEEDS) + 1)}")
    for name in sorted({name for name, _ in outcomes}):
        counts = [outcomes[name, seed] for seed in SEEDS]
        print(f"| {name} | {' | '.join(map(str, counts))} | {sum(counts)} |")
    print(f"{count} mutants, {faults} faults, {deaths} workers lost; slowest {slowest:.2f} s", end="; ")
    print(
        f"at most {resident_mb:.0f} MB resident, {beyond_mb:.0f} of {LIMITS.memory_mb} MB beyond an idle worker's"
    )
    held = not faults and sum(outcomes.values()) == count
    print(f"bar 2: {'held' if held else 'missed'}")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT))
