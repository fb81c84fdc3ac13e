"""Damaged and hostile weights files are refused quickly, with a reason, and run nothing."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.audio import slaney_filters

SECONDS = 2.0
MEBIBYTES = 500
Maker = Callable[[Path], None]

KERAS_LAYERS = {
    "conv2d_{}": ("kernel:0", "bias:0"),
    "batch_normalization_{}": ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0"),
}
KERNEL, BIAS = (f"model_weights/conv2d_2/conv2d_2/{name}:0" for name in ("kernel", "bias"))


class Harm:
    """Pickled, this writes a file as soon as a careless reader loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def state() -> dict[str, torch.Tensor]:
    """The state dict of a small network, as our files hold it."""
    torch.manual_seed(0)
    return {
        name: value.clone() for name, value in create_network("onedmcnn", num_classes=6).state_dict().items()
    }


def changed(**changes: torch.Tensor | None) -> Maker:
    """A state dict with arrays replaced, added, or, as `None`, left out."""

    def make(path: Path) -> None:
        values = {**state(), **{name.replace("__", "."): value for name, value in changes.items()}}
        torch.save({name: value for name, value in values.items() if value is not None}, path)

    return make


def saved(content: object, **options: object) -> Maker:
    """Whatever torch saves of an object."""
    return lambda path: torch.save(content, path, **options)  # type: ignore[arg-type]


def half(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_legacy(path: Path) -> None:
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_safetensors(path: Path) -> None:
    save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-100])


def harmful_zip(path: Path) -> None:
    torch.save({"convolutions.0.weight": Harm(path.with_name("harmed"))}, path)


def harmful_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Harm(path.with_name("harmed")), protocol=2))


def harmful_legacy(path: Path) -> None:
    torch.save({"x": Harm(path.with_name("harmed"))}, path, _use_new_zipfile_serialization=False)


def short_record(path: Path) -> None:
    """A saved state dict whose arrays are cut to eight bytes each."""
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            data = source.read(member)
            target.writestr(member.filename, data[:8] if "/data/" in member.filename else data)


def zip_of_zeros(path: Path) -> None:
    """A zip of more than may be taken, at the lowest level of compression: a higher one takes long."""
    zeros = bytes(1 << 20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("net/data.pkl", "w") as member,
    ):
        for _ in range(MEBIBYTES + 100):
            member.write(zeros)


def huge_legacy(path: Path) -> None:
    """A stream whose pickle declares a storage of 2**40 numbers."""
    torch.save({"x": torch.zeros(77777)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(pickle.dumps(77777, 2)[2:-1], pickle.dumps(1 << 40, 2)[2:-1]))


def long_pickle(path: Path) -> None:
    torch.save({f"{number}" * 50: number for number in range(30_000)}, path)


def keras(change: Callable[[h5py.File], object]) -> Maker:
    """The tagger's Keras 2 file, filled with small random numbers, with something changed."""

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
            file["optimizer_weights/SGD/iterations:0"] = 1
            change(file)

    return make


def without_bias(put: Callable[[h5py.File], object]) -> Maker:
    """The tagger's file with something else in the place of one array."""

    def change(file: h5py.File) -> None:
        del file[BIAS]
        put(file)

    return keras(change)


def chunk_bomb(file: h5py.File) -> None:
    file.create_dataset(
        BIAS, shape=(32,), maxshape=(None,), dtype="f4", chunks=(10_000_000,), compression="gzip"
    )
    file[BIAS][...] = 1.0


def appended_zip(path: Path) -> None:
    """A pickle of three million dictionaries, followed by a small zip."""
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("net/data.pkl", b"")
        path.write_bytes(b"\x80\x02" + b"}" * 3_000_000 + b"." + buffer.getvalue())


def soft_link(file: h5py.File) -> None:
    file[BIAS] = h5py.SoftLink("/model_weights/conv2d_1/conv2d_1/bias:0")


def shape_bomb(file: h5py.File) -> None:
    file.create_dataset(
        BIAS, shape=(1 << 42,), dtype="f4", chunks=(1 << 20,), compression="gzip", fillvalue=1.0
    )


def half_keras(path: Path) -> None:
    keras(lambda file: None)(path)
    path.write_bytes(path.read_bytes()[:5000])


def big(path: Path) -> None:
    with open(path, "wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(1 << 32)


HOSTILE: dict[str, tuple[Maker, str]] = {
    "empty": (lambda path: path.write_bytes(b"") and None, "it is empty"),
    "folder": (Path.mkdir, "a folder"),
    "fifo": (os.mkfifo, "not a regular file|a folder|no such file"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html>") and None, "it is a web page"),
    "git lfs pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n") and None,
        "LFS",
    ),
    "four gigabytes": (big, "no network here has weights over"),
    "truncated": (half, "damaged|read safely"),
    "truncated legacy": (half_legacy, "read safely"),
    "truncated safetensors": (cut_safetensors, "not a readable safetensors file"),
    "missing key": (changed(convolutions__1__bias=None), "missing: convolutions.1.bias; unexpected: none"),
    "extra key": (changed(more=torch.zeros(3)), "unexpected: more"),
    "wrong shape": (
        changed(convolutions__1__bias=torch.zeros(31)),
        r"float32 \[31\], expected float32 \[32\]",
    ),
    "nan": (changed(convolutions__1__bias=torch.full((32,), torch.nan)), "NaN or infinity"),
    "float16": (changed(convolutions__1__bias=torch.zeros(32).half()), r"float16 \[32\], expected float32"),
    "sparse": (changed(convolutions__1__bias=torch.zeros(32).to_sparse()), "sparse_coo"),
    "stride 0": (changed(convolutions__1__bias=torch.zeros(1).expand(1 << 40)), "repeats or skips its bytes"),
    "meta": (changed(convolutions__1__bias=torch.zeros(32, device="meta")), "on meta, expected a dense one"),
    "nested": (saved({"model": {"net": state()}}), "'model' is dict, expected a tensor"),
    "list": (saved([torch.zeros(3)]), "holds list, expected a state dict"),
    "whole module": (saved(torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
    "code in zip": (harmful_zip, "asks for posix.system, which could run code"),
    "code in legacy": (harmful_legacy, "asks for posix.system, which could run code"),
    "code in pickle": (harmful_pickle, "read safely.* damaged"),
    "zip of zeros": (zip_of_zeros, "compressed members"),
    "short record": (short_record, "record size|read safely"),
    "huge storage": (huge_legacy, "read safely"),
    "long pickle": (long_pickle, "names take over 1048576 bytes"),
    "zip after a pickle": (appended_zip, "read safely.* damaged"),
    "keras: soft link": (without_bias(soft_link), "soft or external link"),
    "keras: shape bomb": (
        without_bias(shape_bomb),
        "17592186044416 bytes in chunks; expected 16777216 at most",
    ),
    "keras: chunk bomb": (without_bias(chunk_bomb), "larger than its shape"),
    "keras: many arrays": (
        keras(lambda file: [file.create_dataset(f"model_weights/x/{n}", (1,), "f4") for n in range(200)]),
        "over 200 layers and arrays",
    ),
    "keras: other layer": (
        keras(lambda file: file.update({"model_weights/elu_1/x": np.zeros(3)})),
        "missing: none; unexpected: elu_1/x",
    ),
    "keras: other front end": (
        keras(
            lambda file: file.update({"model_weights/melgram/melgram/Variable:0": np.zeros((257, 96), "f4")})
        ),
        "its mel filters are not those of twodmcnn",
    ),
    "keras: truncated": (half_keras, "not a readable HDF5 file"),
    "keras: wrong root": (keras(lambda file: file.move("model_weights", "other")), "no group model_weights"),
    "keras: older file": (
        keras(lambda file: file.update({"convolution2d_1/convolution2d_1_W": np.zeros(3)})),
        r"older Theano file .* BatchNorm depends on the batch.*twodmcnn-msd-choi",
    ),
}

CHILD = """
import json, resource, sys, time
from moodfuse.extract.networks import create_network
from moodfuse.extract.networks import load_weights
networks = {name: create_network(name, num_classes=6) for name in ("onedmcnn", "twodmcnn")}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
idle, found = peak(), {}
for name, path in json.load(sys.stdin).items():
    start = time.perf_counter()
    network = networks["twodmcnn" if name.startswith("keras") else "onedmcnn"]
    try:
        load_weights(network, path)
        reason = None
    except ValueError as error:
        reason = str(error)
    found[name] = [time.perf_counter() - start, peak() - idle, reason, network.pretrained]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files are made."""
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, tuple[float, float, str | None, bool]]:
    """For each file, loaded in one fresh process: seconds, MiB of peak memory above idle, the reason."""
    paths = {}
    for number, (name, (make, _)) in enumerate(HOSTILE.items()):
        paths[name] = str(folder / f"{number}.weights")
        make(Path(paths[name]))
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(paths), capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    return {name: tuple(values) for name, values in json.loads(child.stdout).items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, outcomes: dict, folder: Path) -> None:
    """Each is refused in under two seconds and 500 MiB, with its reason and path; the network stays new."""
    seconds, mebibytes, reason, loaded = outcomes[name]
    assert reason is not None and not loaded
    assert str(folder) in reason and len(reason) < 600
    assert re.search(HOSTILE[name][1], reason), reason
    assert seconds < SECONDS and mebibytes < MEBIBYTES


def test_no_hostile_file_ran_code(outcomes: dict, folder: Path) -> None:
    """The files that carry a command left no trace of it, and a careless reader would have run it."""
    assert outcomes and not (folder / "harmed").exists()
    with open(folder / "careless", "wb") as stream:
        pickle.dump(Harm(folder / "harmed-by-the-test"), stream)
    with open(folder / "careless", "rb") as stream:
        pickle.load(stream)
    assert (folder / "harmed-by-the-test").exists()


def test_keras_arrays_arrive_in_our_axes(tmp_path: Path) -> None:
    """Every array of the tagger is in its layer, kernels as output, input, frequency, time."""
    path = tmp_path / "tagger.hdf5"
    filters = slaney_filters().astype(np.float32)
    keras(lambda file: file.update({"model_weights/melgram/melgram/Variable:0": filters}))(path)
    network = create_network("twodmcnn", num_classes=6, weights=path)
    with h5py.File(path) as file:
        kernel = network.get_parameter("convolutions.1.weight")[5, 7].detach()
        np.testing.assert_array_equal(kernel, file[KERNEL][:, :, 7, 5])
        variance = file["model_weights/batch_normalization_5/batch_normalization_5/moving_variance:0"][()]
        np.testing.assert_array_equal(network.get_buffer("norms.4.running_var"), variance)
    assert network.pretrained and not network.training
    with pytest.raises(ValueError, match="not weights of onedmcnn: these look like weights of twodmcnn"):
        create_network("onedmcnn", num_classes=6, weights=path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", ["ConvBNEluDr", "model_weights", "model_weights/conv2d_2", KERNEL])
@pytest.mark.parametrize("how", ["external link", "external storage", "virtual"])
def test_another_file_is_never_opened(tmp_path: Path, where: str, how: str) -> None:
    """A link, external storage or virtual dataset to another file is refused without opening that file."""
    path, pipe = tmp_path / "tagger.hdf5", tmp_path / "pipe"
    os.mkfifo(pipe)  # to open it would block
    keras(lambda file: None)(path)
    with h5py.File(path, "r+") as file:
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
    with pytest.raises(ValueError, match=str(path)):
        create_network("twodmcnn", num_classes=6, weights=path)
