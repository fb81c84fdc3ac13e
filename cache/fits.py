"""Finished fits, kept so that an interrupted or repeated `moodfuse fuse` does none twice.

A fit is what a head says of its rows, with what it chose. It is found by its key, the digest of everything that decides
it, and stands with others in immutable parts; one folder holds those of one set of clips, labels and groups, so that
what a later set made useless can be told by its place. What is damaged is set aside, and fitted again.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.clip_table import ClipTable
from moodfuse.cache.digests import content_digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.storage.files import listing, set_aside
from moodfuse.cache.storage.parts import SCHEMA, check_dtypes, read_part, write_part

log = logging.getLogger(__name__)
FORMAT = "moodfuse-fits"
FOLDER = "fits"
STEM = "fits"
KEPT_EVERY_S = 10.0
"""Finished fits wait so long at most for others, to be written with them."""
_KEPT_BYTES = 1 << 24
_ARRAYS = {
    "key": ("S64", 1),
    "shape": ("<i8", 2),
    "values": ("<f8", 1),
    "temperature": ("<f8", 1),
    "chosen": ("?", 1),
}
_DECIDING = ("id", "digest", "file_sha256", "group", "label", "missing")


@dataclass(frozen=True)
class KeptFit:
    """What one fit came to.

    Attributes
    ----------
    values : ndarray of float64, shape (M, W)
        Probabilities of the rows under test before their temperature, or logits of all clips and as last column whether
        the fit saw the clip.
    temperature : float
    chosen : bool
        Whether anything could be chosen.
    settings : mapping of str to value
        What was chosen, JSON types.
    """

    values: NDArray[np.float64]
    temperature: float = 1.0
    chosen: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def clips_digest16(clips: ClipTable) -> str:
    """What a fit reads of the clips themselves, as the name of a folder: ids, files, groups, labels, missing views."""
    arrays = clips.to_arrays()
    wanted = [name for name in arrays if name.removesuffix("_ends").removesuffix("_row") in _DECIDING]
    return content_digest({name: arrays[name] for name in wanted}, {"format": FORMAT})[:16]


class KeptFits:
    """The kept fits of one set of clips, for reading and adding.

    Parameters
    ----------
    root : Path
        The cache folder.
    clips : ClipTable
        The clips that the plan covers.
    writes : bool
        Whether anything is added; without it `keep` does nothing.
    """

    def __init__(self, root: Path, clips: ClipTable, *, writes: bool = True) -> None:
        self._writes = writes
        self.folder = root / FOLDER / clips_digest16(clips)
        self._waiting: dict[str, KeptFit] = {}
        self._since = 0.0

    def find(self, keys: Iterable[str]) -> dict[str, KeptFit]:
        """The fits of these keys that are there; a damaged part is set aside."""
        wanted = {key.encode(): key for key in keys}
        found: dict[str, KeptFit] = {}
        for file in listing(self.folder, suffix=".h5") if wanted else ():
            try:
                for name, fit in self._read(file, wanted):
                    found.setdefault(name, fit)
            except DamagedPartError as error:
                set_aside(file, str(error))
        return found

    def _read(self, file: Path, wanted: Mapping[bytes, str]) -> Iterator[tuple[str, KeptFit]]:
        arrays = read_part(file, names=("key",))[0]
        check_dtypes(file, arrays, {"key": _ARRAYS["key"]})
        keys = arrays["key"].tolist()
        if not any(key in wanted for key in keys):
            return
        arrays, attributes = read_part(file)
        check_fits(file, arrays, attributes)
        ends = np.cumsum(arrays["shape"].prod(axis=1)).tolist()
        for number, key in enumerate(keys):
            if key in wanted:
                shape = arrays["shape"][number]
                values = arrays["values"][ends[number] - shape.prod() : ends[number]].reshape(shape).copy()
                temperature, chosen = float(arrays["temperature"][number]), bool(arrays["chosen"][number])
                yield wanted[key], KeptFit(values, temperature, chosen, attributes["settings"][number])

    def keep(self, key: str, fit: KeptFit) -> None:
        """Add a fit; it is written with others after `KEPT_EVERY_S` at most, or by `flush`."""
        if not self._writes:
            return
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[key] = fit
        size = sum(item.values.nbytes for item in self._waiting.values())
        if size >= _KEPT_BYTES or time.monotonic() - self._since >= KEPT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what was added.

        Raises
        ------
        CacheError
            If the disk refuses.
        """
        if not self._waiting:
            return
        keys, fits = zip(*sorted(self._waiting.items()), strict=True)
        arrays = {
            "key": np.array(keys, dtype="S64"),
            "shape": np.array([fit.values.shape for fit in fits], dtype=np.int64),
            "values": np.concatenate([fit.values.ravel() for fit in fits]),
            "temperature": np.array([fit.temperature for fit in fits]),
            "chosen": np.array([fit.chosen for fit in fits]),
        }
        attributes = {
            "format": FORMAT,
            "schema": SCHEMA,
            "clips": self.folder.name,
            "settings": [dict(fit.settings) for fit in fits],
        }
        write_part(self.folder, STEM, arrays, attributes)
        self._waiting.clear()


def check_fits(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Hold a part to what kept fits are, and to its folder.

    Raises
    ------
    DamagedPartError
    """
    if (attributes.get("format"), attributes.get("clips")) != (FORMAT, file.parent.name):
        raise DamagedPartError(f"{file}: holds no fits of its folder's clips")
    check_dtypes(file, arrays, _ARRAYS)
    if not isinstance(attributes.get("settings"), list):
        raise DamagedPartError(f"{file}: its settings are not a list")
    count, shape = len(arrays["key"]), arrays["shape"]
    lengths = {len(arrays["temperature"]), len(arrays["chosen"]), len(attributes["settings"])}
    if lengths != {count} or shape.shape != (count, 2) or (shape < 0).any():
        raise DamagedPartError(f"{file}: its arrays do not fit together")
    if shape.prod(axis=1).sum() != len(arrays["values"]):
        raise DamagedPartError(f"{file}: holds {len(arrays['values'])} values, not those of its fits")
