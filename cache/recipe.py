"""Recipes: everything that decides a source's numbers, as one record with one digest."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import InputError

Modality = Literal["sound", "picture"]
"""Names of the modalities in files, which are part of the format."""
MODALITY_NAMES = {"sound": "audio", "picture": "video"}
"""Name of a modality in files to its name in messages."""
DEPTHS = ("frozen", "head", "full", "imported")
"""Tuning depths other than ``"last:N"``, the last N blocks and the head."""
_LAST = re.compile("last:([1-9][0-9]*)")
_DECLARED: tuple[Modality | None, ...] = (None, "sound", "picture")
IMPORT = "import"
"""Network of features that were made elsewhere."""
OPTIMIZERS = ("adam", "adamw", "sgd")
UNCORRECTED = "uncorrected"
"""Class weights of networks in older caches: balanced, and the logits were not corrected for it."""
CLASS_WEIGHTS = ("none", "balanced", UNCORRECTED)
SCHEDULES = ("constant", "cosine")
_LATER_SETTINGS = (
    *("layer_decay", "warmup_epochs", "schedule", "label_smoothing", "mixup", "spec_augment"),
    "gradient_checkpointing",
)
"""Settings that older versions did not have, and which are stored only where they are not the default."""


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned.

    Attributes
    ----------
    optimizer, learning_rate, weight_decay, momentum
        One of `OPTIMIZERS` and its settings (momentum for SGD only).
    epochs, patience : int
        Maximum number of passes over the clips, and of passes without a lower stopping loss.
    batch : int
        Clips per step.
    crop_s : float
        Seconds of audio per training crop; 0 trains on whole clips.
    gain_db : float
        Training crops of audio are made louder or quieter by up to this many decibels.
    stop_folds : int
        Number of inner grouped folds, one of which decides when to stop.
    class_weight : str
        ``"none"``, or ``"balanced"``: classes have the same total weight in the loss, and the logits are then
        corrected to the frequencies of the classes. `UNCORRECTED` only in older caches.
    layer_decay : float
        The learning rate of the block that is i-th from the end is multiplied by ``layer_decay ** i``.
    warmup_epochs : int
        Epochs in which the learning rate rises linearly from 0.
    schedule : str
        One of `SCHEDULES`: what the learning rate does afterwards; ``"cosine"`` falls to 0 in the last epoch.
    label_smoothing : float
        That of `torch.nn.CrossEntropyLoss`, in training alone.
    mixup : float
        Parameter of the beta distribution by which pairs of clips are mixed; 0 mixes none.
    spec_augment : float
        Longest mask of audio, as a fraction of the time and of the frequencies; 0 masks nothing.
    gradient_checkpointing : bool
        Whether the backward pass computes the activations inside blocks again instead of keeping them.
    """

    optimizer: str
    learning_rate: float
    epochs: int
    patience: int = 5
    batch: int = 8
    weight_decay: float = 0.0
    momentum: float = 0.0
    crop_s: float = 0.0
    gain_db: float = 0.0
    stop_folds: int = 5
    class_weight: str = "none"
    layer_decay: float = 1.0
    warmup_epochs: int = 0
    schedule: str = "constant"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    spec_augment: float = 0.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        if self.class_weight not in CLASS_WEIGHTS:
            known = ", ".join(CLASS_WEIGHTS[:2])
            raise InputError(f"tuning: class_weight is {self.class_weight!r}; expected one of: {known}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r} is unknown; known: {', '.join(OPTIMIZERS)}")
        least = dict.fromkeys(("epochs", "patience", "batch"), 1) | {
            "stop_folds": 2,
            "crop_s": 0,
            "gain_db": 0,
            "warmup_epochs": 0,
            "mixup": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InputError(f"tuning: {name} is {getattr(self, name)}; expected {minimum} or more")
        if self.learning_rate <= 0:
            raise InputError(f"tuning: learning_rate is {self.learning_rate}; expected more than 0")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"tuning: layer_decay is {self.layer_decay}; expected more than 0, at most 1")
        for name in ("label_smoothing", "spec_augment"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"tuning: {name} is {getattr(self, name)}; expected 0 or more, less than 1")
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"tuning: warmup_epochs is {self.warmup_epochs}; expected less than epochs, {self.epochs}"
            )
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"tuning: schedule is {self.schedule!r}; expected one of: {', '.join(SCHEDULES)}"
            )

    def _check_types(self) -> None:
        """Raise `InputError` for a value of another type than its field, or a number that is not finite."""
        names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            is_number = kind is float and type(value) in (int, float) and math.isfinite(value)
            if not (is_number or (kind is not float and type(value) is kind)):
                raise InputError(f"tuning: {field.name} is {value!r}; expected {names[kind]}")  # type: ignore[index]

    def as_mapping(self) -> dict[str, Any]:
        """The settings as recipes are stored; what older versions did not write is left out, so that digests
        stay.
        """
        left_out = {name for name in _LATER_SETTINGS if getattr(self, name) == getattr(Tuning, name)}
        if self.class_weight == UNCORRECTED:
            left_out.add("class_weight")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a source's numbers: the network, its weights, preprocessing and tuning.

    Attributes
    ----------
    source : str
        Its name in the cache; not part of the digest.
    weights : str
        SHA-256 of the pretrained weights' file and of the choices made from it; ``"random"`` without a file,
        ``"none"`` for a network without weights.
    preprocessing : str
        Canonical JSON.
    depth : str
        One of `DEPTHS`, or ``"last:N"``; ``"imported"``: made elsewhere by networks that saw labels of the
        clips outside a holdout.
    tuning : Tuning or None
        `None` where `depth` is ``"frozen"`` or ``"imported"``.
    embedding_tuned : bool
        Whether the tuned layers lie before the embedding.
    architecture : str
        Canonical JSON that builds the network where its name does not say how; of an import
        ``{"made_by": source}`` where the user named the network that made it; otherwise empty.
    """

    source: str
    network: str
    network_version: int
    weights: str
    preprocessing: str
    depth: str
    tuning: Tuning | None
    embedding_tuned: bool
    precision: str = "fp32"
    device: str = "cpu"
    batch: int = 1
    threads: int = 2
    compile: bool = False
    seed: int = 0
    architecture: str = ""

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS and last_blocks(self.depth) is None:
            known = ", ".join((*DEPTHS, "last:N"))
            raise InputError(f"{self.source}: tuning depth {self.depth!r} is unknown; known: {known}")
        if (self.tuning is None) != (self.depth in ("frozen", "imported")):
            raise InputError(f"{self.source}: depth {self.depth!r} and tuning settings do not agree")

    @cached_property
    def digest16(self) -> str:
        """Name of the recipe in the cache."""
        return digest16({key: value for key, value in self._as_mapping().items() if key != "source"})

    @property
    def sees_labels(self) -> bool:
        """Whether its networks saw labels, so that there is one per holdout."""
        return self.depth != "frozen"

    @property
    def tunes_trunk(self) -> bool:
        """Whether its networks are tuned whole or in their last blocks, so that each is stored whole."""
        return self.depth == "full" or last_blocks(self.depth) is not None

    @property
    def made_by(self) -> str:
        """The source whose network made imported features, as the user named it; empty for other recipes."""
        if self.network != IMPORT or not self.architecture:
            return ""
        return str(json.loads(self.architecture)["made_by"])

    @cached_property
    def modality(self) -> Modality | None:
        """The modality that the network reads; `None` for imported features, which every clip has."""
        if self.network == IMPORT:
            return None
        kind = json.loads(self.preprocessing).get("kind")
        return "sound" if kind == "audio" else "picture"

    @property
    def declared_modality(self) -> Modality | None:
        """The modality of a network, or the one that the user declared for imported features, if any."""
        if self.network != IMPORT:
            return self.modality
        declared: Modality | None = json.loads(self.preprocessing).get("modality")
        return declared

    def to_json(self) -> str:
        """The recipe as canonical JSON; `recipe_from_mapping` reads its object back."""
        return canonical_json(self._as_mapping())

    def _as_mapping(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.tuning is not None:
            values["tuning"] = self.tuning.as_mapping()
        if not self.architecture:
            del values["architecture"]  # older versions had none
        return values


def last_blocks(depth: str) -> int | None:
    """The N of depth ``last:N``; `None` for another depth."""
    match = _LAST.fullmatch(depth)
    return int(match[1]) if match else None


def list_modalities(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """The modalities that recipes read, sorted; for imports ``"features"``, which every clip has."""
    return tuple(sorted({recipe.modality or "features" for recipe in recipes}))


def recipe_from_mapping(values: Mapping[str, Any]) -> Recipe:
    """Read a recipe back from its JSON object; `TypeError` on unknown or missing keys."""
    tuning = values.get("tuning")
    if tuning is not None:
        tuning = Tuning(**{"class_weight": UNCORRECTED, **tuning})
    return Recipe(**{**values, "tuning": tuning})


def import_recipe(
    source: str, *, sees_labels: bool, made_by: str = "", modality: Modality | None = None
) -> Recipe:
    """Recipe of features that were made elsewhere.

    `made_by` is the source whose network made them, and `modality` is what that network read, if declared.
    """
    preprocessing = {"kind": IMPORT, "source": source}
    if modality is not None:
        preprocessing["modality"] = modality
    return Recipe(
        source=source,
        network=IMPORT,
        network_version=1,
        weights="imported",
        preprocessing=canonical_json(preprocessing),
        depth="imported" if sees_labels else "frozen",
        tuning=None,
        embedding_tuned=sees_labels,
        architecture=canonical_json({"made_by": made_by}) if made_by else "",
    )


def find_import_recipe(source: str, digest: str) -> Recipe | None:
    """The recipe of an import, from its name and digest alone; `None` where no import has this digest."""
    recipes = (
        import_recipe(source, sees_labels=sees_labels, modality=modality)
        for sees_labels in (False, True)
        for modality in _DECLARED
    )
    return next((recipe for recipe in recipes if recipe.digest16 == digest), None)


def frozen_counterpart(recipe: Recipe) -> Recipe:
    """The recipe of the same network with nothing tuned: its activations serve the heads of every recipe."""
    if recipe.depth == "frozen":
        return recipe
    return replace(recipe, source=recipe.network, depth="frozen", tuning=None, embedding_tuned=False)
