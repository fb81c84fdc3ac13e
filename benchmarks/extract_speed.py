"""`extract` compared with the loop that a good user would write: clips a second with four sources, decoding
included.

Usage: extract_speed.py [CLIPS [N]]; CLIPS is by default the folder of MOODFUSE_CLIPS, N the number of clips
(default all). Both sides pass every clip through `onedmcnn`, `twodmcnn`, `c3d` and `i3d`, in one process on
the same clips, turn by turn in pieces. The loop decodes a clip once with PyAV's own threads, resizes with
torch and runs the networks eagerly in float32. Ours is `extract --tune frozen --no-keep-media`, in float32
and, where this processor computes in bfloat16, in that, timed while it has clips both to decode and to pass;
its start-up is printed apart. Prints the ratios, the ceilings measured in the same run (decoding, matrix
products) and the share of the limit: the processor's time to decode over the cores, and the networks'
operations over the matrix rate. Exits 1 if ours is less than 2.8 times as fast in bfloat16.
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
from side_by_side import PLAIN, Row, Side, decode_s, list_clips, matrix_rate, report

from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.media import Media
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.media.decode import SHORT_SIDE_PX, make_media, read_clip
from moodfuse.extract.media.pool import AHEAD_PER_JOB
from moodfuse.extract.media_supply import FrozenTrunk
from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.base import global_mean
from moodfuse.extract.networks.hardware import has_bfloat16
from moodfuse.extract.networks.video import C3D, C3D_CONVOLUTIONS, C3D_POOLS, I3D, I3D_BODY
from moodfuse.extract.pipeline import extract_features
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.settings import ExtractSettings, NetworkChoice

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
FLOPS = {"c3d": 154e9, "i3d": 111e9}
FRAMES, SAMPLES, RATE_HZ, WINDOW_S = 32, 480_000, 16_000, 30.0
PIECES, BAR = 4, 2.8
C3D_MEAN = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1, 1)


def decode_plainly(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """32 frames at even times, uint8 [32, 3, H, W], and the audio, float32 [480000], with PyAV's threads."""
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
    small = torch.nn.functional.interpolate(frames, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    return small[:, :, top : top + crop, left : left + crop].permute(1, 0, 2, 3)


class PlainC3D(C3D):
    """Layer by layer, as in the paper and in published ports."""

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """As that of `C3D`."""
        for name, _, _ in C3D_CONVOLUTIONS:
            x = torch.nn.functional.relu(self.get_submodule(name)(x))
            if name in C3D_POOLS:
                kernel, padding = C3D_POOLS[name]
                x = torch.nn.functional.max_pool3d(x, kernel, kernel, padding)
        return x.mean(dim=2).flatten(1)


class PlainI3D(I3D):
    """With its arrays as torch lays them out by itself, as in published ports."""

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """As that of `I3D`."""
        for name in I3D_BODY:
            x = self.get_submodule(name)(x)
        return global_mean(x)


def loop() -> Callable[[Sequence[Path]], float]:
    """The plain way: one clip after the other, float32; clips a second."""
    torch.set_num_threads(os.cpu_count() or 1)
    networks: dict[str, torch.nn.Module] = {name: create_network(name, num_classes=2) for name in SOURCES[:2]}
    networks |= {"c3d": PlainC3D(2).eval(), "i3d": PlainI3D(2).eval()}

    @torch.inference_mode()
    def run(files: Sequence[Path]) -> float:
        start = time.perf_counter()
        for file in files:
            frames, waveform = decode_plainly(file)
            frames = frames.float()
            short = 256 / min(frames.shape[2:])
            size = (round(frames.shape[2] * short), round(frames.shape[3] * short))
            inputs = {
                "onedmcnn": waveform,
                "twodmcnn": waveform,
                "c3d": resized(frames, (128, 171), 112) - C3D_MEAN,
                "i3d": resized(frames, size, 224) / 127.5 - 1,
            }
            for name, network in networks.items():
                network(inputs[name][None])
        return len(files) / (time.perf_counter() - start)

    return run


def extract() -> Callable[[Sequence[Path], Path, str], tuple[float, float]]:
    """Our side."""
    return ours


def ours(files: Sequence[Path], folder: Path, precision: str) -> tuple[float, float]:
    """Clips a second of stage one while clips are decoded and pass the networks; seconds until the first has
    passed.
    """
    begin, passed = time.perf_counter(), []
    add = FrozenTrunk.add

    def noted(trunk: FrozenTrunk, digest: str, media: Media) -> None:
        add(trunk, digest, media)
        passed.append(time.perf_counter())

    data = folder / "data"
    for number, file in enumerate(files):
        place = data / ("one", "two")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.mp4").symlink_to(file)
    jobs = os.cpu_count() or 1
    settings = ExtractSettings(
        data=data,
        cache=folder / "cache",
        sources=SOURCES,
        plan=PlanChoice(folds=2),
        recipes=RecipeChoice(depth="frozen", device="cpu", precision=precision),
        networks=NetworkChoice(crossfit=False),
        jobs=jobs,
        keep_media=False,
    )
    with patch.object(FrozenTrunk, "add", noted):
        extract_features(settings, report=lambda line: None)
    shutil.rmtree(folder)
    done = passed[len(SOURCES) - 1 :: len(SOURCES)]
    done = done[: -AHEAD_PER_JOB * jobs]  # behind these nothing was left to decode
    return (len(done) - 1) / (done[-1] - done[0]), done[0] - begin


def pass_s(files: Sequence[Path], precision: str) -> dict[str, float]:
    """Seconds that a clip in memory takes in each network alone, including its preprocessing."""
    clips = [make_media(read_clip(file, short_side_px=SHORT_SIDE_PX)) for file in files]
    found = {}
    for name in SOURCES:
        recipe = build_recipe(name, RecipeChoice(depth="frozen", device="cpu", precision=precision))
        worker = SourceWorker(recipe, make_network(recipe, None, num_classes=2))
        worker.frozen_rows(clips[0])
        start = time.perf_counter()
        for clip in clips:
            worker.frozen_rows(clip)
        found[name] = (time.perf_counter() - start) / len(clips)
    return found


def main(files: Sequence[Path]) -> int:
    """Print every turn, the ratios and the share of the limit; 1 if the bar is missed."""
    names = ["fp32", *(["bf16"] if has_bfloat16("cpu") else [])]
    plain, own = Side(loop, PLAIN), Side(extract)
    speeds: dict[str, list[float]] = {name: [] for name in ("loop", *names)}
    with tempfile.TemporaryDirectory() as folder:
        plain.ask(files[:1])
        for name in names:
            first_s = own.ask(files[:8], Path(folder) / "run", name)[1]
            print(f"the first clip of ours in {name} after {first_s:.1f} s")
        for piece in range(PIECES):
            part = files[piece::PIECES]
            speeds["loop"].append(plain.ask(part))
            for name in names:
                speeds[name].append(own.ask(part, Path(folder) / "run", name)[0])
            print(
                ", ".join(f"{name} {found[-1]:.2f}" for name, found in speeds.items()), "clips/s", flush=True
            )
    plain.close()
    own.close()
    core_s, cores = decode_s(files[:6]), os.cpu_count() or 1
    rates = {"fp32": matrix_rate("float32"), "bf16": matrix_rate("bfloat16")}
    print(
        f"decoding {core_s:.2f} s of a core; products of matrices {rates['fp32'] / 1e9:.0f} GFLOP/s in "
        f"float32, "
        f"{rates['bf16'] / 1e9:.0f} in bfloat16"
    )
    baseline = statistics.median(speeds["loop"])
    rows = []
    for name in names:
        ratios = [one / other for one, other in zip(speeds[name], speeds["loop"], strict=True)]
        limit_s = core_s / cores + sum(FLOPS.values()) / rates[name]
        speed = statistics.median(speeds[name])
        bar = {"bar": f"{BAR} times", "met": statistics.median(ratios) >= BAR} if name == "bf16" else {}
        what = f"extract, frozen, 4 sources, {name}"
        sides = f"{speed:.2f} clips/s", f"{baseline:.2f} clips/s, plain loop"
        parts = {f"decoding on {cores} cores": core_s / cores, **pass_s(files[:6], name)}
        told = ", ".join(f"{part} {seconds:.3f} s" for part, seconds in parts.items())
        print(f"{name}, a clip alone: {told}; {sum(parts.values()):.3f} s of {1 / speed:.3f} s together")
        rows.append(Row(what, *sides, ratios, limit=1 / speed / limit_s, **bar))
    if "bf16" not in names:
        print(
            f"this processor has no instructions for bfloat16: the bar, {BAR} times in bfloat16, is not "
            f"measured"
        )
    return report(rows) or int("bf16" not in names)


if __name__ == "__main__":
    sys.exit(main(list_clips(sys.argv[1:])))
