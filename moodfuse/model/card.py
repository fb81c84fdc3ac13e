"""The model card: `model.json`, which describes a model completely, and `MODEL.md`, its summary."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from moodfuse.cache.console import printable
from moodfuse.cache.digests import canonical_json, digest
from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.recipe import Recipe, recipe_from_mapping
from moodfuse.cache.records import check_label
from moodfuse.fuse.inference import check_level

FORMAT = "moodfuse-model"
SCHEMA = 1


class ModelError(InputError):
    """A model folder that cannot be used."""


@dataclass(frozen=True)
class ModelSource:
    """One source of a model.

    `body` is the file with the layers that were not fine-tuned, if any, and `networks` are the files of the
    fine-tuned networks, whose logits are averaged. `own` classifiers compute logits from the embedding if the
    networks have none.
    """

    recipe: Recipe
    body: str | None
    networks: tuple[str, ...]
    own: int

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the source."""
        return self.networks if self.body is None else (self.body, *self.networks)


@dataclass(frozen=True)
class ModelFile:
    """SHA-256 and length of a file of the model."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelCard:
    """Everything that describes a model.

    Attributes
    ----------
    run, protocol, head, level : str
        The run and the result that the model was exported from.
    classes : tuple of str
        Sorted labels.
    sources : tuple of ModelSource
        In the order of the head's columns.
    head_kind, head_facts : str, mapping
        Kind of the head, and its settings that are not arrays.
    chosen : bool
        Whether hyperparameters and temperature were selected on out-of-sample rows.
    decoder : str
        Version of the decoder that read the training clips.
    impute : bool
        Whether files without audio or without video are labelled.
    training, expected : mapping
        Numbers of training clips and groups; cross-validated scores with confidence intervals.
    files : mapping of str to ModelFile
        All other files of the folder by relative path.
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
        if len(self.classes) < 2 or tuple(sorted(set(self.classes))) != self.classes:
            raise ModelError(f"classes: {self.classes[:9]}; expected two or more different labels in order")
        for label in self.classes:
            check_label(label, "classes")
        if not self.sources or not math.isfinite(self.temperature):
            raise ModelError("expected one or more sources and a finite temperature")
        used = [file for source in self.sources for file in source.files]
        if unlisted := set(used) - set(self.files):
            raise ModelError(f"sources: the file {min(unlisted)!r} is not listed under files")
        if len(set(used)) < len(used):
            raise ModelError("sources: a file is used for two networks")

    @cached_property
    def digest(self) -> str:
        """Identity of the model; changes with any of its files."""
        return digest(_values(self))

    @cached_property
    def modalities(self) -> frozenset[str | None]:
        """The modalities that the sources read, as recipes name them."""
        return frozenset(source.recipe.modality for source in self.sources)

    def to_json(self) -> str:
        """Return the card as canonical JSON that contains its own digest."""
        return canonical_json({**_values(self), "check": self.digest})


def _values(card: ModelCard) -> dict[str, Any]:
    return {"format": FORMAT, "schema": SCHEMA, **asdict(card)}


def card_from_json(text: str) -> ModelCard:
    """Read a card; raise ModelError if the text is not a card, is damaged, or has another schema."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ModelError("not the card of a moodfuse model")
        if values.get("schema") != SCHEMA:
            version = values.get("versions", {}).get("moodfuse", "another version")
            raise ModelError(
                f"schema {values.get('schema')}, expected {SCHEMA}; use moodfuse {version}, which wrote it"
            )
        if values.pop("check", None) != digest(values):
            raise ModelError(
                "the content does not match its digest; copy the model again, or export it again"
            )
        return _card({key: value for key, value in values.items() if key not in ("format", "schema")})
    except ModelError:
        raise
    except (MoodfuseError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(f"cannot be read as a card ({type(error).__name__}: {str(error)[:200]})") from error


_TYPES: dict[type, tuple[str, ...]] = {
    str: ("name", "run", "protocol", "head", "level", "head_kind", "decoder"),
    dict: ("head_facts", "training", "expected", "versions", "files"),
    list: ("classes", "sources", "notes", "commands"),
    bool: ("chosen", "impute"),
    float: ("temperature",),
}


def _card(values: dict[str, Any]) -> ModelCard:
    if different := set(values) ^ {item.name for item in fields(ModelCard)}:
        raise ModelError(f"keys {sorted(different)[:5]} are missing or unknown")
    for kind, names in _TYPES.items():
        for name in names:
            if not isinstance(values[name], kind):
                raise ModelError(f"{name} is {type(values[name]).__name__}, expected {kind.__name__}")
    values["sources"] = [
        ModelSource(recipe_from_mapping(item["recipe"]), item["body"], tuple(item["networks"]), item["own"])
        for item in values["sources"]
    ]
    values["files"] = {name: ModelFile(**item) for name, item in values["files"].items()}
    arguments: dict[str, Any] = {
        name: tuple(item) if isinstance(item, list) else item for name, item in values.items()
    }
    return ModelCard(**arguments)


_SUMMARY = """\
# {{ card.name | md }}

A moodfuse model that classifies the emotion of music videos: {{ card.classes | map("md") | join(", ") }}.

    moodfuse predict --model DIR FILE...

- sources: {{ card.sources | map(attribute="recipe.source") | map("md") | join(", ") }}
- head: {{ card.head | md }} on {{ card.level }}
- trained on {{ card.training.clips }} clips in {{ card.training.groups }} groups: {{ counts }}
- probabilities are {{ "calibrated" if card.chosen else "NOT calibrated, for lack of out-of-sample rows" }}
- {{ missing }}

## Expected performance

Cross-validated ({{ card.protocol | md }}) on {{ expected.clips }} clips in {{ expected.groups }} groups, with
95 % confidence intervals over groups. It holds for clips like these.

| metric | value | 95 % interval |
| --- | --- | --- |
{% for name, shown in metrics.items() -%}
| {{ shown }} | {{ expected[name] | number }} | {{ expected[name ~ "_ci95"] | interval }} |
{% endfor %}
{%- if expected.best_corrected is defined %}
{{ expected.results }} configurations were scored on the same clips, so the scores of one that was selected by
them are too high. Estimated accuracy of the best of them on new clips, corrected for the selection:
{{ expected.best_corrected | number }} {{ expected.best_corrected_ci95 | interval }}.
{% endif %}
{%- for note in card.notes %}
Note: {{ note | md }}.
{% endfor %}"""
_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC, macro one-vs-rest",
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
}


def model_summary(card: ModelCard) -> str:
    """Return the summary of a model as Markdown, in which names are shown as they are."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"md": _markdown, "number": _number, "interval": _interval}
    counts = ", ".join(f"{_markdown(label)} {count}" for label, count in card.training["labels"].items())
    if card.impute:
        missing = "files without audio or video are labelled; the missing features are training means"
    elif len(card.modalities) > 1:
        missing = "files without audio or without video are refused"
    else:
        read, other = ("audio", "video") if card.modalities == {"sound"} else ("video", "audio")
        missing = (
            f"the model reads {read} only: files without {other} are labelled, those without {read} refused"
        )
    names = {"expected": card.expected, "metrics": _METRICS, "missing": missing, "counts": counts}
    return environment.from_string(_SUMMARY).render(card=card, **names)


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|~&$])", r"\\\1", printable(text))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: Iterable[float | None]) -> str:
    return f"[{', '.join(map(_number, ends))}]"
