"""Thumbnails of clips, from the frames that stage one kept, as data URIs."""

import base64
import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from moodfuse.cache.media import kept_frame
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.runs import Run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Tick

WIDTH = 160
HEIGHT_LIMIT = 240
FRAME = 16
QUALITY = 60


def thumbnails(
    cache: FeatureCache, run: Run, rows: Iterable[int], *, tick: Tick | None = None
) -> dict[int, str]:
    """Middle frames of some clips of a run.

    Parameters
    ----------
    cache : FeatureCache
    run : Run
    rows : iterable of int
        Clips, as positions in `run.ids`.
    tick : callable of str, optional
        Called with a clip's id when its frame was read.

    Returns
    -------
    dict of int to str
        ``data:image/jpeg;base64,...`` of each clip whose media are in the cache and hold a picture.
    """
    statuses = {status.clip.id: status for status in (cache.clips if cache.plans else ())}
    found = {}
    for row in rows:
        status = _status_of(run, row, statuses)
        if status is None:
            continue
        kept = kept_frame(cache.path / "media", status.digest, FRAME)
        if kept is None:  # no media, or a clip without picture
            continue
        found[row] = data_uri(*kept)
        if tick is not None:
            tick(status.clip.id)
    return found


def _status_of(run: Run, row: int, statuses: Mapping[str, ClipStatus]) -> ClipStatus | None:
    """The clip of this name; `None` where the cache holds it no more, or another file under its name."""
    status = statuses.get(run.ids[row])
    if status is None or (run.digests and status.digest != run.digests[row]):
        return None
    return status


def data_uri(frame: np.ndarray, shape_hw: tuple[int, int] | None = None) -> str:
    """A frame, uint8 [H, W, 3] in RGB, as a small JPEG in a data URI; the same frame gives the same bytes.

    `shape_hw` is the height and width in pixels that it is shown at, where those differ from its own.
    """
    picture = Image.fromarray(np.ascontiguousarray(frame))
    if shape_hw is not None and shape_hw != frame.shape[:2]:
        picture = picture.resize(shape_hw[::-1], Image.Resampling.LANCZOS)
    picture.thumbnail((WIDTH, HEIGHT_LIMIT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
