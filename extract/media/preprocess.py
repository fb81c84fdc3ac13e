"""Make the input of a network from decoded frames and waveforms, for fine-tuning, embedding and prediction.

Without a generator the result is deterministic: the middle frames, the centre crop, the whole waveform. With
one it is augmented for fine-tuning: frames a step earlier or later, a random crop, mirrored every other time;
a random crop of the waveform, louder or softer. `docs/networks.md` has the rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import Media
from moodfuse.extract.networks import AudioPreprocessing, Preprocessing, VideoPreprocessing

_RESIZES_BYTES = ("AVX2", "AVX512")  # where torch resizes uint8 itself, and torchvision only passes it on


@dataclass(frozen=True)
class InputMaker:
    """Makes the input of one network from a decoded clip.

    An augmented waveform has `crop_s` seconds, or all if that is 0, and is made louder or softer by up to
    `gain_db` decibels.
    """

    preprocessing: Preprocessing
    crop_s: float = 0.0
    gain_db: float = 0.0

    def __call__(self, media: Media, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the input without the batch axis: as embedded, or augmented where a generator is given."""
        if isinstance(self.preprocessing, VideoPreprocessing):
            frames, _ = media.frames_in(self.preprocessing.frame_windows)
            return video_input(frames, self.preprocessing, generator=generator)
        waveform, _ = media.waveform_at(self.preprocessing.sample_rate_hz)
        if generator is None:
            return audio_input(waveform, self.preprocessing)
        crop = audio_input(waveform, self.preprocessing, crop_s=self.crop_s or None, generator=generator)
        return crop * random_gain(self.gain_db, generator)


def video_input(
    frames: np.ndarray, preprocessing: VideoPreprocessing, *, generator: torch.Generator | None = None
) -> Tensor:
    """Resize, crop and normalise the frames of one clip, uint8 [T, H, W, 3], RGB, in order of time.

    Returns float32 [3, T', S, S], contiguous, with ``T' = min(T, preprocessing.frames)``, or ``T' = T`` where
    the frames are those of windows, and ``S = preprocessing.crop_px``; augmented if there is a generator.
    Without one, the frames of three crops follow one another. Raises `InputError` if the frames have another
    shape or type.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise InputError(
            f"frames are {frames.dtype} of shape {list(frames.shape)}, expected uint8 [T, H, W, 3] in RGB"
        )
    if not preprocessing.windows:
        frames = frames[frame_indices(len(frames), min(len(frames), preprocessing.frames), generator)]
    pixels = resized_frames(frames, preprocessing)
    height, width = pixels.shape[2:]
    side = preprocessing.crop_px
    top, left, mirrored = _crop_position(height - side, width - side, generator, preprocessing.centre)
    corners = [(top, left)]
    if generator is None and preprocessing.crops == 3:
        ends = (0, width - side) if width >= height else (0, height - side)
        corners += [(top, end) if width >= height else (end, left) for end in ends]
    pixels = torch.cat([pixels[:, :, top : top + side, left : left + side] for top, left in corners])
    if mirrored:
        pixels = pixels.flip(3)
    if preprocessing.channel_order == "BGR":
        pixels = pixels.flip(1)
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1, 1)
    values = pixels.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return values.mul_(preprocessing.scale).sub_(mean).div_(std)


def resized_frames(frames: np.ndarray, preprocessing: VideoPreprocessing) -> Tensor:
    """Return frames, uint8 [T, H, W, 3], at the size that a network crops from, uint8 [T, 3, h, w].

    Frames of that size are returned unchanged, so resizing twice gives the same bits.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    height, width = resized_hw(frames.shape[1], frames.shape[2], preprocessing)
    if (height, width) == tuple(pixels.shape[2:]):
        return pixels
    if preprocessing.interpolation.endswith("PIL"):
        return _resize_with_pillow(frames, height, width, preprocessing.interpolation)
    if preprocessing.interpolation == "bicubic uint8":
        from torchvision.transforms import InterpolationMode  # takes seconds to import
        from torchvision.transforms.v2 import functional as transforms

        resized: Tensor = transforms.resize(pixels, [height, width], InterpolationMode.BICUBIC)
        return resized
    return _resize(pixels, height, width, antialias=preprocessing.antialias)


def _resize_with_pillow(frames: np.ndarray, height: int, width: int, interpolation: str) -> Tensor:
    """Resize uint8 frames [T, H, W, 3] to [T, 3, h, w] as Pillow resizes images."""
    resampling = Image.Resampling.BICUBIC if interpolation == "bicubic PIL" else Image.Resampling.BILINEAR
    resized = [np.asarray(Image.fromarray(frame).resize((width, height), resampling)) for frame in frames]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def _resize(pixels: Tensor, height: int, width: int, *, antialias: bool) -> Tensor:
    """Resize uint8 bilinearly; without antialiasing in float32, as torchvision's video transforms do."""
    if antialias:
        if torch.backends.cpu.get_cpu_capability() in _RESIZES_BYTES:
            return torch.nn.functional.interpolate(
                pixels, (height, width), mode="bilinear", align_corners=False, antialias=True
            )
        from torchvision.transforms import InterpolationMode  # takes seconds to import
        from torchvision.transforms.v2 import functional as transforms

        resized: Tensor = transforms.resize(
            pixels, [height, width], InterpolationMode.BILINEAR, antialias=True
        )
        return resized
    resized = torch.nn.functional.interpolate(
        pixels.float(), (height, width), mode="bilinear", align_corners=False
    )
    return resized.round_().to(torch.uint8)


def frame_indices(decoded: int, wanted: int, generator: torch.Generator | None = None) -> list[int]:
    """Return which of the decoded frames to use, ``wanted <= decoded``: the middles of equal intervals.

    With a generator, each frame moves by up to one interval, earlier or later; they stay in order.
    """
    step = decoded / wanted
    middles = [int((number + 0.5) * step) for number in range(wanted)]
    if generator is None:
        return middles
    reach = round(step)
    moved = [middle + _random_up_to(2 * reach, generator) - reach for middle in middles]
    return sorted(min(max(index, 0), decoded - 1) for index in moved)


def resized_hw(height: int, width: int, preprocessing: VideoPreprocessing) -> tuple[int, int]:
    """Return height and width in pixels of a decoded frame after resizing, before the crop."""
    if preprocessing.resize_hw is not None:
        return preprocessing.resize_hw
    short = preprocessing.resize_short_side_px or preprocessing.crop_px
    if height <= width:
        return short, int(width * short / height)
    return int(height * short / width), short


def audio_input(
    waveform: np.ndarray,
    preprocessing: AudioPreprocessing,
    *,
    crop_s: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a copy of a waveform, float32 [samples]: whole, or a random crop of `crop_s` seconds.

    The waveform is mono in [-1, 1], of the length and rate of `preprocessing`. A crop lies in the part before
    the zeros that pad a short clip, as far as it fits there. Raises `InputError` if the waveform has another
    shape or type or is not finite, or the crop does not fit into it.
    """
    if waveform.shape != (preprocessing.samples,) or waveform.dtype != np.float32:
        raise InputError(
            f"the waveform is {waveform.dtype} of shape {list(waveform.shape)}, expected float32 "
            f"[{preprocessing.samples}]: mono at {preprocessing.sample_rate_hz} Hz, zero-padded or cut"
        )
    if not np.isfinite(waveform).all():
        raise InputError("the waveform contains NaN or infinity; decode the clip again, or leave it out")
    samples = torch.from_numpy(waveform.copy())
    if crop_s is None:
        return samples
    length = round(crop_s * preprocessing.sample_rate_hz)
    if not 0 < length <= preprocessing.samples:
        raise InputError(f"a crop of {crop_s} s does not fit into {preprocessing.samples} samples")
    start = _random_up_to(sounding_samples(waveform) - length, generator)
    return samples[start : start + length].clone()


def sounding_samples(waveform: np.ndarray) -> int:
    """Return the number of samples of a waveform ``[samples]`` up to the last that is not zero."""
    sounding = np.flatnonzero(waveform)
    return int(sounding[-1]) + 1 if sounding.size else 0


def random_gain(max_db: float, generator: torch.Generator) -> float:
    """Return a factor for a waveform, uniform in decibels between ``-max_db`` and ``max_db``."""
    position = float(torch.rand((), generator=generator)) * 2 - 1
    return float(10 ** (position * max_db / 20))


def _crop_position(
    spare_h: int, spare_w: int, generator: torch.Generator | None, centre: str
) -> tuple[int, int, bool]:
    if generator is not None:
        top, left, mirrored = (_random_up_to(largest, generator) for largest in (spare_h, spare_w, 1))
        return top, left, bool(mirrored)
    if centre == "even":
        return round(spare_h / 2), round(spare_w / 2), False
    return spare_h // 2, spare_w // 2, False


def _random_up_to(largest: int, generator: torch.Generator | None) -> int:
    """Return an integer from 0 to `largest`, both included; 0 where `largest` is negative."""
    return int(torch.randint(max(largest, 0) + 1, (), generator=generator))
