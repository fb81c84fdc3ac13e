"""From a run's result to a model folder: networks from the cache, the fitted head, and what may be expected of it."""

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.folds import units_of
from moodfuse.cache.records import WINDOW_S
from moodfuse.cache.runs import DEFAULTS, Result, Run, run_folder
from moodfuse.cache.storage.weight_files import check_sealed
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.choosing import not_worse
from moodfuse.evaluate.resampling import draw_groups
from moodfuse.evaluate.results import run_labels
from moodfuse.fuse.final_fit import Scored, Shipped, networks_needed, ship, why_not_shipped
from moodfuse.fuse.inference import check_level
from moodfuse.fuse.run_inputs import choose_protocol
from moodfuse.fuse.run_record import library_versions, missing_modalities
from moodfuse.fuse.settings import AblationSettings, PlannedResult, planned_results, sources_of
from moodfuse.model.card import ModelCard, ModelFile, ModelSource
from moodfuse.model.card_text import described
from moodfuse.model.expected import DRAWS, expected_scores
from moodfuse.model.folder import ARRAYS, TRAINING, arrays_of, write_model
from moodfuse.model.training import training_file

log = logging.getLogger(__name__)
BEST = "best"
_NOT_YET = ModelFile("", 0)
_Named = TypeVar("_Named", Result, PlannedResult)
Content = Path | bytes | str
"""Of a file of the folder; of a path, that file's."""


@dataclass(frozen=True)
class ExportSettings:
    """What to make a model of, and where.

    Attributes
    ----------
    result : str
        Name of a result, or ``"best"``.
    folder : Path
        Must not be there yet.
    impute : bool or None
        Whether the model labels files without audio or video; `None` if `extract` took such clips.
    """

    result: str
    folder: Path
    impute: bool | None = None

    @property
    def best(self) -> bool:
        """Whether the result is still to be chosen."""
        return self.result == BEST


@dataclass(frozen=True)
class Exported:
    """Where a model went, what it was made of, and what was said of the choice."""

    folder: Path
    card: ModelCard
    why: str


def model_folder(cache: FeatureCache, run: str) -> Path:
    """Where the model of a run stands unless told otherwise."""
    return run_folder(cache, run) / "model"


def check_planned(cache: FeatureCache, ablation: AblationSettings, settings: ExportSettings) -> None:
    """Refuse, before anything is fitted, to export what no result of an ablation will be.

    Parameters
    ----------
    cache : FeatureCache
    ablation : AblationSettings
        Of the run that is yet to be made.
    settings : ExportSettings

    Raises
    ------
    InputError
        If the folder is there already, the ablation will have no such result, or it cannot ship; the message says why.
    """
    _check_folder(settings.folder)
    rows = planned_results(cache, ablation)
    sources = sources_of(rows)
    protocol = choose_protocol(cache, sources, ablation.protocol)
    wanted = rows if settings.best else [find_result(rows, settings.result)]
    reasons = [
        why_not_shipped(cache, Scored(row.sources, row.head, row.level, protocol, run_sources=sources))
        for row in wanted
    ]
    if all(reasons):
        raise InputError(
            f"--export {settings.result}: cannot be exported, so nothing was fused: {reasons[0]}"
        )


def _check_folder(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it, or name another folder with --model")


def export_model(
    cache: FeatureCache, run: Run, settings: ExportSettings, *, say: Callable[[str], None] = log.info
) -> Exported:
    """Fit what ships of a result and write it.

    Parameters
    ----------
    cache : FeatureCache
        Whose plan, labels and recipes must be those of the run.
    run : Run
    settings : ExportSettings
    say : callable
        Takes each line that the user should read.

    Raises
    ------
    InputError
        If the run is of another state of the cache, or the result is unknown or cannot ship; the message says why.
    """
    _check_folder(settings.folder)
    _check_same(cache, run)
    result, why = _best(cache, run, say) if settings.best else (find_result(run.results, settings.result), "")
    shipped = ship(cache, scored_of(run, result))
    sources, networks = _sources(cache, shipped)
    files: dict[str, Content] = {
        **networks,
        ARRAYS: arrays_of(shipped.fusion),
        TRAINING: training_file(cache),
    }
    if shipped.trees:
        files["trees.txt"] = shipped.trees
    notes = reading_notes(cache)
    for note in notes:
        say(note)
    card = _card(cache, _Made(run, result, why, shipped, sources, tuple(files), notes), settings)
    files["MODEL.md"] = described(card)
    return Exported(settings.folder, write_model(settings.folder, card, files), why)


@dataclass(frozen=True)
class _Made:
    """What a card tells of: a result, why it was chosen (empty where it was named), what ships of it, its files, and
    how its training clips were read, where that is not the default.
    """

    run: Run
    result: Result
    why: str
    shipped: Shipped
    sources: tuple[ModelSource, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]


def reading_notes(cache: FeatureCache) -> tuple[str, ...]:
    """Options and windows of `extract` that the model does not apply itself, as sentences with what to pass."""
    notes = []
    options = {
        name: value for name, value in cache.reading.items() if name not in ("missing", "group-pattern")
    }
    if options:
        words = " ".join(
            f"--{name}" if value is True else f"--{name} {value:g}" for name, value in options.items()
        )
        notes.append(f"extract read the training clips with {words}; pass the same options to predict")
    if "group-pattern" in cache.reading:
        pattern = shlex.quote(str(cache.reading["group-pattern"]))
        notes.append(
            f"extract grouped the training clips with --group-pattern {pattern}; pass the same to evaluate --model"
        )
    windows = [
        status.clip.end_s - status.clip.start_s for status in cache.clips if status.clip.end_s is not None
    ]
    lengths = sorted(length for length in windows if abs(length - WINDOW_S) > 1e-3)
    if lengths:
        span = f"{lengths[0]:g}" if lengths[0] == lengths[-1] else f"{lengths[0]:g} to {lengths[-1]:g}"
        notes.append(
            f"{len(lengths)} of {len(cache.clips)} training clips are windows of {span} s, but predict reads the first "
            f"{WINDOW_S:g} s of a file; pass a CSV with path,start_s,end_s to label windows of such a length"
        )
    return tuple(notes)


def _card(cache: FeatureCache, made: _Made, settings: ExportSettings) -> ModelCard:
    run, result, fusion = made.run, made.result, made.shipped.fusion
    impute = settings.impute
    if impute is None:
        impute = cache.reading.get("missing") == "impute" or any(status.missing for status in cache.clips)
    return ModelCard(
        name=f"{result.name} of {run.name}",
        run=run.name,
        protocol=run.protocol,
        head=result.head,
        level=result.level,
        classes=fusion.classes,
        sources=made.sources,
        head_kind=fusion.head.kind,
        head_facts=fusion.head.facts(),
        temperature=fusion.temperature,
        chosen=fusion.chosen,
        decoder=_decoder(cache),
        impute=impute,
        training={
            "clips": len(cache.clips),
            "groups": len(units_of(cache.clips)),
            "labels": dict(sorted(Counter(status.clip.label for status in cache.clips).items())),
        },
        expected=expected_scores(run, result, best=settings.best),
        notes=tuple(dict.fromkeys((*result.notes, *([made.why] if made.why else []), *made.notes))),
        versions=dict(library_versions()),
        commands=run.commands,
        files=dict.fromkeys(made.files, _NOT_YET),
    )


def scored_of(run: Run, result: Result) -> Scored:
    """Which result ships, as stage two must know it."""
    beside = tuple(source for source, _ in run.recipes)
    defaults = not set(DEFAULTS).isdisjoint(result.notes)
    return Scored(result.sources, result.head, check_level(result.level), run.protocol, beside, defaults)


def find_result(results: Sequence[_Named], name: str) -> _Named:
    """A result of a run, or of one that is planned, by its name: words parted by spaces or slashes.

    Raises
    ------
    UnknownNameError
    """
    sources, *others = name.replace("/", " ").split() or [""]
    wanted = " ".join(["+".join(sorted(sources.split("+"))), *others])
    for result in results:
        if result.name == wanted:
            return result
    raise UnknownNameError("result", name, tuple(result.name for result in results))


def _check_same(cache: FeatureCache, run: Run) -> None:
    """Refuse a run of other clips, labels, folds or recipes than the cache has in force."""
    clips = cache.clips
    folds = tuple(cache.plan.assignment[status.digest] for status in clips)
    labels, groups = (tuple(status.clip.label for status in clips), tuple(status.group for status in clips))
    now = (tuple(status.digest for status in clips), labels, groups, folds, missing_modalities(cache.clips))
    recipes = {
        source: cache.recipe(source).digest16 for source, _ in run.recipes if source in cache.sources()
    }
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
        raise InputError(
            f"no result of run {run.name!r} can be exported: {next(iter(reasons), 'it holds none')}"
        )
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


def _sources(cache: FeatureCache, shipped: Shipped) -> tuple[tuple[ModelSource, ...], dict[str, Path]]:
    """The sources of the card, and the files of their networks by their place in the folder."""
    sources: list[ModelSource] = []
    files: dict[str, Path] = {}
    for number, fused in enumerate(shipped.fusion.sources):
        recipe, name = cache.recipe(fused.source), fused.source
        body: str | None = None
        networks: list[str] = []
        if recipe.depth != "full":
            body = f"networks/{number:02d}-body.safetensors"
            files[body] = _network(cache.network_path(recipe, None), name)
        for holdout in shipped.networks[name]:
            roles = cache.roles(recipe, holdout) if recipe.sees_labels else None
            if roles is not None:
                networks.append(f"networks/{number:02d}-{len(networks):03d}.safetensors")
                files[networks[-1]] = _network(cache.network_path(recipe, roles), name)
        sources.append(ModelSource(recipe, body, tuple(networks), len(fused.own)))
    return tuple(sources), files


def _network(path: Path, source: str) -> Path:
    if not path.is_file():
        raise InputError(
            f"{source}: its network {path} is not in the cache; run extract again with --source {source}"
        )
    check_sealed(path)
    return path


def _decoder(cache: FeatureCache) -> str:
    found = sorted({status.decoder for status in cache.clips})
    if len(found) != 1:
        raise InputError(
            f"the clips were read by several decoders ({', '.join(found)}); run extract again, then fuse"
        )
    return found[0]
