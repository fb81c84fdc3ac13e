"""Settings of `extract`."""

from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.cache.folds import MODALITIES, PlanChoice
from moodfuse.extract.media.limits import ReadingRules
from moodfuse.extract.recipe_files import RecipeChoice

DEFAULT_SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")


@dataclass(frozen=True)
class NetworkChoice:
    """Which networks to tune per source, besides one per fold."""

    crossfit: bool = True  # one for every pair of folds, if the modalities that all sources read allow it
    leaky: bool = False  # one that is tuned on all clips
    repeats: int = 1  # number of fold plans
    modalities: tuple[str, ...] = MODALITIES  # that the sources of the command read


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of `extract_features`."""

    data: Path
    cache: Path
    sources: tuple[str, ...] = DEFAULT_SOURCES
    plan: PlanChoice = field(default_factory=PlanChoice)
    recipes: RecipeChoice = field(default_factory=RecipeChoice)
    networks: NetworkChoice = field(default_factory=NetworkChoice)
    impute: bool = False  # whether clips without an audio or video stream are accepted
    group_pattern: str | None = None  # regular expression that finds a clip's group in its id
    command: str = ""  # the command line, stored in the cache for reports
    jobs: int = 2  # decoding processes
    rules: ReadingRules = field(default_factory=ReadingRules)
    scheduler: str | None = None  # address of a Dask cluster that does the work
    keep_media: bool = True  # in the cache; otherwise a clip passes all networks while it is in memory
    dry_run: bool = False
    strict: bool = False
