"""Frozen networks of hubs: clips per second against the minimal loop of each library, on the same frames.

Usage: hub_speed.py. The networks have random weights. Both sides get the same decoded clips, on two threads,
in turns; the library's loop makes a batch of the frames by its own transform and averages the features.
Exits 1 if the median of a ratio is under 0.9.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_model
from side_by_side import Row, report, seconds_of
from torchvision.models import get_model, get_model_weights

from moodfuse.cache.media import Media
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe

TURNS, CLIPS, BAR, THREADS = 5, 2, 0.9, 2
Loop = Callable[[Media], object]


def make_clip(seed: int) -> Media:
    """32 frames of 256 x 455 px of coloured waves, and noise as audio."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(256)[:, None, None] / 9 + np.arange(455)[:, None] / 23 + np.arange(3))
    frames = np.stack([128 + 100 * np.roll(waves, 5 * t, axis=1) for t in range(32)]).astype(np.uint8)
    return Media(frames, np.arange(32.0), rng.normal(0, 0.1, 480_000).astype(np.float32), 480_000)


def images(clip: Media) -> list[Image.Image]:
    """The frames as Pillow images."""
    return [Image.fromarray(frame) for frame in clip.frames]


def timm_loop(name: str, folder: Path) -> tuple[Path, Loop]:
    """A checkpoint, and timm's loop."""
    save_model(timm.create_model(name), str(folder / "model.safetensors"))
    model = timm.create_model(name, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return folder, lambda clip: model(torch.stack([transform(image) for image in images(clip)])).mean(dim=0)


def torchvision_loop(name: str, folder: Path) -> tuple[Path, Loop]:
    """A checkpoint, and torchvision's loop."""
    model, transform = get_model(name).eval(), get_model_weights(name).DEFAULT.transforms()
    torch.save(model.state_dict(), folder / "model.pth")
    model.fc = torch.nn.Identity()

    def loop(clip: Media) -> object:
        return model(torch.stack([transform(image) for image in images(clip)])).mean(dim=0)

    return folder / "model.pth", loop


def dinov2_loop(name: str, folder: Path) -> tuple[Path, Loop]:
    """A checkpoint, and the loop of transformers."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}
    model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=224)).eval()
    crop = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    processor = transformers.BitImageProcessor(**crop)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    def loop(clip: Media) -> object:
        inputs = processor(images=images(clip), return_tensors="pt")
        return model(**inputs).pooler_output.mean(dim=0)

    return folder, loop


SOURCES: dict[str, Callable[[str, Path], tuple[Path, Loop]]] = {
    "timm:resnet18": timm_loop,
    "torchvision:resnet18": torchvision_loop,
    "hf:dinov2": dinov2_loop,
}


def measure(source: str, clips: list[Media]) -> Row:
    """Time both sides in turns."""
    with tempfile.TemporaryDirectory() as name:
        weights, loop = SOURCES[source](source.partition(":")[2], Path(name))
        recipe = build_recipe(source, RecipeChoice(weights={source: str(weights)}, device="cpu"))
        worker = SourceWorker(recipe, make_network(recipe, str(weights), num_classes=2))
    torch.set_num_threads(THREADS)

    def ours() -> None:
        for clip in clips:
            worker.frozen_rows(clip)

    def theirs() -> None:
        with torch.inference_mode():
            for clip in clips:
                loop(clip)

    ours()
    theirs()
    turns = [(seconds_of(ours), seconds_of(theirs)) for _ in range(TURNS)]
    rates = [len(clips) / statistics.median(side) for side in zip(*turns, strict=True)]
    ratios = [library_s / own_s for own_s, library_s in turns]
    texts = [f"{rate:.2f} clips/s" for rate in rates]
    met = statistics.median(ratios) >= BAR
    return Row(f"{source}, frozen", texts[0], texts[1], ratios, f"{BAR} or more", met)


def main() -> int:
    """Print a row per source; 1 if a bar is missed."""
    clips = [make_clip(seed) for seed in range(CLIPS)]
    return report([measure(source, clips) for source in SOURCES])


if __name__ == "__main__":
    sys.exit(main())
