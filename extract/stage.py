"""Stage one end to end: examine clips, keep the plan, say what is missing, compute it, leave blocks in the cache."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache.errors import InputError, MoodfuseError
from cache.recipe import Recipe
from cache.records import ClipStatus, Holdout
from cache.store import CLIPS_PER_PART, FeatureCache, Roles
from extract.dataset import scan
from extract.estimate import Estimate, measure
from extract.examine import ensure_media, examine, media_store
from extract.planning import PlanChoice, next_plan
from extract.progress import track
from extract.recipe_files import RecipeChoice, build_recipe, frozen_counterpart, option_names, source_weights

if TYPE_CHECKING:
    from extract.embed import SourceWorker

log = logging.getLogger(__name__)
DEFAULT_SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")


@dataclass(frozen=True)
class ExtractSettings:
    """What `extract` is asked to do."""

    data: Path
    cache: Path
    sources: tuple[str, ...] = DEFAULT_SOURCES
    plan: PlanChoice = field(default_factory=PlanChoice)
    recipes: RecipeChoice = field(default_factory=RecipeChoice)
    jobs: int = 2
    dry_run: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Missing:
    """What the cache lacks of one source: networks to tune and clips to embed.

    Attributes
    ----------
    recipe : Recipe
    trunk : tuple of str
        Digests of clips that have to pass the frozen trunk.
    networks : tuple of (Holdout, roles)
        Networks whose blocks are incomplete.
    to_tune : int
        How many of them have no weights yet.
    """

    recipe: Recipe
    trunk: tuple[str, ...]
    networks: tuple[tuple[Holdout, Roles], ...]
    to_tune: int


@dataclass(frozen=True)
class Extraction:
    """What `extract` did.

    Attributes
    ----------
    clips, refused : tuple of ClipStatus
        Clips of the plan, and clips that could not be read.
    tuned, embedded : int
        Networks tuned; clips passed through a network, counted once a network.
    dry_run : bool
    """

    clips: tuple[ClipStatus, ...]
    refused: tuple[ClipStatus, ...]
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
    clips = scan(settings.data)
    cache = FeatureCache(settings.cache, create=True)
    statuses = examine(cache, clips, jobs=settings.jobs)
    refused = tuple(status for status in statuses if not status.ok)
    for status in refused:
        say(f"refused {status.clip.id}: {status.reason}: {status.detail}")
    if refused and settings.strict:
        raise RefusedClipsError(
            f"{len(refused)} of {len(clips)} clips refused, and --strict is set; no features were written"
        )
    before = cache.plans[-1].assignment if cache.plans else {}
    cache.write_plan(next_plan(cache.plans, statuses, settings.plan), statuses)
    _say_plan(cache, before, say)
    todo = [missing(cache, recipe) for recipe in recipes]
    _announce(cache, settings, todo, say)
    if settings.dry_run:
        return Extraction(cache.clips, refused, 0, 0, dry_run=True)
    tuned, embedded = 0, 0
    for item in todo:
        counts = _compute(cache, item, settings)
        tuned, embedded = tuned + counts[0], embedded + counts[1]
    cache.select(recipes)
    return Extraction(cache.clips, refused, tuned, embedded)


def _check_options_used(choice: RecipeChoice, sources: Sequence[str]) -> None:
    for option, named in (("--tune", choice.depths), ("--weights", choice.weights)):
        if unused := sorted(set(named) - {name for source in sources for name in option_names(source)}):
            raise InputError(
                f"{option} names {unused[0]!r}, not a source of this run ({', '.join(sources)}); "
                f"add --source {unused[0]}, or correct the name"
            )


def missing(cache: FeatureCache, recipe: Recipe) -> Missing:
    """What the cache lacks of a source under the plan in force."""
    digests = {status.digest for status in cache.clips}
    networks = []
    if recipe.tuning is not None:
        for fold in range(cache.plan.folds):
            holdout = Holdout.of(fold)
            roles = cache.roles(recipe, holdout)
            if roles is None:
                raise MoodfuseError(f"{recipe.source}: a tuned recipe without roles")
            if digests - set(cache.read_rows(recipe, roles, names=("embedding", "logits"))):
                networks.append((holdout, roles))
    trunk: set[str] = set()
    if recipe.depth == "frozen" or (recipe.depth == "head" and networks):
        trunk = digests - set(cache.read_rows(frozen_counterpart(recipe), None, names=("embedding",)))
    to_tune = sum(not cache.network_path(recipe, roles).is_file() for _, roles in networks)
    return Missing(recipe, tuple(sorted(trunk)), tuple(networks), to_tune)


def _say_plan(cache: FeatureCache, before: dict[str, int] | object, say: Callable[[str], None]) -> None:
    plan, clips = cache.plan, cache.clips
    labels = {label: sum(status.clip.label == label for status in clips) for label in cache.classes}
    counts = ", ".join(f"{label} {count}" for label, count in labels.items())
    say(f"{len(clips)} clips in {len(cache.units)} groups, {plan.folds} folds, seed {plan.seed}: {counts}")
    if isinstance(before, dict) and before:
        moved = sum(plan.assignment[digest] != fold for digest, fold in before.items() if digest in plan.assignment)
        added = len(set(plan.assignment) - set(before))
        if moved or added:
            say(f"plan: {added} clip(s) added, {moved} moved to another fold")


def _announce(
    cache: FeatureCache, settings: ExtractSettings, todo: Sequence[Missing], say: Callable[[str], None]
) -> None:
    busy = [item for item in todo if item.trunk or item.networks]
    if not busy:
        say("nothing to decode, tune or embed: the cache holds every block")
        return
    ensure_media(cache, _needing_media(cache, busy), jobs=settings.jobs)
    total = Estimate()
    for item in busy:
        source = item.recipe.source
        if facts := source_weights(source, settings.recipes):
            say(f"{source}: weights {facts}")
        else:
            say(f"WARNING {source}: no pretrained weights, so it starts from RANDOM values (--weights {source}=FILE)")
        estimate = measure(item, settings.recipes.weights_of(source), clips=len(cache.clips), classes=cache.classes)
        total += estimate
        holdouts = ", ".join(str(holdout) for holdout, _ in item.networks) or "*"
        say(
            f"{source} ({item.recipe.depth}): {len(item.trunk)} clips to embed, {item.to_tune} networks to tune, "
            f"blocks {holdouts}: about {estimate.seconds:.0f} s, {estimate.megabytes:.0f} MB"
        )
    tuned = sum(item.to_tune for item in busy)
    say(f"in all {tuned} networks to tune: about {total.seconds / 60:.1f} minutes, {total.megabytes:.0f} MB of disk")


def _needing_media(cache: FeatureCache, busy: Sequence[Missing]) -> list[ClipStatus]:
    if any(item.networks and item.recipe.depth == "full" for item in busy):
        return list(cache.clips)
    wanted = {digest for item in busy for digest in item.trunk}
    return [status for status in cache.clips if status.digest in wanted]


def _compute(cache: FeatureCache, item: Missing, settings: ExtractSettings) -> tuple[int, int]:
    """Compute what is missing of one source; returns how many networks were tuned and clips embedded."""
    cache.write_recipe(item.recipe)
    if not item.trunk and not item.networks:
        return 0, 0
    from extract.embed import SourceWorker

    weights = settings.recipes.weights_of(item.recipe.source)
    worker = SourceWorker(item.recipe, weights, len(cache.classes), media_store(cache))
    if item.trunk:
        frozen = frozen_counterpart(item.recipe)
        cache.write_recipe(frozen)
        _write_rows(cache, frozen, None, item.trunk, worker.frozen_rows, f"{item.recipe.source} *: embedding")
    tuned, embedded = 0, len(item.trunk)
    activations = _activations(cache, item.recipe) if item.recipe.depth == "head" and item.networks else {}
    title = f"{item.recipe.source}: tuning ({item.recipe.depth})"
    for _, roles in track(item.networks, total=len(item.networks), what=title):
        tuned += _tune_one(cache, worker, roles, activations)
        embedded += _embed_tuned(cache, worker, roles, activations)
    return tuned, embedded


def _activations(cache: FeatureCache, recipe: Recipe) -> dict[str, np.ndarray]:
    rows = cache.read_rows(frozen_counterpart(recipe), None, names=("embedding", "activation"))
    return {digest: row.get("activation", row["embedding"]) for digest, row in rows.items()}


def _tune_one(cache: FeatureCache, worker: "SourceWorker", roles: Roles, activations: dict[str, np.ndarray]) -> bool:
    """Leave the worker with the network tuned on `roles`, from the cache or by tuning it; returns whether it tuned."""
    from extract.networks.own_files import load_weights_file, save_weights
    from extract.tune import tune

    path = cache.network_path(worker.recipe, roles)
    worker.reset()
    if path.is_file():
        worker.tuned.load_state_dict(load_weights_file(path)[0])
        return False
    cache.write_roles(worker.recipe, roles)
    if worker.recipe.depth == "head":
        data, checkpoint = worker.head_data(roles, cache.classes, activations), None
    else:
        data, checkpoint = worker.full_data(roles, cache.classes), path.with_suffix(".checkpoint")
    epoch = tune(worker.tuned, data, worker.recipe, checkpoint=checkpoint)
    if worker.recipe.depth == "head":
        worker.fold_standardisation()
    early = any(role == "stop" for _, _, role in roles)
    if not early:
        log.warning(
            "%s: a class has fewer than 3 groups; tuned for the recipe's fixed %d epochs", worker.recipe.source, epoch
        )
    metadata = {
        "classes": list(cache.classes),
        "epoch": epoch,
        "early_stopping": early,
        "recipe": worker.recipe.digest16,
    }
    save_weights(path, worker.tuned.state_dict(), metadata)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return True


def _embed_tuned(cache: FeatureCache, worker: "SourceWorker", roles: Roles, activations: dict[str, np.ndarray]) -> int:
    have = cache.read_rows(worker.recipe, roles, names=("embedding", "logits"))
    wanted = sorted({status.digest for status in cache.clips} - set(have))

    def row(digest: str) -> dict[str, np.ndarray]:
        return worker.full_rows(digest) if worker.recipe.depth == "full" else worker.head_rows(activations[digest])

    _write_rows(cache, worker.recipe, roles, wanted, row, None)
    return len(wanted)


def _write_rows(
    cache: FeatureCache,
    recipe: Recipe,
    roles: Roles | None,
    digests: Sequence[str],
    row: Callable[[str], dict[str, np.ndarray]],
    title: str | None,
) -> None:
    """Compute rows one by one and write a part after every `CLIPS_PER_PART` of them."""
    waiting: dict[str, dict[str, np.ndarray]] = {}
    for count, digest in enumerate(track(digests, total=len(digests), what=title) if title else digests, start=1):
        waiting[digest] = row(digest)
        if len(waiting) == CLIPS_PER_PART or count == len(digests):
            names = next(iter(waiting.values()))
            arrays = {name: np.stack([values[name] for values in waiting.values()]) for name in names}
            cache.write_block_part(recipe, roles, list(waiting), arrays)
            waiting = {}
