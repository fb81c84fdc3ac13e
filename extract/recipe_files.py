"""Recipe files: TOML read, checked, and turned into one `Recipe` per source. No torch."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from cache.errors import InputError, UnknownNameError
from cache.identity import canonical_json, file_digest
from cache.recipe import DEPTHS, Recipe, Tuning
from extract.networks.registry import NetworkSpec, network_spec
from extract.networks.weights import resolve_weights

PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
_TOP_LEVEL = {"seed", "threads"}


@dataclass(frozen=True)
class RecipeChoice:
    """What the command line says of recipes: file or name, depths and weights per source, device, precision."""

    recipe: str = "default"
    depth: str | None = None
    depths: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the program."""
    files = resources.files("extract.recipes").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def read_recipe_file(name: str) -> dict[str, Any]:
    """The tables of a recipe, by name or path.

    Raises
    ------
    UnknownNameError
        If no recipe has this name and no file stands there.
    InputError
        If the file is not TOML of this kind.
    """
    if name in recipe_names():
        text = (resources.files("extract.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise UnknownNameError("recipe", name, [*recipe_names(), "or the path of a TOML file"])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name}: not TOML ({error})") from error
    for key, value in values.items():
        if key not in _TOP_LEVEL and not isinstance(value, dict):
            raise InputError(
                f"recipe {name}: unknown key {key!r}; known: {', '.join(sorted(_TOP_LEVEL))}, a table per network"
            )
    return values


def build_recipe(source: str, choice: RecipeChoice) -> Recipe:
    """The recipe of a source under what the user chose.

    Raises
    ------
    UnknownNameError
        If the network is unknown.
    InputError
        If the recipe file has no settings for this network and depth, or a weights file is missing.
    """
    spec = network_spec(source)
    tables = read_recipe_file(choice.recipe)
    table = tables.get(source, {})
    depth = choice.depths.get(source) or choice.depth or table.get("depth", spec.default_depth)
    if depth not in DEPTHS:
        raise InputError(f"--tune {source}={depth}: unknown depth; known: {', '.join(DEPTHS)}")
    device = resolve_device(choice.device)
    return Recipe(
        source=source,
        network=spec.name,
        network_version=spec.version,
        weights=_weights_digest(source, choice.weights.get(source)),
        preprocessing=canonical_json(spec.preprocessing.as_record()),
        depth=depth,
        tuning=None if depth == "frozen" else _tuning(source, depth, table, choice.recipe, spec),
        embedding_tuned=depth == "full" or (depth == "head" and spec.has_replaced_layers),
        precision="bf16" if choice.precision == "bf16" else "fp32",
        device=device,
        threads=int(tables.get("threads", 2)),
        seed=int(tables.get("seed", 0)),
    )


def _tuning(source: str, depth: str, table: Mapping[str, Any], recipe: str, spec: NetworkSpec) -> Tuning:
    values = table.get(depth)
    if not isinstance(values, dict):
        raise InputError(
            f"recipe {recipe}: no settings for {source} at depth {depth!r}; add a table [{source}.{depth}]"
        )
    known = {item.name for item in fields(Tuning)}
    if unknown := sorted(set(values) - known):
        raise InputError(
            f"recipe {recipe}, {source}.{depth}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    try:
        tuning = Tuning(**values)
    except TypeError as error:
        raise InputError(f"recipe {recipe}, {source}.{depth}: {error}") from error
    if depth == "full" and spec.min_crop_s and 0 < tuning.crop_s < spec.min_crop_s:
        raise InputError(
            f"recipe {recipe}, {source}.{depth}: crop_s is {tuning.crop_s}; needs {spec.min_crop_s} or more"
        )
    return tuning


def _weights_digest(source: str, weights: str | None) -> str:
    if weights is None:
        return "random"
    return file_digest(resolve_weights(weights))


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes CUDA where there is one. torch is asked only where an NVIDIA device shows.

    Raises
    ------
    InputError
        If CUDA is asked for and not there.
    """
    if device not in DEVICES:
        raise InputError(f"--device {device!r} is unknown; known: {', '.join(DEVICES)}")
    if device == "cpu" or (device == "auto" and not os.path.exists("/dev/nvidiactl")):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("--device cuda: torch finds no CUDA device; use --device cpu")
    return "cpu"


def frozen_counterpart(recipe: Recipe) -> Recipe:
    """The recipe of the same network with nothing tuned: its activations serve every head of `recipe`."""
    values = {item.name: getattr(recipe, item.name) for item in fields(Recipe)}
    return Recipe(**{**values, "depth": "frozen", "tuning": None, "embedding_tuned": False})
