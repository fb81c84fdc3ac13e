"""A model's folder: written whole or not at all, and read as if anybody had written it.

Every file is named in the card with its length and SHA-256. Before a byte of one is used, it has been found to be a
plain file inside the folder with that length and content; arrays are checked for names, shapes, ranges and finiteness
when the records are made of them. Nothing in a model is code.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from moodfuse.cache.digests import file_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.storage.files import sync_folder, write_aside
from moodfuse.fuse.inference import FusedSource, Fusion, LinearArrays, check_level, head_from_arrays
from moodfuse.model.card import MOST_BYTES, ModelCard, ModelError, ModelFile, card_from_json

CARD = "model.json"
ARRAYS = "arrays.safetensors"
TRAINING = "training.safetensors"
_PLAIN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._@-]{0,199}/)?[A-Za-z0-9][A-Za-z0-9._@-]{0,199}")
_PIECE = 1 << 20
MOST_ARRAY_BYTES = 1 << 30
"""A head of ten thousand classes over ten thousand columns has 0.8 GB."""
MOST_FILE_BYTES = 4 << 30
"""Twenty times the largest network here; a file of more is not hashed to the end first."""
MOST_ARRAYS = 10_000


def write_model(folder: Path, card: ModelCard, files: Mapping[str, Path | bytes | str]) -> ModelCard:
    """Write a model folder beside its place, and move it there; returns the card with its files.

    Parameters
    ----------
    folder : Path
        Must not be there yet.
    card : ModelCard
        Without files.
    files : mapping of str to Path, bytes or str
        Content by place in the folder; of a path, its file's.

    Raises
    ------
    InputError
        If the folder is there.
    """
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it, or name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name[:50]}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder}: the model cannot be written ({error.strerror or error})") from error
    try:
        aside.chmod(0o755)
        found = {place: _put(aside, place, content) for place, content in sorted(files.items())}
        card = replace(card, files=found, sources=card.sources)
        write_aside(aside / CARD, card.to_json().encode())
        os.rename(aside, folder)
    except OSError as error:
        raise InputError(f"{folder}: the model cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(folder.parent)
    return card


def _put(folder: Path, place: str, content: Path | bytes | str) -> ModelFile:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    else:
        write_aside(path, content.encode() if isinstance(content, str) else content)
    return ModelFile(file_digest(path), path.stat().st_size)


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder.

    Raises
    ------
    ModelError
        If the folder is none of a model, or its card cannot be read.
    """
    path = folder / CARD
    try:
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder; expected one that `moodfuse fuse --export` wrote")
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: is no plain file")
        if status.st_size > MOST_BYTES:
            raise ModelError(f"{path}: {status.st_size} bytes; a card has {MOST_BYTES} at most")
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: is not there; {folder} is no model folder") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    try:
        return card_from_json(text)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def check_files(folder: Path, card: ModelCard) -> None:
    """Hold every file of a model to its card.

    Raises
    ------
    ModelError
        Naming the first file that is missing, no plain file in the folder, or not what the card says.
    """
    for place, wanted in sorted(card.files.items()):
        path = folder / place
        if not _PLAIN.fullmatch(place):
            raise ModelError(
                f"{folder}: names the file {place[:99]!r}, which is no plain path inside the folder"
            )
        try:
            above = path.parent
            if above != folder and not stat.S_ISDIR(above.lstat().st_mode):
                raise ModelError(f"{above}: is no plain folder")
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path}: is no plain file; a model's files may not be links")
            if wanted.bytes > MOST_FILE_BYTES:
                raise ModelError(
                    f"{path}: {wanted.bytes} bytes; a model's file has {MOST_FILE_BYTES} at most"
                )
            if status.st_size != wanted.bytes:
                raise ModelError(f"{path}: {status.st_size} bytes, not the {wanted.bytes} that were written")
            if _sha256(path) != wanted.sha256:
                raise ModelError(
                    f"{path}: its bytes are not the ones that were written; copy the model again"
                )
        except FileNotFoundError as error:
            raise ModelError(f"{path}: is not there; copy the model again") from error
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            state.update(piece)
    return state.hexdigest()


def arrays_of(fusion: Fusion) -> bytes:
    """The arrays of a fusion as safetensors."""
    from safetensors.numpy import save

    found = {f"head.{name}": array for name, array in fusion.head.arrays().items()}
    for number, source in enumerate(fusion.sources):
        found[f"source.{number}.fill"] = source.fill
        for place, fit in enumerate(source.own):
            found |= {f"source.{number}.own.{place}.{name}": array for name, array in fit.arrays().items()}
    return save({name: np.ascontiguousarray(array) for name, array in found.items()})


def read_arrays(folder: Path, place: str) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file of the folder.

    Raises
    ------
    ModelError
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = (folder / place).read_bytes()
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        if header.count(b'"dtype"') > MOST_ARRAYS:
            raise ModelError(f"{folder / place}: more than {MOST_ARRAYS} arrays")
        return load(data)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(f"{folder / place}: cannot be read as safetensors ({error})") from error


def read_fusion(folder: Path, card: ModelCard) -> Fusion:
    """The fusion of a model, from its card and arrays.

    Raises
    ------
    ModelError
        If they do not make one.
    """
    if ARRAYS not in card.files or card.files[ARRAYS].bytes > MOST_ARRAY_BYTES:
        raise ModelError(f"{folder / ARRAYS}: is not there, or over {MOST_ARRAY_BYTES >> 20} MiB")
    arrays = read_arrays(folder, ARRAYS)
    try:
        head = head_from_arrays(card.head_kind, card.head_facts, _below(arrays, "head."))
        sources = tuple(
            FusedSource(source.recipe.source, _own(arrays, number, source.own, card), _fill(arrays, number))
            for number, source in enumerate(card.sources)
        )
        if arrays:
            raise InputError(f"unknown arrays {sorted(arrays)[:3]}")
        return Fusion(card.classes, check_level(card.level), sources, head, card.temperature, card.chosen)
    except (InputError, KeyError) as error:
        raise ModelError(f"{folder / ARRAYS}: the arrays do not make this model ({error})") from error


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Take the arrays whose names begin so."""
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def _fill(arrays: dict[str, np.ndarray], number: int) -> np.ndarray:
    return arrays.pop(f"source.{number}.fill")


def _own(arrays: dict[str, np.ndarray], number: int, count: int, card: ModelCard) -> tuple[LinearArrays, ...]:
    found = (_below(arrays, f"source.{number}.own.{place}.") for place in range(count))
    heads = [
        head_from_arrays("linear", {"link": "softmax", "count": len(card.classes)}, item) for item in found
    ]
    return tuple(head for head in heads if isinstance(head, LinearArrays))
