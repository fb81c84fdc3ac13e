"""Pretrained weights: how a file of them enters a network.

Two kinds of file are read: safetensors in the layout of a network's own state dict, and the Keras 2 HDF5 file of the
published music tagger, for `twodmcnn`. Pickles are never read. Reading is strict: every expected array has to be there,
in its shape, with finite numbers, before the network is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache.errors import InputError

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

    from .base import Network

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
PICKLE_MAGICS = (b"PK\x03\x04", b"\x80")
LFS_MAGIC = b"version https://git-lfs"
# An array of a Keras file in our state dict: (group, array, axes of ours in terms of theirs).
KERAS_ARRAYS = {
    "convolutions.{}.weight": ("conv2d_{}", "kernel:0", (3, 2, 0, 1)),
    "convolutions.{}.bias": ("conv2d_{}", "bias:0", (0,)),
    "norms.{}.weight": ("batch_normalization_{}", "gamma:0", (0,)),
    "norms.{}.bias": ("batch_normalization_{}", "beta:0", (0,)),
    "norms.{}.running_mean": ("batch_normalization_{}", "moving_mean:0", (0,)),
    "norms.{}.running_var": ("batch_normalization_{}", "moving_variance:0", (0,)),
}


class WeightsError(InputError):
    """Weights are unknown, unreadable, or those of another network."""


def resolve_weights(weights: str | Path) -> Path:
    """The file that a user's path of weights stands for; no weights are known by name yet.

    Raises
    ------
    WeightsError
        If it is no file.
    """
    path = Path(weights)
    if path.is_file():
        return path
    found = "a folder" if path.is_dir() else "no such file"
    raise WeightsError(
        f"{weights}: {found}; expected the path of a weights file: safetensors in the network's own layout, or the "
        "Keras 2 .hdf5 file of the music tagger for twodmcnn (no weights are known by name)"
    )


def load_weights(network: Network, path: str | Path) -> None:
    """Load pretrained weights into a network, leave its classifier new, and mark it as pretrained.

    The trunk has to be in the file, whole. Replaced layers are loaded where the file has them all, and stay new where
    it has none. A classifier in the file is ignored, as it answers another question.

    Parameters
    ----------
    network : Network
        Changed in place, only once everything in the file has been checked.
    path : str or Path
        A file of safetensors in the network's own layout, or the Keras 2 HDF5 file of the tagger for `twodmcnn`.

    Raises
    ------
    WeightsError
        If the file cannot be read or does not hold what the network needs.
    """
    path = Path(path)
    own = network.state_dict()
    wanted = {name: value for name, value in own.items() if not name.startswith("classifier.")}
    if _magic(path).startswith(HDF5_MAGIC):
        loaded = _read_keras(path, wanted, network=network.spec.name)
    else:
        loaded = {name: value for name, value in _read_safetensors(path).items() if not name.startswith("classifier.")}
        if not any(name.startswith("replaced.") for name in loaded):
            wanted = {name: value for name, value in wanted.items() if not name.startswith("replaced.")}
    _check(path, loaded, wanted, network=network.spec.name)
    network.load_state_dict({**own, **loaded})
    network.pretrained = True


def _magic(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            magic = stream.read(32)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights: {error.strerror or error}; check the path") from error
    if magic.startswith(LFS_MAGIC):
        raise WeightsError(f"{path}: this is a Git LFS pointer, not the weights; download the file that it points to")
    if magic.startswith(PICKLE_MAGICS) and magic[8:9] != b"{":  # safetensors: a length of 8 bytes, then JSON
        raise WeightsError(
            f"{path}: this looks like a pickled or zipped checkpoint, which is never read, as it can run code; "
            "expected safetensors"
        )
    return magic


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _magic(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); expected the network's state dict as safetensors; "
            "it may be cut short: fetch or write it again"
        ) from error


def _read_keras(path: Path, wanted: dict[str, Tensor], *, network: str) -> dict[str, Tensor]:
    """The arrays of the music tagger under our names, as tensors in our axis order."""
    import h5py
    import torch

    if network != "twodmcnn":
        raise WeightsError(f"{path}: Keras HDF5 weights are read for twodmcnn only, not for {network}; use safetensors")
    loaded: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, value in wanted.items():
                if name.endswith(".num_batches_tracked"):
                    loaded[name] = value
                    continue
                group, array, axes = _keras_address(name)
                shape = tuple(value.shape[axes.index(axis)] for axis in range(len(axes)))
                found = _keras_array(file, ("model_weights", group, group, array), shape, path)
                loaded[name] = torch.from_numpy(np.ascontiguousarray(found.transpose(axes)))
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: not a readable HDF5 file ({error}); it may be cut short: fetch it again"
        ) from error
    return loaded


def _keras_address(name: str) -> tuple[str, str, tuple[int, ...]]:
    room, block, attribute = name.split(".")
    group, array, axes = KERAS_ARRAYS[f"{room}.{{}}.{attribute}"]
    return group.format(int(block) + 1), array, axes


def _keras_array(file: h5py.File, steps: tuple[str, ...], shape: tuple[int, ...], path: Path) -> np.ndarray:
    """One float32 array, reached over hard links only, so that no other file is opened."""
    import h5py

    node, where = file, "/".join(steps)
    for step in steps:
        link = node.get(step, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise WeightsError(f"{path}: no array {where}; expected the weights of the Keras 2 music tagger")
        if not isinstance(link, h5py.HardLink):
            raise WeightsError(
                f"{path}: {where} is a soft or external link, which is not followed; use the file itself"
            )
        node = node[step]
    if not isinstance(node, h5py.Dataset):
        raise WeightsError(f"{path}: {where} is a group; expected an array of shape {shape}")
    if node.is_virtual or node.external:
        raise WeightsError(f"{path}: {where} is stored in another file, which is not read; use a complete file")
    if node.shape != shape or node.dtype.kind != "f":
        raise WeightsError(f"{path}: {where} is {node.dtype} of shape {node.shape}; expected float32 of shape {shape}")
    return np.asarray(node[()], dtype=np.float32)


def _check(path: Path, loaded: dict[str, Tensor], wanted: dict[str, Tensor], *, network: str) -> None:
    """Refuse arrays that are missing, too many, of another shape or type, or not finite."""
    advice = f"are these weights of {network}, from this version?"
    missing, extra = sorted(wanted.keys() - loaded.keys()), sorted(loaded.keys() - wanted.keys())
    if missing or extra:
        raise WeightsError(
            f"{path}: found {len(loaded)} arrays, expected {len(wanted)}; "
            f"missing: {_some(missing)}; unexpected: {_some(extra)}; {advice}"
        )
    for name, value in wanted.items():
        found = loaded[name]
        if found.shape != value.shape or found.dtype != value.dtype:
            raise WeightsError(
                f"{path}: {name} is {found.dtype} of shape {list(found.shape)}, "
                f"expected {value.dtype} of shape {list(value.shape)}; {advice}"
            )
        if not bool(found.isfinite().all()):
            raise WeightsError(f"{path}: {name} holds NaN or infinity; the file is damaged or the training diverged")


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
