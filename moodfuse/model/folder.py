"""Model folders: written atomically, verified file by file, and read without running any code from them.

`model.json` lists every other file with its length and SHA-256, and a file is verified before it is used.
Arrays are validated when the records are built from them.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from moodfuse.cache.digests import file_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import run_folder
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.inference import FusedSource, Fusion, LinearArrays, check_level, head_from_arrays
from moodfuse.model.card import ModelCard, ModelError, ModelFile, card_from_json

CARD = "model.json"
ARRAYS = "arrays.safetensors"
TRAINING = "training.safetensors"
MOST_CARD_BYTES = 4 << 20
Content = Path | bytes
_NAME = re.compile(r"([A-Za-z0-9][\w.@-]*/)?[A-Za-z0-9][\w.@-]*", re.ASCII)


def model_folder(cache: FeatureCache, run: str) -> Path:
    """Return the default folder for the model of a run."""
    return run_folder(cache, run) / "model"


def write_model(folder: Path, card: ModelCard, files: Mapping[str, Content]) -> ModelCard:
    """Write a model folder, all of it or nothing, and return the card with the digests of its files.

    `files` has content, or the path of a file to copy, by relative path.
    """
    if folder.exists():
        raise InputError(f"{folder}: already exists; remove it, or name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as temporary:
            whole = Path(temporary) / "model"
            listed = {name: _write_file(whole / name, content) for name, content in sorted(files.items())}
            card = replace(card, files=listed)
            _write_file(whole / CARD, card.to_json().encode())
            os.rename(whole, folder)
    except OSError as error:
        raise InputError(f"{folder}: the model cannot be written ({error.strerror or error})") from error
    return card


def _write_file(path: Path, content: Content) -> ModelFile:
    data = content.read_bytes() if isinstance(content, Path) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return ModelFile(hashlib.sha256(data).hexdigest(), len(data))


def read_card(folder: Path) -> ModelCard:
    """Read the card of a model folder, or raise ModelError."""
    path = folder / CARD
    if not path.is_file():
        raise ModelError(
            f"{folder}: no such model (it has no {CARD}); expected a folder that moodfuse fuse --export wrote"
        )
    try:
        if path.stat().st_size > MOST_CARD_BYTES:
            raise ModelError(f"{path}: larger than {MOST_CARD_BYTES} bytes, which no card is")
        return card_from_json(path.read_text("utf-8"))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def check_files(folder: Path, card: ModelCard) -> None:
    """Verify that all files of a model are in its folder with the length and content that the card lists."""
    for name, listed in sorted(card.files.items()):
        path = folder / name
        if not _NAME.fullmatch(name) or Path(os.path.realpath(path)) != Path(os.path.realpath(folder), name):
            raise ModelError(f"{folder}: the file {name[:99]!r} is outside the folder; a model has no links")
        try:
            if not path.is_file():
                raise ModelError(f"{path}: missing, or not a regular file; copy the model again")
            size = path.stat().st_size
            if size != listed.bytes or file_digest(path) != listed.sha256:
                raise ModelError(
                    f"{path}: its content ({size} bytes) is not what was written ({listed.bytes} bytes); "
                    "copy the model again"
                )
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error


# The fusion


def arrays_of(fusion: Fusion) -> bytes:
    """Return the arrays of a fusion in safetensors format."""
    arrays = {f"head.{name}": array for name, array in fusion.head.arrays().items()}
    for number, source in enumerate(fusion.sources):
        arrays[f"source.{number}.fill"] = source.fill
        for index, fit in enumerate(source.own):
            arrays |= {f"source.{number}.own.{index}.{name}": array for name, array in fit.arrays().items()}
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def read_fusion(folder: Path, card: ModelCard) -> Fusion:
    """Build the fusion of a model from its card and its arrays."""
    try:
        if ARRAYS not in card.files:
            raise InputError("not listed in the card")
        arrays: dict[str, np.ndarray] = load_file(folder / ARRAYS)
        head = head_from_arrays(card.head_kind, card.head_facts, _take(arrays, "head."))
        sources = tuple(_fused_source(card, number, arrays) for number in range(len(card.sources)))
        if arrays:
            raise InputError(f"unknown arrays {sorted(arrays)[:3]}")
        return Fusion(card.classes, check_level(card.level), sources, head, card.temperature, card.chosen)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder / ARRAYS}: the arrays do not fit the card ({error})") from error


def _fused_source(card: ModelCard, number: int, arrays: dict[str, np.ndarray]) -> FusedSource:
    facts = {"link": "softmax", "count": len(card.classes)}
    fits = (
        head_from_arrays("linear", facts, _take(arrays, f"source.{number}.own.{index}."))
        for index in range(card.sources[number].own)
    )
    own = tuple(fit for fit in fits if isinstance(fit, LinearArrays))
    return FusedSource(card.sources[number].recipe.source, own, arrays.pop(f"source.{number}.fill"))


def _take(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Remove the arrays whose names have a prefix, and return them without it."""
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


# The training clips, so that `evaluate --model` recognises them


@dataclass(frozen=True)
class TrainingClip:
    """A clip that a model was trained on; its fingerprints, as in `cache.audits.ClipMarks`, may be empty."""

    id: str
    group: str
    digest: str
    file_sha256: str
    peak_times: np.ndarray
    peak_bins: np.ndarray
    frame_hashes: np.ndarray
    frame_times_s: np.ndarray


_MARKS = {
    "peak_times": (np.uint16, "peaks_ends"),
    "peak_bins": (np.uint16, "peaks_ends"),
    "frame_hashes": (np.uint64, "frames_ends"),
    "frame_times_s": (np.float64, "frames_ends"),
}
"""Fingerprints: dtype, and the array with the end of each clip's values."""


def training_file(cache: FeatureCache) -> bytes:
    """Return the clips of the fold plan in safetensors format."""
    from moodfuse.extract.dataset.ingest import MARK_RULES, mark_store

    store, clips = mark_store(cache), list(cache.clips)
    marks = [store.read(status.digest) for status in clips]
    arrays: dict[str, np.ndarray] = {}
    for name, (dtype, ends) in _MARKS.items():
        values = [np.zeros(0, dtype) if item is None else getattr(item, name) for item in marks]
        arrays[name] = np.concatenate([np.zeros(0, dtype), *values])
        arrays[ends] = np.cumsum([len(item) for item in values], dtype=np.int64)
    texts = {"id": [status.clip.id for status in clips], "group": [status.group for status in clips]}
    for name, column in texts.items():
        encoded = [text.encode("utf-8", "surrogateescape") for text in column]
        arrays[f"{name}_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}_ends"] = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    digests = {
        "digest": [status.digest for status in clips],
        "file": [status.file_sha256 for status in clips],
    }
    for name, column in digests.items():
        arrays[name] = np.frombuffer(bytes.fromhex("".join(column)), np.uint8).reshape(len(clips), 32)
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    return save(contiguous, metadata={"moodfuse": MARK_RULES})


def read_training(path: Path) -> tuple[str, tuple[TrainingClip, ...]]:
    """Read the version of the fingerprints, and the training clips, of a model."""
    try:
        with safe_open(path, framework="numpy") as file:
            rules = str((file.metadata() or {}).get("moodfuse", ""))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        columns = [
            *(_texts(arrays, name) for name in ("id", "group")),
            *([row.tobytes().hex() for row in arrays[name]] for name in ("digest", "file")),
            *(
                np.split(arrays[name].astype(dtype), arrays[ends][:-1])
                for name, (dtype, ends) in _MARKS.items()
            ),
        ]
        return rules, tuple(TrainingClip(*values) for values in zip(*columns, strict=True))
    except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        raise ModelError(f"{path}: not a list of training clips ({error})") from error


def _texts(arrays: Mapping[str, np.ndarray], name: str) -> list[str]:
    data, ends = arrays[f"{name}_bytes"].tobytes(), arrays[f"{name}_ends"].tolist()
    return [data[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise([0, *ends])]
