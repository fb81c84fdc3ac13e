"""How far the features of real clips are from those of the networks' own preprocessing of the original file.

Usage: preprocessing.py. MOODFUSE_CLIPS names a folder of clips in a folder per label, of which the last clips
of 5 labels are taken, and MOODFUSE_WEIGHTS the folder of weights (the tagger's and I3D's).

Video: each network resizes the frames as they are in the file, or as they come from each way of decoding to a
short side of 256 px. `c3d` and torchvision's `r3d_18` have random weights from a fixed seed; `i3d, resized
for c3d` is pretrained I3D on C3D's input, which shows what a smaller input does to trained features. Audio:
`twodmcnn` on the audio as decoded, and after resampling straight from the rate of the file to 12 kHz.

Differences are norms of the difference of a clip's features over the norm. Exits 1 if `i3d` or `twodmcnn`
differ by more than 1.5 %.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import av
import numpy as np
import torch
import torchaudio
from av.video.reformatter import Interpolation

from moodfuse.cache.media import Media, encode_frames
from moodfuse.extract.media import decoders
from moodfuse.extract.media.decode import SHORT_SIDE_PX, make_media, read_clip
from moodfuse.extract.media.preprocess import video_input
from moodfuse.extract.networks import VideoPreprocessing, create_network
from moodfuse.extract.networks.audio import RATES, SAMPLE_RATE_HZ, TwoDMCNN
from moodfuse.extract.networks.base import Network

CLIPS = 5
BAR = 0.015
PASSES = 3
TAGGER, I3D = "choi_msd_tagger_keras2.hdf5", "i3d_kinetics400_piergiaj_layout.pt"
KAISER = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
Size = Callable[[int, int, int | None], tuple[int, int]]


def even_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Width and height after scaling down to a short side, the long side rounded to an even number."""
    short, long = min(width, height), max(width, height)
    if short_side_px is None or short <= short_side_px:
        return width, height
    long = max(short_side_px, 2 * round(long * short_side_px / short / 2))
    return (long, short_side_px) if width >= height else (short_side_px, long)


def by_ffmpeg(filter_: Interpolation) -> Callable[[decoders.DecodedFrame, int, int], np.ndarray]:
    """Convert a frame to RGB and resize it in one step; the clips here are not rotated."""

    def convert(frame: decoders.DecodedFrame, height: int, width: int) -> np.ndarray:
        plain = frame._frame.reformat(width, height, "rgb24", interpolation=filter_, threads=1)
        return np.asarray(plain.to_ndarray())

    return convert


WAYS: dict[str, tuple[Callable[..., np.ndarray], Size]] = {
    "as moodfuse decodes (Pillow, bilinear)": (decoders.DecodedFrame._convert, decoders.scale_size),
    "FFmpeg, area": (by_ffmpeg(Interpolation.AREA), decoders.scale_size),
    "FFmpeg, bilinear": (by_ffmpeg(Interpolation.BILINEAR), decoders.scale_size),
    "FFmpeg, bicubic": (by_ffmpeg(Interpolation.BICUBIC), decoders.scale_size),
    "FFmpeg, bicubic, even long side (before rules 3)": (by_ffmpeg(Interpolation.BICUBIC), even_size),
}


def decode(path: Path, short_side_px: int | None) -> tuple[Media, float]:
    """A decoded clip, and the processor seconds of the fastest of some passes."""
    times = []
    for _ in range(PASSES):
        start = time.process_time()
        media = make_media(read_clip(path, short_side_px=short_side_px))
        times.append(time.process_time() - start)
    return media, min(times)


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def networks(weights: Path) -> dict[str, tuple[Network, VideoPreprocessing]]:
    """The video networks by title, with what resizes their frames."""
    torch.manual_seed(0)
    i3d = create_network("i3d", num_classes=2, weights=weights / I3D).eval()
    c3d = create_network("c3d", num_classes=2).eval()
    r3d = create_network("torchvision:r3d_18", num_classes=2).eval()
    small = replace(c3d.preprocessing, scale=i3d.preprocessing.scale, mean=i3d.preprocessing.mean)
    return {
        "i3d": (i3d, i3d.preprocessing),
        "i3d, resized for c3d": (i3d, small),
        "c3d": (c3d, c3d.preprocessing),
        "torchvision:r3d_18": (r3d, r3d.preprocessing),
    }


def video_features(network: Network, preprocessing: VideoPreprocessing, media: Media) -> np.ndarray:
    """The frozen features of a clip."""
    with torch.inference_mode():
        activation = network.trunk(video_input(media.frames, preprocessing)[None])
        return network.pool_frozen(activation)[0].numpy()


def print_video(paths: Sequence[Path], weights: Path) -> float:
    """Print the table of the video networks; return the mean difference of `i3d` as moodfuse decodes."""
    originals, way_media = [decode(path, None) for path in paths], {}
    for name, (convert, size) in WAYS.items():
        with (
            mock.patch.object(decoders.DecodedFrame, "_convert", convert),
            mock.patch.object(decoders, "scale_size", size),
        ):
            way_media[name] = [decode(path, SHORT_SIDE_PX) for path in paths]
    differences = {
        title: network_differences(network, preprocessing, [media for media, _ in originals], way_media)
        for title, (network, preprocessing) in networks(weights).items()
    }
    print("| frames | CPU, ms per clip | stored, MB per clip | " + " | ".join(differences) + " |")
    print("| --- | ---: | ---: |" + " ---: |" * len(differences))
    for name, decoded in {"original size": originals, **way_media}.items():
        cpu_ms = 1000 * np.mean([seconds for _, seconds in decoded])
        size_mb = np.mean([len(encode_frames(media.frames)[0]) for media, _ in decoded]) / 1e6
        cells = [f"{100 * row.get(name, 0.0):.2f} %" for row in differences.values()]
        print(f"| {name} | {cpu_ms:.0f} | {size_mb:.1f} | {' | '.join(cells)} |", flush=True)
    return differences["i3d"][next(iter(WAYS))]


def network_differences(
    network: Network,
    preprocessing: VideoPreprocessing,
    originals: Sequence[Media],
    way_media: Mapping[str, Sequence[tuple[Media, float]]],
) -> dict[str, float]:
    """Mean difference of a network's features by way of decoding."""
    expected = [video_features(network, preprocessing, media) for media in originals]
    means = {}
    for name, decoded in way_media.items():
        actual = [video_features(network, preprocessing, media) for media, _ in decoded]
        means[name] = float(np.mean([difference(*pair) for pair in zip(actual, expected, strict=True)]))
    return means


def file_audio(path: Path) -> tuple[np.ndarray, int]:
    """The first 30 s of a file's audio at its own rate, mean of the channels, float64, and the rate in Hz."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray().mean(axis=0, dtype=np.float64) for frame in frames])
    rate_hz, begins_s = frames[0].sample_rate, float(frames[0].pts * frames[0].time_base)
    return np.pad(samples, (round(begins_s * rate_hz), 0))[: 30 * rate_hz], rate_hz


class WithoutResampling(TwoDMCNN):
    """The tagger on audio that is at 12 kHz already."""

    def resample(self, waveform: torch.Tensor) -> torch.Tensor:
        """The same waveform, cut at 29 s."""
        return waveform[:, : 29 * SAMPLE_RATE_HZ]


def print_audio(paths: Sequence[Path], weights: Path) -> float:
    """Print the table of the tagger; return the mean difference as moodfuse resamples."""
    network = create_network("twodmcnn", num_classes=2, weights=weights / TAGGER).eval()
    at_12k = WithoutResampling(network.spec, 2).eval()
    at_12k.load_state_dict(network.state_dict())
    differences: dict[str, list[float]] = {}
    with torch.inference_mode():
        for path in paths:
            samples, rate_hz = file_audio(path)
            signal = torchaudio.functional.resample(
                torch.from_numpy(samples), rate_hz, SAMPLE_RATE_HZ, **KAISER
            )
            expected = at_12k.trunk(signal.float()[None])[0].numpy()
            waveform = torch.from_numpy(read_clip(path, short_side_px=16).waveform)[None]
            hann = torchaudio.functional.resample(waveform, *RATES)
            rows = {
                "as moodfuse resamples (Kaiser, 64 zero crossings)": network.trunk(waveform),
                "torchaudio's default (before version 3)": at_12k.trunk(hann),
            }
            for name, actual in rows.items():
                differences.setdefault(name, []).append(difference(actual[0].numpy(), expected))
    print("\n| audio, 16 to 12 kHz | twodmcnn, mean | largest |\n| --- | ---: | ---: |")
    for name, values in differences.items():
        print(f"| {name} | {100 * np.mean(values):.3f} % | {100 * max(values):.3f} % |")
    return float(np.mean(next(iter(differences.values()))))


def main() -> int:
    """Print both tables."""
    clips, weights = os.environ.get("MOODFUSE_CLIPS"), os.environ.get("MOODFUSE_WEIGHTS")
    if not (clips and weights):
        print("skipped: MOODFUSE_CLIPS or MOODFUSE_WEIGHTS is not set")
        return 0
    labels = [sorted(label.glob("*.mp4")) for label in sorted(Path(clips).iterdir()) if label.is_dir()]
    paths = [files[-1] for files in labels if files][-CLIPS:]
    return int(max(print_video(paths, Path(weights)), print_audio(paths, Path(weights))) > BAR)


if __name__ == "__main__":
    sys.exit(main())
