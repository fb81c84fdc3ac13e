"""Recipe files: TOML read, checked, and turned into one `Recipe` per source. No torch."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from moodfuse.cache.csv_rows import check_encoding
from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.files import read_regular
from moodfuse.cache.recipe import DEPTHS, Recipe, Tuning
from moodfuse.extract.networks.compiling import check_compiler
from moodfuse.extract.networks.precision import check_precision
from moodfuse.extract.networks.registry import NetworkSpec, network_spec
from moodfuse.extract.networks.weights.load import WeightsFacts, weights_facts

PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
DEFAULT = "default"
_TOP_LEVEL = {"name", "description", "seed", "threads"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RecipeChoice:
    """What the command line says of recipes: file or name, depths and weights per source, and how to compute.

    `depths` and `weights` are by source (``c3d@seed-adam``) or by network (``c3d``, for each of its sources).
    """

    recipe: str = "default"
    depth: str | None = None
    depths: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False

    def source(self, name: str) -> str:
        """The full name of a source: with its recipe's name, unless that is the default one."""
        recipe = recipe_label(self.recipe)
        if "@" in name:
            label = name.partition("@")[2]
            if label != recipe and label not in recipe_names():
                raise UnknownNameError("recipe", label, sorted({*recipe_names(), recipe}))
            return name.removesuffix(f"@{DEFAULT}")
        return name if recipe == DEFAULT else f"{name}@{recipe}"

    def weights_of(self, source: str) -> str | None:
        """Name or file of a source's pretrained weights."""
        return _of(self.weights, source)

    def depth_of(self, source: str) -> str | None:
        """Tuning depth that the user asked of a source."""
        return _of(self.depths, source) or self.depth

    def recipe_of(self, source: str) -> str:
        """Name or file of a source's recipe."""
        label = source.partition("@")[2] or DEFAULT
        return self.recipe if recipe_label(self.recipe) == label else label


def _of(named: Mapping[str, str], source: str) -> str | None:
    """What is named for a source, ``c3d@default`` for the default one, or else for its network."""
    return next((named[key] for key in option_names(source) if key in named), None)


def option_names(source: str) -> tuple[str, ...]:
    """The names by which an option may mean a source, the most exact first."""
    exact = source if "@" in source else f"{source}@{DEFAULT}"
    return exact, source, network_of(source)


def network_of(source: str) -> str:
    """The network of a source: ``c3d`` of ``c3d@seed-adam``."""
    return source.partition("@")[0]


def recipe_label(recipe: str) -> str:
    """The name of a recipe as sources carry it: what its file says under ``name``, or the file's own name.

    Raises
    ------
    InputError
        If that cannot be part of a source's name.
    """
    if recipe in recipe_names():
        return recipe
    declared = read_recipe_file(recipe).get("name")
    label = Path(recipe).stem if declared is None else str(declared)
    if not _NAME.fullmatch(label):
        raise InputError(
            f"recipe {recipe}: its name {label!r} has to be letters, digits, '.', '_' and '-'; rename it"
        )
    if label in recipe_names() and declared != DEFAULT:
        raise InputError(
            f'recipe {recipe}: {label!r} is a recipe of moodfuse; give yours another name = "..."'
        )
    return label


def recipe_descriptions() -> dict[str, str]:
    """Name and description of the recipes that come with the program."""
    return {name: str(read_recipe_file(name).get("description", "")) for name in recipe_names()}


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the program."""
    files = resources.files("moodfuse.extract.recipes").iterdir()
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
        text = (resources.files("moodfuse.extract.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = _read(Path(name))
    else:
        raise UnknownNameError("recipe", name, [*recipe_names(), "or the path of a TOML file"])
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"recipe {name}: not TOML ({error})") from error
    for key, value in values.items():
        if key not in _TOP_LEVEL and not isinstance(value, dict):
            raise InputError(
                f"recipe {name}: unknown key {key!r}; known: {', '.join(sorted(_TOP_LEVEL))}, a table per network"
            )
    return values


def _read(path: Path) -> str:
    try:
        data = read_regular(path)
        check_encoding(data, path)
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: cannot be read as UTF-8 text ({error})") from error


def build_recipe(source: str, choice: RecipeChoice) -> Recipe:
    """The recipe of a source under what the user chose.

    Raises
    ------
    UnknownNameError
        If the network is unknown.
    InputError
        If the recipe file has no settings for this network and depth, or a weights file is missing.
    """
    network = network_of(source)
    spec = network_spec(network)
    name = choice.recipe_of(source)
    tables = read_recipe_file(name)
    table = _table(tables, network)
    depth = choice.depth_of(source) or table.get("depth", spec.default_depth)
    if depth not in DEPTHS:
        raise InputError(f"--tune {source}={depth}: unknown depth; known: {', '.join(DEPTHS)}")
    facts = source_weights(source, choice)
    device = resolve_device(choice.device)
    check_precision(choice.precision, device)
    if choice.compile:
        check_compiler(device)
    return Recipe(
        source=source,
        network=spec.name,
        network_version=spec.version,
        weights="random" if facts is None else facts.identity,
        preprocessing=canonical_json((spec if facts is None else facts).preprocessing.as_record()),
        depth=depth,
        tuning=None if depth == "frozen" else _tuning(source, depth, table, name, spec),
        embedding_tuned=depth == "full" or (depth == "head" and spec.has_replaced_layers),
        precision="bf16" if choice.precision == "bf16" else "fp32",
        device=device,
        threads=_whole(tables, "threads", 2, name),
        compile=choice.compile,
        seed=_whole(tables, "seed", 0, name),
    )


def source_weights(source: str, choice: RecipeChoice) -> WeightsFacts | None:
    """What is known of a source's pretrained weights; `None` where it has none."""
    weights = choice.weights_of(source)
    return None if weights is None else weights_facts(weights, network_of(source))


def _table(tables: Mapping[str, Any], network: str) -> Mapping[str, Any]:
    """The settings of a network; those of all torchvision models stand under ``torchvision``."""
    table: Mapping[str, Any] = tables.get(network, tables.get(network.partition(":")[0], {}))
    if unknown := sorted(set(table) - {"depth", *DEPTHS}):
        raise InputError(
            f"recipe, table [{network}]: unknown key {unknown[0]!r}; known: depth, {', '.join(DEPTHS)}"
        )
    return table


def _whole(tables: Mapping[str, Any], key: str, default: int, recipe: str) -> int:
    value = tables.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"recipe {recipe}: {key} is {value!r}; expected a whole number, 0 or more")
    return value


def _tuning(source: str, depth: str, table: Mapping[str, Any], recipe: str, spec: NetworkSpec) -> Tuning:
    values = table.get(depth)
    if not isinstance(values, dict):
        title = f"{network_of(source).partition(':')[0]}.{depth}"
        raise InputError(
            f"recipe {recipe}: no settings for {source} at depth {depth!r}; add a table [{title}]"
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
