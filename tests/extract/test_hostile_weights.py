"""Files of weights that are wrong or mean harm: each is refused quickly, with its reason, and runs nothing."""

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

SECONDS = 2.0
MEBIBYTES = 500
Maker = Callable[[Path], None]

KERAS_ARRAYS = {
    "kernel:0": "conv2d_{}",
    "bias:0": "conv2d_{}",
    "gamma:0": "batch_normalization_{}",
    "beta:0": "batch_normalization_{}",
    "moving_mean:0": "batch_normalization_{}",
    "moving_variance:0": "batch_normalization_{}",
}


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


def rewritten(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Maker:
    """A saved state dict whose zip members are written anew."""

    def make(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(state(), buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", compression) as target:
            for member in source.infolist():
                target.writestr(member.filename, change(member.filename, source.read(member)))

    return make


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
    """A stream whose pickle says that a storage has 2**40 numbers."""
    torch.save({"x": torch.zeros(77777)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(pickle.dumps(77777, 2)[2:-1], pickle.dumps(1 << 40, 2)[2:-1]))


def long_pickle(path: Path) -> None:
    torch.save({f"{number}" * 50: number for number in range(30_000)}, path)


def keras(change: Callable[[h5py.File], None]) -> Maker:
    """The tagger's Keras 2 file with something changed."""

    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for block in range(1, 6):
                for array, layer in KERAS_ARRAYS.items():
                    shape = (3, 3, 1 if block == 1 else 32, 32) if array == "kernel:0" else (32,)
                    name = layer.format(block)
                    file[f"model_weights/{name}/{name}/{array}"] = np.ones(shape, dtype=np.float32)
            change(file)

    return make


BIAS = "model_weights/conv2d_2/conv2d_2/bias:0"


def linked(link: object) -> Maker:
    def change(file: h5py.File) -> None:
        del file[BIAS]
        file[BIAS] = link

    return keras(change)


def chunk_bomb(file: h5py.File) -> None:
    del file[BIAS]
    file.create_dataset(
        BIAS, shape=(32,), maxshape=(None,), dtype="f4", chunks=(10_000_000,), compression="gzip"
    )
    file[BIAS][...] = 1.0


def appended_zip(path: Path) -> None:
    """A pickle of three million dictionaries with a small zip behind it."""
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("net/data.pkl", b"")
        path.write_bytes(b"\x80\x02" + b"}" * 3_000_000 + b"." + buffer.getvalue())


def shape_bomb(file: h5py.File) -> None:
    del file[BIAS]
    file.create_dataset(
        BIAS, shape=(1 << 42,), dtype="f4", chunks=(1 << 20,), compression="gzip", fillvalue=1.0
    )


def external_storage(file: h5py.File) -> None:
    del file[BIAS]
    file.create_dataset(BIAS, (32,), "f4", external=[("/etc/passwd", 0, 128)])


def virtual(file: h5py.File) -> None:
    del file[BIAS]
    layout = h5py.VirtualLayout(shape=(32,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(32,))
    file.create_virtual_dataset(BIAS, layout)


def big(path: Path) -> None:
    with open(path, "wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(1 << 32)


HOSTILE: dict[str, tuple[Maker, str]] = {
    "empty": (lambda path: path.write_bytes(b"") and None, "it is empty"),
    "folder": (Path.mkdir, "a folder"),
    "fifo": (os.mkfifo, "not a regular file|a folder|no such file"),
    "text": (lambda path: path.write_text("weights") and None, "it begins with b'weights'"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html>") and None, "it is a web page"),
    "git lfs pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n") and None,
        "LFS",
    ),
    "four gigabytes": (big, "no network here has weights over"),
    "truncated": (half, "damaged|read safely"),
    "truncated legacy": (half_legacy, "read safely"),
    "truncated safetensors": (cut_safetensors, "not a readable safetensors file"),
    "other network": (
        changed(**{name.replace(".", "__"): None for name in state()}, conv1__weight=torch.zeros(2)),
        "not",
    ),
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
    "compressed zip": (rewritten(lambda name, data: data, zipfile.ZIP_DEFLATED), "compressed members"),
    "zip of zeros": (zip_of_zeros, "compressed members"),
    "short record": (
        rewritten(lambda name, data: data[:8] if "/data/" in name else data),
        "record size|read safely",
    ),
    "no pickle": (rewritten(lambda name, data: b"" if name.endswith("data.pkl") else data), "read safely"),
    "huge storage": (huge_legacy, "read safely"),
    "long pickle": (long_pickle, "names take over 1048576 bytes"),
    "keras: external link": (linked(h5py.ExternalLink("/etc/passwd", "/x")), "soft or external link"),
    "keras: soft link": (
        linked(h5py.SoftLink("/model_weights/conv2d_1/conv2d_1/bias:0")),
        "soft or external link",
    ),
    "keras: shape bomb": (
        keras(shape_bomb),
        "17592186044416 bytes in chunks; expected 16777216 at most",
    ),
    "keras: external storage": (keras(external_storage), "stored in another file"),
    "keras: chunk bomb": (keras(chunk_bomb), "larger than its shape"),
    "zip behind a pickle": (appended_zip, "read safely.* damaged"),
    "keras: virtual": (keras(virtual), "stored in another file"),
    "keras: wrong root": (keras(lambda file: file.move("model_weights", "other")), "no group model_weights"),
}

CHILD = """
import json, resource, sys, time
from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.weights.load import load_weights
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
    """What loading gave for each file, in one fresh process: seconds, MiB of peak memory above idle, the reason."""
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
    """Each is refused in under two seconds and 500 MiB, with its reason and its path, and the network stays new."""
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
