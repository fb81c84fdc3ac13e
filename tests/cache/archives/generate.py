"""Make the archived cache of the current format version: `generate.py ARCHIVE.tar`.

A small cache: a table of clips, a plan and a repeat plan, a frozen and a tuned source, a network file, an
outcome.
"""

import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import clip_digest, digest
from moodfuse.cache.folds import GROUP_RULE, assign_folds, clip_groups
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Clip, ClipStatus, Outcome, Plan
from moodfuse.cache.store import FeatureCache

CLIPS = 12
FROZEN = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
TUNED = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)


def values_of(width: int, fold: int = 0) -> np.ndarray:
    """Features that can be told: row + column / 64 + 100 * fold, float32 [CLIPS, width]."""
    return (np.arange(CLIPS)[:, None] + np.arange(width) / 64 + 100 * fold).astype(np.float32)


def make(folder: Path) -> FeatureCache:
    """The cache."""
    statuses = []
    for number in range(CLIPS):
        file = digest(f"file {number}")
        clip = Clip(
            f"{'ab'[number % 2]}/é {number:02d}.mp4", f"/clips/{number}.mp4", "ab"[number % 2], end_s=20.5
        )
        key = clip_digest(file, 0.0, 20.5)
        statuses.append(ClipStatus(clip, key, file, clip.id, ok=True, duration_s=20.5, decoder="archive"))
    cache = FeatureCache(folder, create=True)
    for repeat in range(2):
        assignment = assign_folds(clip_groups(statuses), folds=3, seed=repeat, placed={})
        cache.write_plan(
            Plan(3, repeat, GROUP_RULE, assignment, (table_name(statuses),), repeat=repeat), statuses
        )
    digests = [status.digest for status in cache.clips]
    cache.write_outcome(Outcome(digests[0], ok=True, duration_s=20.5, decoder="archive"))
    for recipe in (FROZEN, TUNED):
        cache.write_recipe(recipe)
    cache.write_block_part(FROZEN, None, digests, {"embedding": values_of(4)})
    for fold in range(3):
        training_clips = cache.training_clips(TUNED, fold)
        assert training_clips is not None
        cache.write_training_clips(TUNED, training_clips)
        arrays = {"embedding": values_of(4, fold), "logits": values_of(2, fold)}
        for rows in (slice(0, 7), slice(7, None)):
            cache.write_block_part(
                TUNED, training_clips, digests[rows], {name: array[rows] for name, array in arrays.items()}
            )
    cache.select([FROZEN, TUNED], command="moodfuse extract clips --cache work")
    return cache


def main(archive: Path) -> None:
    """Write the cache as a tar archive, its names sorted and its times 0."""
    with tempfile.TemporaryDirectory() as name:
        folder = make(Path(name) / "cache").path
        with tarfile.open(archive, "w") as tar:
            for file in sorted(folder.rglob("*")):
                info = tar.gettarinfo(file, arcname=str(file.relative_to(folder)))
                info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                if file.is_file():
                    with file.open("rb") as stream:
                        tar.addfile(info, stream)
                else:
                    tar.addfile(info)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
