"""Read recipe files (TOML) and make the `Recipe` of each source from them. Imports no torch."""

import json
import logging
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.recipe import UNCORRECTED, Recipe, Tuning, last_blocks
from moodfuse.cache.records import SAMPLE_RATE_HZ, ExtraMedia
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.networks import (
    AudioPreprocessing,
    NetworkSpec,
    Preprocessing,
    VideoPreprocessing,
    WeightsFacts,
    default_weights,
    is_registered,
    network_spec,
    preprocessing_from_record,
    registered_names,
    weights_facts,
)
from moodfuse.extract.networks.hardware import check_compiler, check_precision, resolve_device

log = logging.getLogger(__name__)
RECIPES = resources.files("moodfuse.extract") / "recipes"
DEFAULT = "default"
OTHER = "other"
"""Table of a recipe for networks without their own: those of hubs and of other packages."""
# Former names of recipes, which caches may hold: accepted with a notice.
FORMER_NAMES = {"seed": "zhou2022", "seed-adam": "zhou2022-adam", "seed-sgd": "zhou2022-sgd"}
_TABLES = ("frozen", "head", "full")
_TRUNK_SETTINGS = ("layer_decay", "spec_augment", "gradient_checkpointing")
FLOATS = ("layer_decay", "label_smoothing", "mixup", "spec_augment")
_TOP_LEVEL = {"name", "description", "seed", "threads"}
_FRAMES = re.compile(r"(?:even|windows:([1-9][0-9]{0,3})(?:@([0-9]*\.?[0-9]+))?)(,crops:3)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RecipeChoice:
    """Which recipes, depths, weights and frames the user chose.

    `depths`, `weights` and `frames` are by source (``c3d@zhou2022-adam``) or by network (``c3d``, for all its
    sources).
    """

    recipe: str = DEFAULT  # name, or path of a TOML file
    depth: str | None = None  # of all sources
    depths: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    frames: Mapping[str, str] = field(default_factory=dict)  # as `_FRAMES`
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False

    @cached_property
    def label(self) -> str:
        """The recipe's name as sources carry it."""
        return recipe_label(self.recipe)

    def source(self, name: str) -> str:
        """The full name of a source: with the recipe's name, unless that is the default."""
        network, at, label = name.partition("@")
        label = _current_name(label) if at else self.label
        if at and label != self.label and label not in recipe_names():
            raise UnknownNameError("recipe", label, sorted({*recipe_names(), self.label}))
        return network if label == DEFAULT else f"{network}@{label}"

    def weights_of(self, source: str) -> str | None:
        """Name or file of a source's pretrained weights: the user's, or those of its network."""
        return _value_of(self.weights, source) or default_weights(source.partition("@")[0])

    def depth_of(self, source: str) -> str | None:
        """The tuning depth that the user chose, or `None`."""
        return _value_of(self.depths, source) or self.depth

    def frames_of(self, source: str) -> str | None:
        """The frames that the user chose for a video source, or `None`."""
        return _value_of(self.frames, source)

    def recipe_of(self, source: str) -> str:
        """Name or file of a source's recipe."""
        label = source.partition("@")[2] or DEFAULT
        return self.recipe if self.label == label else label


def split_hf_source(text: str, labels: Collection[str]) -> tuple[str, str | None]:
    """The name of an ``hf:`` source as caches have it, and the folder or repository that it stands for.

    ``hf:facebook/dinov2-base@main`` is ``hf:facebook--dinov2-base`` from ``facebook/dinov2-base@main``, and
    ``hf:models/clip`` is ``hf:clip`` if there is such a folder, which takes precedence over a repository. A
    last ``@`` and one of `labels` is a recipe.
    """
    location, at, label = text.removeprefix("hf:").rpartition("@")
    if not at or label not in labels:
        location, at, label = text.removeprefix("hf:"), "", ""
    is_folder = Path(location).is_dir()
    name = Path(location).resolve().name if is_folder else location.partition("@")[0].replace("/", "--")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if not location or not name.strip("-."):
        raise InputError(f"{text}: names no repository and no folder; write hf:OWNER/NAME or hf:FOLDER")
    return f"hf:{name}{at}{label}", location if is_folder or location != name else None


def name_hf_sources(sources: Iterable[str], choice: RecipeChoice) -> tuple[tuple[str, ...], RecipeChoice]:
    """Sources and choice with ``hf:`` sources by name; their folders and repositories become weights."""
    labels = {*recipe_names(), *FORMER_NAMES, choice.label}

    def split(source: str) -> tuple[str, str | None]:
        return split_hf_source(source, labels) if source.startswith("hf:") else (source, None)

    named = [split(source) for source in sources]
    located: dict[str, str] = {}
    for name, location in named:
        if location is not None and located.setdefault(name, location) != location:
            raise InputError(
                f"{located[name]} and {location} would both be called {name} in the cache; extract one "
                "of them into another cache, or rename its folder"
            )
    depths = {split(source)[0]: depth for source, depth in choice.depths.items()}
    weights = {split(source)[0]: value for source, value in choice.weights.items()}
    frames = {split(source)[0]: value for source, value in choice.frames.items()}
    choice = replace(choice, depths=depths, weights={**located, **weights}, frames=frames)
    return tuple(name for name, _ in named), choice


def _value_of(values: Mapping[str, str], source: str) -> str | None:
    return next((values[name] for name in option_names(source) if name in values), None)


def option_names(source: str) -> tuple[str, ...]:
    """The names by which an option may address a source, the most specific first."""
    network, _, label = source.partition("@")
    label = label or DEFAULT
    labels = {label: None, FORMER_NAMES.get(label, label): None}
    labels |= {former: None for former, current in FORMER_NAMES.items() if current == label}
    return (*(f"{network}@{name}" for name in labels), network)


def check_registered(source: str, network: str) -> None:
    """Raise `InputError` unless a model folder may name the network of a source."""
    if not is_registered(network):
        raise InputError(
            f"{source}: no installed package registers the network {network!r}, so a model "
            "cannot use it; it needs an entry point in the group moodfuse.networks (docs/networks.md)"
        )


def check_made_by(text: str) -> None:
    """Raise `UnknownNameError` unless ``NETWORK[=WEIGHTS]`` names a network that a model folder may name.

    Of a network of a hub only the prefix is checked, because hubs import torch.
    """
    network = text.partition("=")[0]
    if not is_registered(network):
        raise UnknownNameError("network of --made-by", network, registered_names())


def check_network_version(recipe: Recipe) -> None:
    """Raise `InputError` if the network of a recipe computes other features now than it did then."""
    spec = network_spec(recipe.network, recipe.architecture)
    if recipe.network_version != spec.version:
        raise InputError(
            f"{recipe.source}: made with version {recipe.network_version} of {spec.name}, but this is "
            f"version {spec.version}; run `moodfuse extract`, then `moodfuse fuse --export` again, or "
            "install the moodfuse that made it"
        )


def check_network(recipe: Recipe) -> None:
    """Raise `InputError` unless a model may contain the network of a recipe as the cache has it."""
    check_registered(recipe.source, recipe.network)
    check_network_version(recipe)


def name_in_cache(cache: FeatureCache, recipe: Recipe) -> str:
    """The name of a source in a cache, which may hold it under the former name of its recipe."""
    names = (recipe.source, *option_names(recipe.source)[:-1])
    present = (name for name in names if cache.source_folder(name, recipe.digest16).is_dir())
    return next(present, recipe.source)


def _current_name(label: str) -> str:
    if label not in FORMER_NAMES:
        return label
    log.warning("the recipe %r is now called %r; please use the new name", label, FORMER_NAMES[label])
    return FORMER_NAMES[label]


def recipe_label(recipe: str) -> str:
    """The name of a recipe as sources carry it: the ``name`` in its file, or the file's own name."""
    recipe = _current_name(recipe)
    if recipe in recipe_names():
        return recipe
    declared = read_recipe_file(recipe).get("name")
    label = Path(recipe).stem if declared is None else str(declared)
    if not _NAME.fullmatch(label):
        raise InputError(
            f"recipe {recipe}: its name {label!r} has to be letters, digits, '.', '_' and '-'; rename it"
        )
    if label in (*recipe_names(), *FORMER_NAMES) and declared != DEFAULT:
        raise InputError(
            f'recipe {recipe}: {label!r} is a recipe of moodfuse; give yours another name = "..."'
        )
    return label


def recipe_descriptions() -> dict[str, str]:
    """Name and description of the recipes that come with the program."""
    return {name: str(read_recipe_file(name).get("description", "")) for name in recipe_names()}


@cache
def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the program."""
    files = RECIPES.iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".toml")))


def read_recipe_file(name: str) -> dict[str, Any]:
    """The tables of a recipe, by name or path."""
    name = FORMER_NAMES.get(name, name)
    if name in recipe_names():
        file = RECIPES / f"{name}.toml"
    elif Path(name).is_file():
        file = Path(name)
    else:
        raise UnknownNameError("recipe", name, [*recipe_names(), "or the path of a TOML file"])
    try:
        values = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {name}: cannot be read as UTF-8 text ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name}: not TOML ({error})") from error
    for key, value in values.items():
        if key not in _TOP_LEVEL and not isinstance(value, dict):
            known = ", ".join(sorted(_TOP_LEVEL))
            raise InputError(f"recipe {name}: unknown key {key!r}; known: {known}, a table per network")
    return values


def build_recipe(source: str, choice: RecipeChoice) -> Recipe:
    """The recipe of a source; `InputError` if the recipe file has no settings for its network and depth."""
    network = source.partition("@")[0]
    facts = source_weights(source, choice)
    spec = network_spec(network, "" if facts is None else facts.architecture)
    name = choice.recipe_of(source)
    tables = read_recipe_file(name)
    # Settings of all models of a hub are in one table.
    keys = (network, network.partition(":")[0], OTHER)
    table: Mapping[str, Any] = next((tables[key] for key in keys if key in tables), {})
    if unknown := sorted(set(table) - {"depth", "frames", *_TABLES}):
        raise InputError(
            f"recipe, table [{network}]: unknown key {unknown[0]!r}; known: depth, frames, "
            f"{', '.join(_TABLES)}"
        )
    depth = choice.depth_of(source) or table.get("depth", spec.default_depth)
    last = last_blocks(str(depth))
    if depth not in _TABLES and last is None:
        raise InputError(f"--tune {source}={depth}: unknown depth; known: {', '.join(_TABLES)}, last:N")
    tunes_trunk = depth == "full" or last is not None
    if tunes_trunk and not spec.has_weights:
        raise InputError(f"--tune {source}={depth}: {spec.name} has no weights to tune; use frozen or head")
    if last is not None:
        _check_blocks(source, last, spec)
    preprocessing = (spec if facts is None else facts).preprocessing
    if (frames := choice.frames_of(source)) is not None:
        preprocessing = _choose_frames(f"--frames {source}={frames}", frames, preprocessing, spec)
    elif "frames" in table:
        where = f"recipe {name}, table [{network}], frames = {table['frames']!r}"
        preprocessing = _choose_frames(where, table["frames"], preprocessing, spec)
    device = resolve_device(choice.device)
    check_precision(choice.precision, device)
    if choice.compile:
        check_compiler(device)
    return Recipe(
        source=source,
        network=spec.name,
        network_version=spec.version,
        weights=facts.identity if facts is not None else "random" if spec.has_weights else "none",
        preprocessing=canonical_json(preprocessing.as_record()),
        depth=depth,
        tuning=None if depth == "frozen" else _read_tuning(source, depth, table, name, spec),
        embedding_tuned=tunes_trunk or (depth == "head" and spec.has_replaced_layers),
        precision="bf16" if choice.precision == "bf16" else "fp32",
        device=device,
        threads=_whole_number(tables, "threads", 2, name),
        compile=choice.compile,
        architecture="" if facts is None else facts.architecture,
        seed=_whole_number(tables, "seed", 0, name),
    )


def _choose_frames(
    where: str, frames: object, preprocessing: Preprocessing, spec: NetworkSpec
) -> Preprocessing:
    """The preprocessing of a video source with the frames that the user or the recipe chose."""
    if not isinstance(preprocessing, VideoPreprocessing):
        raise InputError(f"{where}: {spec.name} reads audio; choose frames for video sources only")
    match = _FRAMES.fullmatch(str(frames))
    if match is None:
        raise InputError(
            f"{where}: expected even, windows:N or windows:N@RATE, such as windows:4@12.5, and ,crops:3 for "
            "three crops"
        )
    windows, rate, three = match.groups()
    rate_hz = (float(rate) if rate else spec.frame_rate_hz) if windows else 0.0
    if rate_hz is None:
        raise InputError(
            f"{where}: the frame rate at which {spec.name} was trained is not known; add it, in frames per "
            f"second, such as windows:{windows}@12.5"
        )
    try:
        return replace(
            preprocessing, windows=int(windows or 0), frame_rate_hz=rate_hz, crops=3 if three else 1
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def source_weights(source: str, choice: RecipeChoice) -> WeightsFacts | None:
    """What is known of a source's pretrained weights; `None` if it has none."""
    weights = choice.weights_of(source)
    return None if weights is None else weights_facts(weights, source.partition("@")[0])


def _whole_number(tables: Mapping[str, Any], key: str, default: int, recipe: str) -> int:
    value = tables.get(key, default)
    if type(value) is not int or value < 0:
        raise InputError(f"recipe {recipe}: {key} is {value!r}; expected a whole number, 0 or more")
    return value


def _check_blocks(source: str, last: int, spec: NetworkSpec) -> None:
    from moodfuse.extract.networks.base import count_blocks  # imports torch

    count = count_blocks(spec.name, spec.architecture)
    if last > count:
        raise InputError(
            f"--tune {source}=last:{last}: {spec.name} has {count} blocks; expected last:1 to last:{count}"
        )


def _read_tuning(source: str, depth: str, table: Mapping[str, Any], recipe: str, spec: NetworkSpec) -> Tuning:
    key = "head" if depth == "head" else "full"  # last:N has the settings of full
    values = table.get(key)
    if values is None:
        raise InputError(
            f"recipe {recipe}: no settings for {source} at depth {depth!r}; add a table "
            f"[{spec.name.partition(':')[0]}.{key}]"
        )
    where = f"recipe {recipe}, {source}.{key}"
    known = {field.name for field in fields(Tuning)}
    if unknown := sorted(set(values) - known):
        raise InputError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    # 1 and 1.0 are one value of these settings, and one digest.
    values = {
        name: float(value) if name in FLOATS and type(value) is int else value
        for name, value in values.items()
    }
    try:
        tuning = Tuning(**values)
    except (TypeError, InputError) as error:
        raise InputError(f"{where}: {error}") from error
    if tuning.class_weight == UNCORRECTED:
        raise InputError(f"{where}: class_weight is {UNCORRECTED!r}; expected one of: none, balanced")
    if key == "full" and spec.min_crop_s and 0 < tuning.crop_s < spec.min_crop_s:
        raise InputError(f"{where}: crop_s is {tuning.crop_s}; needs {spec.min_crop_s} or more")
    if tuning.spec_augment and spec.modality != "audio":
        raise InputError(f"{where}: spec_augment masks audio, and {spec.name} reads video; remove it")
    for name in _TRUNK_SETTINGS if key == "head" else ():
        if getattr(tuning, name) != getattr(Tuning, name):
            raise InputError(f"{where}: {name} has no effect at depth head; remove it, or use full or last:N")
    return tuning


def read_preprocessing(recipe: Recipe) -> Preprocessing:
    """Return how the inputs of a recipe's network are made."""
    return preprocessing_from_record(json.loads(recipe.preprocessing))


def find_extra_media(recipes: Iterable[Recipe]) -> ExtraMedia:
    """What the networks of recipes read besides audio at 16 kHz and frames at even times."""
    inputs = [read_preprocessing(recipe) for recipe in recipes]
    rates_hz = {audio.sample_rate_hz for audio in inputs if isinstance(audio, AudioPreprocessing)}
    frames = {video.frame_windows for video in inputs if isinstance(video, VideoPreprocessing)}
    return ExtraMedia(
        tuple(sorted(rates_hz - {SAMPLE_RATE_HZ})),
        tuple(sorted((windows for windows in frames if windows), key=str)),
    )
