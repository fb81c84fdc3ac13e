"""From a run's result to a model folder: networks from the cache, the fitted head, and what may be expected of it."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.errors import InputError, UnknownNameError
from cache.folds import units_of
from cache.runs import DEFAULTS, Result, Run, run_folder
from cache.seals import check_sealed
from cache.store import FeatureCache
from evaluate.choosing import not_worse
from evaluate.groups import draw_groups
from evaluate.results import run_labels
from evaluate.scoring import score_draws
from evaluate.selection import corrected_best
from evaluate.uncertainty import METRICS
from fuse.features import check_level
from fuse.notes import missing_views, versions
from fuse.shipping import Scored, Shipped, networks_needed, ship, why_not_shipped
from moodfuse.model.card import ModelCard, ModelFile, ModelSource
from moodfuse.model.description import described
from moodfuse.model.folder import ARRAYS, TRAINING, arrays_of, write_model
from moodfuse.model.training import training_file

log = logging.getLogger(__name__)
BEST = "best"
DRAWS = 2000
_NOT_YET = ModelFile("", 0)


@dataclass(frozen=True)
class Exported:
    """Where a model went, what it was made of, and what was said of the choice."""

    folder: Path
    card: ModelCard
    why: str


def model_folder(cache: FeatureCache, run: str) -> Path:
    """Where the model of a run stands unless told otherwise."""
    return run_folder(cache, run) / "model"


def export_model(
    cache: FeatureCache,
    run: Run,
    wanted: str,
    folder: Path,
    *,
    impute: bool | None = None,
    say: Callable[[str], None] = log.info,
) -> Exported:
    """Fit what ships of a result and write it.

    Parameters
    ----------
    cache : FeatureCache
        Whose plan, labels and recipes must be those of the run.
    run : Run
    wanted : str
        Name of a result, or ``"best"``.
    folder : Path
        Must not be there yet.
    impute : bool, optional
        Whether the model labels files without sound or picture; by default if clips that lacked one were trained on.
    say : callable
        Takes each line that the user should read.

    Raises
    ------
    InputError
        If the run is of another state of the cache, or the result is unknown or cannot ship; the message says why.
    """
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it, or name another folder with --model")
    _check_same(cache, run)
    result, why = _best(cache, run, say) if wanted == BEST else (find_result(run, wanted), "")
    scored = scored_of(run, result)
    shipped = ship(cache, scored)
    files: dict[str, Path | bytes | str] = {ARRAYS: arrays_of(shipped.fusion), TRAINING: training_file(cache)}
    if shipped.trees:
        files["trees.txt"] = shipped.trees
    sources = tuple(_source(cache, shipped, name, number, files) for number, name in enumerate(result.sources))
    lacking = any(status.missing for status in cache.clips)
    card = ModelCard(
        name=f"{result.name} of {run.name}",
        run=run.name,
        protocol=run.protocol,
        head=result.head,
        level=result.level,
        classes=shipped.fusion.classes,
        sources=sources,
        head_kind=shipped.fusion.head.kind,
        head_facts=shipped.fusion.head.facts(),
        temperature=shipped.fusion.temperature,
        chosen=shipped.fusion.chosen,
        decoder=_decoder(cache),
        impute=lacking if impute is None else impute,
        training={
            "clips": len(cache.clips),
            "groups": len(units_of(cache.clips)),
            "labels": dict(sorted(Counter(status.clip.label for status in cache.clips).items())),
        },
        expected=expected_scores(run, result, best=wanted == BEST),
        notes=tuple(dict.fromkeys((*result.notes, *([why] if why else [])))),
        versions=dict(versions()),
        commands=run.commands,
        files=dict.fromkeys(files, _NOT_YET),
    )
    files["MODEL.md"] = described(card)
    return Exported(folder, write_model(folder, card, files), why)


def scored_of(run: Run, result: Result) -> Scored:
    """Which result ships, as stage two must know it."""
    beside = tuple(source for source, _ in run.recipes)
    defaults = not set(DEFAULTS).isdisjoint(result.notes)
    return Scored(result.sources, result.head, check_level(result.level), run.protocol, beside, defaults)


def find_result(run: Run, name: str) -> Result:
    """A result by its name, words parted by spaces or slashes.

    Raises
    ------
    UnknownNameError
    """
    words = name.replace("/", " ").split()
    for result in run.results:
        if words and [*sorted(words[0].split("+")), *words[1:]] == [*result.sources, result.head, result.level]:
            return result
    raise UnknownNameError("result", name, tuple(result.name for result in run.results))


def _check_same(cache: FeatureCache, run: Run) -> None:
    """Refuse a run of other clips, labels, folds or recipes than the cache has in force."""
    clips = cache.clips
    folds = tuple(cache.plan.assignment[status.digest] for status in clips)
    labels, groups = (tuple(status.clip.label for status in clips), tuple(status.group for status in clips))
    now = (tuple(status.digest for status in clips), labels, groups, folds, missing_views(cache))
    recipes = {source: cache.recipe(source).digest16 for source, _ in run.recipes if source in cache.sources()}
    if now != (run.digests, run.labels, run.groups, run.folds, run.missing) or recipes != dict(run.recipes):
        raise InputError(
            f"run {run.name!r} is of other clips, labels, groups, folds or recipes than {cache.path} has in force now; "
            "run fuse again, then export from that run"
        )


def _best(cache: FeatureCache, run: Run, say: Callable[[str], None]) -> tuple[Result, str]:
    """The smallest of the results that can ship and are not significantly worse than the one of least log loss."""
    found: dict[str, Result] = {}
    reasons: Counter[str] = Counter()
    for result in run.results:
        why = why_not_shipped(cache, scored_of(run, result))
        if why:
            reasons[why] += 1
        else:
            found[result.name] = result
    for why, count in reasons.items():
        say(f"{count} of {len(run.results)} results cannot be exported: {why}")
    if not found:
        raise InputError(f"no result of run {run.name!r} can be exported: {next(iter(reasons), 'it holds none')}")
    drawn = draw_groups(run.groups, draws=DRAWS, seed=0)
    kept = not_worse(run_labels(run), {name: item.probabilities for name, item in found.items()}, drawn)
    top, least = next(iter(kept.items()))
    sizes = {name: _size(cache, scored_of(run, found[name])) for name in kept}
    chosen = min(kept, key=lambda name: (sizes[name], len(found[name].sources), kept[name], name))
    why = (
        f"chosen as the smallest of {len(kept)} results of {len(found)} that are not significantly worse than the one "
        f"of the least log loss, {top} ({least:.3f}); its own is {kept[chosen]:.3f}"
    )
    return found[chosen], why


def _size(cache: FeatureCache, scored: Scored) -> int:
    """Bytes of the networks that ship."""
    return sum(path.stat().st_size for path in set(_network_files(cache, scored)) if path.is_file())


def _network_files(cache: FeatureCache, scored: Scored) -> Iterator[Path]:
    for source in scored.sources:
        recipe = cache.recipe(source)
        if recipe.depth != "full":
            yield cache.network_path(recipe, None)
        for holdout in networks_needed(cache, source, scored):
            roles = cache.roles(recipe, holdout) if recipe.sees_labels else None
            if roles is not None:
                yield cache.network_path(recipe, roles)


def _source(
    cache: FeatureCache, shipped: Shipped, name: str, number: int, files: dict[str, Path | bytes | str]
) -> ModelSource:
    """One source of the card; its network files are added to `files`."""
    recipe, safe = cache.recipe(name), f"{number:02d}"
    body: str | None = None
    networks: list[str] = []
    if recipe.depth != "full":
        body = f"networks/{safe}-body.safetensors"
        files[body] = _network(cache.network_path(recipe, None), name)
    for holdout in shipped.networks[name]:
        roles = cache.roles(recipe, holdout) if recipe.sees_labels else None
        if roles is not None:
            place = f"networks/{safe}-{len(networks):03d}.safetensors"
            files[place] = _network(cache.network_path(recipe, roles), name)
            networks.append(place)
    own = shipped.fusion.sources[number].own
    return ModelSource(recipe, body, tuple(networks), len(own))


def _network(path: Path, source: str) -> Path:
    if not path.is_file():
        raise InputError(f"{source}: its network {path} is not in the cache; run extract again with --source {source}")
    check_sealed(path)
    return path


def _decoder(cache: FeatureCache) -> str:
    found = sorted({status.decoder for status in cache.clips})
    if len(found) != 1:
        raise InputError(f"the clips were read by several decoders ({', '.join(found)}); run extract again, then fuse")
    return found[0]


def expected_scores(run: Run, result: Result, *, best: bool) -> dict[str, object]:
    """Cross-validated scores of a result with 95 % intervals, as JSON types, and how many were scored beside it."""
    labels = run_labels(run)
    drawn = draw_groups(run.groups, draws=DRAWS, seed=0)
    score = score_draws(labels, result.probabilities, drawn, classes=run.classes)
    found: dict[str, object] = {"clips": score.clips, "groups": score.groups, "results": len(run.results), "best": best}
    for name in METRICS:
        found[name] = _plain(getattr(score, name))
        found[f"{name}_ci95"] = [_plain(end) for end in getattr(score, f"{name}_ci95").ends]
    if len(run.results) > 1:
        table = {item.name: item.probabilities for item in run.results}
        headline = corrected_best(labels, table, drawn)
        found["best_corrected"] = _plain(headline.corrected)
        found["best_corrected_ci95"] = [_plain(end) for end in headline.corrected_ci95.ends]
    return found


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 12)
