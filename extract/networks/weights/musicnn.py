"""Read the TensorFlow checkpoints of `musicnn` as its package ships them, without TensorFlow.

The data file of such a checkpoint contains the arrays one after the other, little-endian, in the order of
their names; the names and shapes are in another file. Here they are a table. So the data file is recognised
by its size, and must be one of the two that the package publishes.
"""

import hashlib
import math
from pathlib import Path

import numpy as np

SHA256 = {
    "MSD_musicnn": "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6",
    "MTT_musicnn": "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab",
}
# Convolution kernels are frames, mels, in, out; those of dense layers in, out.
_KERNELS = {
    "conv2d": (7, 38, 1, 204),
    "conv2d_1": (7, 67, 1, 204),
    "conv2d_2": (128, 1, 1, 51),
    "conv2d_3": (64, 1, 1, 51),
    "conv2d_4": (32, 1, 1, 51),
    "conv2d_5": (7, 561, 1, 64),
    "conv2d_6": (7, 64, 1, 64),
    "conv2d_7": (7, 64, 1, 64),
    "dense": (1506, 200),
    "dense_1": (200, 50),
}
_NORMS = (1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)
_OVER_TIME = ("conv2d_5", "conv2d_6", "conv2d_7")  # whose kernels span all channels, here a Conv1d


def _array_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays by name, in the order of the file."""
    trained: dict[str, tuple[int, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {"beta1_power": (), "beta2_power": ()}
    for layer, shape in _KERNELS.items():
        trained |= {f"{layer}/kernel": shape, f"{layer}/bias": shape[-1:]}
    for number, channels in enumerate(_NORMS):
        layer = f"batch_normalization_{number}" if number else "batch_normalization"
        trained |= {f"{layer}/{name}": (channels,) for name in ("beta", "gamma")}
        shapes |= {f"{layer}/moving_{name}": (channels,) for name in ("mean", "variance")}
    for name, shape in trained.items():
        shapes |= dict.fromkeys((name, f"{name}/Adam", f"{name}/Adam_1"), shape)
    return dict(sorted(shapes.items()))


ARRAY_SHAPES = _array_shapes()
SIZE_BYTES = sum(4 * math.prod(shape) for shape in ARRAY_SHAPES.values())


def read_musicnn(path: Path) -> dict[str, np.ndarray]:
    """Arrays of the network as ``layer/array``, float32, kernels in the axis order of PyTorch.

    The state of the optimizer is left out. Raises `ValueError` for any file but the published ones.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in SHA256.values():
        raise ValueError(f"its SHA-256 is {digest}, expected that of {' or '.join(SHA256)} of musicnn 0.1.0")
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for name, shape in ARRAY_SHAPES.items():
        values = np.frombuffer(content, "<f4", math.prod(shape), offset).reshape(shape)
        offset += values.nbytes
        if "Adam" not in name and not name.endswith("_power"):
            arrays[name] = _in_our_axis_order(name, values.astype(np.float32))
    return arrays


def _in_our_axis_order(name: str, values: np.ndarray) -> np.ndarray:
    """Kernels ``[..., in, out]`` as ``[out, in, ...]``."""
    layer, _, array = name.partition("/")
    if array == "kernel":
        if layer in _OVER_TIME:
            values = values[:, :, 0]
        values = np.moveaxis(values, (-1, -2), (0, 1))
    return np.ascontiguousarray(values)
