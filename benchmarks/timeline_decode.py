"""What reading every window of a long video costs: beside decoding it once, and beside one `read_clip` a window.

Usage: timeline_decode.py [VIDEO [HOP]]. Without VIDEO, one of 4 minutes is made, 640 x 360 at 25 pictures a second with
sound. HOP is in seconds, by default 5. All three take turns in one process on one decoder thread; of two turns the
faster counts. Pictures are scaled to a short side of 256 px, as `moodfuse extract` has them.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.renditions import SHORT_SIDE_PX
from moodfuse.extract.media.windows import WindowRequest, plan_windows, read_windows
from moodfuse.synthetic_corpus import ClipSettings, make_clip

HOP_S = 5.0
TURNS = 2
MADE = ClipSettings(duration_s=240.0, width=640, height=360, frames_per_s=25, sample_rate_hz=44_100)


def decode_plainly(path: Path) -> int:
    """Decode all pictures and sound and keep nothing; return how many pieces there were."""
    with av.open(str(path)) as media:
        for stream in media.streams:
            stream.codec_context.thread_count = 1
        return sum(1 for _ in media.decode(media.streams.video[0], media.streams.audio[0]))


def read_in_one_pass(path: Path, hop_s: float) -> int:
    """Read all windows at once; return how many there are."""
    return sum(1 for _ in read_windows(WindowRequest(path, hop_s=hop_s, short_side_px=SHORT_SIDE_PX)))


def read_one_by_one(path: Path, hop_s: float) -> int:
    """Read all windows, each by itself; return how many there are."""
    windows = plan_windows(WindowRequest(path, hop_s))
    for window in windows:
        read_clip(path, start_s=window.start_s, end_s=window.end_s, short_side_px=SHORT_SIDE_PX)
    return len(windows)


def main(path: Path, hop_s: float) -> int:
    """Print the table."""
    ways: dict[str, Callable[[], int]] = {
        "decoded once, nothing kept": lambda: decode_plainly(path),
        "all windows in one pass": lambda: read_in_one_pass(path, hop_s),
        "one `read_clip` a window": lambda: read_one_by_one(path, hop_s),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    count = 0
    for _ in range(TURNS):
        for name, way in ways.items():
            start = time.process_time()
            count = way()
            seconds[name] = min(seconds[name], time.process_time() - start)
    plain_s, pass_s, _ = seconds.values()
    print(f"{count} windows at a hop of {hop_s:g} s\n")
    print("| way | seconds of one core | x decoding once | x one pass |\n| --- | ---: | ---: | ---: |")
    for name, one_s in seconds.items():
        print(f"| {name} | {one_s:.2f} | {one_s / plain_s:.2f} | {one_s / pass_s:.2f} |")
    return 0


if __name__ == "__main__":
    hop = float(sys.argv[2]) if len(sys.argv) > 2 else HOP_S
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1]), hop))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(make_clip(Path(folder) / "made.mp4", mood="excited", settings=MADE), hop))
