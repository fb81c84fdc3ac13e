"""SIGKILL at random times of a real `extract`, resumed each time: nothing that was kept is lost or computed
again.

Usage: kills.py [KILLS]; default 100. A small corpus, an audio network tuned whole, one tuned at its head over
a frozen trunk. Each kill falls anywhere in the time that an unbroken run takes; the next start resumes, and
may be killed again. Whenever a run comes to its end its features are compared with the unbroken run's, bit
for bit, and it starts again. After every start, parts that stood before must stand unchanged. Exits 1 if any
bar is missed.
"""

import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from moodfuse.cache.store import FeatureCache
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

KILLS = 100
RECIPE = """
name = "brief"
[onedmcnn]
depth = "full"
full = { optimizer = "adam", learning_rate = 2e-3, epochs = 2, patience = 2, batch = 8, crop_s = 2.0 }
[twodmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 5e-4, epochs = 4, patience = 4, batch = 8 }
"""
SOURCES = ("onedmcnn", "twodmcnn")


def command(data: Path, recipe: Path, cache: Path) -> list[str]:
    """The `extract` under test."""
    chosen = [word for source in SOURCES for word in ("--source", source)]
    options = ["--recipe", str(recipe), "--folds", "3", "--no-crossfit", "--jobs", "1"]
    return [sys.executable, "-m", "moodfuse", "extract", str(data), "--cache", str(cache), *chosen, *options]


def parts(cache: Path) -> dict[str, tuple[int, int, int]]:
    """Every part, plan and network with what shows whether it was written again."""
    files = [file for pattern in ("*.h5", "*.safetensors") for file in cache.rglob(pattern)]
    stats = {str(file.relative_to(cache)): file.stat() for file in files if not file.name.startswith(".")}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def features(folder: Path) -> dict[str, np.ndarray]:
    """Every array of every block."""
    cache = FeatureCache(folder)
    found: dict[str, np.ndarray] = {}
    for source in cache.sources():
        for fold in range(cache.plan.folds):
            block = cache.block(source, {fold})
            found[f"{source} {fold} embedding"] = block.embedding
            if block.logits is not None:
                found[f"{source} {fold} logits"] = block.logits
    return found


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two sets of features agree bit for bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def killed(words: list[str], after_s: float) -> tuple[bool, str]:
    """Run a command, and kill it after so many seconds; whether it was killed, and what it printed."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        text, _ = process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return True, process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"extract ended with {process.returncode}:\n{text}")
    return False, text


def main(kills: int) -> int:
    """Print what 100 kills came to; 1 if something was lost, changed or computed again."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = CorpusSettings(
            labels=("excited", "sad"), clip=ClipSettings(2.0, 64, 48), clips_per_group=(1, 1, 1)
        )
        data = make_corpus(folder / "corpus", settings=settings)
        recipe = folder / "brief.toml"
        recipe.write_text(RECIPE)
        start = time.monotonic()
        _, said = killed(command(data, recipe, folder / "whole"), 600)
        whole_s = time.monotonic() - start
        wanted, total = features(folder / "whole"), int(re.findall(r"(\d+) embeddings computed", said)[0])
        print(
            f"unbroken: {whole_s:.1f} s, {total} embeddings, {len(parts(folder / 'whole'))} files", flush=True
        )
        done = ends = changed = differing = again = 0
        work = folder / "work"
        while done < kills:
            before = parts(work) if work.exists() else {}
            was_killed, said = killed(command(data, recipe, work), chance.uniform(0, 1.1 * whole_s))
            after = parts(work) if work.exists() else {}
            changed += sum(after.get(file) != facts for file, facts in before.items())
            done += was_killed
            if was_killed and done % 10 == 0:
                print(
                    f"{done} kills: {ends} runs at their end, {differing} differ, {changed} files changed",
                    flush=True,
                )
            if not was_killed:
                ends += 1
                differing += not equal(features(work), wanted)
                missing = sum(
                    len(FeatureCache(work).clips) for file in set(after) - set(before) if "features" in file
                )
                again += int(re.findall(r"(\d+) embeddings computed", said)[0]) - missing
                shutil.rmtree(work)
        print(f"{done} kills, {ends} runs resumed to their end: {differing} differ from the unbroken one")
        print(
            f"{changed} files that stood before a start were changed; {again} embeddings computed "
            f"beyond those lost"
        )
        left = list((folder / "work").rglob(".tmp-*")) if work.exists() else []
        print(f"{len(left)} temporaries of killed writers wait to be swept")
        return int(differing + changed + again != 0 or ends == 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS))
