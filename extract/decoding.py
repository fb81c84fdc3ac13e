"""Decoding media files: the names of `moodfuse.extract.media` that packages other than `extract` use.

None of them imports torch.
"""

from moodfuse.extract.media.decode import (
    MEDIA_RULES,
    SHORT_SIDE_PX,
    DecodedClip,
    DecodeRequest,
    make_media,
)
from moodfuse.extract.media.limits import REASONS, Limits, MediaError, ReadingRules
from moodfuse.extract.media.pool import decode_many, read_windows_in_worker
from moodfuse.extract.media.windows import WindowRequest

__all__ = [
    "MEDIA_RULES",
    "REASONS",
    "SHORT_SIDE_PX",
    "DecodeRequest",
    "DecodedClip",
    "Limits",
    "MediaError",
    "ReadingRules",
    "WindowRequest",
    "decode_many",
    "make_media",
    "read_windows_in_worker",
]
