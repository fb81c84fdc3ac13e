"""Recipes: everything that decides a source's numbers, as one record with one digest."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import InputError

Modality = Literal["sound", "picture"]
"""Names of the modalities in files, which are part of the format."""
MODALITY_NAMES = {"sound": "audio", "picture": "video"}
"""Name of a modality in files to its name in messages."""
Depth = Literal["frozen", "head", "full", "imported"]
DEPTHS: tuple[Depth, ...] = ("frozen", "head", "full", "imported")
IMPORT = "import"
"""Network of features that were made elsewhere."""
OPTIMIZERS = ("adam", "adamw", "sgd")
UNCORRECTED = "uncorrected"
"""Class weights of networks in older caches: balanced, and the logits were not corrected for it."""
CLASS_WEIGHTS = ("none", "balanced", UNCORRECTED)


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

    def __post_init__(self) -> None:
        if self.class_weight not in CLASS_WEIGHTS:
            known = ", ".join(CLASS_WEIGHTS[:2])
            raise InputError(f"tuning: class_weight is {self.class_weight!r}; expected one of: {known}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r} is unknown; known: {', '.join(OPTIMIZERS)}")
        least = dict.fromkeys(("epochs", "patience", "batch"), 1) | {
            "stop_folds": 2,
            "crop_s": 0,
            "gain_db": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InputError(f"tuning: {name} is {getattr(self, name)}; expected {minimum} or more")
        if self.learning_rate <= 0:
            raise InputError(f"tuning: learning_rate is {self.learning_rate}; expected more than 0")


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
        One of `DEPTHS`; ``"imported"``: made elsewhere by networks that saw labels of the clips outside a
        holdout.
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
    depth: Depth
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
        if self.depth not in DEPTHS:
            known = ", ".join(DEPTHS)
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

    def to_json(self) -> str:
        """The recipe as canonical JSON; `recipe_from_mapping` reads its object back."""
        return canonical_json(self._as_mapping())

    def _as_mapping(self) -> dict[str, Any]:
        values = asdict(self)
        if self.tuning is not None and self.tuning.class_weight == UNCORRECTED:
            del values["tuning"]["class_weight"]  # as older versions wrote it, so that digests stay
        if not self.architecture:
            del values["architecture"]  # older versions had none
        return values


def list_modalities(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """The modalities that recipes read, sorted; for imports ``"features"``, which every clip has."""
    return tuple(sorted({recipe.modality or "features" for recipe in recipes}))


def recipe_from_mapping(values: Mapping[str, Any]) -> Recipe:
    """Read a recipe back from its JSON object; `TypeError` on unknown or missing keys."""
    tuning = values.get("tuning")
    if tuning is not None:
        tuning = Tuning(**{"class_weight": UNCORRECTED, **tuning})
    return Recipe(**{**values, "tuning": tuning})


def import_recipe(source: str, *, sees_labels: bool, made_by: str = "") -> Recipe:
    """Recipe of features that were made elsewhere; `made_by` is the source whose network made them."""
    return Recipe(
        source=source,
        network=IMPORT,
        network_version=1,
        weights="imported",
        preprocessing=canonical_json({"kind": IMPORT, "source": source}),
        depth="imported" if sees_labels else "frozen",
        tuning=None,
        embedding_tuned=sees_labels,
        architecture=canonical_json({"made_by": made_by}) if made_by else "",
    )


def find_import_recipe(source: str, digest: str) -> Recipe | None:
    """The recipe of an import, from its name and digest alone; `None` where no import has this digest."""
    recipes = (import_recipe(source, sees_labels=sees_labels) for sees_labels in (False, True))
    return next((recipe for recipe in recipes if recipe.digest16 == digest), None)


def frozen_counterpart(recipe: Recipe) -> Recipe:
    """The recipe of the same network with nothing tuned: its activations serve the heads of every recipe."""
    if recipe.depth == "frozen":
        return recipe
    return replace(recipe, source=recipe.network, depth="frozen", tuning=None, embedding_tuned=False)
