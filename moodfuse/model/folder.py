"""Model folders: the card `model.json`, and the files that it lists with their lengths and SHA-256.

A folder is written atomically. Files are verified before they are used, and no code in them is run.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from moodfuse.cache.audits import ClipMarks
from moodfuse.cache.digests import canonical_json, digest, file_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Recipe, recipe_from_mapping
from moodfuse.cache.records import check_label
from moodfuse.cache.runs import run_folder
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.inference import FusedSource, Fusion, LinearArrays, check_level, head_from_arrays

FORMAT = "moodfuse-model"
SCHEMA = 1
CARD = "model.json"
ARRAYS = "arrays.safetensors"
TRAINING = "training.safetensors"
_FILE_NAME = re.compile(r"([A-Za-z0-9][\w.@-]*/)?[A-Za-z0-9][\w.@-]*", re.ASCII)


class ModelError(InputError):
    """A model folder that cannot be used."""


# The card


@dataclass(frozen=True)
class ModelSource:
    """One source of a model: `body` is the file of the layers that were not fine-tuned, if any.

    `networks` are the files of the fine-tuned networks, whose logits are averaged, and `own` is the number of
    classifiers that compute logits from the embedding if the networks have none.
    """

    recipe: Recipe
    body: str | None
    networks: tuple[str, ...]
    own: int

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the source."""
        return self.networks if self.body is None else (self.body, *self.networks)


@dataclass(frozen=True)
class ModelFile:
    """SHA-256 and length of a file of the model."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelCard:
    """Everything that describes a model.

    The run, protocol, head and level are those of the result that was exported; `sources` are in the order of
    the head's columns, and `head_facts` are settings of the head that are not arrays. `chosen` is whether
    hyperparameters and temperature were selected on out-of-sample rows, `decoder` the version of the decoder
    that read the training clips, and `impute` whether files without audio or video are labelled. `training`
    has numbers of clips and groups, `expected` cross-validated scores with confidence intervals, and `files`
    all other files of the folder by relative path.
    """

    name: str
    run: str
    protocol: str
    head: str
    level: str
    classes: tuple[str, ...]
    sources: tuple[ModelSource, ...]
    head_kind: str
    head_facts: Mapping[str, Any]
    temperature: float
    chosen: bool
    decoder: str
    impute: bool
    training: Mapping[str, Any]
    expected: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    files: Mapping[str, ModelFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_level(self.level)
        if len(self.classes) < 2 or tuple(sorted(set(self.classes))) != self.classes:
            raise ModelError(f"classes: {self.classes[:9]}; expected two or more different labels in order")
        for label in self.classes:
            check_label(label, "classes")
        if not self.sources or not math.isfinite(self.temperature):
            raise ModelError("expected one or more sources and a finite temperature")
        used = [file for source in self.sources for file in source.files]
        if unlisted := set(used) - set(self.files):
            raise ModelError(f"sources: the file {min(unlisted)!r} is not listed under files")

    @cached_property
    def digest(self) -> str:
        """Identity of the model; changes with any of its files."""
        return digest(self._values())

    @cached_property
    def modalities(self) -> frozenset[str | None]:
        """The modalities that the sources read, as recipes name them."""
        return frozenset(source.recipe.modality for source in self.sources)

    def to_json(self) -> str:
        """Return the card as canonical JSON that contains its own digest."""
        return canonical_json({**self._values(), "check": self.digest})

    def _values(self) -> dict[str, Any]:
        return {"format": FORMAT, "schema": SCHEMA, **asdict(self)}


def read_card(folder: Path) -> ModelCard:
    """Read the card of a model folder, or raise ModelError."""
    path = folder / CARD
    if not path.is_file():
        raise ModelError(
            f"{folder}: no such model (it has no {CARD}); expected a folder that moodfuse fuse --export wrote"
        )
    try:
        return _card_from_json(path.read_text("utf-8"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as the card of a model: {str(error)[:200]}") from error


def _card_from_json(text: str) -> ModelCard:
    values = json.loads(text)
    if values.pop("format") != FORMAT:
        raise ModelError("not the card of a moodfuse model")
    if values["schema"] != SCHEMA:
        writer = values.get("versions", {}).get("moodfuse", "another version")
        raise ModelError(
            f"schema {values['schema']}, expected {SCHEMA}; use moodfuse {writer}, which wrote it"
        )
    if values.pop("check") != digest({"format": FORMAT, **values}):
        raise ModelError("the content does not match its digest; copy the model again, or export it again")
    del values["schema"]
    for source in values["sources"]:
        source |= {"recipe": recipe_from_mapping(source["recipe"]), "networks": tuple(source["networks"])}
    values["sources"] = [ModelSource(**source) for source in values["sources"]]
    values["files"] = {name: ModelFile(**facts) for name, facts in values["files"].items()}
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return ModelCard(**arguments)


# Files


def model_folder(cache: FeatureCache, run: str) -> Path:
    """Return the default folder for the model of a run."""
    return run_folder(cache, run) / "model"


def write_model(folder: Path, card: ModelCard, files: Mapping[str, Path | bytes]) -> ModelCard:
    """Write a model folder, all of it or nothing, and return the card with the digests of its files.

    `files` has content, or the path of a file to copy, by relative path.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as temporary:
            complete = Path(temporary) / "model"
            listed = {name: _write_file(complete / name, content) for name, content in sorted(files.items())}
            card = replace(card, files=listed)
            _write_file(complete / CARD, card.to_json().encode())
            os.rename(complete, folder)
    except OSError as error:
        raise InputError(f"{folder}: the model cannot be written ({error.strerror or error})") from error
    return card


def _write_file(path: Path, content: Path | bytes) -> ModelFile:
    data = content.read_bytes() if isinstance(content, Path) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return ModelFile(hashlib.sha256(data).hexdigest(), len(data))


def check_files(folder: Path, card: ModelCard) -> None:
    """Raise ModelError unless all files of a model have the length and content that the card lists."""
    for name, listed in sorted(card.files.items()):
        path = folder / name
        if not _FILE_NAME.fullmatch(name):
            raise ModelError(f"{folder}: the file {name[:99]!r} is outside the folder")
        if not path.is_file():
            raise ModelError(f"{path}: missing, or not a regular file; copy the model again")
        if path.stat().st_size != listed.bytes or file_digest(path) != listed.sha256:
            raise ModelError(f"{path}: its content is not what was written; copy the model again")


# The fusion


def pack_arrays(fusion: Fusion) -> bytes:
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


# The training clips, which `evaluate --model` must not score


@dataclass(frozen=True)
class TrainingClip:
    """A clip that a model was trained on; its fingerprints may be empty."""

    id: str
    group: str
    digest: str
    file_sha256: str
    marks: ClipMarks


_MARKS = tuple(column.name for column in fields(ClipMarks))
_ENDS = {
    "id_bytes": "id_ends",
    "group_bytes": "group_ends",
    "peak_times": "peaks_ends",
    "peak_bins": "peaks_ends",
    "frame_hashes": "frames_ends",
    "frame_times_s": "frames_ends",
}
"""Arrays of all clips, one after the other -> the array of where each clip ends."""
_NO_MARKS = ClipMarks(np.zeros(0, "u2"), np.zeros(0, "u2"), np.zeros(0, "u8"), np.zeros(0))


def pack_training_clips(cache: FeatureCache) -> bytes:
    """Return the clips of the fold plan in safetensors format."""
    from moodfuse.extract.dataset.ingest import MARK_RULES, open_mark_store

    store, clips = open_mark_store(cache), list(cache.clips)
    marks = [store.read(status.digest) or _NO_MARKS for status in clips]
    columns = {name: [getattr(clip_marks, name) for clip_marks in marks] for name in _MARKS}
    columns["id_bytes"] = [_text_to_array(status.clip.id) for status in clips]
    columns["group_bytes"] = [_text_to_array(status.group) for status in clips]
    arrays: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        arrays[name] = np.ascontiguousarray(np.concatenate(values))
        arrays[_ENDS[name]] = np.cumsum([len(value) for value in values], dtype=np.int64)
    hashes = {"digest": [clip.digest for clip in clips], "file": [clip.file_sha256 for clip in clips]}
    for name, texts in hashes.items():
        arrays[name] = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(len(clips), 32)
    return save(arrays, metadata={"moodfuse": MARK_RULES})


def read_training_clips(path: Path) -> tuple[str, tuple[TrainingClip, ...]]:
    """Read the version of the fingerprints, and the training clips, of a model."""
    try:
        with safe_open(path, framework="numpy") as file:
            rules = str((file.metadata() or {}).get("moodfuse", ""))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        columns = {name: np.split(arrays[name], arrays[ends][:-1]) for name, ends in _ENDS.items()}
        clips = zip(
            map(_array_to_text, columns["id_bytes"]),
            map(_array_to_text, columns["group_bytes"]),
            (row.tobytes().hex() for row in arrays["digest"]),
            (row.tobytes().hex() for row in arrays["file"]),
            (ClipMarks(*values) for values in zip(*(columns[name] for name in _MARKS), strict=True)),
            strict=True,
        )
        return rules, tuple(TrainingClip(*values) for values in clips)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        raise ModelError(f"{path}: not a list of training clips ({error})") from error


def _text_to_array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _array_to_text(array: np.ndarray) -> str:
    return array.tobytes().decode("utf-8", "surrogateescape")
