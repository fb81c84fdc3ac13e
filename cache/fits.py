"""Finished fits, stored so that an interrupted or repeated `moodfuse fuse` can resume.

A fit is stored with others in immutable parts, and found by the digest of everything that determines it. Each
folder is for one set of clips, labels and groups, so that its name shows when it is out of date. Damaged
parts are quarantined, and their fits are repeated.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.clip_table import table_arrays
from moodfuse.cache.digests import content_digest, digest_array
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.storage.files import listing, read_valid
from moodfuse.cache.storage.parts import SCHEMA, check_dtypes, read_part, write_part

FORMAT = "moodfuse-fits"
FLUSH_EVERY_S = 10.0
"""Finished fits are written together, at least this often."""
_KEPT_BYTES = 1 << 24
_DTYPES = {
    "key": ("S64", 1),
    "shape": ("<i8", 2),
    "values": ("<f8", 1),
    "temperature": ("<f8", 1),
    "chosen": ("?", 1),
}
_DECIDING = ("id", "digest", "file_sha256", "group", "label", "missing")
"""Columns of the table of clips that decide fits."""


@dataclass(frozen=True)
class CachedFit:
    """The result of one fit.

    Attributes
    ----------
    values : ndarray of float64, shape (M, W)
        Probabilities of the test rows before temperature scaling, or logits of all clips with a last column
        that is 1 where the fit saw the clip.
    temperature : float
    chosen : bool
        Whether settings could be chosen.
    settings : mapping of str to value
        The chosen settings, JSON types.
    """

    values: NDArray[np.float64]
    temperature: float = 1.0
    chosen: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def clips_digest16(clips: Iterable[ClipStatus]) -> str:
    """Name of the folder of fits on clips: digest of ids, files, groups, labels and missing modalities."""
    arrays = table_arrays(clips)
    names = [name for name in arrays if name.removesuffix("_ends").removesuffix("_row") in _DECIDING]
    return content_digest({name: arrays[name] for name in names}, {"format": FORMAT})[:16]


class FitCache:
    """The cached fits of the clips of a plan, found by the digest of everything that decides a fit.

    `root` is the cache folder.
    """

    def __init__(self, root: Path, clips: Sequence[ClipStatus]) -> None:
        self.folder = root / "fits" / clips_digest16(clips)
        self._waiting: dict[str, CachedFit] = {}
        self._since = 0.0

    def find(self, keys: Iterable[str]) -> dict[str, CachedFit]:
        """The stored fits with these keys; a damaged part is quarantined."""
        wanted = {key.encode(): key for key in keys}
        stored: dict[str, CachedFit] = {}
        files = listing(self.folder, suffix=".h5") if wanted else []
        for _, fits in read_valid(files, lambda file: _read_fits(file, wanted)):
            stored = {**fits, **stored}
        return stored

    def keep(self, key: str, fit: CachedFit) -> None:
        """Add a fit; it is written with others, after `FLUSH_EVERY_S` at most or by `flush`."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[key] = fit
        size = sum(fit.values.nbytes for fit in self._waiting.values())
        if size >= _KEPT_BYTES or time.monotonic() - self._since >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what was added; `CacheError` if the write fails."""
        if not self._waiting:
            return
        keys, fits = zip(*sorted(self._waiting.items()), strict=True)
        arrays = {
            "key": digest_array(keys),
            "shape": np.array([fit.values.shape for fit in fits], dtype=np.int64),
            "values": np.concatenate([fit.values.ravel() for fit in fits]),
            "temperature": np.array([fit.temperature for fit in fits]),
            "chosen": np.array([fit.chosen for fit in fits]),
        }
        settings = [dict(fit.settings) for fit in fits]
        attributes = {"format": FORMAT, "schema": SCHEMA, "clips": self.folder.name, "settings": settings}
        write_part(self.folder, "fits", arrays, attributes)
        self._waiting.clear()


def _read_fits(file: Path, wanted: Mapping[bytes, str]) -> dict[str, CachedFit]:
    arrays, attributes = read_part(file)
    check_fits(file, arrays, attributes)
    values = np.split(arrays["values"], np.cumsum(arrays["shape"].prod(axis=1))[:-1])
    return {
        wanted[key]: CachedFit(
            values[number].reshape(arrays["shape"][number]).copy(),
            float(arrays["temperature"][number]),
            bool(arrays["chosen"][number]),
            attributes["settings"][number],
        )
        for number, key in enumerate(arrays["key"].tolist())
        if key in wanted
    }


def check_fits(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Check that a part is fits of its folder's clips, else `DamagedPartError`."""
    if (attributes.get("format"), attributes.get("clips")) != (FORMAT, file.parent.name):
        raise DamagedPartError(f"{file}: its fits belong to other clips than its folder")
    check_dtypes(file, arrays, _DTYPES)
    shape, settings = arrays["shape"], attributes.get("settings")
    if not isinstance(settings, list) or shape.shape[1] != 2 or (shape < 0).any():
        raise DamagedPartError(f"{file}: its settings or shapes are not those of fits")
    lengths = {
        len(column) for column in (arrays["key"], shape, arrays["temperature"], arrays["chosen"], settings)
    }
    if len(lengths) > 1 or shape.prod(axis=1).sum() != len(arrays["values"]):
        raise DamagedPartError(f"{file}: its arrays do not fit together")
