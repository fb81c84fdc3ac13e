"""Tests of extract.networks.weights."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from extract.networks import create_network
from extract.networks.weights import (
    KERAS_ARRAYS,
    load_weights,
    resolve_weights,
)


@pytest.fixture
def keras_file(tmp_path: Path) -> Path:
    """A file in the layout of the published tagger, filled with small random numbers."""
    path = tmp_path / "tagger.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for block in range(1, 6):
            for group, array, axes in KERAS_ARRAYS.values():
                name = group.format(block)
                shape = (3, 3, 1 if block == 1 else 32, 32) if len(axes) == 4 else (32,)
                file[f"model_weights/{name}/{name}/{array}"] = random.random(shape, dtype=np.float32)
        file["model_weights/dense_1/dense_1/bias:0"] = np.zeros(50, dtype=np.float32)
    return path


def replace(path: Path, where: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[where]
        file[where] = value


KERNEL = "model_weights/conv2d_2/conv2d_2/kernel:0"
BIAS = "model_weights/conv2d_2/conv2d_2/bias:0"


def test_keras_arrays_arrive_in_our_axes(keras_file: Path) -> None:
    """Every array of the tagger lands in its layer, kernels as output, input, frequency, time; BatchNorm is kept."""
    network = create_network("twodmcnn", num_classes=6, weights=keras_file)
    with h5py.File(keras_file) as file:
        np.testing.assert_array_equal(
            network.get_parameter("convolutions.1.weight")[5, 7].detach(), file[KERNEL][:, :, 7, 5]
        )
        variance = file["model_weights/batch_normalization_5/batch_normalization_5/moving_variance:0"][()]
        np.testing.assert_array_equal(network.get_buffer("norms.4.running_var"), variance)
    assert network.pretrained and not network.training


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (h5py.SoftLink("/model_weights/conv2d_1/conv2d_1/bias:0"), "soft or external link"),
        (h5py.ExternalLink("other.hdf5", "/x"), "soft or external link"),
        (np.zeros(31, dtype=np.float32), r"of shape \(31,\); expected float32 of shape \(32,\)"),
        (np.zeros(32, dtype=np.int64), "int64"),
        (np.full(32, np.nan, dtype=np.float32), "NaN or infinity"),
    ],
)
def test_damaged_keras_files_are_refused(keras_file: Path, value: object, message: str) -> None:
    """A link, another shape, another type or NaN in an expected place is an error, and the network stays as it was."""
    replace(keras_file, BIAS, value)
    network = create_network("twodmcnn", num_classes=6)
    before = {name: array.clone() for name, array in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(network, keras_file)
    assert all(torch.equal(before[name], array) for name, array in network.state_dict().items())
    assert not network.pretrained


def test_missing_keras_array_is_named(keras_file: Path) -> None:
    """A file without one of the arrays is refused, and so is a group, external storage or half a file in its place."""
    with h5py.File(keras_file, "r+") as file:
        del file[BIAS]
    with pytest.raises(ValueError, match="no array model_weights/conv2d_2/conv2d_2/bias:0"):
        create_network("twodmcnn", num_classes=6, weights=keras_file)
    with h5py.File(keras_file, "r+") as file:
        file.create_group(BIAS)
    with pytest.raises(ValueError, match="is a group"):
        create_network("twodmcnn", num_classes=6, weights=keras_file)
    with h5py.File(keras_file, "r+") as file:
        del file[BIAS]
        file.create_dataset(BIAS, (32,), "f4", external=[(str(keras_file.with_suffix(".raw")), 0, 128)])
    with pytest.raises(ValueError, match="stored in another file"):
        create_network("twodmcnn", num_classes=6, weights=keras_file)
    keras_file.write_bytes(keras_file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        create_network("twodmcnn", num_classes=6, weights=keras_file)


def test_keras_file_is_for_the_tagger_only(keras_file: Path) -> None:
    """The tagger's weights are refused by another network."""
    with pytest.raises(ValueError, match="read for twodmcnn only, not for onedmcnn"):
        create_network("onedmcnn", num_classes=6, weights=keras_file)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    """A saved network comes back whole but for its classifier."""
    path = tmp_path / "net.safetensors"
    network = create_network("twodmcnn", num_classes=6)
    save_file(network.state_dict(), path)
    other = create_network("twodmcnn", num_classes=3, weights=path)
    for name, array in network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(other.state_dict()[name], array)
    assert other.get_parameter("classifier.1.weight").shape == (3, 160)


def test_replaced_layers_come_whole_or_not_at_all(tmp_path: Path) -> None:
    """A file with the trunk of c3d alone leaves its replaced layers new; one with half of them is refused."""
    path = tmp_path / "c3d.safetensors"
    network = create_network("c3d", num_classes=6)
    arrays = {name: array for name, array in network.state_dict().items() if name.startswith("conv")}
    save_file(arrays, path)
    torch.manual_seed(5)
    loaded = create_network("c3d", num_classes=6, weights=path)
    assert torch.equal(loaded.get_parameter("conv5b.bias"), network.get_parameter("conv5b.bias"))
    assert not torch.equal(loaded.get_parameter("replaced.3.weight"), network.get_parameter("replaced.3.weight"))
    save_file({**arrays, "replaced.3.bias": torch.zeros(512)}, path)
    with pytest.raises(ValueError, match=r"missing: replaced.0.bias"):
        load_weights(loaded, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("convolutions.3.bias"), r"missing: convolutions.3.bias; unexpected: none"),
        (lambda arrays: arrays.update(extra=torch.zeros(1)), r"missing: none; unexpected: extra"),
        (lambda arrays: arrays.update({"convolutions.3.bias": torch.zeros(31)}), r"float32 of shape \[31\], expected"),
        (lambda arrays: arrays.update({"convolutions.3.bias": torch.zeros(32).half()}), "float16"),
        (lambda arrays: arrays.update({"convolutions.3.bias": torch.full((32,), torch.inf)}), "NaN or infinity"),
    ],
)
def test_other_safetensors_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """An array missing, too many, of another shape or type, or infinite, is an error that names it."""
    path = tmp_path / "net.safetensors"
    save_file(create_network("onedmcnn", num_classes=6).state_dict(), path)
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)
    with pytest.raises(ValueError, match=message):
        create_network("onedmcnn", num_classes=6, weights=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "never read"),
        (b"PK\x03\x04" + bytes(40), "never read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"hello, this is no file of weights", "not a readable safetensors file"),
        (b"", "not a readable safetensors file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Pickles, archives, pointers and anything else are refused by their content, whatever their name."""
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        create_network("onedmcnn", num_classes=6, weights=path)


def test_header_length_like_a_pickle_is_fine(tmp_path: Path) -> None:
    """A safetensors file whose first byte happens to be that of a pickle is still read."""
    path = tmp_path / "net.safetensors"
    network = create_network("onedmcnn", num_classes=6)
    for length in range(0, 400, 8):
        save_file(network.state_dict(), path, metadata={"note": "x" * length})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    load_weights(network, path)


def test_weights_are_a_file(tmp_path: Path) -> None:
    """A name that is no file, and a folder, are errors that say what works."""
    with pytest.raises(ValueError, match=r"nothing: no such file; expected the path of a weights file"):
        resolve_weights("nothing")
    with pytest.raises(ValueError, match="a folder; expected"):
        resolve_weights(tmp_path)
    assert resolve_weights(Path(__file__)) == Path(__file__)
