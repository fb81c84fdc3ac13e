"""What is stored of a clip fits the chosen sources, and no network's input depends on what else was
chosen.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.cache.media import Media, MediaStore
from moodfuse.extract.media.preprocess import InputMaker
from moodfuse.extract.media.renditions import (
    DECODED_FRAMES,
    WAVEFORM,
    rendered,
    rendition_for,
    renditions_to_keep,
    store_for,
)
from moodfuse.extract.networks import NETWORKS, VideoPreprocessing

C3D, I3D, AUDIO = (NETWORKS[name].preprocessing for name in ("c3d", "i3d", "onedmcnn"))
PORT = VideoPreprocessing(resize_short_side_px=128, crop_px=112, mean=(104.0, 117.0, 128.0))
VISION = VideoPreprocessing(resize_hw=(128, 171), crop_px=112, antialias=False, centre="even")
SQUARE = VideoPreprocessing(resize_hw=(256, 256), crop_px=224)
CLIP = "ab" * 32
FRAMES = 8


@functools.cache
def decoded(height: int, width: int) -> Media:
    """A clip as decoded, of a few frames: smooth colours with noise on them."""
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 200, (FRAMES, height // 8, width // 8, 3)), np.ones((1, 8, 8, 1)))
    frames = (frames + rng.integers(0, 50, frames.shape)).astype(np.uint8)
    return Media(frames, np.arange(float(FRAMES)), np.zeros(480_000, np.float32), 480_000)


def test_each_network_has_the_smallest_rendition_that_serves_it() -> None:
    """Frames as decoded, where one network needs them, serve all video networks."""
    assert set(renditions_to_keep([AUDIO, AUDIO])) == {WAVEFORM}
    assert set(renditions_to_keep([AUDIO, C3D])) == {WAVEFORM, rendition_for(C3D)}
    assert set(renditions_to_keep([C3D, PORT, VISION])) == {
        rendition_for(item) for item in (C3D, PORT, VISION)
    }
    assert len({rendition_for(item).name for item in (C3D, PORT, VISION, I3D, AUDIO)}) == 5
    assert set(renditions_to_keep([C3D, I3D, AUDIO])) == {WAVEFORM, DECODED_FRAMES}
    assert rendition_for(SQUARE) == DECODED_FRAMES


@pytest.mark.parametrize("size_hw", [(256, 344), (456, 256), (48, 64), (128, 176)])
@pytest.mark.parametrize("preprocessing", [C3D, PORT, VISION, I3D], ids=["c3d", "port", "vision", "i3d"])
def test_inputs_are_the_same_bits_whatever_is_kept(
    tmp_path: Path, size_hw: tuple[int, int], preprocessing: VideoPreprocessing
) -> None:
    """From the network's own rendition, from frames as decoded, and without a store, also in fine-tuning."""
    media, make = decoded(*size_hw), InputMaker(preprocessing)
    own = MediaStore(tmp_path / "own", rendition_for(preprocessing))
    own.write(CLIP, rendered(media, preprocessing))
    MediaStore(tmp_path / "whole", DECODED_FRAMES).write(CLIP, rendered(media, I3D))
    stores = [store_for(tmp_path / "own", preprocessing), store_for(tmp_path / "whole", preprocessing)]
    for store in stores:
        assert torch.equal(make(store.read(CLIP)), make(media))
        assert store.read(CLIP).shape_hw == size_hw
        draw, again = (torch.Generator().manual_seed(3) for _ in range(2))
        assert torch.equal(make(store.read(CLIP), generator=draw), make(media, generator=again))
    assert own.read(CLIP).frames.nbytes <= media.frames.nbytes


def test_a_clip_without_video_has_a_rendition() -> None:
    media = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), np.zeros(480_000, np.float32), 480_000)
    assert rendered(media, C3D).frames.shape == (0, 0, 0, 3)
