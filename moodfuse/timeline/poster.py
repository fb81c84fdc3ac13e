"""One small picture of a video, to stand where the video does not play."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from moodfuse.extract.media.container import MediaError, open_media
from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.limits import Limits
from moodfuse.extract.media.pool import ProbeRequest, work_apart

SHORT_SIDE_PX = 270
LONG_SIDE_LIMIT = 640
QUALITY = 72
MOMENTS = (1 / 3, 1 / 2, 1 / 6)
"""Shares of the file's length at which a picture is looked for; a flat one, as in a fade, is passed over."""
WINDOW_S = 1.0
FLAT = 12.0
"""Standard deviation of the grey values under which a picture counts as flat."""


def poster_of(path: Path) -> bytes | None:
    """A picture from the first half of a video as JPEG, read in a worker process; the same file gives the same bytes.

    Parameters
    ----------
    path : Path
        A media file.

    Returns
    -------
    bytes or None
        The short side has 270 px at most; `None` where the file has no picture that can be read.
    """
    for _, found in work_apart(_best_frame, [ProbeRequest(path)], jobs=1, limits=Limits()):
        if isinstance(found, np.ndarray):
            return _jpeg(found)
    return None


def _best_frame(request: ProbeRequest) -> np.ndarray | None:
    path = request.path
    best: tuple[float, np.ndarray] | None = None
    for share in MOMENTS:
        frame = _frame_at(path, share)
        if frame is None:
            continue
        found = (float(frame.mean(axis=2).std()), frame)
        if best is None or found[0] > best[0]:
            best = found
        if best[0] >= FLAT:
            break
    return None if best is None else best[1]


def _frame_at(path: Path, share: float) -> np.ndarray | None:
    """The picture at a share of the file's length, uint8 [H, W, 3]; `None` where it cannot be read."""
    try:
        opened = open_media(path, one_view=True)
        opened.close()
        start_s = share * opened.duration_s
        end_s = min(start_s + WINDOW_S, opened.duration_s)
        decoded = read_clip(path, start_s=start_s, end_s=end_s, short_side_px=SHORT_SIDE_PX, one_view=True)
    except MediaError:
        return None
    return decoded.frames[0] if len(decoded.frames) else None


def _jpeg(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture.thumbnail((LONG_SIDE_LIMIT, LONG_SIDE_LIMIT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()
