"""The cost of labelling: `predict` against `extract`, and a timeline against its parts.

Usage: prediction.py [CLIPS [N]]; the first N clips of each label (default 20) of a folder, by default
that of MOODFUSE_CLIPS. Four networks with fine-tuned heads are used, so that their bodies are shared.
Prints the ratio of `predict` to `extract --tune frozen` on the same files, and the seconds until the
first answer for one file from a cold start. For a video of 4 minutes it prints the ratio of the timeline
to decoding plus the passes of its windows, and of one `predict` per window to the timeline. Exits
1 if a limit is exceeded.
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

from moodfuse.extract.media.decode import SHORT_SIDE_PX, make_media, read_clip
from moodfuse.model.model import Model
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
MAX_RATIO, MAX_FIRST_S, MAX_TIMELINE, MIN_COMMANDS = 1.3, 8.0, 3.0, 4.0
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


def decode(path: Path) -> float:
    """Seconds to decode all frames and all audio of a file."""
    start = time.perf_counter()
    with av.open(str(path)) as media:
        for packet in media.demux(video=0, audio=0):
            packet.decode()
    return time.perf_counter() - start


def timeline_ratios(model: Model, film: Path) -> tuple[float, float]:
    """Return timeline / (decoding + passes), and one command per window / timeline."""
    start = time.perf_counter()
    timeline = model.timeline(film, hop_s=HOP_S)
    timeline_s = time.perf_counter() - start
    windows = len(timeline.starts_s)
    media = make_media(read_clip(film, short_side_px=SHORT_SIDE_PX))
    start = time.perf_counter()
    for _ in range(SAMPLED):
        model._network_outputs(media, "")
    passes_s = (time.perf_counter() - start) / SAMPLED * windows
    seconds, table = [], film.parent / "one.csv"
    for number in (round(index * (windows - 1) / (SAMPLED - 1)) for index in range(SAMPLED)):
        window = f"{film},{timeline.starts_s[number]},{timeline.ends_s[number]}"
        table.write_text(f"path,start_s,end_s\n{window}\n")
        seconds.append(moodfuse("predict", "--model", model.folder, table))
    commands_s = sum(seconds) / SAMPLED * windows
    decoding_s = decode(film)
    print(
        f"timeline of {windows} windows: {timeline_s:.1f} s; decoding {decoding_s:.1f} s, "
        f"passes {passes_s:.1f} s; a command each {commands_s:.1f} s"
    )
    return timeline_s / (decoding_s + passes_s), commands_s / timeline_s


def check(title: str, value: float, *, most: float | None = None, least: float | None = None) -> int:
    """Print a value with its limit; 1 if the limit is exceeded."""
    exceeded = (most is not None and value > most) or (least is not None and value < least)
    limit = f"at most {most}" if most is not None else f"at least {least}"
    print(f"{title}: {value:.2f}, limit {limit}{' EXCEEDED' if exceeded else ''}", flush=True)
    return int(exceeded)


def main(clips: Path, count: int) -> int:
    """Print every value; 1 if a limit is exceeded."""
    exceeded = 0
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
        export = ("--export", result, "--force", "--model", model)
        moodfuse("fuse", "--cache", folder / "work", "--run", "run-1", *export)
        predict_s = moodfuse("predict", "--model", model, data, "--output", folder / "out.jsonl")
        print(f"{len(list(data.rglob('*.mp4')))} files: extract {extract_s:.1f} s, predict {predict_s:.1f} s")
        exceeded += check("predict / extract --tune frozen", predict_s / extract_s, most=MAX_RATIO)
        one = next(data.rglob("*.mp4"))
        exceeded += check(
            "first answer from a cold start, s", moodfuse("predict", "--model", model, one), most=MAX_FIRST_S
        )
        clip = ClipSettings(duration_s=240.0, width=640, height=360, frames_per_s=25)
        film = make_corpus(folder / "film", settings=CorpusSettings(("sad",), 1, (1,), clip)).parent
        ratios = timeline_ratios(Model.load(model), next(film.rglob("*.mp4")))
        exceeded += check("timeline / (decoding + passes)", ratios[0], most=MAX_TIMELINE)
        exceeded += check("one predict a window / timeline", ratios[1], least=MIN_COMMANDS)
    return int(exceeded > 0)


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    sys.exit(main(Path(given[0]), int(given[1]) if len(given) > 1 else 20))
