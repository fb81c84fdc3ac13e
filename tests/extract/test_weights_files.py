"""Weights files are read; damaged and hostile ones are refused with a reason, and run no code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moodfuse.extract.networks import WeightsError, create_network

Maker = Callable[[Path], object]
KERAS_LAYERS = {
    "conv2d_{}": ("kernel:0", "bias:0"),
    "batch_normalization_{}": ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0"),
}
KERNEL, BIAS = (f"model_weights/conv2d_2/conv2d_2/{name}:0" for name in ("kernel", "bias"))
NAME = "convolutions.1.bias"


class Harm:
    """Pickled, this creates a file as soon as a careless reader loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def state() -> dict[str, torch.Tensor]:
    """The state dict of a small network."""
    return create_network("onedmcnn", num_classes=6).state_dict()


def with_array(value: torch.Tensor, name: str = NAME) -> Maker:
    """A state dict with one array replaced or added."""
    return lambda path: torch.save({**state(), name: value}, path)


def without_array(path: Path) -> None:
    torch.save({name: value for name, value in state().items() if name != NAME}, path)


def provenance(text: str) -> Maker:
    """A safetensors file with other metadata than a converted file has."""
    return lambda path: save_file(state(), path, metadata={"moodfuse": text})


def cut(make: Maker) -> Maker:
    """The first half of a file."""

    def make_half(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make_half


def harmful(*, zipped: bool) -> Maker:
    """A file of torch that holds a command."""
    return lambda path: torch.save(
        {"x": Harm(path.with_name("harmed"))}, path, _use_new_zipfile_serialization=zipped
    )


def keras(change: Callable[[h5py.File], object] = lambda file: None) -> Maker:
    """The tagger's Keras 2 file, filled with small random numbers, with a change."""

    def make(path: Path) -> None:
        random = np.random.default_rng(0)
        with h5py.File(path, "w") as file:
            for block in range(1, 6):
                for layer, arrays in KERAS_LAYERS.items():
                    for array in arrays:
                        shape = (3, 3, 1 if block == 1 else 32, 32) if array == "kernel:0" else (32,)
                        name = f"model_weights/{layer.format(block)}/{layer.format(block)}/{array}"
                        file[name] = random.random(shape, dtype=np.float32)
            file["model_weights/dense_1/dense_1/bias:0"] = np.zeros(50, dtype=np.float32)
            change(file)

    return make


REFUSED: dict[str, tuple[Maker, str]] = {
    "folder": (Path.mkdir, "no such file"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html>"), "begins with b'<!DOCTYPE html>"),
    "truncated": (cut(lambda path: torch.save(state(), path)), "read safely"),
    "truncated safetensors": (cut(lambda path: save_file(state(), path)), "not a readable safetensors file"),
    "metadata that is no JSON": (provenance("{"), "metadata cannot be read"),
    "metadata without its keys": (provenance('{"format": "moodfuse-weights"}'), "metadata cannot be read"),
    "metadata of another kind": (provenance("[]"), "metadata cannot be read"),
    "missing array": (without_array, "missing: convolutions.1.bias; unexpected: none"),
    "additional array": (with_array(torch.zeros(3), "more"), "unexpected: more"),
    "wrong shape": (with_array(torch.zeros(31)), r"float32 \[31\], expected float32 \[32\]"),
    "float16": (with_array(torch.zeros(32).half()), r"float16 \[32\], expected float32"),
    "NaN": (with_array(torch.full((32,), torch.nan)), "NaN or infinity"),
    "meta": (with_array(torch.zeros(32, device="meta")), "expected a flat state dict of dense tensors"),
    "nested": (lambda path: torch.save({"model": state()}, path), "'model' is OrderedDict, expected a flat"),
    "list": (lambda path: torch.save([torch.zeros(3)], path), "holds list, expected a state dict"),
    "module": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "asks for torch.nn.modules.linear"),
    "code in zip": (harmful(zipped=True), "asks for posix.system, which could run code"),
    "code in legacy": (harmful(zipped=False), "asks for posix.system, which could run code"),
    "code in pickle": (
        lambda path: path.write_bytes(pickle.dumps(Harm(path.with_name("harmed")), protocol=2)),
        "asks for posix.system, which could run code",
    ),
    "truncated pickle": (
        cut(lambda path: path.write_bytes(pickle.dumps({"a": np.zeros(9)}, 4))),
        "truncated",
    ),
    "pickle of text": (
        lambda path: path.write_bytes(pickle.dumps({"a": {"b": "x"}})),
        "read safely: a/b is str",
    ),
    "pickle of a list": (
        lambda path: path.write_bytes(pickle.dumps([1])),
        "read safely: the content is list",
    ),
    "keras: array too large": (
        keras(lambda file: file.create_dataset("model_weights/x/y", (1 << 42,), "f4", chunks=(1 << 20,))),
        "17592186044416 bytes in chunks; expected 16777216 at most",
    ),
    "keras: other layer": (
        keras(lambda file: file.update({"model_weights/elu_1/x": np.zeros(3)})),
        "missing: none; unexpected: elu_1/x",
    ),
    "keras: truncated": (cut(keras()), "not a readable HDF5 file"),
    "keras: wrong root": (keras(lambda file: file.move("model_weights", "other")), "no group model_weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_files_are_refused(name: str, tmp_path: Path) -> None:
    """The error names the file and the reason, and no code of the file runs."""
    make, reason = REFUSED[name]
    path = tmp_path / "file.weights"
    make(path)
    network = "twodmcnn" if name.startswith("keras") else "onedmcnn"
    with pytest.raises(WeightsError, match=rf"{path}.*{reason}") as error:
        create_network(network, num_classes=6, weights=path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("model_weights", "external link"),
        ("model_weights/conv2d_2", "external link"),
        (BIAS, "external link"),
        (BIAS, "external storage"),
        (BIAS, "virtual"),
    ],
)
def test_another_file_is_never_opened(tmp_path: Path, where: str, how: str) -> None:
    """A link, external storage or virtual dataset to another file is refused without opening that file."""
    path, pipe = tmp_path / "tagger.hdf5", tmp_path / "pipe"
    os.mkfifo(pipe)  # to open it would block
    keras()(path)
    with h5py.File(path, "r+") as file:
        del file[where]
        if how == "external link":
            file[where] = h5py.ExternalLink(str(pipe), "/x")
        elif how == "external storage":
            file.create_dataset(where, (32,), "f4", external=[(str(pipe), 0, 128)])
        else:
            layout = h5py.VirtualLayout((32,), "f4")
            layout[:] = h5py.VirtualSource(str(pipe), "x", (32,))
            file.create_virtual_dataset(where, layout)
    with pytest.raises(WeightsError, match=str(path)):
        create_network("twodmcnn", num_classes=6, weights=path)


def test_keras_arrays_in_our_axis_order(tmp_path: Path) -> None:
    """Every array of the tagger is in its layer, kernels as output, input, frequency, time."""
    path = tmp_path / "tagger.hdf5"
    keras(lambda file: file.update({"model_weights/melgram/melgram/Variable:0": np.zeros((257, 96))}))(path)
    network = create_network("twodmcnn", num_classes=6, weights=path)
    with h5py.File(path) as file:
        kernel = network.get_parameter("convolutions.1.weight")[5, 7].detach()
        np.testing.assert_array_equal(kernel, file[KERNEL][:, :, 7, 5])
        variance = file["model_weights/batch_normalization_5/batch_normalization_5/moving_variance:0"][()]
        np.testing.assert_array_equal(network.get_buffer("norms.4.running_var"), variance)
    assert network.pretrained and not network.training


def test_safetensors_header_that_looks_like_a_pickle(tmp_path: Path) -> None:
    """A header of 0x80 bytes begins like a pickle; the file is read as safetensors."""
    path = tmp_path / "net.safetensors"
    save_file({"x": torch.zeros(3)}, path, metadata={"fill": ""})
    save_file({"x": torch.zeros(3)}, path, metadata={"fill": "x" * (0x80 - path.read_bytes()[0])})
    assert path.read_bytes()[:1] == b"\x80"
    with pytest.raises(WeightsError, match="not weights of onedmcnn: holds arrays such as x"):
        create_network("onedmcnn", num_classes=6, weights=path)
