"""Stage one: examine clips, update the fold plan, and compute the features that are missing from the cache.

Its parts can be tasks of a Dask cluster, whose workers share the cache folder: a task writes its results into
the cache and returns counts. The task of a worker that died is run by another one; a task that ran twice
writes the same rows twice.
"""

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from moodfuse.cache.cluster import Call, run_on_cluster
from moodfuse.cache.csv_rows import describe_doubtful_labels
from moodfuse.cache.errors import CacheError, InputError, MoodfuseError, UnknownNameError
from moodfuse.cache.feasibility import check_feasible
from moodfuse.cache.folds import can_cross_fit, next_plan, plan_line, repeat_plan
from moodfuse.cache.manifest import MARKER
from moodfuse.cache.media import MediaStore
from moodfuse.cache.recipe import Recipe, list_modalities
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.terminal import track
from moodfuse.extract.dataset.duplicates import (
    audit_cache,
    describe_audit,
    describe_copies,
    describe_series,
)
from moodfuse.extract.dataset.ingest import DecodeSettings
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.estimate import describe_export, describe_work
from moodfuse.extract.media.limits import Limits
from moodfuse.extract.media_supply import KeptMedia, media_supply, open_source_media
from moodfuse.extract.pending import Work, find_work
from moodfuse.extract.progress import describe_statuses
from moodfuse.extract.recipe_files import (
    RecipeChoice,
    build_recipe,
    name_hf_sources,
    name_in_cache,
    option_names,
    source_weights,
)
from moodfuse.extract.settings import ExtractSettings

log = logging.getLogger(__name__)
T = TypeVar("T")
CLIPS_PER_TASK = 32
NETWORKS_PER_TASK = 4


@dataclass(frozen=True)
class Extraction:
    """What `extract` did."""

    clips: Sequence[ClipStatus]  # of the plan
    refused: Sequence[ClipStatus]  # clips that could not be read
    tuned: int  # networks
    embedded: int  # clips, counted once per network that they passed


class RefusedClipsError(MoodfuseError):
    """Clips were refused under --strict."""


def extract_features(settings: ExtractSettings, *, report: Callable[[str], None] = log.info) -> Extraction:
    """Run stage one; `report` is called with each line for the user.

    Raises `InputError` if data, options or the plan cannot be used; `RefusedClipsError` if a clip was refused
    and `strict` is set.
    """
    names, choice = name_hf_sources(settings.sources, settings.recipes)
    settings = replace(settings, sources=names, recipes=choice)
    sources = tuple(dict.fromkeys(settings.recipes.source(name) for name in names))
    _check_options_used(settings.recipes, sources)
    recipes = [build_recipe(source, settings.recipes) for source in sources]
    settings = _completed(settings, recipes)
    has_cache = (settings.cache / MARKER).is_file()
    if settings.group_pattern is None and settings.data.is_dir() and has_cache:
        pattern = FeatureCache(settings.cache).reading.get("group-pattern")
        if pattern is not None:
            report(f"groups as in the cache: --group-pattern {shlex.quote(pattern)}; '' is for no pattern")
            settings = replace(settings, group_pattern=pattern)
    settings = replace(settings, group_pattern=settings.group_pattern or None)
    data = scan_data(settings.data, group_pattern=settings.group_pattern, audio_files=settings.impute)
    warnings = (f"WARNING {line}" for line in describe_doubtful_labels(data.clips))
    for line in (*data.messages, *warnings, *_weights_lines(recipes, settings)):
        report(line)
    if not has_cache:  # a cache already has a plan
        check_feasible(data.clips, settings.plan)
    cache = FeatureCache(settings.cache, create=True)
    recipes = [replace(recipe, source=name_in_cache(cache, recipe)) for recipe in recipes]
    for line in _version_lines(cache, recipes):
        report(line)
    with media_supply(cache, recipes, settings) as media:
        if settings.scheduler is not None:
            decode_on_cluster(settings, recipes, data.clips)
        statuses = media.decode_dataset(data.clips)
        refused = tuple(status for status in statuses if not status.ok)
        for line in describe_statuses(statuses):
            report(line)
        if refused and settings.strict:
            raise RefusedClipsError(
                f"{len(refused)} of {len(statuses)} clips refused; no features written (--strict)"
            )
        before = dict(cache.plans[-1].assignment) if cache.plans else {}
        _write_plans(cache, statuses, settings)
        todo = [find_work(cache, recipe, settings.networks) for recipe in recipes]
        plan_lines = _plan_lines(cache, before, settings, recipes)
        audit_lines = (*_duplicate_lines(cache), *describe_series(cache.clips, settings.group_pattern))
        for line in (*plan_lines, *audit_lines, _export_line(cache, settings, recipes)):
            report(line)
        for line in describe_work(todo, settings, cache.classes):
            report(line)
        if settings.dry_run:
            return Extraction(cache.clips, refused, 0, 0)
        for recipe in recipes:
            cache.write_recipe(recipe)
        tuned, embedded = 0, 0
        if settings.scheduler is not None:
            tuned, embedded = compute_on_cluster(settings, media.supply(todo))
            cache = FeatureCache(settings.cache)
            todo = [find_work(cache, recipe, settings.networks) for recipe in recipes]  # if parts are damaged
        for work in media.supply(todo):
            counts = _compute(cache, work, settings, media.store(work.recipe))
            tuned, embedded = tuned + counts[0], embedded + counts[1]
    cache.select(recipes, command=settings.command, reading=_reading_options(settings))
    return Extraction(cache.clips, refused, tuned, embedded + media.embedded)


def _weights_lines(recipes: Sequence[Recipe], settings: ExtractSettings) -> Iterator[str]:
    """Which weights each source starts from."""
    for recipe in recipes:
        source = recipe.source
        if facts := source_weights(source, settings.recipes):
            yield f"{source}: weights {facts}"
        elif recipe.weights == "random":
            yield (
                f"WARNING {source}: no pretrained weights, so it starts from RANDOM values "
                f"(--weights {source}=FILE)"
            )


def _version_lines(cache: FeatureCache, recipes: Sequence[Recipe]) -> Iterator[str]:
    """Which sources the cache holds as an earlier version of their network computed them."""
    for recipe in recipes:
        try:
            earlier = cache.recipe(recipe.source).network_version
        except (UnknownNameError, CacheError):  # not in the cache, or its folder was deleted
            continue
        if earlier != recipe.network_version:
            yield (
                f"{recipe.source}: the cache has features of version {earlier} of {recipe.network}; "
                f"those of version {recipe.network_version} differ and are computed again"
            )


def _check_options_used(choice: RecipeChoice, sources: Sequence[str]) -> None:
    names = {name for source in sources for name in option_names(source)}
    options = {"--tune": choice.depths, "--weights": choice.weights, "--frames": choice.frames}
    for option, values in options.items():
        if unused := sorted(set(values) - names):
            raise InputError(
                f"{option} names {unused[0]!r}, not a source of this run ({', '.join(sources)}); "
                f"add --source {unused[0]}, or correct the name"
            )


def _completed(settings: ExtractSettings, recipes: Sequence[Recipe]) -> ExtractSettings:
    """Settings with the modalities that all sources read; for a cluster also with absolute paths."""
    modalities = list_modalities(recipes)
    plan = replace(settings.plan, modalities=modalities)
    settings = replace(settings, plan=plan, networks=replace(settings.networks, modalities=modalities))
    if settings.scheduler is None:
        return settings
    if not settings.keep_media:
        raise InputError(
            "--scheduler needs decoded media in the cache, where all workers find it; drop --no-keep-media"
        )
    weights = settings.recipes.weights.items()
    files = {name: str(Path(file).absolute()) if Path(file).exists() else file for name, file in weights}
    recipe_choice = replace(settings.recipes, weights=files)
    return replace(
        settings, data=settings.data.absolute(), cache=settings.cache.absolute(), recipes=recipe_choice
    )


def _write_plans(cache: FeatureCache, statuses: Sequence[ClipStatus], settings: ExtractSettings) -> None:
    """Write the plan and those of further repeats; all are decided before any is written."""
    plan, modalities = next_plan(cache.plans, statuses, settings.plan), settings.plan.modalities
    further = [
        repeat_plan(plan, cache.plans_of_repeat(repeat), statuses, repeat, modalities=modalities)
        for repeat in range(1, settings.networks.repeats)
    ]
    for decided in (plan, *further):
        cache.write_plan(decided, statuses)


def _plan_lines(
    cache: FeatureCache, before: Mapping[str, int], settings: ExtractSettings, recipes: Sequence[Recipe]
) -> Iterator[str]:
    """The current plan, what changed since the plan `before`, and whether cross-fitting is off."""
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


def _export_line(cache: FeatureCache, settings: ExtractSettings, recipes: Sequence[Recipe]) -> str:
    """Which results can be exported as models afterwards."""
    choice, without = settings.networks, []
    for recipe in recipes:
        everything = cache.training_clips(recipe, ())
        if everything is not None and not (choice.leaky or cache.has_record(recipe, everything)):
            without.append(recipe)
    crossfit = choice.crossfit and can_cross_fit(cache.plan, cache.clips, choice.modalities)
    return describe_export(without, crossfit=crossfit)


def _duplicate_lines(cache: FeatureCache) -> Iterator[str]:
    """Clips with identical files, and clips of different groups that may be duplicates."""
    yield from describe_copies(cache.clips)
    audit = audit_cache(cache)
    if audit is not None and any(not finding.grouped for finding in audit.findings):
        yield from (line if line.startswith(" ") else f"WARNING {line}" for line in describe_audit(audit))


def _compute(
    cache: FeatureCache, work: Work, settings: ExtractSettings, store: MediaStore
) -> tuple[int, int]:
    if work.is_empty:
        return 0, 0
    from moodfuse.extract.training.tune_networks import compute_source  # importing torch takes seconds

    return compute_source(cache, work, settings, store)


def _reading_options(settings: ExtractSettings) -> dict[str, str | int | float | bool]:
    """Options other than the defaults that decide how files are read; an exported model needs them."""
    limits, defaults = settings.rules.limits, Limits()
    options: dict[str, str | int | float | bool] = {}
    if settings.impute:
        options["missing"] = "impute"
    if settings.rules.allow_partial:
        options["allow-partial"] = True
    if limits.deadline_s != defaults.deadline_s:
        options["deadline"] = limits.deadline_s
    if limits.memory_mb != defaults.memory_mb:
        options["memory"] = limits.memory_mb
    if settings.group_pattern is not None:
        options["group-pattern"] = settings.group_pattern
    return options


# On a cluster


def decode_on_cluster(settings: ExtractSettings, recipes: Sequence[Recipe], clips: Sequence[Clip]) -> None:
    """Decode clips; afterwards the cache holds the outcome of each."""
    calls: list[Call] = [(decode_task, (settings, recipes, part)) for part in _split(clips, CLIPS_PER_TASK)]
    _run_tasks(settings, calls, what="Decoding on the cluster")


def compute_on_cluster(settings: ExtractSettings, todo: Sequence[Work]) -> tuple[int, int]:
    """Compute the missing parts of all sources, and count as `compute_source`.

    All trunks come first, since heads are tuned on their activations.
    """
    trunks = [
        replace(work, trunk=part, networks=(), body=False)
        for work in todo
        for part in _split(work.trunk, CLIPS_PER_TASK)
    ]
    networks = [
        replace(work, trunk=(), networks=part, body=False)
        for work in todo
        for part in _split(work.networks, NETWORKS_PER_TASK)
    ]
    counts: list[tuple[int, int]] = []
    for works, what in ((trunks, "Embedding on the cluster"), (networks, "Tuning on the cluster")):
        counts += _run_tasks(settings, [(compute_task, (settings, work)) for work in works], what=what)
    return sum(tuned for tuned, _ in counts), sum(embedded for _, embedded in counts)


def decode_task(settings: ExtractSettings, recipes: Sequence[Recipe], clips: Sequence[Clip]) -> None:
    """Decode clips into the cache, on a worker; one file at a time, since a machine runs several workers."""
    decoding = DecodeSettings(1, settings.impute, replace(settings.rules, max_failures=None))
    KeptMedia(FeatureCache(settings.cache), recipes, decoding).decode_dataset(clips)


def compute_task(settings: ExtractSettings, work: Work) -> tuple[int, int]:
    """Do a part of the work on a source, on a worker; in one process, as a machine runs several workers."""
    cache = FeatureCache(settings.cache)
    return _compute(cache, work, replace(settings, jobs=1), open_source_media(cache, work.recipe))


def _run_tasks(settings: ExtractSettings, calls: Sequence[Call], *, what: str) -> list[tuple[int, int]]:
    results = run_on_cluster(calls, scheduler=settings.scheduler or "")
    return list(track(results, total=len(calls), what=what))


def _split(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
