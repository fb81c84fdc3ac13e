"""Export a result of a run as a model: fit its head on all clips and write it with its networks."""

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.files import check_sealed
from moodfuse.cache.records import WINDOW_S, Holdout
from moodfuse.cache.runs import DEFAULTS, Result, Run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import run_labels
from moodfuse.evaluate.intervals import DRAWS, GroupDraws, draw_groups
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.scoring import score_draws
from moodfuse.evaluate.selection import corrected_best, not_worse
from moodfuse.fuse.final_fit import FinalModel, ScoredResult, networks_needed, ship, why_not_exportable
from moodfuse.fuse.inference import check_level
from moodfuse.fuse.run_inputs import choose_protocol
from moodfuse.fuse.run_record import library_versions, missing_modalities
from moodfuse.fuse.settings import AblationSettings, PlannedResult, planned_results, sources_of
from moodfuse.model.card import ModelCard, ModelFile, ModelSource, model_summary
from moodfuse.model.folder import ARRAYS, TRAINING, Content, arrays_of, training_file, write_model
from moodfuse.model.folder import model_folder as model_folder

log = logging.getLogger(__name__)
BEST = "best"
_Named = TypeVar("_Named", Result, PlannedResult)


@dataclass(frozen=True)
class ExportSettings:
    """Which result to export (a name, or ``"best"``), and to which new folder.

    `impute` decides whether the model labels files without audio or video; by default it does if `extract`
    kept such clips.
    """

    result: str
    folder: Path
    impute: bool | None = None

    @property
    def best(self) -> bool:
        """Whether the result is to be selected."""
        return self.result == BEST


@dataclass(frozen=True)
class Exported:
    """The folder and card of an exported model, and why its result was selected (empty if it was named)."""

    folder: Path
    card: ModelCard
    why: str


def check_planned(cache: FeatureCache, ablation: AblationSettings, settings: ExportSettings) -> None:
    """Raise InputError if a planned ablation will have no such result, or none that can be exported."""
    _check_folder(settings.folder)
    rows = planned_results(cache, ablation)
    sources = sources_of(rows)
    protocol = choose_protocol(cache, sources, ablation.protocol)
    wanted = rows if settings.best else [find_result(rows, settings.result)]
    reasons = [
        why_not_exportable(
            cache, ScoredResult(row.sources, row.head, row.level, protocol, run_sources=sources)
        )
        for row in wanted
    ]
    if all(reasons):
        raise InputError(
            f"--export {settings.result}: cannot be exported, so nothing was fused: {reasons[0]}"
        )


def _check_folder(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder}: already exists; remove it, or name another folder with --model")


def export_model(
    cache: FeatureCache, run: Run, settings: ExportSettings, *, echo: Callable[[str], None] = log.info
) -> Exported:
    """Fit the head of a result on all clips and write the model.

    `echo` receives each line for the user.

    Raises
    ------
    InputError
        If the cache has changed since the run, or the result is unknown or cannot be exported.
    """
    _check_folder(settings.folder)
    _check_unchanged(cache, run)
    drawn = draw_groups(run.groups, draws=DRAWS, seed=0)
    if settings.best:
        result, why = _select_best(cache, run, drawn, echo)
    else:
        result, why = find_result(run.results, settings.result), ""
    shipped = ship(cache, scored_of(run, result))
    files: dict[str, Content] = {ARRAYS: arrays_of(shipped.fusion), TRAINING: training_file(cache)}
    sources = tuple(
        _add_source(cache, shipped, number, files) for number in range(len(shipped.fusion.sources))
    )
    if shipped.trees:
        files["trees.txt"] = shipped.trees.encode()
    notes = reading_notes(cache)
    for note in notes:
        echo(note)
    fusion, impute = shipped.fusion, settings.impute
    if impute is None:
        impute = cache.reading.get("missing") == "impute" or any(status.missing for status in cache.clips)
    card = ModelCard(
        name=f"{result.name} of {run.name}",
        run=run.name,
        protocol=run.protocol,
        head=result.head,
        level=result.level,
        classes=fusion.classes,
        sources=sources,
        head_kind=fusion.head.kind,
        head_facts=fusion.head.facts(),
        temperature=fusion.temperature,
        chosen=fusion.chosen,
        decoder=_decoder(cache),
        impute=impute,
        training={
            "clips": len(cache.clips),
            "groups": len({status.group for status in cache.clips}),
            "labels": dict(sorted(Counter(status.clip.label for status in cache.clips).items())),
        },
        expected=expected_scores(run, result, drawn, best=settings.best),
        notes=tuple(dict.fromkeys((*result.notes, *([why] if why else []), *notes))),
        versions=dict(library_versions()),
        commands=run.commands,
        files=dict.fromkeys(files, ModelFile("", 0)),
    )
    files["MODEL.md"] = model_summary(card).encode()
    return Exported(settings.folder, write_model(settings.folder, card, files), why)


def reading_notes(cache: FeatureCache) -> tuple[str, ...]:
    """Return a note for each option of `extract` that the user must also pass to `predict`."""
    notes = []
    reading = dict(cache.reading)
    reading.pop("missing", None)  # the model's own `impute`
    pattern = reading.pop("group-pattern", None)
    if reading:
        options = " ".join(
            f"--{name}" if value is True else f"--{name} {value:g}" for name, value in reading.items()
        )
        notes.append(f"extract read the training clips with {options}; pass the same options to predict")
    if pattern is not None:
        notes.append(
            f"extract grouped the training clips with --group-pattern {shlex.quote(str(pattern))}; pass the "
            "same to evaluate --model"
        )
    clips = [status.clip for status in cache.clips]
    windows = [clip.end_s - clip.start_s for clip in clips if clip.end_s is not None]
    lengths = sorted(length for length in windows if abs(length - WINDOW_S) > 1e-3)
    if lengths:
        span = f"{lengths[0]:g}" if lengths[0] == lengths[-1] else f"{lengths[0]:g} to {lengths[-1]:g}"
        notes.append(
            f"{len(lengths)} of {len(clips)} training clips are windows of {span} s, but predict reads the "
            f"first {WINDOW_S:g} s of a file; pass a CSV with path,start_s,end_s to label such windows"
        )
    return tuple(notes)


def expected_scores(run: Run, result: Result, drawn: GroupDraws, *, best: bool) -> dict[str, object]:
    """Return the cross-validated scores of a result with 95 % confidence intervals, as JSON types."""
    labels = run_labels(run)
    score = score_draws(labels, result.probabilities, drawn, classes=run.classes)
    scores: dict[str, object] = {
        "clips": score.clips,
        "groups": score.groups,
        "results": len(run.results),
        "best": best,
    }
    for name in METRICS:
        scores[name] = _json_number(getattr(score, name))
        scores[f"{name}_ci95"] = [_json_number(end) for end in getattr(score, f"{name}_ci95").ends]
    if len(run.results) > 1:
        headline = corrected_best(labels, {item.name: item.probabilities for item in run.results}, drawn)
        scores["best_corrected"] = _json_number(headline.corrected)
        scores["best_corrected_ci95"] = [_json_number(end) for end in headline.corrected_ci95.ends]
    return scores


def _json_number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 12)


def scored_of(run: Run, result: Result) -> ScoredResult:
    """Describe a result of a run for the final fit."""
    run_sources = tuple(source for source, _ in run.recipes)
    defaults = not set(DEFAULTS).isdisjoint(result.notes)
    return ScoredResult(
        result.sources, result.head, check_level(result.level), run.protocol, run_sources, defaults
    )


def find_result(results: Sequence[_Named], name: str) -> _Named:
    """Find a result of a run, or of a planned run, by name; words are separated by spaces or slashes."""
    sources, *others = name.replace("/", " ").split() or [""]
    wanted = " ".join(["+".join(sorted(sources.split("+"))), *others])
    for result in results:
        if result.name == wanted:
            return result
    raise UnknownNameError("result", name, tuple(result.name for result in results))


def _check_unchanged(cache: FeatureCache, run: Run) -> None:
    """Check that the clips, labels, folds and recipes of the cache are still those of the run."""
    clips = cache.clips
    now = (
        tuple(status.digest for status in clips),
        tuple(status.clip.label for status in clips),
        tuple(status.group for status in clips),
        tuple(cache.plan.assignment[status.digest] for status in clips),
        missing_modalities(cache.clips),
    )
    recipes = {
        source: cache.recipe(source).digest16 for source, _ in run.recipes if source in cache.sources()
    }
    if now != (run.digests, run.labels, run.groups, run.folds, run.missing) or recipes != dict(run.recipes):
        raise InputError(
            f"run {run.name!r} has other clips, labels, groups, folds or recipes than {cache.path} has now; "
            "run fuse again, then export from the new run"
        )


def _select_best(
    cache: FeatureCache, run: Run, drawn: GroupDraws, echo: Callable[[str], None]
) -> tuple[Result, str]:
    """Select the smallest result that is not significantly worse than the one with the lowest log loss."""
    candidates: dict[str, Result] = {}
    reasons: Counter[str] = Counter()
    for result in run.results:
        if why := why_not_exportable(cache, scored_of(run, result)):
            reasons[why] += 1
        else:
            candidates[result.name] = result
    for why, count in reasons.items():
        echo(f"{count} of {len(run.results)} results cannot be exported: {why}")
    if not candidates:
        why = next(iter(reasons), "it has none")
        raise InputError(f"no result of run {run.name!r} can be exported: {why}")
    table = {name: result.probabilities for name, result in candidates.items()}
    losses = not_worse(run_labels(run), table, drawn)
    lowest, loss = next(iter(losses.items()))
    sizes = {name: _network_bytes(cache, scored_of(run, candidates[name])) for name in losses}
    name = min(losses, key=lambda name: (sizes[name], len(candidates[name].sources), losses[name], name))
    return candidates[name], (
        f"selected as the smallest of {len(losses)} results (of {len(candidates)}) that are not "
        f"significantly worse than the one with the lowest log loss, {lowest} ({loss:.3f}); its own is {losses[name]:.3f}"
    )


def _network_bytes(cache: FeatureCache, scored: ScoredResult) -> int:
    paths: set[Path] = set()
    for source in scored.sources:
        body, networks = _network_paths(cache, source, networks_needed(cache, source, scored))
        paths |= {*networks, *([body] if body else [])}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _network_paths(
    cache: FeatureCache, source: str, holdouts: Sequence[Holdout]
) -> tuple[Path | None, list[Path]]:
    """Return the file of the layers that are not fine-tuned, if any, and the fine-tuned networks."""
    recipe = cache.recipe(source)
    body = None if recipe.depth == "full" else cache.network_path(recipe, None)
    roles = [cache.roles(recipe, holdout) for holdout in holdouts] if recipe.sees_labels else []
    return body, [cache.network_path(recipe, item) for item in roles if item is not None]


def _add_source(
    cache: FeatureCache, shipped: FinalModel, number: int, files: dict[str, Content]
) -> ModelSource:
    """Add the networks of a source to the files of the model, and return its entry in the card."""
    fused = shipped.fusion.sources[number]
    body, networks = _network_paths(cache, fused.source, shipped.networks[fused.source])
    names = [f"networks/{number:02d}-{index:03d}.safetensors" for index in range(len(networks))]
    paths = dict(zip(names, networks, strict=True))
    body_name = f"networks/{number:02d}-body.safetensors"
    if body is not None:
        paths[body_name] = body
    for name, path in paths.items():
        if not path.is_file():
            raise InputError(
                f"{fused.source}: its network {path} is not in the cache; run extract again with --source "
                f"{fused.source}"
            )
        check_sealed(path)
        files[name] = path
    recipe = cache.recipe(fused.source)
    return ModelSource(recipe, None if body is None else body_name, tuple(names), len(fused.own))


def _decoder(cache: FeatureCache) -> str:
    decoders = sorted({status.decoder for status in cache.clips})
    if len(decoders) != 1:
        raise InputError(
            f"the clips were read by several decoders ({', '.join(decoders)}); run extract again, then fuse"
        )
    return decoders[0]
