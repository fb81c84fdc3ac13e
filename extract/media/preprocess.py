"""From decoded frames and waveforms to the input of a network.

Without a generator the result is the same for the same input: the centre crop, the whole waveform. With one it is a
random crop, for tuning.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from cache.errors import InputError
from extract.networks.registry import AudioPreprocessing, VideoPreprocessing


def video_input(
    frames: np.ndarray, preprocessing: VideoPreprocessing, *, generator: torch.Generator | None = None
) -> Tensor:
    """Resize, crop and normalise the frames of one clip.

    Parameters
    ----------
    frames : ndarray
        ``[T, H, W, 3]`` uint8, RGB. All of them are used, in their order.
    preprocessing : VideoPreprocessing
        What the network asks for.
    generator : torch.Generator, optional
        If given, the crop is at a random place and mirrored every other time, the same for all frames of the clip;
        if not, it is the centre crop.

    Returns
    -------
    Tensor
        ``[3, T, S, S]`` float32, contiguous, with ``S = preprocessing.crop_px``.

    Raises
    ------
    InputError
        If the frames have another shape or type.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise InputError(f"frames are {frames.dtype} of shape {list(frames.shape)}, expected uint8 [T, H, W, 3] in RGB")
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    height, width = resized_hw(frames.shape[1], frames.shape[2], preprocessing)
    if (height, width) != tuple(pixels.shape[2:]):
        pixels = transforms.resize(pixels, [height, width], InterpolationMode.BILINEAR, antialias=True)
    side = preprocessing.crop_px
    top, left, mirrored = _crop_place(height - side, width - side, generator)
    pixels = pixels[:, :, top : top + side, left : left + side]
    if mirrored:
        pixels = pixels.flip(3)
    if preprocessing.channel_order == "BGR":
        pixels = pixels.flip(1)
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1, 1)
    values = pixels.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return values.mul_(preprocessing.scale).sub_(mean).div_(std)


def resized_hw(height: int, width: int, preprocessing: VideoPreprocessing) -> tuple[int, int]:
    """Height and width in pixels of a frame after resizing, before the crop.

    Parameters
    ----------
    height, width : int
        Those of the decoded frame, in pixels.
    preprocessing : VideoPreprocessing
        What the network asks for.
    """
    if preprocessing.resize_hw is not None:
        return preprocessing.resize_hw
    short = preprocessing.resize_short_side_px or preprocessing.crop_px
    if height <= width:
        return short, max(short, round(width * short / height))
    return max(short, round(height * short / width)), short


def audio_input(
    waveform: np.ndarray,
    preprocessing: AudioPreprocessing,
    *,
    crop_s: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The waveform of one clip, whole or as a random crop.

    Parameters
    ----------
    waveform : ndarray
        ``[samples]`` float32, mono in [-1, 1], of the length and rate that `preprocessing` says.
    preprocessing : AudioPreprocessing
        What the network asks for.
    crop_s : float, optional
        Length of the crop in seconds; needs `generator`.
    generator : torch.Generator, optional
        Draws the place of the crop, from the part before the zeros that fill a short clip up.

    Returns
    -------
    Tensor
        ``[samples]`` float32, a copy; ``[round(crop_s * sample_rate_hz)]`` for a crop.

    Raises
    ------
    InputError
        If the waveform has another shape or type, is not finite, or only one of `crop_s` and `generator` is given.
    """
    if waveform.shape != (preprocessing.samples,) or waveform.dtype != np.float32:
        raise InputError(
            f"the waveform is {waveform.dtype} of shape {list(waveform.shape)}, expected float32 "
            f"[{preprocessing.samples}]: mono at {preprocessing.sample_rate_hz} Hz, zero-padded or cut"
        )
    if not np.isfinite(waveform).all():
        raise InputError("the waveform holds NaN or infinity; decode the clip again, or leave it out")
    if (crop_s is None) != (generator is None):
        raise InputError("a random crop needs both crop_s and generator, a whole clip neither")
    samples = torch.from_numpy(waveform.copy())
    if crop_s is None:
        return samples
    length = round(crop_s * preprocessing.sample_rate_hz)
    if not 0 < length <= preprocessing.samples:
        raise InputError(f"a crop of {crop_s} s does not fit into {preprocessing.samples} samples")
    start = _random_below(sounding_samples(waveform) - length, generator)
    return samples[start : start + length].clone()


def sounding_samples(waveform: np.ndarray) -> int:
    """Number of samples of a waveform ``[samples]`` up to and with the last that is not zero."""
    sounding = np.flatnonzero(waveform)
    return int(sounding[-1]) + 1 if sounding.size else 0


def _crop_place(spare_h: int, spare_w: int, generator: torch.Generator | None) -> tuple[int, int, bool]:
    if generator is None:
        return spare_h // 2, spare_w // 2, False
    return _random_below(spare_h, generator), _random_below(spare_w, generator), bool(_random_below(1, generator))


def _random_below(most: int, generator: torch.Generator | None) -> int:
    """A whole number from 0 to `most`, both included; 0 where `most` is negative."""
    return int(torch.randint(max(most, 0) + 1, (), generator=generator))
