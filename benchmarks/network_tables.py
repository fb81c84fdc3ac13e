"""The tables of docs/networks.md: layers of each network, torchvision's models, known weights.

Usage: network_tables.py [--write]. Without --write the tables are printed; with it they replace those in the
page. Sizes are counted on tensors without memory, so that this takes seconds.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from moodfuse.extract.networks import create_network, network_spec
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.inputs import AudioPreprocessing
from moodfuse.extract.networks.registry import TORCHVISION
from moodfuse.extract.networks.torchvision_video import torchvision_names
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
NAMES = ("onedmcnn", "twodmcnn", "musicnn", "c3d", "i3d")
CLASSES = 6
NEVER = r"(?!)"
STAGES = {"i3d": r"(Conv3d_\w+|MaxPool3d_\w+|Mixed_\w+)"}
COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
SHOWN = (*COUNTED, nn.MaxPool1d, nn.BatchNorm1d, nn.BatchNorm2d)


class Row:
    """One line of a layer table."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape: tuple[int, ...] = ()
        self.parameters = 0
        self.multiply_adds = 0


def example(network: Network, batch: int = 1) -> Tensor:
    """An input of the design's size."""
    preprocessing = network.preprocessing
    if isinstance(preprocessing, AudioPreprocessing):
        return torch.zeros(batch, preprocessing.samples)
    return torch.zeros(batch, 3, preprocessing.frames, preprocessing.crop_px, preprocessing.crop_px)


def layer_rows(name: str) -> list[Row]:
    """Rows in the order in which layers run; convolutions inside a named stage are counted into it."""
    rows: dict[str, Row] = {}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        network = create_network(name, num_classes=CLASSES)
        hooks = []
        for path, module in network.named_modules():
            stage = re.match(STAGES.get(name, NEVER), path)
            if stage and (isinstance(module, COUNTED) or path == stage[1]):
                hooks.append(module.register_forward_hook(count(rows, stage[1], whole=path == stage[1])))
            elif not stage and isinstance(module, SHOWN):
                hooks.append(module.register_forward_hook(count(rows, path, whole=True)))
        if (
            name == "i3d"
        ):  # its units call the convolution as a function, so hooks on the module itself stay silent
            clip_groups = {
                path: module for path, module in network.named_modules() if hasattr(module, "conv3d")
            }
            for path, module in clip_groups.items():
                stage = re.match(STAGES[name], path)
                assert stage
                hooks.append(module.register_forward_hook(count_unit(rows, stage[1])))
        with functional_pools(rows, named=name in ("c3d", "twodmcnn")):
            if name in ("twodmcnn", "musicnn"):
                waveform = example(network)
                if name == "twodmcnn":
                    waveform = network.resample(waveform)  # type: ignore[operator]
                rows["log-mel"] = Row("log-mel")
                rows["log-mel"].shape = tuple(network.log_mel(waveform).shape[1:])  # type: ignore[operator]
            network(example(network))
    for path, module in network.named_modules():
        target = re.match(STAGES.get(name, NEVER), path)
        if isinstance(module, (*COUNTED, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            row = rows[target[1] if target else path]
            row.parameters += sum(value.numel() for value in module.parameters(recurse=False))
    return list(rows.values())


@contextmanager
def functional_pools(rows: dict[str, Row], *, named: bool) -> Iterator[None]:
    """Note poolings that a network calls as functions, as pool1, pool2, ... in their order."""
    originals = {name: getattr(functional, name) for name in ("max_pool2d", "max_pool3d")}

    def noting(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def pool(*arguments: Any, **options: Any) -> Tensor:
            output = original(*arguments, **options)
            row = Row(f"pool{1 + sum(key.startswith('pool') for key in rows)}")
            row.shape = tuple(output.shape[1:])
            rows[row.name] = row
            return output

        return pool

    if named:
        for name, original in originals.items():
            setattr(functional, name, noting(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(functional, name, original)


def count(rows: dict[str, Row], name: str, *, whole: bool) -> Callable[..., None]:
    """A hook that notes a layer's output shape and multiply-adds; pooling and BatchNorm count as none."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pools = sum(key.startswith("pool") for key in rows)
        key = (
            f"pool{pools + 1}" if isinstance(module, nn.MaxPool1d) else name
        )  # one module serves all of them
        row = rows.setdefault(key, Row(key))
        if whole:
            row.shape = tuple(output.shape[1:])
        if isinstance(module, COUNTED):
            row.multiply_adds += output.numel() * module.weight[0].numel()

    return hook


def count_unit(rows: dict[str, Row], name: str) -> Callable[..., None]:
    """The same for a unit that holds its convolution as `conv3d`."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        row = rows.setdefault(name, Row(name))
        row.multiply_adds += output.numel() * module.get_parameter("conv3d.weight")[0].numel()

    return hook


def layer_table(name: str) -> str:
    """A Markdown table of a network's layers, and the sums of its parts."""
    lines = ["| layer | output | parameters | multiply-adds, millions |", "| --- | --- | ---: | ---: |"]
    rows = layer_rows(name)
    for row in rows:
        shape = " x ".join(f"{size}" for size in row.shape)
        lines.append(f"| `{row.name}` | {shape} | {row.parameters:,} | {row.multiply_adds / 1e6:,.1f} |")
    sums: dict[str, list[Row]] = {"trunk": [], "replaced": [], "classifier": []}
    for row in rows:
        part = row.name.partition(".")[0]
        sums[part if part in sums else "trunk"].append(row)
    for part, chosen in sums.items():
        if chosen:
            parameters, adds = (
                sum(getattr(row, item) for row in chosen) for item in ("parameters", "multiply_adds")
            )
            lines.append(f"| **{part}** | | **{parameters:,}** | **{adds / 1e6:,.1f}** |")
    return "\n".join(lines)


def torchvision_table() -> str:
    """A Markdown table of torchvision's video models, counted without their old last layer."""
    lines = ["| source | embedding | frames | input | parameters |", "| --- | ---: | ---: | --- | ---: |"]
    for name in torchvision_names():
        spec = network_spec(f"{TORCHVISION}{name}")
        with torch.device("meta"):
            network = create_network(spec.name, num_classes=CLASSES)
        total = sum(
            value.numel() for part, value in network.named_parameters() if not part.startswith("classifier.")
        )
        frames = getattr(spec.preprocessing, "frames", 0)
        given = str(spec.preprocessing).partition(" frames, ")[2]
        lines.append(f"| `{spec.name}` | {spec.embedding_width} | {frames} | {given} | {total:,} |")
    return "\n".join(lines)


def weights_table() -> str:
    """A Markdown table of the weights that are known by name."""
    lines = [
        "| name | network | layout of | trained on | MB | check | dropped | input |",
        "| --- " * 8 + "|",
    ]
    for item in KNOWN_WEIGHTS.values():
        given = str(item.preprocessing) + (
            "" if item.bn_eps is None else f"; BatchNorm epsilon {item.bn_eps:g}"
        )
        lines.append(
            f"| [`{item.name}`]({item.url}) | `{item.network}` | {item.layout} | {item.trained_on} | "
            f"{item.size_mb:g} | {item.check.kind} | {', '.join(item.drops)} | {given} |"
        )
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Every table of the page by its mark."""
    found = {f"layers:{name}": layer_table(name) for name in NAMES}
    return {**found, "torchvision": torchvision_table(), "weights": weights_table()}


def fill(text: str, found: dict[str, str]) -> str:
    """The page with its tables put between their marks."""
    for mark, table in found.items():
        text, count = re.subn(
            rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)",
            lambda m, t=table: f"{m[1]}{t}\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{PAGE}: {count} places marked {mark!r}, expected 1")
    return text


def main() -> int:
    """Print the tables, or write them into the page."""
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
    else:
        for mark, table in tables().items():
            print(f"\n{mark}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
