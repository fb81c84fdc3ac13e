"""What labelling costs beside what it is made of: `predict` beside `extract`, a time line beside its parts.

Usage: prediction.py [CLIPS [N]]; of a folder of clips, by default that of MOODFUSE_CLIPS, the first N of each label
(default 20). Four networks, their heads tuned, so that the bodies are shared. Prints the ratio of `predict` to
`extract --tune frozen` on the same files, the first answer for one file from a cold start, and of a 4-minute video the
ratio of its time line to decoding it and passing its windows, and of one `predict` per window to its time line. Exits 1
if a bar is missed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import av

from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.renditions import SHORT_SIDE_PX, media_of
from moodfuse.model.model import Model
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
RATIO_BAR, FIRST_BAR_S, TIMELINE_BAR, APART_BAR = 1.3, 8.0, 3.0, 4.0
HOP_S, SAMPLED = 5.0, 3


def moodfuse(*arguments: object) -> float:
    """Seconds of a command."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "moodfuse", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-500:]}")
    return time.perf_counter() - start


def choose(clips: Path, folder: Path, count: int) -> Path:
    """Copy the first clips of each label."""
    for label in sorted(path for path in clips.iterdir() if path.is_dir()):
        (folder / label.name).mkdir(parents=True)
        for file in islice(sorted(label.glob("*.mp4")), count):
            shutil.copy(file, folder / label.name)
    return folder


def decoding_s(path: Path) -> float:
    """Seconds to decode every picture and all sound of a file, and nothing else."""
    start = time.perf_counter()
    with av.open(str(path)) as media:
        for packet in media.demux(video=0, audio=0):
            packet.decode()
    return time.perf_counter() - start


def timeline_figures(model: Model, film: Path) -> tuple[float, float]:
    """A time line beside decoding and its windows' passes, and one prediction per window beside it."""
    start = time.perf_counter()
    timeline = model.timeline(film, hop_s=HOP_S)
    took_s = time.perf_counter() - start
    windows = len(timeline.starts_s)
    media = media_of(read_clip(film, short_side_px=SHORT_SIDE_PX))
    start = time.perf_counter()
    for _ in range(SAMPLED):
        model._network_outputs(media, "")
    passes_s = (time.perf_counter() - start) / SAMPLED * windows
    places = [round(place * (windows - 1) / (SAMPLED - 1)) for place in range(SAMPLED)]
    apart = []
    for place in places:
        window = f"{film},{timeline.starts_s[place]},{timeline.ends_s[place]}"
        (film.parent / "one.csv").write_text(f"path,start_s,end_s\n{window}\n")
        apart.append(moodfuse("predict", "--model", model.folder, film.parent / "one.csv"))
    apart_s = sum(apart) / SAMPLED * windows
    plain_s = decoding_s(film)
    print(
        f"time line of {windows} windows: {took_s:.1f} s; decoding {plain_s:.1f} s, passes {passes_s:.1f} s; "
        f"a command each {apart_s:.1f} s"
    )
    return took_s / (plain_s + passes_s), apart_s / took_s


def verdict(what: str, figure: float, *, most: float | None = None, least: float | None = None) -> int:
    """Print a figure beside its bar; 1 if it is missed."""
    missed = (most is not None and figure > most) or (least is not None and figure < least)
    bar = f"at most {most}" if most is not None else f"at least {least}"
    print(f"{what}: {figure:.2f}, bar {bar}{' MISSED' if missed else ''}", flush=True)
    return int(missed)


def main(clips: Path, count: int) -> int:
    """Print every figure; 1 if a bar is missed."""
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = choose(clips, folder / "clips", count)
        chosen = [word for source in SOURCES for word in ("--source", source)]
        options = ["--folds", 2, "--no-crossfit", "--for-export"]
        extract_s = moodfuse(
            "extract", data, "--cache", folder / "frozen", *chosen, "--tune", "frozen", *options[:2]
        )
        moodfuse("extract", data, "--cache", folder / "work", *chosen, "--tune", "head", *options)
        combine = "+".join(SOURCES)
        moodfuse("fuse", "--cache", folder / "work", "--combine", combine, "--head", "softmax")
        result = f"{'+'.join(sorted(SOURCES))} softmax logits"
        model = folder / "model"
        moodfuse("fuse", "--cache", folder / "work", "--run", "run-1", "--export", result, "--model", model)
        predict_s = moodfuse("predict", "--model", model, data, "--output", folder / "out.jsonl")
        print(f"{len(list(data.rglob('*.mp4')))} files: extract {extract_s:.1f} s, predict {predict_s:.1f} s")
        missed += verdict("predict / extract --tune frozen", predict_s / extract_s, most=RATIO_BAR)
        one = next(data.rglob("*.mp4"))
        missed += verdict(
            "first answer from a cold start, s", moodfuse("predict", "--model", model, one), most=FIRST_BAR_S
        )
        clip = ClipSettings(duration_s=240.0, width=640, height=360, frames_per_s=25)
        film = make_corpus(folder / "film", settings=CorpusSettings(("sad",), 1, (1,), clip)).parent
        ratios = timeline_figures(Model.load(model), next(film.rglob("*.mp4")))
        missed += verdict("time line / (decoding + passes)", ratios[0], most=TIMELINE_BAR)
        missed += verdict("one predict a window / time line", ratios[1], least=APART_BAR)
    return int(missed > 0)


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    sys.exit(main(Path(given[0]), int(given[1]) if len(given) > 1 else 20))
