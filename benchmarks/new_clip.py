"""One new clip in a cache that holds all others: seconds until its features can be used.

Usage: new_clip.py [CLIPS]; CLIPS is by default the folder of MOODFUSE_CLIPS. `extract --tune frozen` with
four sources fills a cache; then a copy of a clip with some bytes appended, so that it is another file, is
added and the command run again, several times, each with one copy more. What starting Python and importing
torch costs is printed with it. Exits 1 if the median is not under 5 s.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import Row, list_clips, report

from moodfuse.cache.store import FeatureCache

TURNS, BAR_S, SOURCES = 5, 5.0, 4


def run(*arguments: str) -> float:
    """Seconds of a command from its start to its end."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main(files: Sequence[Path]) -> int:
    """Print every turn and the row; 1 if the bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        data, cache = Path(name) / "data", Path(name) / "cache"
        for file in files:
            place = data / file.parent.name
            place.mkdir(parents=True, exist_ok=True)
            (place / file.name).symlink_to(file.resolve())
        command = ("-m", "moodfuse", "extract", str(data), "--cache", str(cache), "--tune", "frozen")
        print(f"all {len(files)} clips: {run(*command):.0f} s", flush=True)
        seconds = []
        for turn in range(TURNS):
            added = data / files[turn].parent.name / f"added {turn}.mp4"
            shutil.copyfile(files[turn], added)
            with added.open("ab") as stream:
                stream.write(os.urandom(8))
            seconds.append(run(*command))
        held = FeatureCache(cache)
        recipes = [held.recipe(source) for source in held.sources()]
        assert len(recipes) == SOURCES
        assert all(len(held.held(recipe, None)) == len(files) + TURNS for recipe in recipes)
        torch_s = statistics.median(run("-c", "import torch") for _ in range(3))
    middle = statistics.median(seconds)
    print("one clip more: " + ", ".join(f"{value:.2f} s" for value in seconds))
    what = f"a clip added to {len(files)}, frozen, {SOURCES} sources"
    baseline = f"{torch_s:.2f} s, starting Python and torch"
    ratios = [value / torch_s for value in seconds]
    return report([Row(what, f"{middle:.2f} s", baseline, ratios, f"under {BAR_S:g} s", middle < BAR_S)])


if __name__ == "__main__":
    sys.exit(main(list_clips(sys.argv[1:])))
