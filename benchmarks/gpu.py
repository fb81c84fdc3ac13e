"""The three stages on a GPU and on the CPU: whether they agree, whether they repeat, what a GPU
gains.

Usage: gpu.py [DEVICE] [stages|speed]; DEVICE is cuda unless told otherwise. Stages: on a made-up corpus the
four networks embed every clip on the CPU, and on DEVICE twice, in float32 and in bfloat16; then all four are
tuned whole on DEVICE, fused, evaluated, exported, and the model labels the clips again, on DEVICE and on the
CPU. Speed: times of a network alone, eager and compiled, on inputs that lie on its device. Exits 1 if float32
differs by more than 1 in 10 000 of the largest value, from the CPU or compiled, if embedding a clip does not
repeat bit for bit, if a file is not labelled, or if the model says otherwise on the CPU. Whether tuning
repeats is only told: some backward passes on a GPU add in any order.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from moodfuse.cache.store import FeatureCache
from moodfuse.extract.inference import SourceWorker, autocast, make_network, place_batch
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
BAR = 1e-4
RECIPE = "name = 'brief'\n" + "".join(
    f"[{source}]\ndepth = 'full'\nfull = "
    f"{{ optimizer = 'adam', learning_rate = 1e-4, epochs = 2, batch = 4 }}\n"
    for source in SOURCES
)
SHAPES = {"onedmcnn": (480_000,), "twodmcnn": (480_000,), "c3d": (3, 32, 112, 112), "i3d": (3, 32, 224, 224)}
REPEATS = 10


def moodfuse(*arguments: object) -> float:
    """Seconds of one command; its failure ends the benchmark."""
    command = [sys.executable, "-m", "moodfuse", *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def embeddings(data: Path, cache: Path, device: str, precision: str = "fp32") -> dict[str, np.ndarray]:
    """Frozen embeddings of all clips by source, float32 [N, D]."""
    named = [word for source in SOURCES for word in ("--source", source)]
    seconds = moodfuse(
        "extract",
        data,
        "--cache",
        cache,
        *named,
        "--tune",
        "frozen",
        "--device",
        device,
        "--precision",
        precision,
    )
    print(f"extract frozen on {device}, {precision}: {seconds:.1f} s with start-up", flush=True)
    found = FeatureCache(cache)
    return {source: found.block(source, "*").embedding for source in SOURCES}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def agreement(data: Path, folder: Path, device: str) -> int:
    """Print how embeddings on the device differ from those on the CPU; 1 if float32 misses the bar."""
    missed = 0
    expected = embeddings(data, folder / "cpu", "cpu")
    found = embeddings(data, folder / "first", device)
    again = embeddings(data, folder / "second", device)
    brief = embeddings(data, folder / "bf16", device, "bf16")
    for source in SOURCES:
        exact = np.array_equal(found[source], again[source])
        off = difference(found[source], expected[source])
        missed += not exact or off > BAR
        print(
            f"{source}: fp32 differs from the CPU by {off:.1e} (bar {BAR:.0e}), bf16 by "
            f"{difference(brief[source], expected[source]):.1e}; a second run has "
            f"{'the same bits' if exact else 'OTHER BITS'}",
            flush=True,
        )
    return missed


def stages(data: Path, folder: Path, device: str) -> int:
    """Tune all networks whole, twice; fuse, evaluate, export and predict; 1 if the CPU says otherwise."""
    (folder / "brief.toml").write_text(RECIPE)
    named = [word for source in SOURCES for word in ("--source", source)]
    options = [
        "--recipe",
        folder / "brief.toml",
        "--folds",
        2,
        "--no-crossfit",
        "--for-export",
        "--device",
        device,
    ]
    caches = [folder / "tuned", folder / "tuned-again"]
    seconds = [moodfuse("extract", data, "--cache", cache, *named, *options) for cache in caches]
    print(f"12 networks tuned whole on {device}: {seconds[0]:.1f} s with start-up", flush=True)
    names = [f"{source}@brief" for source in SOURCES]
    pairs = [[FeatureCache(cache).block(name, {0}).embedding for cache in caches] for name in names]
    differing = [
        name for name, (first, second) in zip(names, pairs, strict=True) if not np.array_equal(first, second)
    ]
    print(f"tuned twice: {'other bits of ' + ', '.join(differing) if differing else 'the same bits'}")
    moodfuse("fuse", "--cache", caches[0], "--combine", "+".join(names), "--head", "softmax")
    moodfuse("evaluate", "--cache", caches[0])
    result = f"{'+'.join(sorted(names))} softmax logits"
    export = ("--export", result, "--force", "--model", folder / "model")
    moodfuse("fuse", "--cache", caches[0], "--run", "run-1", *export)
    found = labels(data, folder, device)
    print(f"predict on {device}: {len(found)} files, all labelled")
    off = float(np.abs(found - labels(data, folder, "cpu")).max())
    print(f"the same model on the CPU: probabilities differ by {off:.1e} (bar {BAR:.0e})")
    return int(off > BAR)


def labels(data: Path, folder: Path, device: str) -> np.ndarray:
    """Probabilities [N, C] of all files by the model, on a device; a refused file ends the benchmark."""
    output = folder / f"{device}.jsonl"
    moodfuse("predict", "--model", folder / "model", data.parent, "--output", output, "--device", device)
    rows = [json.loads(line)["probabilities"] for line in output.read_text().splitlines()]
    return np.array([list(row.values()) for row in rows])


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Median seconds of some work on a device."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def worker_of(source: str, precision: str, device: str, *, compiled: bool = False) -> SourceWorker:
    """A network at work, untuned."""
    choice = RecipeChoice(depth="full", device=device, precision=precision, compile=compiled)
    recipe = build_recipe(source, choice)
    return SourceWorker(recipe, make_network(recipe, None, 6))


def embedded(worker: SourceWorker, one: torch.Tensor, device: str) -> tuple[np.ndarray, float]:
    """The embedding of one clip, and clips embedded a second."""

    def embed() -> torch.Tensor:
        with torch.inference_mode(), autocast(worker.recipe):
            return worker._whole(one)[0]

    return embed().float().cpu().numpy(), 1 / seconds_of(embed, device)


def tuned(worker: SourceWorker, one: torch.Tensor, device: str) -> float:
    """Clips a second of tuning steps of eight."""
    optimizer = torch.optim.Adam(worker.network.parameters(), lr=1e-4)
    many = place_batch(worker.recipe, one.expand(8, *one.shape[1:]).contiguous())
    targets = torch.arange(8, device=device) % 6
    worker.network.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(worker.recipe):
            logits = worker.network(many)[1].float()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()

    return 8 / seconds_of(step, device)


def speed(device: str) -> int:
    """Print clips a second of each network by precision, eager and compiled; 1 if compiled float32 is not
    eager's.
    """
    missed = 0
    print("| network | precision | embed, clips/s | compiled | differs by | tuning step, clips/s |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for source in SOURCES:
        for precision in ("fp32", "bf16"):
            worker = worker_of(source, precision, device)
            one = worker._batch(torch.randn(SHAPES[source]))
            expected, eager = embedded(worker, one, device)
            found, compiled = embedded(worker_of(source, precision, device, compiled=True), one, device)
            off = difference(found, expected)
            missed += precision == "fp32" and off > BAR
            rate = tuned(worker, one, device)
            print(
                f"| {source} | {precision} | {eager:.0f} | {compiled:.0f} | {off:.1e} | {rate:.0f} |",
                flush=True,
            )
    return missed


def main(device: str, part: str) -> int:
    """Print everything, or a part; 1 if a bar is missed."""
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}")
    missed = 0
    if part != "speed":
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            clip = ClipSettings(duration_s=4.0)
            settings = CorpusSettings(
                labels=("excited", "sad"), groups_per_label=6, clips_per_group=(1,), clip=clip
            )
            data = make_corpus(folder / "corpus", settings=settings)
            missed += agreement(data, folder, device) + stages(data, folder, device)
    if part != "stages":
        missed += speed(device)
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("device", nargs="?", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("part", nargs="?", default="all", choices=("all", "stages", "speed"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device")
        sys.exit(0)
    sys.exit(main(options.device, options.part))
