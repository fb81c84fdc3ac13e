"""1 000 power losses while 3 parts are written into a cache of 100: wrong parts accepted, synced ones lost.

Usage: power_loss.py [TRIALS [PARTS]]. The disk is a model that is harsher than any file system: tests/cache/faults/
disks.py says how. Bar: nothing wrong is read, and all that was there or was called done is intact. Two ways that others
write are measured beside it, to show that the model has teeth: without a sync before the rename, with and without a
digest that is checked, and one HDF5 file that grows in place. Exits 1 if the bar is missed or the model is toothless.
"""

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cache"))

from faults.kills import record
from faults.power import Losses, append_in_place, lose_power, lose_power_appending, without_sync
from faults.samples import Sample

TRIALS, PARTS = 1000, 100


def say(title: str, losses: Losses) -> None:
    """Print one line of the table."""
    print(f"| {title} | {losses.trials} | {losses.wrong} | {losses.lost} |", flush=True)


def main(trials: int, parts: int) -> int:
    """Print the table; 1 if the bar is missed."""
    logging.disable(logging.WARNING)
    sample, seeds = Sample(parts=parts), range(trials)
    print("| written how | power losses | wrong rows accepted in | earlier or finished work lost in |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        calls, _ = record(sample, Path(folder))
        ours = lose_power(sample, base, calls, seeds)
        say("as this cache does", ours)
        unsynced = lose_power(sample, base, without_sync(calls), seeds)
        say("no sync before the rename, digests checked", unsynced)
        unchecked = lose_power(sample, base, without_sync(calls), seeds, checked=False)
        say("no sync before the rename, no digests", unchecked)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        grown = lose_power_appending(sample, base, append_in_place(sample, base), seeds)
        say("one HDF5 file, appended to in place", grown)
    held = not ours.wrong and not ours.lost
    teeth = bool(unsynced.lost and unchecked.wrong and grown.wrong and not unsynced.wrong)
    print(
        f"bar 3: {'held' if held else f'missed: {ours.first}'}; the model {'bites' if teeth else 'is toothless'}"
    )
    return int(not (held and teeth))


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:])]
    sys.exit(main(*given, *(TRIALS, PARTS)[len(given) :]))
