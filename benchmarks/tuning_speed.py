"""Tuning a video network compared with a plain float32 loop, and heads with the whole network.

Usage: tuning_speed.py. On frames of noise, as every clip costs the same. The loop takes ready inputs through
forward pass, backward pass and optimizer in float32, eagerly, in batches as large as ours. Ours is
`moodfuse.extract.training.fine_tune.tune` on decoded frames, input making included, in bfloat16 where this
processor computes in it. Then the heads of six folds are tuned for ten epochs on activations, as `extract`
does once they are cached, compared with ten epochs of tuning the whole network on one fold at the measured
speed.
Exits 1 if tuning whole is not 3 (`c3d`) and 2.5 (`i3d`) times as fast as the loop, or heads take 15 % or more
of one whole network's time.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from extract_speed import PlainC3D, PlainI3D
from side_by_side import PLAIN, Row, Side, matrix_rate, report

from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.networks.hardware import has_bfloat16
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.fine_tune import make_optimizer, tune
from moodfuse.extract.training.tune_networks import Standardisation, full_data, head_data

BARS = {"c3d": 3.0, "i3d": 2.5}
FLOPS = {"c3d": 3 * 154e9, "i3d": 3 * 111e9}
"""Of a clip forward and backward: the gradients of weights and of inputs each cost another forward pass."""
INPUTS = {"c3d": (3, 32, 112, 112), "i3d": (3, 32, 224, 224)}
CLASSES = ("one", "two", "three")
CLIPS, TURNS, FOLDS, TRAINED_ON, EPOCHS, HEADS_BAR = 8, 3, 6, 43, 10, 0.15


def recipe_of(name: str, depth: str) -> Recipe:
    """Our recipe, in bfloat16 where there is any."""
    precision = "bf16" if has_bfloat16("cpu") else "fp32"
    return build_recipe(name, RecipeChoice(depth=depth, device="cpu", precision=precision))


def training_clips(clips: int) -> list[tuple[str, str, str]]:
    """Clips that are all tuned on."""
    return [(f"{number:064d}", CLASSES[number % len(CLASSES)], "tune") for number in range(clips)]


class Noise:
    """The frames of a clip, the same whichever is asked for."""

    def __init__(self) -> None:
        self.frames = np.random.default_rng(0).integers(0, 256, (32, 256, 342, 3), np.uint8)

    def read(self, digest: str) -> Media:
        """The frames."""
        return Media(self.frames, np.arange(32.0), np.zeros(0, np.float32), 0)


def loop() -> Callable[[str, int], float]:
    """The plain way; clips a second."""
    torch.set_num_threads(os.cpu_count() or 1)
    networks = {"c3d": PlainC3D(3), "i3d": PlainI3D(3)}

    def run(name: str, batch: int) -> float:
        network = networks[name].train()
        tuning = recipe_of(name, "full").tuning
        assert tuning is not None
        optimizer = make_optimizer(tuning, list(network.parameters()))
        inputs, targets = torch.randn(batch, *INPUTS[name]), torch.arange(batch) % 3
        start = time.perf_counter()
        for _ in range(CLIPS // batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs)[1], targets).backward()
            optimizer.step()
        return CLIPS / (time.perf_counter() - start)

    return run


def ours() -> Callable[[str], float]:
    """Our way; clips a second."""
    workers = {}

    def run(name: str) -> float:
        recipe = recipe_of(name, "full")
        assert recipe.tuning is not None
        recipe = replace(recipe, tuning=replace(recipe.tuning, epochs=1))
        if name not in workers:
            workers[name] = SourceWorker(recipe, make_network(recipe, None, len(CLASSES)), Noise())
        worker = workers[name]
        worker.reset()
        start = time.perf_counter()
        tune(worker.tuned, full_data(worker, training_clips(CLIPS), CLASSES), recipe)
        return CLIPS / (time.perf_counter() - start)

    return run


def heads_s(name: str) -> tuple[float, float]:
    """Seconds to tune the heads of six folds for ten epochs, and to compute a clip's activations."""
    recipe = recipe_of(name, "head")
    assert recipe.tuning is not None
    recipe = replace(recipe, tuning=replace(recipe.tuning, epochs=EPOCHS))
    network = make_network(recipe, None, len(CLASSES))
    worker = SourceWorker(recipe, network, Noise())
    draw = np.random.default_rng(0)
    clips = training_clips(TRAINED_ON)
    activations = {
        digest: draw.standard_normal(network.spec.activation_width).astype(np.float32)
        for digest, _, _ in clips
    }
    worker.frozen_rows(worker.read(clips[0][0]))
    start = time.perf_counter()
    worker.frozen_rows(worker.read(clips[0][0]))
    pass_s = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(FOLDS):
        worker.reset()
        scaler = Standardisation.of([activations[digest] for digest, _, role in clips if role == "tune"])
        tune(worker.tuned, head_data(worker, clips, CLASSES, activations, scaler), recipe)
        scaler.fold_into(worker.head)
    return time.perf_counter() - start, pass_s


def main() -> int:
    """Print every turn and the rows; 1 if a bar is missed."""
    plain, own = Side(loop, PLAIN), Side(ours)
    rows = []
    plain.ask("c3d", 1)
    own.ask("c3d")
    rate = matrix_rate("bfloat16" if has_bfloat16("cpu") else "float32")
    for name, bar in BARS.items():
        recipe = recipe_of(name, "full")
        assert recipe.tuning is not None
        batch = recipe.tuning.batch
        plain.ask(name, batch)
        own.ask(name)
        turns = [(own.ask(name), plain.ask(name, batch)) for _ in range(TURNS)]
        for mine, theirs in turns:
            print(f"{name}: ours {mine:.3f}, loop {theirs:.3f} clips/s", flush=True)
        ratios = [mine / theirs for mine, theirs in turns]
        speed = statistics.median(mine for mine, _ in turns)
        baseline = statistics.median(theirs for _, theirs in turns)
        rows.append(
            Row(
                f"tuning {name} whole, {recipe.precision}, batches of {batch}",
                f"{speed:.2f} clips/s",
                f"{baseline:.2f} clips/s, plain loop",
                ratios,
                f"{bar} times",
                statistics.median(ratios) >= bar,
                rate / FLOPS[name] / speed,
            )
        )
        heads, pass_s = heads_s(name)
        whole = EPOCHS * TRAINED_ON / speed
        share = heads / whole
        rows.append(
            Row(
                f"{FOLDS} heads of {name}, {EPOCHS} epochs, {TRAINED_ON} clips",
                f"{heads:.1f} s, and once {pass_s:.2f} s a clip for activations",
                f"{whole:.0f} s, one whole network at the speed above",
                [share],
                f"under {HEADS_BAR:.0%}",
                share < HEADS_BAR,
            )
        )
    plain.close()
    own.close()
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
