"""What it costs to decode in workers that can be killed and are held to limits, beside plain worker processes.

Usage: isolation_cost.py [CLIPS [TURNS]]; CLIPS is by default the folder of MOODFUSE_CLIPS, TURNS 5. Both sides decode
every clip as `moodfuse extract` does, in two spawned processes, and hand it over; they take turns. Prints clips a
second of each turn without start-up, which is the time to the first clip, and start-up beside it. Exits 1 if the
isolation takes more than 5 % of the throughput, by the medians.
"""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.pool import AHEAD_PER_JOB, DecodeRequest, decode_many
from moodfuse.extract.media.renditions import SHORT_SIDE_PX

JOBS, TURNS, BAR = 2, 5, 0.05


def apart(files: Sequence[Path]) -> Iterator[object]:
    """The project's way."""
    for _, found in decode_many(
        [DecodeRequest(file, short_side_px=SHORT_SIDE_PX) for file in files], jobs=JOBS
    ):
        yield found


def plainly(files: Sequence[Path]) -> Iterator[object]:
    """A pool of plain processes, with as many clips ahead."""
    with ProcessPoolExecutor(JOBS, mp_context=multiprocessing.get_context("spawn")) as pool:
        read = partial(read_clip, short_side_px=SHORT_SIDE_PX)
        ahead = JOBS * AHEAD_PER_JOB
        waiting = [pool.submit(read, file) for file in files[:ahead]]
        for file in files[ahead:]:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(read, file))
        for future in waiting:
            yield future.result()


def turn(clips: Iterator[object], count: int) -> tuple[float, float]:
    """Clips a second after the first, and seconds to the first."""
    begin = time.perf_counter()
    if not isinstance(next(clips), DecodedClip):
        raise SystemExit("a clip was refused")
    first = time.perf_counter()
    if not all(isinstance(clip, DecodedClip) for clip in clips):
        raise SystemExit("a clip was refused")
    return (count - 1) / (time.perf_counter() - first), first - begin


def main(folder: Path, turns: int) -> int:
    """Print every turn and the ratio of the medians; 1 if the bar is missed."""
    files = sorted(folder.rglob("*.mp4"))
    found: dict[str, list[float]] = {"apart": [], "plain": []}
    for number in range(turns):
        sides = [("apart", apart), ("plain", plainly)]
        for name, side in sides if number % 2 else sides[::-1]:
            speed, start_s = turn(side(files), len(files))
            found[name].append(speed)
            print(f"{name}: {speed:.2f} clips/s, first clip after {start_s:.2f} s", flush=True)
    cost = 1 - statistics.median(found["apart"]) / statistics.median(found["plain"])
    ratios = [one / other for one, other in zip(found["apart"], found["plain"], strict=True)]
    print(
        f"{len(files)} clips; throughput apart over plain: median {1 - cost:.3f}, turns {min(ratios):.3f} to "
        f"{max(ratios):.3f}; the isolation costs {cost:.1%}, bar {BAR:.0%}: {'met' if cost <= BAR else 'MISSED'}"
    )
    return int(cost > BAR)


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    sys.exit(main(Path(given[0]), int(given[1]) if len(given) > 1 else TURNS))
