"""Write small synthetic files under the names that the tutorials use: clips, videos and features.

    python examples/make_inputs.py [FOLDER]

The clips follow an emotion as those of `moodfuse demo` do, but are 6 s long. The features are random numbers
around the mean of each class, in place of those of CLIP and of an audio network.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_clip, make_corpus

LABELS = ("excited", "relaxation", "sad", "tension")
FORMAT = ClipSettings(duration_s=6, width=96, height=72)


NAMES = ("clips", "videos", "more", "test", "song.mp4", "film.mp4", "list.csv", "test.csv")
NAMES += ("labels.csv", "songs.csv", "clip-vit.npz", "clip.npz", "wav2vec.npz")


def make_inputs(folder: Path) -> None:
    """Write clips, videos, lists of them, features and their labels."""
    settings = CorpusSettings(labels=LABELS, groups_per_label=6, clips_per_group=(1,), clip=FORMAT)
    make_corpus(folder / "clips", settings=settings).unlink()  # labels are the names of the folders
    for name in ("videos", "more", "test"):
        (folder / name).mkdir()
    for number, label in enumerate(LABELS * 2):
        settings = ClipSettings(duration_s=6, width=96, height=72, seed=500 + number)
        make_clip(folder / "videos" / f"video-{number + 1:03}.mp4", mood=label, settings=settings)
    for number, label in enumerate(LABELS):
        settings = ClipSettings(duration_s=6, width=96, height=72, seed=600 + number)
        make_clip(folder / "test" / f"{label}.mp4", mood=label, settings=settings)
    (folder / "videos" / "broken.mp4").write_bytes(b"not a video")
    make_clip(folder / "song.mp4", mood="sad", settings=FORMAT)
    make_clip(folder / "more" / "song2.mp4", mood="excited", settings=FORMAT)
    film = ClipSettings(duration_s=40, width=96, height=72, frames_per_s=6)
    make_clip(folder / "film.mp4", mood="tension", settings=film)
    write_table(folder / "list.csv", ("path",), [("song.mp4",)])
    write_table(folder / "test.csv", ("path", "label"), [(f"test/{label}.mp4", label) for label in LABELS])
    make_features(folder)


def make_features(folder: Path, *, songs: int = 40, seed: int = 0) -> None:
    """Write features of the clips, and `songs.csv` (two clips of each song) with features of two networks."""
    rng = np.random.default_rng(seed)
    clips = sorted((folder / "clips").glob("*/*.mp4"))
    ids = [f"{clip.parent.name}/{clip.name}" for clip in clips]
    write_table(folder / "labels.csv", ("id", "label"), [(id_, id_.partition("/")[0]) for id_ in ids])
    write_features(folder / "clip-vit.npz", ids, rng.standard_normal((len(ids), 16)))

    label_of_song = np.arange(songs) % len(LABELS)
    song_of_clip = np.repeat(np.arange(songs), 2)
    ids = [f"song{song + 1:03}-{take}" for song in range(songs) for take in (1, 2)]
    rows = [(id_, LABELS[label_of_song[song]], id_[:7]) for id_, song in zip(ids, song_of_clip, strict=True)]
    write_table(folder / "songs.csv", ("id", "label", "group"), rows)
    # Video separates pleasant from unpleasant emotions, audio calm from excited ones.
    pleasant, calm = np.array([1, 1, -1, -1]), np.array([-1, 1, 1, -1])
    for name, width, classes in (("clip", 32, pleasant), ("wav2vec", 32, calm)):
        direction, other = rng.standard_normal((2, width))
        of_label = np.outer(classes, direction) + 0.15 * np.outer(np.arange(4) - 1.5, other)
        of_song = of_label[label_of_song] + 2.5 * rng.standard_normal((songs, width))
        embedding = of_song[song_of_clip] + 0.5 * rng.standard_normal((len(ids), width))
        write_features(folder / f"{name}.npz", ids, embedding)


def write_features(path: Path, ids: list[str], embedding: np.ndarray) -> None:
    """Write an .npz file as `moodfuse cache import` reads it: `id` [N] and `embedding` [N, D]."""
    np.savez(path, id=np.array(ids), embedding=embedding.astype(np.float32))


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=".", help="where to write them (default: .)")
    target = parser.parse_args().folder
    if existing := [name for name in NAMES if (target / name).exists()]:
        parser.error(f"{target.resolve()} has {existing[0]} already; give another folder")
    make_inputs(target)
    print(f"{', '.join(NAMES)} written to {target.resolve()}")
