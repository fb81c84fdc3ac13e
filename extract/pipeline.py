"""Stage one end to end: examine clips, keep the plan, say what is missing, compute it, leave blocks in the cache."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.folds import can_cross_fit, check_fold_numbers
from moodfuse.cache.planning import PlanChoice, next_plan, repeat_plan
from moodfuse.cache.recipe import frozen_counterpart, views_of
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.labels import label_warnings
from moodfuse.extract.block_writer import Shelf, write_rows
from moodfuse.extract.cluster import Task, spread_decoding, spread_settings, spread_work
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.failures import refusal_lines
from moodfuse.extract.media.limits import Limits, ReadingRules
from moodfuse.extract.media_supply import MediaSupply
from moodfuse.extract.pending import Wanted, Work, remaining
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe, option_names
from moodfuse.extract.runtime import give_back_freed_memory
from moodfuse.extract.sharing import shared_order
from moodfuse.extract.streaming import media_supply
from moodfuse.extract.training.announce import announce, say_audit, say_copies, say_plan, say_weights

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)
DEFAULT_SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")


@dataclass(frozen=True)
class ExtractSettings:
    """What `extract` is asked to do.

    Attributes
    ----------
    data, cache : Path
    sources : tuple of str
    plan : PlanChoice
    recipes : RecipeChoice
    networks : Wanted
    impute : bool
        Whether a clip without sound or without picture is kept.
    group_pattern : str or None
        Regular expression that finds a clip's group in its id.
    command : str
        The command line, kept in the cache for reports.
    jobs : int
        Decoding processes.
    rules : ReadingRules
        What each clip may cost, and which are taken.
    scheduler : str or None
        Address of a Dask cluster that does the work; otherwise it is done here.
    keep_media : bool
        Whether what was decoded stays in the cache; otherwise each clip passes all networks while it is in memory.
    dry_run, strict : bool
    """

    data: Path
    cache: Path
    sources: tuple[str, ...] = DEFAULT_SOURCES
    plan: PlanChoice = field(default_factory=PlanChoice)
    recipes: RecipeChoice = field(default_factory=RecipeChoice)
    networks: Wanted = field(default_factory=Wanted)
    impute: bool = False
    group_pattern: str | None = None
    command: str = ""
    jobs: int = 2
    rules: ReadingRules = field(default_factory=ReadingRules)
    scheduler: str | None = None
    keep_media: bool = True
    dry_run: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Extraction:
    """What `extract` did.

    Attributes
    ----------
    clips, refused : sequence of ClipStatus
        Clips of the plan, and clips that could not be read.
    tuned, embedded : int
        Networks tuned; clips passed through a network, counted once a network.
    dry_run : bool
    """

    clips: Sequence[ClipStatus]
    refused: Sequence[ClipStatus]
    tuned: int
    embedded: int
    dry_run: bool = False


class RefusedClipsError(MoodfuseError):
    """Clips were refused under --strict."""


def extract_features(settings: ExtractSettings, *, say: Callable[[str], None] = log.info) -> Extraction:
    """Run stage one.

    Parameters
    ----------
    settings : ExtractSettings
    say : callable
        Takes each line that the user should read.

    Raises
    ------
    InputError
        If data, options or the plan cannot be used; nothing is computed then.
    RefusedClipsError
        If a clip was refused and `strict` is set.
    """
    sources = tuple(dict.fromkeys(settings.recipes.source(name) for name in settings.sources))
    _check_options_used(settings.recipes, sources)
    recipes = [build_recipe(source, settings.recipes) for source in sources]
    settings = _completed(settings, views_of(recipes))
    data = scan_data(settings.data, group_pattern=settings.group_pattern, audio_files=settings.impute)
    clips = data.clips
    for line in data.messages:
        say(line)
    check_fold_numbers(clips)
    for line in label_warnings(clips):
        say(f"WARNING {line}")
    cache = FeatureCache(settings.cache, create=True)
    with media_supply(cache, recipes, settings, say) as media:
        task = Task(settings, tuple(recipes)) if settings.scheduler is not None else None
        if task is not None:
            spread_decoding(task, clips)
        if not settings.keep_media:
            say_weights(recipes, settings, say)
        statuses = media.examine(clips)
        refused = _refused(statuses, settings, say)
        before = dict(cache.plans[-1].assignment) if cache.plans else {}
        _write_plans(cache, statuses, settings)
        say_plan(cache, before, say)
        say_copies(cache, say)
        say_audit(cache, say)
        tunes = any(recipe.tuning for recipe in recipes)
        if (
            settings.networks.crossfit
            and tunes
            and not can_cross_fit(cache.plan, cache.clips, settings.networks.views)
        ):
            say("some class is gone once two folds are left out, so cross-fitting is off")
        todo = [remaining(cache, recipe, settings.networks) for recipe in recipes]
        announce(cache, settings, todo, say)
        if settings.dry_run:
            return Extraction(cache.clips, refused, 0, 0, dry_run=True)
        tuned, embedded = 0, 0
        if task is not None:
            tuned, embedded = spread_work(task, media.supply(todo))
            cache = FeatureCache(settings.cache)
            todo = [
                remaining(cache, recipe, settings.networks) for recipe in recipes
            ]  # nothing, or what got damaged
        for item in media.supply(todo):
            counts = compute(cache, item, settings, media)
            tuned, embedded = tuned + counts[0], embedded + counts[1]
    cache.select(recipes, command=settings.command, reading=_reading(settings))
    return Extraction(cache.clips, refused, tuned, embedded + media.embedded)


def _reading(settings: ExtractSettings) -> dict[str, str | int | float | bool]:
    """Options that decide how files are read, where they differ from the defaults; an exported model needs them."""
    limits, usual = settings.rules.limits, Limits()
    options: dict[str, tuple[str | int | float | bool, bool]] = {
        "missing": ("impute", settings.impute),
        "allow-partial": (True, settings.rules.allow_partial),
        "deadline": (limits.deadline_s, limits.deadline_s != usual.deadline_s),
        "memory": (limits.memory_mb, limits.memory_mb != usual.memory_mb),
        "group-pattern": (settings.group_pattern or "", settings.group_pattern is not None),
    }
    return {name: value for name, (value, given) in options.items() if given}


def _completed(settings: ExtractSettings, views: tuple[str, ...]) -> ExtractSettings:
    """Settings with what all sources read of a clip, and as they are sent to other machines where some do the work."""
    plan, networks = replace(settings.plan, views=views), replace(settings.networks, views=views)
    settings = replace(settings, plan=plan, networks=networks)
    return settings if settings.scheduler is None else spread_settings(settings)


def _refused(
    statuses: Sequence[ClipStatus], settings: ExtractSettings, say: Callable[[str], None]
) -> tuple[ClipStatus, ...]:
    """Name the clips that could not be read, or not whole; under `strict` all must be readable."""
    refused = tuple(status for status in statuses if not status.ok)
    for status in refused:
        say(f"refused {status.clip.id}: {status.reason}: {status.detail}")
    if refused:
        for line in refusal_lines([status.reason for status in refused]):
            say(line)
    for status in statuses:
        if status.ok and status.detail:
            say(f"WARNING {status.clip.id}: {status.detail}")
    if refused and settings.strict:
        raise RefusedClipsError(
            f"{len(refused)} of {len(statuses)} clips refused, and --strict is set; no features were written"
        )
    return refused


def _write_plans(cache: FeatureCache, statuses: Sequence[ClipStatus], settings: ExtractSettings) -> None:
    """Put the plan in force, and those of further repeats; all are decided before any is written."""
    plan = next_plan(cache.plans, statuses, settings.plan)
    repeats = range(1, settings.networks.repeats)
    views = settings.plan.views
    further = [repeat_plan(plan, cache.plans_of(repeat), statuses, repeat, views=views) for repeat in repeats]
    for item in (plan, *further):
        cache.write_plan(item, statuses)


def _check_options_used(choice: RecipeChoice, sources: Sequence[str]) -> None:
    for option, named in (("--tune", choice.depths), ("--weights", choice.weights)):
        if unused := sorted(set(named) - {name for source in sources for name in option_names(source)}):
            raise InputError(
                f"{option} names {unused[0]!r}, not a source of this run ({', '.join(sources)}); "
                f"add --source {unused[0]}, or correct the name"
            )


def compute(
    cache: FeatureCache, item: Work, settings: ExtractSettings, media: MediaSupply
) -> tuple[int, int]:
    """Compute what is missing of one source; returns how many networks were tuned and clips embedded."""
    cache.write_recipe(item.recipe)
    if not (item.trunk or item.networks or item.body):
        return 0, 0
    try:
        return _computed(cache, item, settings, media)
    finally:
        give_back_freed_memory()


def _computed(
    cache: FeatureCache, item: Work, settings: ExtractSettings, media: MediaSupply
) -> tuple[int, int]:
    from moodfuse.extract.embed import SourceWorker, make_network
    from moodfuse.extract.training.abreast import Source, processes_for, tune_abreast
    from moodfuse.extract.training.trunk_weights import keep_body

    weights = settings.recipes.weights_of(item.recipe.source)
    network = make_network(item.recipe, weights, len(cache.classes))
    if item.body:
        keep_body(cache.network_path(item.recipe, None), item.recipe, network)
    store = media.store(item.recipe)
    worker = SourceWorker(item.recipe, network, store)
    embedded = 0
    if item.trunk:
        frozen = frozen_counterpart(item.recipe)
        cache.write_recipe(frozen)
        title = f"{item.recipe.source} *: embedding"
        embedded += write_rows(Shelf(cache, frozen, None), item.trunk, worker.frozen_rows, title=title)
    if not item.networks:
        return 0, embedded
    source = Source(cache.path, item.recipe, weights, store)
    networks, abreast = shared_order(item.networks), processes_for(item, settings.jobs)
    tuned, more = tune_abreast(
        cache, worker, source, [networks[number::abreast] for number in range(abreast)]
    )
    return tuned, embedded + more
