"""Tests of extract.networks.keras_tagger: the tagger's Keras 2 file, and what is refused of it."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.audio import slaney_filters
from moodfuse.extract.networks.weights.load import load_weights

KERAS_ARRAYS = {
    "kernel:0": "conv2d_{}",
    "bias:0": "conv2d_{}",
    "gamma:0": "batch_normalization_{}",
    "beta:0": "batch_normalization_{}",
    "moving_mean:0": "batch_normalization_{}",
    "moving_variance:0": "batch_normalization_{}",
}


@pytest.fixture
def keras_file(tmp_path: Path) -> Path:
    """A file in the layout of the published tagger, filled with small random numbers."""
    path = tmp_path / "tagger.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for block in range(1, 6):
            for array, group in KERAS_ARRAYS.items():
                name = group.format(block)
                shape = (3, 3, 1 if block == 1 else 32, 32) if array == "kernel:0" else (32,)
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
        (np.zeros(31, dtype=np.float32), r"float32 \[31\], expected float32 \[32\]"),
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
    with pytest.raises(ValueError, match="missing: convolutions.1.bias; unexpected: none"):
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
    with pytest.raises(ValueError, match="not weights of onedmcnn: these look like weights of twodmcnn"):
        create_network("onedmcnn", num_classes=6, weights=keras_file)


def test_unknown_layers_are_refused(keras_file: Path) -> None:
    """An array that the published model does not have is named; the optimizer's are not minded."""
    with h5py.File(keras_file, "r+") as file:
        file["optimizer_weights/SGD/iterations:0"] = 1
        file["model_weights/elu_1/x"] = np.zeros(3)
    with pytest.raises(ValueError, match="missing: none; unexpected: elu_1/x"):
        create_network("twodmcnn", num_classes=6, weights=keras_file)


def test_another_front_end_is_refused(keras_file: Path) -> None:
    """Mel filters in the file have to be the network's own."""
    filters = slaney_filters().astype(np.float32)
    with h5py.File(keras_file, "r+") as file:
        file["model_weights/melgram/melgram/Variable:0"] = filters
    assert create_network("twodmcnn", num_classes=6, weights=keras_file).pretrained
    replace(keras_file, "model_weights/melgram/melgram/Variable:0", filters * 1.001)
    with pytest.raises(ValueError, match="its mel filters are not those of twodmcnn"):
        create_network("twodmcnn", num_classes=6, weights=keras_file)


def test_the_older_theano_file_says_what_to_use(tmp_path: Path) -> None:
    """The Keras 1 file, whose BatchNorm depends on the batch, is recognised and points to the other one."""
    with h5py.File(tmp_path / "weights_layer4_theano.hdf5", "w") as file:
        file["convolution2d_1/convolution2d_1_W"] = np.zeros((32, 1, 3, 3), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"older Theano file .* BatchNorm depends on the batch.*twodmcnn-msd-choi"
    ):
        create_network("twodmcnn", num_classes=6, weights=tmp_path / "weights_layer4_theano.hdf5")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", ["ConvBNEluDr", "model_weights", "model_weights/conv2d_2", KERNEL, BIAS])
@pytest.mark.parametrize("how", ["external link", "external storage", "virtual"])
def test_another_file_is_never_opened(keras_file: Path, tmp_path: Path, where: str, how: str) -> None:
    """A link, external storage or virtual dataset that refers to another file is refused without opening it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with h5py.File(keras_file, "r+") as file:
        if where in file:
            del file[where]
        if how == "external link":
            file[where] = h5py.ExternalLink(str(pipe), "/x")
        elif how == "external storage":
            file.create_dataset(where, (32,), "f4", external=[(str(pipe), 0, 128)])
        else:
            layout = h5py.VirtualLayout((32,), "f4")
            layout[:] = h5py.VirtualSource(str(pipe), "x", (32,))
            file.create_virtual_dataset(where, layout)
    with pytest.raises(ValueError, match=str(keras_file)):
        create_network("twodmcnn", num_classes=6, weights=keras_file)
