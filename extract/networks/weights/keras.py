"""The Keras 2 HDF5 file of the music tagger, read by path: no link is followed, no other file is opened.

The older file for Theano (Keras 1) is not read. Its BatchNorm normalises by the statistics of the very batch that is
predicted (``mode=2``), so that features depend on batch mates, and its kernels are flipped; as the sound behind the
features that are published with it is not, a conversion could not be shown right.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moodfuse.cache.files import check_array, get_member, open_hdf5, read_array
from moodfuse.extract.networks.weights.files import WeightsError
from moodfuse.extract.networks.weights.layouts import COUNTER

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

LAYOUT = "keunwoochoi, Keras 2"
NETWORK = "twodmcnn"
DROPPED = ("dense_1",)
FRONT_END = "melgram"
# An array of a Keras file in our state dict: (layer, array, axes of ours in terms of theirs).
KERAS_ARRAYS = {
    "convolutions.{}.weight": ("conv2d_{}", "kernel:0", (3, 2, 0, 1)),
    "convolutions.{}.bias": ("conv2d_{}", "bias:0", (0,)),
    "norms.{}.weight": ("batch_normalization_{}", "gamma:0", (0,)),
    "norms.{}.bias": ("batch_normalization_{}", "beta:0", (0,)),
    "norms.{}.running_mean": ("batch_normalization_{}", "moving_mean:0", (0,)),
    "norms.{}.running_var": ("batch_normalization_{}", "moving_variance:0", (0,)),
}
_ROOT = "model_weights"
_MAX_LAYERS = 200
_FILTER_TOLERANCE = 1e-6


def read_keras(
    path: Path, wanted: Mapping[str, Tensor], *, network: str, filters: np.ndarray | None
) -> dict[str, Tensor]:
    """The arrays of the music tagger under our names, as tensors in our axis order.

    Parameters
    ----------
    path : Path
        The HDF5 file.
    wanted : dict of str to Tensor
        Names and shapes of ours.
    network : str
        What the weights are for.
    filters : ndarray, optional
        Our mel filter bank ``[257, 96]``; if given, the file's must be the same.

    Raises
    ------
    WeightsError
        If the file is damaged, links to elsewhere, or holds another network.
    """
    import torch

    if network != NETWORK:
        raise WeightsError(f"{path}: Keras HDF5 weights are read for {NETWORK} only, not for {network}")
    loaded: dict[str, Tensor] = {}
    try:
        with open_hdf5(path) as file:
            names = _names(file, path)
            addresses = {name: _address(name) for name in wanted if not name.endswith(COUNTER)}
            _check_names(path, names, {f"{layer}/{array}" for layer, array, _ in addresses.values()})
            for name, (layer, array, axes) in addresses.items():
                shape = tuple(wanted[name].shape[axes.index(axis)] for axis in range(len(axes)))
                found = _array(file, (_ROOT, layer, layer, array), shape, path)
                loaded[name] = torch.from_numpy(np.ascontiguousarray(found.transpose(axes)))
            if filters is not None and f"{FRONT_END}/Variable:0" in names:
                stored = _array(file, (_ROOT, FRONT_END, FRONT_END, "Variable:0"), filters.shape, path)
                if float(np.abs(stored - filters).max()) > _FILTER_TOLERANCE:
                    raise WeightsError(
                        f"{path}: its mel filters are not those of {NETWORK}; it is another front end"
                    )
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; fetch the file again from its publisher") from error
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: not a readable HDF5 file ({error}); it may be cut short: fetch it again"
        ) from error
    return loaded


def _address(name: str) -> tuple[str, str, tuple[int, ...]]:
    room, block, attribute = name.split(".")
    layer, array, axes = KERAS_ARRAYS[f"{room}.{{}}.{attribute}"]
    return layer.format(int(block) + 1), array, axes


def _names(file: h5py.File, path: Path) -> set[str]:
    """Names of the arrays, as ``layer/array``."""
    import h5py

    if any(name.startswith("convolution2d_") for name in file) or "ConvBNEluDr" in file:
        raise WeightsError(
            f"{path}: the older Theano file of the tagger (Keras 1), whose BatchNorm depends on the batch; it is not "
            "read: use keras2_model/model_best.hdf5 of the same repository (moodfuse weights fetch twodmcnn-msd-choi)"
        )
    root = _step(file, _ROOT, path, _ROOT)
    if not isinstance(root, h5py.Group) or len(root) > _MAX_LAYERS:
        raise WeightsError(
            f"{path}: {_ROOT} is no group of layers; expected the weights of the Keras 2 music tagger"
        )
    found: set[str] = set()
    for layer in root:
        node = _step(root, layer, path, f"{_ROOT}/{layer}")
        if isinstance(node, h5py.Group) and layer in node:
            node = _step(node, layer, path, f"{_ROOT}/{layer}/{layer}")
        found.update({f"{layer}/{name}" for name in node} if isinstance(node, h5py.Group) else {layer})
    return found


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    unknown = {name for name in found - expected if name.partition("/")[0] not in (*DROPPED, FRONT_END)}
    if unknown or expected - found:
        raise WeightsError(
            f"{path}: found {len(found)} arrays; missing: {', '.join(sorted(expected - found)) or 'none'}; "
            f"unexpected: {', '.join(sorted(unknown)) or 'none'}; expected the weights of the Keras 2 music tagger"
        )


def _step(node: h5py.Group, name: str, path: Path, where: str) -> h5py.Group | h5py.Dataset:
    """One member of a group, over a hard link only."""
    import h5py

    if not isinstance(node, h5py.Group) or name not in node:
        raise WeightsError(f"{path}: no array {where}; expected the weights of the Keras 2 music tagger")
    return get_member(node, name)


def _array(file: h5py.File, steps: tuple[str, ...], shape: tuple[int, ...], path: Path) -> np.ndarray:
    """One float32 array; its shape and storage are checked before anything is read."""
    import h5py

    node, where = file, "/".join(steps)
    for step in steps:
        node = _step(node, step, path, where)
    if isinstance(node, h5py.Dataset) and (node.shape != shape or node.dtype != np.float32):
        raise WeightsError(
            f"{path}: {where} is {node.dtype} of shape {node.shape}; expected float32 of shape {shape}"
        )
    check_array(node, where)
    return read_array(node)
