"""The media store: each clip decoded once, its frames and waveform kept for every source and fold."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.errors import DamagedPartError, MissingBlockError
from cache.files import set_aside
from cache.identity import digest16
from cache.parts import SCHEMA, is_intact, read_part, write_part
from cache.store import FeatureCache


@dataclass(frozen=True)
class Media:
    """What was decoded of a clip.

    Attributes
    ----------
    frames : ndarray of uint8, shape (32, H, W, 3)
        RGB frames at even times.
    frame_times_s : ndarray of float64, shape (32,)
        Presentation time of each.
    waveform : ndarray of float32, shape (480000,)
        Mono sound at 16 kHz in [-1, 1], zero-padded.
    waveform_samples : int
        How many samples were in the file.
    """

    frames: np.ndarray
    frame_times_s: np.ndarray
    waveform: np.ndarray
    waveform_samples: int


class MediaStore:
    """Decoded clips of one decoder version inside a cache."""

    def __init__(self, cache: FeatureCache, decoder: str) -> None:
        self.folder = cache.path / "media" / digest16(decoder)
        self.decoder = decoder

    def find(self, digest: str, *, verify: bool = False) -> Path | None:
        """The file of a clip, or `None`. With `verify` its content is read, and a damaged one set aside."""
        for file in sorted(self.folder.glob(f"{digest[:32]}-*.h5")):
            if not verify or is_intact(file):
                return file
            set_aside(file)
        return None

    def write(self, digest: str, media: Media) -> Path:
        """Keep what was decoded of a clip."""
        arrays = {"frames": media.frames, "frame_times_s": media.frame_times_s, "waveform": media.waveform}
        attributes = {
            "format": "moodfuse-media",
            "schema": SCHEMA,
            "clip": digest,
            "decoder": self.decoder,
            "waveform_samples": media.waveform_samples,
        }
        return write_part(self.folder, digest[:32], arrays, attributes)

    def read(self, digest: str) -> Media:
        """What was decoded of a clip.

        Raises
        ------
        MissingBlockError
            If it is not there, or was damaged and is now set aside.
        """
        while (file := self.find(digest)) is not None:
            try:
                arrays, attributes = read_part(file)
            except DamagedPartError:
                set_aside(file)
                continue
            return Media(waveform_samples=attributes["waveform_samples"], **arrays)
        raise MissingBlockError(f"{self.folder}: clip {digest[:16]} is not decoded; run extract again")
