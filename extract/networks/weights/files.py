"""Read and write weights files. Reading runs no code from the file and bounds its memory beforehand.

Three kinds: safetensors, what `torch.save` writes (zip archives, and the older plain stream), and Keras 2
HDF5. torch files hold a pickle; torch reads it with `weights_only=True`, which builds tensors and containers
and calls nothing else.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import InputError
from moodfuse.cache.files import METADATA_KEY, SEAL, check_sealed, seal_of, write_aside

if TYPE_CHECKING:
    from torch import Tensor

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LFS_MAGIC = b"version https://git-lfs"
MAX_FILE_BYTES = 400 << 20  # the largest published file, torchvision's swin3d_b, has 364 million bytes
MAX_PICKLE_BYTES = 1 << 20
MAX_KERAS_BYTES = 1 << 24
MAX_KERAS_NODES = 200
KERAS_ROOT = "model_weights"
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, names of the storages


class WeightsError(InputError):
    """Weights are unknown, unreadable, or those of another network."""


def file_kind(path: Path) -> str:
    """``safetensors``, ``torch`` or ``hdf5``, recognised by content.

    Raises
    ------
    WeightsError
        If it is none of them, empty, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            reason = (
                "a folder" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
            )
            raise WeightsError(f"{path}: {reason}; expected a file: safetensors, PyTorch, or Keras 2 HDF5")
        size = path.stat().st_size
        with open(path, "rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights: {error.strerror}; check the path") from error
    if size > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES / 1e6:.0f}"
        raise WeightsError(f"{path}: {size / 1e6:.0f} MB; no network here has weights over {limit} MB")
    if start.startswith(HDF5_MAGIC):
        return "hdf5"
    if start[8:9] == b"{":  # a length of 8 bytes, then JSON
        return "safetensors"
    if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return "torch"
    if not start:
        reason = "it is empty"
    elif start.startswith(LFS_MAGIC):
        reason = "it is a Git LFS pointer, not the weights"
    elif start.lstrip().startswith(b"<"):
        reason = "it is a web page"
    else:
        reason = f"it begins with {start[:8]!r}"
    raise WeightsError(
        f"{path}: not a weights file: {reason}; expected safetensors, a PyTorch state dict, or the Keras "
        "2 HDF5 file of the music tagger; download it again"
    )


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a weights file of any kind, under the names that they have in the file.

    Raises
    ------
    WeightsError
        If the file is damaged, would run code or read other files, or holds anything but dense arrays by
        name.
    """
    readers = {"safetensors": _read_safetensors, "torch": _read_torch, "hdf5": _read_keras}
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
            # torch, too, goes by the first bytes: a pickle with a zip archive appended is read as a pickle.
            is_archive = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            _check_archive(path) if is_archive else _check_legacy(path)
            stream.seek(0)
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
        _check_tensor(path, name, value)
    return {name: value.detach() for name, value in content.items()}


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that expands: torch compresses no member, and its pickle is small."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("a zip archive with compressed members, or members larger than the file")
    if any(member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES for member in members):
        raise ValueError(f"its names take over {MAX_PICKLE_BYTES} bytes")


def _check_legacy(path: Path) -> None:
    """Refuse a stream whose pickles are damaged or large; `genops` reads them without executing anything."""
    with open(path, "rb") as stream:
        start = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    try:
        for _ in range(_LEGACY_PICKLES):
            for _operation in pickletools.genops(start):
                pass
    except (ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{error}; damaged, or its names take over {MAX_PICKLE_BYTES} bytes") from error


def _torch_reason(error: Exception) -> str:
    """One line of a message of torch that has many."""
    text = str(error)
    if found := re.search(r"nsupported (?:global: )?GLOBAL (\S+)", text):
        return f"it asks for {found[1]}, which could run code"
    if found := re.search(r"WeightsUnpickler error: ([^\n]*)", text):
        text = found[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")


def _check_tensor(path: Path, name: object, value: Any) -> None:
    import torch

    if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
        kind = type(value).__name__
        raise WeightsError(f"{path}: {name!r} is {kind}, expected a tensor; expected a flat state dict")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise WeightsError(
            f"{path}: {name} is a {value.layout} tensor on {value.device}, expected a dense one"
        )
    # A tensor of stride 0 takes the memory of one number in the file, and any amount once it is copied.
    if not value.is_contiguous() or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise WeightsError(f"{path}: {name} repeats or skips its bytes (stride {value.stride()})")


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Arrays of a Keras 2 HDF5 file as ``layer/array``, convolution kernels in the axis order of PyTorch.

    The older file for Theano (Keras 1) is refused: its BatchNorm normalises by the statistics of the batch
    that is predicted (``mode=2``), so that features depend on the other clips of the batch.
    """
    import torch

    from moodfuse.cache.files import open_hdf5

    try:
        with open_hdf5(path) as file:
            if any(name.startswith("convolution2d_") for name in file) or "ConvBNEluDr" in file:
                raise ValueError(
                    "the older Theano file of the tagger (Keras 1), whose BatchNorm depends on the batch; it "
                    "is not read: use keras2_model/model_best.hdf5 of the same repository "
                    "(moodfuse weights fetch twodmcnn-msd-choi)"
                )
            arrays = dict(_keras_arrays(file))
        # kernels: height, width, in, out -> out, in, height, width
        return {
            name: torch.from_numpy(
                np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value
            )
            for name, value in arrays.items()
        }
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; fetch the file again from its publisher") from error
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: not a readable HDF5 file ({error}); it may be cut short: fetch it again"
        ) from error


def _keras_arrays(file: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays by ``layer/array``; no link is followed, no other file opened, and their total size bounded."""
    from moodfuse.cache.files import check_array, get_member, read_array

    root = get_member(file, KERAS_ROOT) if KERAS_ROOT in file else None
    if not isinstance(root, Mapping):  # an HDF5 group is a mapping
        raise ValueError(f"no group {KERAS_ROOT}; expected the weights of the Keras 2 music tagger")
    nodes = size = 0
    for layer in root:
        group = get_member(root, layer)
        if isinstance(group, Mapping) and layer in group:
            group = get_member(group, layer)
        nodes += 1 + (len(group) if isinstance(group, Mapping) else 0)
        if nodes > MAX_KERAS_NODES:
            raise ValueError(f"{KERAS_ROOT} holds over {MAX_KERAS_NODES} layers and arrays")
        arrays = {layer: group}
        if isinstance(group, Mapping):
            arrays = {f"{layer}/{name}": get_member(group, name) for name in group}
        for name, array in arrays.items():
            size += check_array(array, name)
            if size > MAX_KERAS_BYTES:
                raise ValueError(f"its arrays take over {MAX_KERAS_BYTES} bytes")
            yield name, read_array(array)


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors as sealed safetensors, with one metadata key, so that equal content gives equal bytes."""
    from safetensors.torch import save

    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    seal = seal_of(save(content, metadata={METADATA_KEY: canonical_json(dict(metadata))}))
    write_aside(path, save(content, metadata={METADATA_KEY: canonical_json({**metadata, SEAL: seal})}))


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save_weights` wrote.

    Raises
    ------
    DamagedPartError
        If the content is not what was written.
    """
    from safetensors.torch import load_file

    check_sealed(path)
    return load_file(path), json.loads(safetensors_metadata(path).get(METADATA_KEY, "{}"))
