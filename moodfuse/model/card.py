"""The card of a model, `model.json`: what it is made of and what may be expected of it. It is read strictly."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from moodfuse.cache.digests import canonical_json, digest
from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.recipe import Recipe, recipe_from_mapping
from moodfuse.cache.records import check_label
from moodfuse.fuse.inference import check_level

FORMAT = "moodfuse-model"
SCHEMA = 1
MOST_BYTES = 4 << 20
MOST_CLASSES, MOST_SOURCES, MOST_NETWORKS = 10_000, 256, 1_000
"""Networks and fits are those of all sources together."""


class ModelError(InputError):
    """A model folder that is not what a model must be."""


@dataclass(frozen=True)
class ModelSource:
    """One source of a model.

    Attributes
    ----------
    recipe : Recipe
        Everything that decides its numbers.
    body : str or None
        File of the part that no tuning changes; `None` where the whole network was tuned.
    networks : tuple of str
        Files of the tuned networks, in the order in which their logits are averaged.
    own : int
        Fits that make its logits from its embedding; 0 where its networks have logits.
    """

    recipe: Recipe
    body: str | None
    networks: tuple[str, ...]
    own: int


@dataclass(frozen=True)
class ModelFile:
    """A file of the folder: its SHA-256 and its length in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes
    ----------
    name : str
    run, protocol, head, level : str
        The run and the result that it was exported from.
    classes : tuple of str
        Sorted labels.
    sources : tuple of ModelSource
        In the order of the head's columns.
    head_kind : str
        Of `moodfuse.fuse.heads.exported`.
    head_facts : mapping
    temperature : float
    chosen : bool
        Whether settings and temperature were chosen on rows out of sample.
    decoder : str
        Version of the decoder and its rules that the training clips were read by.
    impute : bool
        Whether files without audio or without video are labelled.
    training : mapping
        Numbers of clips and groups, in all and by label.
    expected : mapping
        Cross-validated scores of this result, with intervals.
    notes : tuple of str
    versions : mapping of str to str
        Of the libraries that made it.
    commands : tuple of str
        That led to it, in order.
    files : mapping of str to ModelFile
        All others of the folder, by their path in it.
    """

    name: str
    run: str
    protocol: str
    head: str
    level: str
    classes: tuple[str, ...]
    sources: tuple[ModelSource, ...]
    head_kind: str
    head_facts: Mapping[str, Any]
    temperature: float
    chosen: bool
    decoder: str
    impute: bool
    training: Mapping[str, Any]
    expected: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    files: Mapping[str, ModelFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_level(self.level)
        if not 2 <= len(self.classes) <= MOST_CLASSES or tuple(sorted(set(self.classes))) != self.classes:
            raise ModelError(f"classes: expected 2 to {MOST_CLASSES} different labels in order")
        for label in self.classes:
            check_label(label, "classes")
        if not 1 <= len(self.sources) <= MOST_SOURCES:
            raise ModelError(f"sources: {len(self.sources)}; expected 1 to {MOST_SOURCES}")
        if not math.isfinite(self.temperature):
            raise ModelError("temperature is not finite")
        if sum(len(source.networks) for source in self.sources) > MOST_NETWORKS:
            raise ModelError(f"sources: more than {MOST_NETWORKS} networks")
        if (
            min(source.own for source in self.sources) < 0
            or sum(source.own for source in self.sources) > MOST_NETWORKS
        ):
            raise ModelError(f"sources: expected 0 to {MOST_NETWORKS} fits")
        _check_network_files(self)

    @cached_property
    def digest(self) -> str:
        """Identity of the model: it changes with any file of it."""
        return digest(_values(self))

    @cached_property
    def views(self) -> frozenset[str | None]:
        """What of a file its sources read: ``"sound"``, ``"picture"`` or both."""
        return frozenset(source.recipe.view for source in self.sources)

    def to_json(self) -> str:
        """The card as canonical JSON, with its own digest in it."""
        return canonical_json({**_values(self), "check": self.digest})


def _check_network_files(card: ModelCard) -> None:
    """Each network is a file of the model, and no file is two networks."""
    used: set[str] = set()
    for source in card.sources:
        for file in (source.body, *source.networks):
            if file is None:
                continue
            if file not in card.files:
                raise ModelError(
                    f"{source.recipe.source}: names the file {file!r}, which is none of the model's"
                )
            if file in used:
                raise ModelError(
                    f"{source.recipe.source}: names the file {file!r}, which is another network already"
                )
            used.add(file)


def _values(card: ModelCard) -> dict[str, Any]:
    return {"format": FORMAT, "schema": SCHEMA, **asdict(card)}


def card_from_json(text: str) -> ModelCard:
    """Read a card.

    Raises
    ------
    ModelError
        If it is none, damaged, or of another schema; the message says what was found.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ModelError("is no card of a moodfuse model")
        if values.get("schema") != SCHEMA:
            made = values.get("versions", {}).get("moodfuse", "another version")
            raise ModelError(
                f"schema {values.get('schema')}, not {SCHEMA}; it was written by moodfuse {made}: use that"
            )
        check = values.pop("check", None)
        if check != digest(values):
            raise ModelError(
                "its content is not the one that its digest is of; copy the model again, or export it again"
            )
        del values["format"], values["schema"]
        return _card(values)
    except ModelError:
        raise
    except (
        MoodfuseError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ModelError(f"cannot be read as a card ({type(error).__name__}: {str(error)[:200]})") from error


_TEXT = ("name", "run", "protocol", "head", "level", "head_kind", "decoder")
_MAPPINGS = ("head_facts", "training", "expected", "versions")
_LISTS = ("classes", "notes", "commands")


def _card(values: dict[str, Any]) -> ModelCard:
    if strange := set(values) ^ {item.name for item in fields(ModelCard)}:
        raise ModelError(f"keys {sorted(strange)[:5]} are missing or unknown")
    kinds: tuple[tuple[tuple[str, ...], type], ...] = (
        (_TEXT, str),
        (_MAPPINGS, dict),
        (_LISTS, list),
        (("chosen", "impute"), bool),
        (("temperature",), float),
    )
    for names, kind in kinds:
        for name in names:
            if not isinstance(values[name], kind):
                raise ModelError(f"{name} is {type(values[name]).__name__}, expected {kind.__name__}")
    for name in _LISTS:
        if not all(isinstance(item, str) for item in values[name]):
            raise ModelError(f"{name}: expected text alone")
    return ModelCard(
        **{
            **values,
            **{name: tuple(values[name]) for name in _LISTS},
            "sources": tuple(_source(item) for item in values["sources"]),
            "files": {str(name): _file(item) for name, item in values["files"].items()},
        }
    )


def _source(values: dict[str, Any]) -> ModelSource:
    body, networks, own = values["body"], values["networks"], values["own"]
    if not (body is None or isinstance(body, str)) or not isinstance(own, int) or isinstance(own, bool):
        raise ModelError("sources: body is a file or null, own a whole number")
    if not isinstance(networks, list) or not all(isinstance(item, str) for item in networks):
        raise ModelError("sources: networks are a list of files")
    recipe = recipe_from_mapping(values["recipe"])
    if not isinstance(recipe.source, str):
        raise ModelError(f"sources: the name {recipe.source!r} is no text")
    return ModelSource(recipe, body, tuple(networks), own)


def _file(values: dict[str, Any]) -> ModelFile:
    found = ModelFile(**values)
    if not isinstance(found.sha256, str) or type(found.bytes) is not int or found.bytes < 0:
        raise ModelError("files: expected sha256 and bytes of each")
    return found
