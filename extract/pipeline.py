"""Stage one: examine clips, update the fold plan, and compute the features that are missing from the cache."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.folds import can_cross_fit, check_fold_numbers, next_plan, plan_line, repeat_plan
from moodfuse.cache.labels import label_warnings
from moodfuse.cache.media import MediaStore
from moodfuse.cache.recipe import Recipe, modalities_of
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.cluster import ClusterTask, compute_on_cluster, decode_on_cluster, portable_settings
from moodfuse.extract.dataset.duplicates import audit_cache, audit_lines
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.failures import refusal_lines
from moodfuse.extract.media.limits import Limits
from moodfuse.extract.media_supply import media_supply
from moodfuse.extract.pending import Work, remaining
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe, name_in_cache, option_names
from moodfuse.extract.settings import ExtractSettings
from moodfuse.extract.training.estimate import weights_line, work_lines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What `extract` did.

    Attributes
    ----------
    clips, refused : sequence of ClipStatus
        Clips of the plan, and clips that could not be read.
    tuned, embedded : int
        Networks tuned; clips passed through a network, counted once per network.
    dry_run : bool
    """

    clips: Sequence[ClipStatus]
    refused: Sequence[ClipStatus]
    tuned: int
    embedded: int
    dry_run: bool = False


class RefusedClipsError(MoodfuseError):
    """Clips were refused under --strict."""


def extract_features(settings: ExtractSettings, *, report: Callable[[str], None] = log.info) -> Extraction:
    """Run stage one.

    Parameters
    ----------
    settings : ExtractSettings
    report : callable
        Called with each line for the user.

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
    settings = _completed(settings, recipes)
    data = scan_data(settings.data, group_pattern=settings.group_pattern, audio_files=settings.impute)
    for line in data.messages:
        report(line)
    check_fold_numbers(data.clips)
    for line in label_warnings(data.clips):
        report(f"WARNING {line}")
    cache = FeatureCache(settings.cache, create=True)
    recipes = [replace(recipe, source=name_in_cache(cache, recipe)) for recipe in recipes]
    with media_supply(cache, recipes, settings, report) as media:
        task = ClusterTask(settings, tuple(recipes)) if settings.scheduler is not None else None
        if task is not None:
            decode_on_cluster(task, data.clips)
        if not settings.keep_media:
            for recipe in recipes:
                report(weights_line(recipe.source, settings))
        statuses = media.examine(data.clips)
        refused = tuple(status for status in statuses if not status.ok)
        for line in _status_lines(statuses):
            report(line)
        if refused and settings.strict:
            raise RefusedClipsError(
                f"{len(refused)} of {len(statuses)} clips refused, and --strict is set; no features were written"
            )
        before = dict(cache.plans[-1].assignment) if cache.plans else {}
        _write_plans(cache, statuses, settings)
        for line in (*_plan_lines(cache, before, settings, recipes), *_duplicate_lines(cache)):
            report(line)
        todo = [remaining(cache, recipe, settings.networks) for recipe in recipes]
        for line in work_lines(todo, settings, cache.classes):
            report(line)
        if settings.dry_run:
            return Extraction(cache.clips, refused, 0, 0, dry_run=True)
        tuned, embedded = 0, 0
        if task is not None:
            tuned, embedded = compute_on_cluster(task, media.supply(todo))
            cache = FeatureCache(settings.cache)
            todo = [
                remaining(cache, recipe, settings.networks) for recipe in recipes
            ]  # damaged parts, if any
        for work in media.supply(todo):
            counts = _compute(cache, work, settings, media.store(work.recipe))
            tuned, embedded = tuned + counts[0], embedded + counts[1]
    cache.select(recipes, command=settings.command, reading=_reading_options(settings))
    return Extraction(cache.clips, refused, tuned, embedded + media.embedded)


def _check_options_used(choice: RecipeChoice, sources: Sequence[str]) -> None:
    names = {name for source in sources for name in option_names(source)}
    for option, values in (("--tune", choice.depths), ("--weights", choice.weights)):
        if unused := sorted(set(values) - names):
            raise InputError(
                f"{option} names {unused[0]!r}, not a source of this run ({', '.join(sources)}); "
                f"add --source {unused[0]}, or correct the name"
            )


def _completed(settings: ExtractSettings, recipes: Sequence[Recipe]) -> ExtractSettings:
    """Settings with the modalities that all sources read, and for a cluster with absolute paths."""
    modalities = modalities_of(recipes)
    plan, networks = (
        replace(settings.plan, modalities=modalities),
        replace(settings.networks, modalities=modalities),
    )
    settings = replace(settings, plan=plan, networks=networks)
    return settings if settings.scheduler is None else portable_settings(settings)


def _status_lines(statuses: Sequence[ClipStatus]) -> Iterator[str]:
    """The refused clips with their reasons, and warnings about the others."""
    refused = [status for status in statuses if not status.ok]
    yield from (f"refused {status.clip.id}: {status.reason}: {status.detail}" for status in refused)
    if refused:
        yield from refusal_lines([status.reason for status in refused])
    usable = (status for status in statuses if status.ok and status.detail)
    yield from (f"WARNING {status.clip.id}: {status.detail}" for status in usable)


def _write_plans(cache: FeatureCache, statuses: Sequence[ClipStatus], settings: ExtractSettings) -> None:
    """Put the plan and those of further repeats in force; all are decided before any is written."""
    plan, modalities = next_plan(cache.plans, statuses, settings.plan), settings.plan.modalities
    repeats = range(1, settings.networks.repeats)
    further = [
        repeat_plan(plan, cache.plans_of(repeat), statuses, repeat, modalities=modalities)
        for repeat in repeats
    ]
    for decided in (plan, *further):
        cache.write_plan(decided, statuses)


def _plan_lines(
    cache: FeatureCache, before: Mapping[str, int], settings: ExtractSettings, recipes: Sequence[Recipe]
) -> Iterator[str]:
    """The plan in force, what changed since the plan `before`, and whether cross-fitting is off."""
    plan, clips = cache.plan, cache.clips
    yield plan_line(plan, clips)
    assignment = dict(plan.assignment)
    added = len(assignment.keys() - before.keys())
    moved = sum(assignment[digest] != fold for digest, fold in before.items() if digest in assignment)
    if before and (moved or added):
        yield f"plan: {added} clip(s) added, {moved} moved to another fold"
    crossfit = settings.networks.crossfit and any(recipe.tuning for recipe in recipes)
    if crossfit and not can_cross_fit(plan, clips, settings.networks.modalities):
        yield "some class has no clips left once two folds are held out, so cross-fitting is off"


def _duplicate_lines(cache: FeatureCache) -> Iterator[str]:
    """Clips with identical files, and clips of different groups that may be duplicates."""
    copies: dict[str, dict[str, str]] = {}
    for status in cache.clips:
        copies.setdefault(status.file_sha256, {}).setdefault(status.clip.path, status.clip.id)
    for ids in copies.values():
        if len(ids) > 1:
            yield f"the same file {len(ids)} times, so one group: {', '.join(sorted(ids.values()))}"
    audit = audit_cache(cache)
    if audit is not None and any(not finding.grouped for finding in audit.findings):
        yield from (line if line.startswith(" ") else f"WARNING {line}" for line in audit_lines(audit))


def _compute(
    cache: FeatureCache, work: Work, settings: ExtractSettings, store: MediaStore
) -> tuple[int, int]:
    cache.write_recipe(work.recipe)
    if work.is_empty:
        return 0, 0
    from moodfuse.extract.training.tune_networks import compute_source  # importing torch takes seconds

    return compute_source(cache, work, settings, store)


def _reading_options(settings: ExtractSettings) -> dict[str, str | int | float | bool]:
    """Options other than the defaults that decide how files are read; an exported model needs them."""
    limits, defaults = settings.rules.limits, Limits()
    options: dict[str, tuple[str | int | float | bool, bool]] = {
        "missing": ("impute", settings.impute),
        "allow-partial": (True, settings.rules.allow_partial),
        "deadline": (limits.deadline_s, limits.deadline_s != defaults.deadline_s),
        "memory": (limits.memory_mb, limits.memory_mb != defaults.memory_mb),
        "group-pattern": (settings.group_pattern or "", settings.group_pattern is not None),
    }
    return {name: value for name, (value, given) in options.items() if given}
