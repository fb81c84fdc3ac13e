"""Read and write weights files; reading runs no code from the file.

Five kinds: safetensors, what `torch.save` writes, Keras 2 HDF5, a pickle of NumPy arrays in nested
dictionaries, such as Flax checkpoints, and the TensorFlow checkpoints of musicnn. A torch file holds a
pickle; torch reads it with `weights_only=True`, which builds tensors and containers and calls nothing else.
`weights.flax` reads a pickle of NumPy arrays, `weights.musicnn` the TensorFlow checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import InputError
from moodfuse.cache.files import (
    CHECKSUM_KEY,
    METADATA_KEY,
    check_array,
    check_checksum,
    compute_checksum,
    get_member,
    open_hdf5,
    read_array,
    write_atomic,
)
from moodfuse.extract.networks.weights.flax import read_flax
from moodfuse.extract.networks.weights.musicnn import SIZE_BYTES, read_musicnn

if TYPE_CHECKING:
    from torch import Tensor

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
PICKLE_MAGIC = b"\x80"
TORCH_ZIP_MAGIC = b"PK\x03\x04"
TORCH_PICKLE_MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # in the first pickle of older torch files
KERAS_ROOT = "model_weights"


class WeightsError(InputError):
    """Weights are unknown, unreadable, or those of another network."""


def file_kind(path: Path) -> str:
    """``safetensors``, ``torch``, ``hdf5``, ``pickle`` or ``musicnn``; `WeightsError` for any other file.

    Recognised by content, except ``musicnn`` files, which have no magic bytes: by size.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; expected safetensors, a PyTorch state dict, or Keras 2 HDF5"
        )
    try:
        with open(path, "rb") as stream:
            start = stream.read(32)
        size_bytes = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights: {error.strerror}; check the path") from error
    if start.startswith(HDF5_MAGIC):
        return "hdf5"
    if start[8:9] == b"{":  # a length of 8 bytes, then JSON
        return "safetensors"
    if start.startswith(TORCH_ZIP_MAGIC) or TORCH_PICKLE_MAGIC in start:
        return "torch"
    if start.startswith(PICKLE_MAGIC):
        return "pickle"
    if size_bytes == SIZE_BYTES:
        return "musicnn"
    raise WeightsError(
        f"{path}: not a weights file: it begins with {start!r}; expected safetensors, a PyTorch state dict, "
        "the Keras 2 HDF5 file of the music tagger, a pickle of NumPy arrays, or the data file of musicnn's "
        "checkpoint; download it again"
    )


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a weights file of any kind, under the names that they have in the file."""
    readers = {
        "safetensors": _read_safetensors,
        "torch": _read_torch,
        "hdf5": _read_keras,
        "pickle": _read_flax,
        "musicnn": _read_musicnn,
    }
    return readers[file_kind(path)](path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        arrays: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); it may be cut short: fetch or write it again"
        ) from error
    return arrays


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without its arrays and without torch; empty where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Arrays of a state dict that `torch.save` wrote, alone or under the key ``state_dict``."""
    import torch

    try:
        with open(path, "rb") as stream:  # given a path, torch.load chooses the format by the suffix
            content = torch.load(stream, weights_only=True, mmap=False, map_location="cpu")
    except Exception as error:  # torch.load raises many types
        raise WeightsError(
            f"{path}: not a PyTorch state dict that can be read safely: {_torch_reason(error)}; "
            "expected tensors by name and nothing else; fetch it again from its publisher"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a state dict: tensors by name")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise WeightsError(
                f"{path}: {name!r} is {type(value).__name__}, expected a flat state dict of dense tensors"
            )
    return {name: value.detach() for name, value in content.items()}


def _torch_reason(error: Exception) -> str:
    """The first line of torch's message, or the name that the file asks for."""
    text = str(error)
    if match := re.search(r"nsupported (?:global: )?GLOBAL (\S+)", text):
        return f"it asks for {match[1]}, which could run code"
    if match := re.search(r"WeightsUnpickler error: ([^\n]*)", text):
        text = match[1]
    return (text.strip().partition("\n")[0] or type(error).__name__)[:200].rstrip(".")


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Arrays of a Keras 2 HDF5 file as ``layer/array``, convolution kernels in the axis order of PyTorch."""
    import torch

    try:
        with open_hdf5(path) as file:
            arrays = _keras_arrays(file)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; fetch the file again from its publisher") from error
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not a readable HDF5 file ({error}); it may be cut short: fetch it again"
        ) from error
    for name, value in arrays.items():
        if value.ndim == 4:  # height, width, in, out -> out, in, height, width
            arrays[name] = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def _keras_arrays(file: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by ``layer/array``; no link to another file is followed."""
    if KERAS_ROOT not in file:
        raise ValueError(
            f"no group {KERAS_ROOT}; expected the Keras 2 file of the music tagger, which "
            "moodfuse weights fetch twodmcnn-msd-choi fetches"
        )
    arrays: dict[str, np.ndarray] = {}

    def add(path: str, member: object) -> None:
        if not isinstance(member, Mapping):  # an HDF5 group is a mapping
            check_array(member, path)
            layer, *_, name = path.split("/")
            arrays[f"{layer}/{name}"] = read_array(member)

    get_member(file, KERAS_ROOT).visititems(add)  # visits no links
    return arrays


def _read_flax(path: Path) -> dict[str, Tensor]:
    """Arrays of a pickled Flax checkpoint, named and ordered as by `read_flax`."""
    import torch

    try:
        return {name: torch.from_numpy(value) for name, value in read_flax(path).items()}
    except Exception as error:  # a damaged pickle raises many types
        raise WeightsError(
            f"{path}: not a pickle of arrays that can be read safely: {error}; expected NumPy arrays in "
            "nested dictionaries and nothing else; fetch it again from its publisher"
        ) from error


def _read_musicnn(path: Path) -> dict[str, Tensor]:
    """Arrays of musicnn's checkpoint, named and ordered as by `read_musicnn`."""
    import torch

    try:
        return {name: torch.from_numpy(value) for name, value in read_musicnn(path).items()}
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path}: not a checkpoint of musicnn: {error}; fetch it again") from error


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors as safetensors with metadata and a checksum; equal content gives equal bytes."""
    from safetensors.torch import save

    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    seal = compute_checksum(save(content, metadata={METADATA_KEY: canonical_json(dict(metadata))}))
    write_atomic(
        path, save(content, metadata={METADATA_KEY: canonical_json({**metadata, CHECKSUM_KEY: seal})})
    )


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file of `save_weights`; `DamagedPartError` if its checksum differs."""
    from safetensors.torch import load_file

    check_checksum(path)
    return load_file(path), json.loads(safetensors_metadata(path).get(METADATA_KEY, "{}"))
