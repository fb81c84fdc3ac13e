"""The ablation: combinations of sources x heads x levels x folds, with out-of-fold probabilities.

Under the protocol ``crossfit`` every setting (C, rounds, temperature) is chosen on rows that are out of sample; where
none can be, the result keeps its defaults and says ``uncalibrated``. `fuse.protocols` says what each protocol reads.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from os import cpu_count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from cache.runs import LEAKY, NETWORK, Result, Run, check_new_name, result_name
from cache.store import FeatureCache
from fuse.choice import Choice, choose, soften
from fuse.combinations import Combination, parse_combinations
from fuse.features import LEVELS, Level, check_level
from fuse.heads import HEADS, head_spec, make_head
from fuse.matrix import DesignMatrix
from fuse.notes import missing_views, result_notes, run_notes, versions
from fuse.plans import fold_plans
from fuse.protocols import (
    PlanFeatures,
    check_protocol,
    choose_protocol,
    load_features,
)
from fuse.workers import Call, run_parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AblationSettings:
    """What to fit.

    Attributes
    ----------
    run : str or None
        Name of the run; the next free ``run-N`` if `None`, ``leaky-N`` for the leaky protocol.
    combine : tuple of str
        As for `parse_combinations`.
    heads, levels : tuple of str
    protocol : str or None
        One of `fuse.protocols.PROTOCOLS`; `None` for ``crossfit`` where the cache holds pair networks.
    repeats : int or None
        Fold plans, as for `fuse.plans.fold_plans`.
    jobs : int
        Worker processes; changes no result.
    command : str
        The command line, kept in the run.
    """

    run: str | None = None
    combine: tuple[str, ...] = ("all",)
    heads: tuple[str, ...] = tuple(HEADS)
    levels: tuple[str, ...] = LEVELS
    protocol: str | None = None
    repeats: int | None = None
    jobs: int = cpu_count() or 1
    command: str = ""

    def __post_init__(self) -> None:
        for head in self.heads:
            head_spec(head)
        for level in self.levels:
            check_level(level)
        if self.protocol is not None:
            check_protocol(self.protocol)
        if self.jobs < 1 or (self.repeats is not None and self.repeats < 1):
            raise InputError(f"--jobs is {self.jobs} and --repeats {self.repeats}; expected 1 or more")


@dataclass(frozen=True)
class Row:
    """One result of the ablation's table."""

    sources: Combination
    head: str
    level: Level

    @property
    def name(self) -> str:
        """As `cache.runs.Result.name`."""
        return result_name(self.sources, self.head, self.level)


@dataclass(frozen=True)
class Prediction:
    """What one fit says of its test rows: probabilities [N_test, C] before and after its temperature."""

    unscaled: NDArray[np.float64]
    scaled: NDArray[np.float64]
    choice: Choice


@dataclass(frozen=True)
class Pooled:
    """The folds of one result together: probabilities [N, C], a temperature a fold, and whether each chose."""

    unscaled: NDArray[np.float64]
    scaled: NDArray[np.float64]
    temperatures: tuple[float, ...]
    chosen: bool


def run_ablation(cache: FeatureCache, settings: AblationSettings) -> Run:
    """Fit every combination, head and level, fold by fold; nothing is written.

    Parameters
    ----------
    cache : FeatureCache
    settings : AblationSettings

    Returns
    -------
    Run
        First a result with head `NETWORK` for each source, then the combinations.

    Raises
    ------
    InputError
        If the run's name is taken, before anything is fitted.
    LeakError
        If a block saw a clip that it would be tested on.
    MissingBlockError
        If features are not in the cache.
    """
    leaky = settings.protocol == LEAKY
    name = check_new_name(cache, leaky_name(settings.run) if leaky else settings.run, prefix=LEAKY if leaky else "run")
    rows = planned_rows(cache, settings)
    sources = sources_of(rows)
    protocol = choose_protocol(cache, sources, settings.protocol)
    plans = fold_plans(cache, sources, protocol, settings.repeats)
    log.info("%d results, %d plans", len(rows), len(plans.plans))
    pooled = []
    for plan in plans.plans:
        features = load_features(cache, plan, sources, protocol, jobs=settings.jobs)
        pooled.append(_fit_plan(cache, features, rows, jobs=settings.jobs))
    folds = [tuple(plan.assignment[status.digest] for status in cache.clips) for plan in plans.plans]
    return Run(
        name=name,
        protocol=protocol,
        classes=cache.classes,
        ids=tuple(status.clip.id for status in cache.clips),
        labels=tuple(status.clip.label for status in cache.clips),
        groups=tuple(status.group for status in cache.clips),
        folds=folds[0],
        fold_count=cache.plan.folds,
        seed=cache.plan.seed,
        recipes=tuple((source, cache.recipe(source).digest16) for source in sources),
        results=tuple(
            _result(row, of_row, result_notes(cache, [plan.chosen for plan in of_row], leaky=leaky))
            for row, of_row in ((row, [plan[row] for plan in pooled]) for row in rows)
        ),
        notes=tuple(run_notes(cache, protocol, sources, features.derived, plans=plans)),
        digests=tuple(status.digest for status in cache.clips),
        missing=missing_views(cache),
        repeat_folds=tuple(folds[1:]),
        commands=tuple(item for item in (*cache.commands, settings.command) if item),
        versions=versions(),
    )


def leaky_name(name: str | None) -> str | None:
    """Name of a leaky run: it says so wherever it stands."""
    return name if name is None or name.startswith(LEAKY) else f"{LEAKY}-{name}"


def planned_rows(cache: FeatureCache, settings: AblationSettings) -> list[Row]:
    """The results that an ablation will have: every source's network, then heads on the combinations.

    The mean of one source is its network's row.

    Raises
    ------
    InputError, UnknownNameError
        As for `parse_combinations`.
    """
    chosen = parse_combinations(settings.combine, cache.sources())
    sources = sorted({source for item in chosen for source in item})
    networks = [Row((source,), NETWORK, "logits") for source in sources]
    rows = dict.fromkeys(
        Row(item, head, check_level(level))
        for item, head, level in product(chosen, settings.heads, settings.levels)
        if level in head_spec(head).levels and (len(item) > 1 or head_spec(head).fits)
    )
    return [*networks, *rows]


def sources_of(rows: Sequence[Row]) -> Combination:
    """All sources of some results, sorted."""
    return tuple(sorted({source for row in rows for source in row.sources}))


def _fit_plan(cache: FeatureCache, features: PlanFeatures, rows: Sequence[Row], *, jobs: int) -> dict[Row, Pooled]:
    """Every row of the table under one plan."""
    plan = features.plan
    tasks = [(row, fold) for row in rows for fold in range(plan.folds)]

    def calls() -> Iterator[Call]:
        for row, fold in tasks:
            yield predict_fold, (features.design(cache, row.sources, row.level, fold), row.head, cache.plan.seed), {}

    found = dict(zip(tasks, run_parallel(calls(), total=len(tasks), jobs=jobs, what="fitting heads"), strict=True))
    folds = np.array([plan.assignment[status.digest] for status in cache.clips])
    return {row: _pool([found[row, fold] for fold in range(plan.folds)], folds) for row in rows}


def predict_fold(design: DesignMatrix, head: str, random_state: int) -> Prediction:
    """Choose, fit and predict the test rows; classes in sorted order, one that no training row has gets 0."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        model, choice = fit_head(design, "mean" if head == NETWORK else head, random_state)
        chances = model.predict_proba(design.x_test)
    spread = np.zeros((len(chances), len(design.classes)))
    spread[:, model.classes_] = chances
    spread /= spread.sum(axis=1, keepdims=True)
    return Prediction(spread, soften(spread, choice.temperature), choice)


def fit_head(design: DesignMatrix, head: str, random_state: int) -> tuple[Any, Choice]:
    """A head fitted on the training rows of a design matrix, and what was chosen for it on the inner folds."""
    spec = head_spec(head)
    if not spec.fits:
        model = make_head(head, classes=tuple(range(len(design.classes))))
        model.fit(design.x_train, design.y_train)
        return model, choose(model, design, fits=False, tunes=False)
    untuned = {"tune": False} if spec.tunes else {}
    choice = choose(make_head(head, random_state=random_state, **untuned), design, fits=True, tunes=spec.tunes)
    model = make_head(head, random_state=random_state, **untuned, **choice.settings)
    return model.fit(design.x_train, design.y_train, groups=design.groups_train), choice


def accuracies(run: Run) -> list[float]:
    """Out-of-fold accuracy of every result of a run."""
    truth = np.array([run.classes.index(label) for label in run.labels])
    return [float(np.mean(np.argmax(result.probabilities, axis=1) == truth)) for result in run.results]


def _pool(predictions: Sequence[Prediction], folds: NDArray[np.int64]) -> Pooled:
    """Rows of all folds in the order of the clips."""
    shape = (len(folds), predictions[0].scaled.shape[1])
    unscaled, scaled = np.empty(shape), np.empty(shape)
    for fold, prediction in enumerate(predictions):
        unscaled[folds == fold], scaled[folds == fold] = prediction.unscaled, prediction.scaled
    temperatures = tuple(prediction.choice.temperature for prediction in predictions)
    return Pooled(unscaled, scaled, temperatures, all(prediction.choice.chosen for prediction in predictions))


def _result(row: Row, plans: Sequence[Pooled], notes: tuple[str, ...]) -> Result:
    first = plans[0]
    return Result(
        sources=row.sources,
        head=row.head,
        level=row.level,
        probabilities=first.scaled,
        notes=notes,
        unscaled=first.unscaled,
        temperatures=first.temperatures,
        repeats=np.stack([plan.scaled for plan in plans[1:]]) if len(plans) > 1 else None,
    )
