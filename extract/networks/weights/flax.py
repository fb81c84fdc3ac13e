"""Read a pickled Flax checkpoint: NumPy arrays in nested dictionaries, and nothing else.

The only module that imports pickle. Its unpickler knows the three names that NumPy arrays need and refuses
every other one, so that no code named in a file runs.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # what NumPy calls to build an array from a pickle
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # files of NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_SHIFT = re.compile(r"/BatchNorm_\d+/bias$")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")
        return _ALLOWED[module, name]


def read_flax(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a checkpoint as ``params/layer/array``, kernels in the axis order of PyTorch.

    A BatchNorm without a scale gets a scale of ones. A file that is not such a checkpoint raises errors of
    many types, as pickle does.
    """
    with open(path, "rb") as stream:
        content = _ArrayUnpickler(stream).load()
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, member in value.items():
                add(f"{name}/{key}" if name else key, member)
        elif not isinstance(value, np.ndarray):
            raise TypeError(f"{name or 'the content'} is {type(value).__name__}")
        elif name.endswith("/kernel"):  # (time, height, width,) in, out -> out, in (, time, height, width)
            arrays[name] = np.ascontiguousarray(np.moveaxis(value, (-1, -2), (0, 1)))
        else:  # one number per channel, in some files with more axes of length 1
            arrays[name] = value.reshape(-1)

    add("", content)
    for name in [name for name in arrays if _SHIFT.search(name)]:
        arrays.setdefault(f"{name.removesuffix('bias')}scale", np.ones_like(arrays[name]))
    return arrays
