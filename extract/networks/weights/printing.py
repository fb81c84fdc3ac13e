"""The table of weights that are known by name, as the command line prints it."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from moodfuse.cache.errors import UnknownNameError
from moodfuse.extract.networks.registry import (
    NETWORKS,
    TORCHVISION,
    AudioPreprocessing,
    Preprocessing,
    network_spec,
)
from moodfuse.extract.networks.weights.fetch import weights_folder
from moodfuse.extract.networks.weights.known import KNOWN_WEIGHTS, KnownWeights, known_weights

_MIN_WIDTH = 120


def all_weights(network: str | None = None) -> list[KnownWeights]:
    """Every entry, of one network or of all, torchvision's behind ours; each once.

    Raises
    ------
    UnknownNameError
        If there is no such network.
    """
    if network is not None and not network.startswith(TORCHVISION):
        network_spec(network)
        return list(known_weights(network).values())
    from moodfuse.extract.networks.torchvision_video import torchvision_names

    models = [f"{TORCHVISION}{name}" for name in torchvision_names()] if network is None else [network]
    ours = list(KNOWN_WEIGHTS.values()) if network is None else []
    theirs = {(model, item.name): item for model in models for item in known_weights(model).values()}
    return [*ours, *theirs.values()]


def named_weights(name: str) -> KnownWeights:
    """One entry by name; those of torchvision's models as ``torchvision:MODEL=NAME``.

    Raises
    ------
    UnknownNameError
        If there is none; the known ones are listed.
    """
    network, _, weights = name.partition("=")
    if network.startswith(TORCHVISION):
        found = known_weights(network)
        weights = weights or "DEFAULT"
        if weights in found:
            return found[weights]
        raise UnknownNameError("weights", name, [f"{network}={item}" for item in found])
    if weights and network in NETWORKS:  # c3d=NAME, as extract takes it
        name = weights if weights in known_weights(network) else name
    if name not in KNOWN_WEIGHTS:
        raise UnknownNameError("weights", name, [*KNOWN_WEIGHTS, f"{TORCHVISION}MODEL=NAME"])
    return KNOWN_WEIGHTS[name]


def full_name(known: KnownWeights) -> str:
    """What `moodfuse weights fetch` takes."""
    return f"{known.network}={known.name}" if known.network.startswith(TORCHVISION) else known.name


def describe(preprocessing: Preprocessing) -> str:
    """Preprocessing in a line: frame size, order, scale, mean and deviation; or the sampling rate."""
    if isinstance(preprocessing, AudioPreprocessing):
        seconds = preprocessing.samples / preprocessing.sample_rate_hz
        return f"{preprocessing.sample_rate_hz / 1000:g} kHz mono, {seconds:g} s"
    if preprocessing.resize_hw is None:
        resize = f"short side {preprocessing.resize_short_side_px}"
    else:
        resize = "x".join(str(side) for side in preprocessing.resize_hw)
    mean = "/".join(f"{value:.4g}" for value in preprocessing.mean)
    std = "/".join(f"{value:.4g}" for value in preprocessing.std)
    side = preprocessing.crop_px
    return (
        f"{preprocessing.frames} frames, {resize} px{' antialiased' if preprocessing.antialias else ''}, crop "
        f"{side}x{side}, {preprocessing.channel_order} x {preprocessing.scale:.4g} - {mean}, / {std}"
    )


def print_weights(network: str | None, *, wide: bool) -> None:
    """Print the table, or with `wide` all that is known of each entry."""
    folder = weights_folder()
    found = all_weights(network)
    if wide:
        for known in found:
            _print_long(known, present=(folder / known.file).is_file())
    else:
        table = Table(box=SIMPLE)
        for title in ("name", "MB", "check", "trained on", "here"):
            table.add_column(title, no_wrap=True, justify="right" if title == "MB" else "left")
        for known in found:
            here = "yes" if (folder / known.file).is_file() else ""
            name = full_name(known)
            table.add_row(name, f"{known.size_mb:.1f}", known.check.kind, known.trained_on, here)
        console = Console()
        Console(width=max(console.width, _MIN_WIDTH)).print(table)
    print(f"kept in {folder}; use: moodfuse extract DATA --cache DIR --weights SOURCE=NAME")


def _print_long(known: KnownWeights, *, present: bool) -> None:
    rows = {
        "network": known.network,
        "file": f"{known.file}, {known.size_mb:.1f} MB{', here' if present else ''}",
        "address": known.url,
        "check": f"{known.check} ({known.check.strength})",
        "licence": known.licence,
        "trained on": known.trained_on,
        "layout": f"{known.layout}; left behind: {', '.join(known.drops)}",
        "input": describe(known.preprocessing),
        "BatchNorm": "" if known.bn_eps is None else f"epsilon {known.bn_eps:g}",
    }
    print(full_name(known))
    for title, text in rows.items():
        if text:
            print(f"  {title:<11} {text}")
    print()
