"""What a model remembers of the clips it was trained on: digests, names and marks, so that a test on one is noticed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.clip_table import pack_texts, unpack_texts
from moodfuse.cache.store import FeatureCache
from moodfuse.model.card import ModelError

RULES = "moodfuse"


@dataclass(frozen=True)
class TrainingClip:
    """A clip that a model saw: its name, digests, and marks as `moodfuse.cache.audits.ClipMarks` has them (empty where gone)."""

    id: str
    group: str
    digest: str
    file_sha256: str
    peak_times: np.ndarray
    peak_bins: np.ndarray
    frame_hashes: np.ndarray
    frame_times_s: np.ndarray


_LISTS = ("peak_times", "peak_bins", "frame_hashes", "frame_times_s")
_DTYPES = {
    "peak_times": np.uint16,
    "peak_bins": np.uint16,
    "frame_hashes": np.uint64,
    "frame_times_s": np.float64,
}
_PAIRED = {"peaks": _LISTS[:2], "frames": _LISTS[2:]}


def training_file(cache: FeatureCache) -> bytes:
    """The clips of the plan in force as safetensors."""
    from safetensors.numpy import save

    from moodfuse.extract.dataset.ingest import MARK_RULES, mark_store

    store, clips = mark_store(cache), list(cache.clips)
    marks = [store.read(status.digest) for status in clips]
    arrays: dict[str, np.ndarray] = {}
    for name in _LISTS:
        found = [np.zeros(0, _DTYPES[name]) if item is None else getattr(item, name) for item in marks]
        arrays[name] = np.concatenate([np.zeros(0, _DTYPES[name]), *found])
    for what, names in _PAIRED.items():
        sizes = [0 if item is None else len(getattr(item, names[0])) for item in marks]
        arrays[f"{what}_ends"] = np.cumsum(sizes, dtype=np.int64)
    for what, texts in (("id", [s.clip.id for s in clips]), ("group", [s.group for s in clips])):
        arrays[f"{what}_bytes"], arrays[f"{what}_ends"] = pack_texts(texts)
    for what, digests in (("digest", [s.digest for s in clips]), ("file", [s.file_sha256 for s in clips])):
        arrays[what] = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(clips), 32)
    return save(
        {name: np.ascontiguousarray(value) for name, value in arrays.items()}, metadata={RULES: MARK_RULES}
    )


def read_training(path: Path) -> tuple[str, tuple[TrainingClip, ...]]:
    """Rules of the marks, and the clips, of a model's training file.

    Raises
    ------
    ModelError
        If it is not what `training_file` writes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            rules = str((file.metadata() or {}).get(RULES, ""))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return rules, tuple(_clips(arrays))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ModelError(f"{path}: is no list of training clips ({error})") from error


def _clips(arrays: dict[str, np.ndarray]) -> "list[TrainingClip]":
    count = len(arrays["digest"])
    for name, dtype in _DTYPES.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}")
    for name in ("digest", "file"):
        if arrays[name].dtype != np.uint8 or arrays[name].shape != (count, 32):
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}")
    texts = {what: _texts(arrays, what, count) for what in ("id", "group")}
    pieces = {name: _pieces(arrays, what, name, count) for what, names in _PAIRED.items() for name in names}
    return [
        TrainingClip(
            texts["id"][row],
            texts["group"][row],
            arrays["digest"][row].tobytes().hex(),
            arrays["file"][row].tobytes().hex(),
            *(pieces[name][row] for name in _LISTS),
        )
        for row in range(count)
    ]


def _texts(arrays: dict[str, np.ndarray], what: str, count: int) -> Sequence[str]:
    column = unpack_texts(
        np.asarray(arrays[f"{what}_bytes"], np.uint8), np.asarray(arrays[f"{what}_ends"], np.int64)
    )
    if len(column) != count:
        raise ValueError(f"{len(column)} of {what} for {count} clips")
    return column


def _pieces(arrays: dict[str, np.ndarray], what: str, name: str, count: int) -> list[np.ndarray]:
    ends = np.asarray(arrays[f"{what}_ends"], np.int64)
    whole = len(ends) == count and (np.diff(ends, prepend=0) >= 0).all()
    if not whole or (ends[-1] if count else 0) != len(arrays[name]):
        raise ValueError(f"{what}_ends do not fit {name}")
    return np.split(arrays[name], ends[:-1]) if count else []
