"""What windows of a video of three hours cost: seconds and memory by place and by length, in four containers.

Usage: three_hours.py [HOURS]. A small video with sound is made and packed anew as MP4, Matroska, MPEG-TS and AVI. Each
window is read in a process of its own, which tells its peak memory above that of reading a clip of 30 s. Exits 1 if a
window costs over 64 MiB more than that, if 30 s late in the file take over 3 times those at its start and a second
more, or if time grows faster than what is decoded (exponent over 1.15).
"""

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from moodfuse.synthetic_corpus import write_clip

FORMATS = {"mp4": "mp4", "mkv": "matroska", "ts": "mpegts", "flv": "flv"}
WIDTH, HEIGHT, FRAMES_PER_S, RATE_HZ = 64, 48, 5, 16_000
LENGTHS_S = (30, 300, 3000)
MORE_MIB, LATER, SLACK_S, EXPONENT = 64, 3.0, 1.0, 1.15
PIECE_S = 600
CODE = """
import re, sys, time
from moodfuse.extract.media.decode import read_clip
start = time.perf_counter()
clip = read_clip(sys.argv[1], start_s=float(sys.argv[2]), end_s=float(sys.argv[3]), short_side_px=256)
took = time.perf_counter() - start
peak_kib = int(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])
print(took, peak_kib / 1024, clip.frame_times_s[0], clip.frame_times_s[-1])
"""


@dataclass(frozen=True)
class Cost:
    """Seconds, and the peak of memory in MiB, of one window."""

    seconds: float
    memory_mib: float


def cost(file: Path, start_s: float, end_s: float) -> Cost:
    """Read one window in a fresh process."""
    command = [sys.executable, "-c", CODE, str(file), str(start_s), str(end_s)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    first_s, last_s = float(out[2]), float(out[3])
    if not (start_s - 1 <= first_s <= start_s + (end_s - start_s) / 16 and last_s <= end_s):
        raise SystemExit(
            f"{file.name}: the window {start_s} to {end_s} gave pictures of {first_s} to {last_s} s"
        )
    return Cost(float(out[0]), float(out[1]))


def frames(count: int) -> "list[np.ndarray]":
    """Pictures whose brightness tells their number."""
    found = []
    for number in range(count):
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        planes[:HEIGHT] = 20 + number * 2 % 200
        found.append(planes)
    return found


def make(folder: Path, hours: float) -> dict[str, Path]:
    """A video of one piece over and over, in every container."""
    sound = 0.3 * np.sin(2 * np.pi * 440 * np.arange(PIECE_S * RATE_HZ) / RATE_HZ)
    piece = write_clip(
        folder / "piece.mp4",
        iter(frames(PIECE_S * FRAMES_PER_S)),
        sound,
        frames_per_s=FRAMES_PER_S,
        sample_rate_hz=RATE_HZ,
    )
    files = {}
    for ending, kind in FORMATS.items():
        files[ending] = folder / f"long.{ending}"
        repeat(piece, files[ending], kind, round(hours * 3600 / PIECE_S))
    return files


def repeat(piece: Path, target: Path, kind: str, times: int) -> None:
    """Pack a piece's packets several times over, one after the other."""
    with av.open(str(target), "w", format=kind) as output:
        streams = None
        reached: dict[int, float] = {}
        for number in range(times):
            with av.open(str(piece)) as source:
                streams = streams or {
                    one.index: output.add_stream_from_template(one) for one in source.streams
                }
                packets = sorted(
                    (packet for packet in source.demux() if packet.dts is not None),
                    key=lambda packet: packet.dts * packet.time_base,
                )
                for packet in packets:
                    shift = round(number * PIECE_S / packet.time_base)
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    if packet.dts <= reached.get(packet.stream.index, -math.inf):
                        continue  # a coder's lead-in, which overlaps the end of the piece before
                    reached[packet.stream.index] = packet.dts
                    packet.stream = streams[packet.stream.index]
                    output.mux(packet)


def main(hours: float) -> int:
    """Print a row a window; 1 if a bar is missed."""
    total_s, missed = hours * 3600, []
    print("| container | window | seconds | peak, MiB |\n| --- | --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        for ending, file in make(Path(name), hours).items():
            places = [(start, start + 30.0) for start in (0.0, total_s / 2, total_s - 60.0)]
            lengths = [(0.0, min(float(length), total_s)) for length in (*LENGTHS_S, total_s - PIECE_S)]
            costs = {window: cost(file, *window) for window in dict.fromkeys([*places, *lengths])}
            for (start_s, end_s), found in costs.items():
                print(
                    f"| {ending} | {start_s:.0f} to {end_s:.0f} s | {found.seconds:.2f} | {found.memory_mib:.0f} |",
                    flush=True,
                )
            first = costs[places[0]]
            if max(one.memory_mib for one in costs.values()) > first.memory_mib + MORE_MIB:
                missed.append(f"{ending}: memory grows")
            if max(costs[place].seconds for place in places) > LATER * first.seconds + SLACK_S:
                missed.append(f"{ending}: 30 s later in the file take longer")
            spans = np.array([end_s for _, end_s in lengths])[1:]
            seconds = np.array([costs[window].seconds for window in lengths])[1:]
            exponent = float(np.polyfit(np.log(spans), np.log(seconds), 1)[0])
            print(f"{ending}: time grows with the length of the window to the power of {exponent:.2f}")
            if exponent > EXPONENT:
                missed.append(f"{ending}: exponent {exponent:.2f}")
    print("missed: " + "; ".join(missed) if missed else "all bars met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0))
