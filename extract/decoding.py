"""Decoding media files: the names of `moodfuse.extract.media` that packages other than `extract` use.

None of them imports torch.
"""

from moodfuse.extract.media.container import MediaFacts, open_media, probe
from moodfuse.extract.media.decode import DecodedClip, DecodeRequest, read_clip
from moodfuse.extract.media.limits import REASONS, Limits, MediaError, ReadingRules
from moodfuse.extract.media.pool import (
    ProbeRequest,
    decode_many,
    probe_many,
    read_windows_in_worker,
    run_in_workers,
)
from moodfuse.extract.media.renditions import MEDIA_RULES, SHORT_SIDE_PX, media_of
from moodfuse.extract.media.windows import Window, WindowRequest, read_windows

__all__ = [
    "MEDIA_RULES",
    "REASONS",
    "SHORT_SIDE_PX",
    "DecodeRequest",
    "DecodedClip",
    "Limits",
    "MediaError",
    "MediaFacts",
    "ProbeRequest",
    "ReadingRules",
    "Window",
    "WindowRequest",
    "decode_many",
    "media_of",
    "open_media",
    "probe",
    "probe_many",
    "read_clip",
    "read_windows",
    "read_windows_in_worker",
    "run_in_workers",
]
