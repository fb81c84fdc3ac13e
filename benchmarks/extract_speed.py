"""`extract` beside the loop that a good user would write: clips a second with four sources, decoding included.

Usage: extract_speed.py [CLIPS [N]]; CLIPS is by default the folder of MOODFUSE_CLIPS, N the number of clips (default
all). Both sides pass every clip through `onedmcnn`, `twodmcnn`, `c3d` and `i3d`, in one process on the same clips,
turn by turn in pieces. The loop decodes a clip once with PyAV's own threads, resizes with torch and runs the networks
eagerly in float32. Ours is `extract --tune frozen --no-keep-media`, in float32 and, where this processor computes in
bfloat16, in that, timed from the first clip that is done to the last; its start-up is printed apart. Prints the
ratios, the ceilings measured in the same run (decoding, matrix products) and the share of the limit: the processor's
time to decode over the cores, and the networks' operations over the matrix rate. Exits 1 if ours is less than 2.8
times as fast in bfloat16.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import torch

from cache.media import Media
from cache.planning import PlanChoice
from extract.media.decode import read_clip
from extract.media.renditions import SHORT_SIDE_PX
from extract.networks import create_network
from extract.networks.precision import has_bfloat16
from extract.recipe_files import RecipeChoice
from extract.stage import ExtractSettings, extract_features
from extract.streaming import Trunk
from extract.work import Wanted

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
FLOPS = {"c3d": 154e9, "i3d": 111e9}
FRAMES, SAMPLES, RATE_HZ, WINDOW_S = 32, 480_000, 16_000, 30.0
PIECES, BAR = 4, 2.8
C3D_MEAN = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1, 1)


def decode_plainly(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """32 frames at even times, uint8 [32, 3, H, W], and the sound, float32 [480000], with PyAV's own threads."""
    frames: list[np.ndarray] = []
    with av.open(str(path)) as media:
        stream = media.streams.video[0]
        stream.thread_type = "AUTO"
        length_s = min(WINDOW_S, media.duration / av.time_base)
        wanted = [(number + 0.5) * length_s / FRAMES for number in range(FRAMES)]
        last = None
        for frame in media.decode(stream):
            while len(frames) < FRAMES and last is not None and frame.time > wanted[len(frames)]:
                frames.append(last.to_ndarray(format="rgb24"))
            last = frame
            if len(frames) == FRAMES:
                break
        while len(frames) < FRAMES:
            frames.append(last.to_ndarray(format="rgb24"))
    sound: list[np.ndarray] = []
    with av.open(str(path)) as media:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
        for frame in media.decode(audio=0):
            sound += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
            if sum(map(len, sound)) >= SAMPLES:
                break
    waveform = np.zeros(SAMPLES, np.float32)
    heard = np.concatenate(sound)[:SAMPLES]
    waveform[: len(heard)] = heard
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), torch.from_numpy(waveform)


def resized(frames: torch.Tensor, size: tuple[int, int], crop: int) -> torch.Tensor:
    """Frames resized and cropped at the centre, float32 [3, 32, crop, crop], 0 to 255."""
    small = torch.nn.functional.interpolate(frames.float(), size, mode="bilinear", align_corners=False)
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    return small[:, :, top : top + crop, left : left + crop].permute(1, 0, 2, 3)


class Loop:
    """The plain way: one clip after the other, float32."""

    def __init__(self) -> None:
        self.networks = {name: create_network(name, num_classes=2) for name in SOURCES}

    def run(self, files: Sequence[Path]) -> None:
        """Embed some clips."""
        torch.set_num_threads(os.cpu_count() or 1)
        with torch.inference_mode():
            for file in files:
                frames, waveform = decode_plainly(file)
                short = 256 / min(frames.shape[2:])
                size = (round(frames.shape[2] * short), round(frames.shape[3] * short))
                inputs = {
                    "onedmcnn": waveform,
                    "twodmcnn": waveform,
                    "c3d": resized(frames, (128, 171), 112) - C3D_MEAN,
                    "i3d": resized(frames, size, 224) / 127.5 - 1,
                }
                for name, network in self.networks.items():
                    network(inputs[name][None])


def ours(files: Sequence[Path], folder: Path, precision: str) -> tuple[float, float]:
    """Clips a second of stage one, nothing cached, after the first that has passed all networks; and its start-up."""
    begin, passed = time.perf_counter(), []
    add = Trunk.add

    def noted(trunk: Trunk, digest: str, media: Media) -> None:
        add(trunk, digest, media)
        passed.append(time.perf_counter())

    data = folder / "data"
    for number, file in enumerate(files):
        place = data / ("one", "two")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.mp4").symlink_to(file)
    settings = ExtractSettings(
        data=data,
        cache=folder / "cache",
        sources=SOURCES,
        plan=PlanChoice(folds=2),
        recipes=RecipeChoice(depth="frozen", device="cpu", precision=precision),
        networks=Wanted(crossfit=False),
        jobs=os.cpu_count() or 1,
        keep_media=False,
    )
    with patch.object(Trunk, "add", noted):
        extract_features(settings, say=lambda line: None)
    shutil.rmtree(folder)
    done = passed[len(SOURCES) - 1 :: len(SOURCES)]
    return (len(done) - 1) / (done[-1] - done[0]), done[0] - begin


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a product of two matrices."""
    one = torch.randn(2048, 2048).to(dtype)
    torch.set_num_threads(os.cpu_count() or 1)
    return 2 * 2048**3 / min(seconds_of(lambda: one @ one) for _ in range(8))


def decode_s(files: Sequence[Path]) -> float:
    """Seconds of one core to decode a clip as ours does."""
    start = time.process_time()
    for file in files:
        read_clip(file, short_side_px=SHORT_SIDE_PX)
    return (time.process_time() - start) / len(files)


def main(files: Sequence[Path]) -> int:
    """Print every turn, the ratios and the share of the limit; 1 if the bar is missed."""
    sides = ["fp32", *(["bf16"] if has_bfloat16("cpu") else [])]
    loop = Loop()
    with tempfile.TemporaryDirectory() as name:
        print(f"warming up: loop {seconds_of(lambda: loop.run(files[:1])):.1f} s", end="")
        for precision in sides:
            _, start_s = ours(files[:4], Path(name) / "warm", precision)
            print(f"; the first clip of ours in {precision} after {start_s:.1f} s", end="")
        print(flush=True)
        speeds: dict[str, list[float]] = {"loop": [], **{precision: [] for precision in sides}}
        for piece in range(PIECES):
            part = files[piece::PIECES]
            speeds["loop"].append(len(part) / seconds_of(lambda part=part: loop.run(part)))
            for precision in sides:
                speeds[precision].append(ours(part, Path(name) / "run", precision)[0])
            print(", ".join(f"{side} {found[-1]:.2f}" for side, found in speeds.items()), "clips/s", flush=True)
    core_s, cores = decode_s(files[:6]), os.cpu_count() or 1
    rates = {"fp32": matrix_rate(torch.float32), "bf16": matrix_rate(torch.bfloat16)}
    products = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items())
    print(f"decoding {core_s:.2f} s of a core; products of matrices {products}")
    missed = "bf16" not in sides
    for precision in sides:
        ratios = [one / other for one, other in zip(speeds[precision], speeds["loop"], strict=True)]
        limit_s = core_s / cores + sum(FLOPS.values()) / rates[precision]
        share = statistics.median(speeds[precision]) * limit_s
        print(
            f"{precision}: {statistics.median(ratios):.2f} times the loop ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"the limit is {limit_s:.2f} s a clip, ours {1 / share:.2f} times that"
        )
        missed |= precision == "bf16" and statistics.median(ratios) < BAR
    print(f"bar {BAR} in bf16: {'MISSED' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    every = sorted(Path(given[0]).rglob("*.mp4"))
    count = int(given[1]) if len(given) > 1 else len(every)
    sys.exit(main(every[:: max(1, len(every) // count)][:count]))
