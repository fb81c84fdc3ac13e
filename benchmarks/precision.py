"""bfloat16 against float32 on the clips of a cache: error of the embedding, share of changed answers, time.

Usage: precision.py [CACHE [SOURCE=WEIGHTS ...]]. CACHE is one that `moodfuse extract` made in float32 with
the default recipe; the weights are those that it was made with. Without arguments one is made from the clips
in MOODFUSE_CLIPS, with the tagger's weights in MOODFUSE_WEIGHTS. Each clip passes the network that never saw
its fold.

Where a CPU has no bfloat16 instructions, its kernels for video networks take minutes a clip. There the
figures over all clips are those of the same arithmetic carried out by float32 kernels: operands and results
of convolutions and linear layers rounded to bfloat16, sums in float32. How far that is from the bfloat16
kernels, and how the times compare, is measured on a piece of one clip.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.inference import Rows, SourceWorker, autocast, make_network
from moodfuse.extract.media_supply import open_source_media
from moodfuse.extract.networks import load_weights_file

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
PIECES = {"c3d": (16, 32), "i3d": (16, 64)}
"""Frames and side of the piece of a clip that video networks are probed with; sound is probed whole."""
SLOW = 3.0
OPERATIONS = {torch.conv1d, torch.conv2d, torch.conv3d, functional.linear}
RESULTS = {torch.batch_norm, functional.elu, functional.batch_norm}


def rounded(value: Any) -> Any:
    """A float32 tensor at bfloat16's precision; anything else as it is."""
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.to(torch.bfloat16).float()
    return value


class Bfloat16Arithmetic(TorchFunctionMode):
    """bfloat16 operands and results, float32 sums, on float32 kernels.

    Only convolutions with learned weights: that of the resampler has a fixed kernel and stays out of
    autocast.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        learned = func in OPERATIONS and isinstance(args[1], nn.Parameter)
        if learned:
            args = tuple(rounded(item) for item in args)
            kwargs = {name: rounded(item) for name, item in (kwargs or {}).items()}
        output = func(*args, **(kwargs or {}))
        return rounded(output) if learned or func in RESULTS else output


def tuned_rows(
    worker: SourceWorker, cache: FeatureCache, clip: ClipStatus, arithmetic: AbstractContextManager[object]
) -> Rows:
    """Embedding and logits of a clip as `extract` computes them, from the network that never saw the clip's
    fold.

    `arithmetic` covers what autocast does: under depth `head` the trunk only, since the head is computed in
    float32.
    """
    training_clips = cache.training_clips(worker.recipe, {cache.plan.assignment[clip.digest]})
    assert training_clips is not None
    recipe = replace(worker.recipe, precision="fp32")
    worker.tuned.load_state_dict(load_weights_file(cache.network_path(recipe, training_clips))[0])
    with arithmetic:
        rows = (worker.full_rows if recipe.depth == "full" else worker.frozen_rows)(worker.read(clip.digest))
    if recipe.depth == "full":
        return rows
    return worker.head_rows(rows.get("activation", rows["embedding"]))


def timed(call: Callable[[], Tensor]) -> tuple[np.ndarray, float]:
    """A result and its seconds: those of a second call."""
    call()
    start = time.perf_counter()
    return call().float().numpy(), time.perf_counter() - start


@torch.inference_mode()
def probe(worker: SourceWorker, digest: str, size: tuple[int, int] | None) -> Tensor:
    """The trunk's activations of a clip, or of a piece of it: so many frames of so many pixels square."""
    x = worker.whole_input(digest)[None]
    if size is not None:
        frames, side = size
        x = x[:, :, :frames, :side, :side].contiguous(memory_format=torch.channels_last_3d)
    with autocast(worker.recipe):
        return worker.network.trunk(x)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measure(cache: FeatureCache, source: str, weights: str | None) -> str:
    """One row of the table."""
    recipe = cache.recipe(source)
    exact, half = (
        SourceWorker(item, make_network(item, weights, len(cache.classes)), open_source_media(cache, recipe))
        for item in (recipe, replace(recipe, precision="bf16"))
    )
    digest, size = cache.clips[0].digest, PIECES.get(source)
    _, seconds = timed(lambda: probe(exact, digest, size))
    by_kernels, half_seconds = timed(lambda: probe(half, digest, size))
    with Bfloat16Arithmetic():
        apart = relative_error(probe(exact, digest, size).numpy(), by_kernels)
    slow = size is not None and half_seconds > SLOW * seconds
    errors, changed = [], 0
    for clip in cache.clips:
        expected = tuned_rows(exact, cache, clip, nullcontext())
        found = tuned_rows(
            exact if slow else half, cache, clip, Bfloat16Arithmetic() if slow else nullcontext()
        )
        errors.append(relative_error(found["embedding"], expected["embedding"]))
        changed += int(found["logits"].argmax() != expected["logits"].argmax())
    return (
        f"| `{source}` | {np.median(errors):.4f} | {max(errors):.4f} | {changed} of {len(errors)} | "
        f"{'float32' if slow else 'bfloat16'} | {apart:.4f} | {half_seconds / seconds:.1f} |"
    )


def main(cache: FeatureCache, weights: dict[str, str]) -> int:
    """Print the table."""
    torch.set_num_threads(2)
    print("| source | error, median | error, largest | answers changed | kernels | apart | time |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: |")
    for source in SOURCES:
        print(measure(cache, source, weights.get(source)), flush=True)
    return 0


def fresh_cache(folder: str) -> tuple[FeatureCache, dict[str, str]] | None:
    """A cache of the clips that the environment names; `None` where it names none."""
    clips, place = os.environ.get("MOODFUSE_CLIPS"), os.environ.get("MOODFUSE_WEIGHTS")
    if not clips or not place:
        return None
    weights = {"twodmcnn": str(next(Path(place).glob("*.hdf5")))}
    options = ["--cache", folder, "--weights", f"twodmcnn={weights['twodmcnn']}"]
    subprocess.run([sys.executable, "-m", "moodfuse", "extract", clips, *options], check=True)
    return FeatureCache(folder), weights


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(FeatureCache(sys.argv[1]), dict(item.split("=", 1) for item in sys.argv[2:])))
    with tempfile.TemporaryDirectory() as temporary:
        made = fresh_cache(f"{temporary}/cache")
        if made is None:
            print("skipped: MOODFUSE_CLIPS and MOODFUSE_WEIGHTS name no clips and weights")
            sys.exit(0)
        sys.exit(main(*made))
