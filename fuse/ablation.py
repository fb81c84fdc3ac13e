"""The ablation: combinations of sources x heads x levels x folds, with out-of-fold probabilities.

Under the protocol ``crossfit`` every setting (C, rounds, temperature) is chosen on rows that are out of sample; where
none can be, the result keeps its defaults and says ``uncalibrated``. `moodfuse.fuse.protocols` says what each protocol reads.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.fits import KeptFit, KeptFits
from moodfuse.cache.runs import LEAKY, NETWORK, Result, Run, check_new_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.derived import Memory
from moodfuse.fuse.design import Ingredients
from moodfuse.fuse.fit_keys import Ledger
from moodfuse.fuse.heads.registry import HeadSpec, head_spec, make_head
from moodfuse.fuse.matrix import DesignMatrix
from moodfuse.fuse.notes import missing_views, result_notes, run_notes, versions
from moodfuse.fuse.protocols import (
    OuterFold,
    choose_protocol,
    load_features,
    without_logits,
)
from moodfuse.fuse.repeats import fold_plans
from moodfuse.fuse.settings import AblationSettings, Row, Task, leaky_name, planned_rows, sources_of
from moodfuse.fuse.tuning import Choice, choose, soften
from moodfuse.fuse.workers import Call, one_thread, run_parallel

log = logging.getLogger(__name__)


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
    """Fit every combination, head and level, fold by fold. Finished fits are kept in the cache; the run is not written.

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
    name = check_new_name(
        cache, leaky_name(settings.run) if leaky else settings.run, prefix=LEAKY if leaky else "run"
    )
    rows = planned_rows(cache, settings)
    sources = sources_of(rows)
    protocol = choose_protocol(cache, sources, settings.protocol)
    plans = fold_plans(cache, sources, protocol, settings.repeats)
    log.info("%d results, %d plans", len(rows), len(plans.plans))
    pooled = [
        _fit_plan(cache, rows, Ledger(cache, plan, protocol, sources), settings) for plan in plans.plans
    ]
    derived = without_logits(cache, cache.plan, sources, protocol)
    clips = cache.clips
    digests = tuple(status.digest for status in clips)
    folds = [tuple(plan.folds_of(digests).tolist()) for plan in plans.plans]
    return Run(
        name=name,
        protocol=protocol,
        classes=cache.classes,
        ids=tuple(status.clip.id for status in clips),
        labels=tuple(status.clip.label for status in clips),
        groups=tuple(status.group for status in clips),
        folds=folds[0],
        fold_count=cache.plan.folds,
        seed=cache.plan.seed,
        recipes=tuple((source, cache.recipe(source).digest16) for source in sources),
        results=tuple(
            _result(row, of_row, result_notes(cache, [plan.chosen for plan in of_row], leaky=leaky))
            for row, of_row in ((row, [plan[row] for plan in pooled]) for row in rows)
        ),
        notes=tuple(run_notes(cache, protocol, sources, derived, plans=plans)),
        digests=digests,
        missing=missing_views(cache),
        repeat_folds=tuple(folds[1:]),
        commands=tuple(item for item in (*cache.commands, settings.command) if item),
        versions=versions(),
    )


def _fit_plan(
    cache: FeatureCache, rows: Sequence[Row], ledger: Ledger, settings: AblationSettings
) -> dict[Row, Pooled]:
    """Every row of the table under one plan: what is kept, and the rest fitted now."""
    plan = ledger.plan
    keys = {(row, fold): ledger.of_row(*row.parts, fold) for row in rows for fold in range(plan.folds)}
    fits = KeptFits(cache.path, cache.clips, writes=settings.keep)
    kept = fits.find(keys.values()) if settings.keep else {}
    found = {task: _recalled(kept[key]) for task, key in keys.items() if key in kept}
    missing = [task for task in keys if task not in found]
    if found:
        log.info("%d of %d fits were done before", len(found), len(keys))
    if missing:
        try:
            for task, prediction in _fit(cache, missing, ledger, fits, settings):
                found[task] = prediction
                fits.keep(keys[task], KeptFit(prediction.unscaled, *_chosen(prediction.choice)))
        finally:
            fits.flush()
    folds = plan.folds_of([status.digest for status in cache.clips])
    return {row: _pool([found[row, fold] for fold in range(plan.folds)], folds) for row in rows}


def _fit(
    cache: FeatureCache, tasks: Sequence[Task], ledger: Ledger, fits: KeptFits, settings: AblationSettings
) -> Iterator[tuple[Task, Prediction]]:
    """Fit some rows in some folds, each as it is done; heads that share work on one design matrix do so."""
    plan, sources = ledger.plan, ledger.sources
    memory = Memory(fits, ledger.of_logits) if settings.keep else None
    features = load_features(cache, plan, sources, ledger.protocol, workers=settings.workers, memory=memory)
    groups: dict[tuple[Any, ...], list[Task]] = {}
    for row, fold in tasks:
        groups.setdefault((row.sources, row.level, fold, _fitted_head(row.head).kin), []).append((row, fold))
    widths = {source: features.embedding[source, 0].embedding.shape[1] for source in sources}
    wide_first = sorted(
        groups, key=lambda group: (group[3], sum(widths[source] for source in group[0])), reverse=True
    )

    def calls() -> Iterator[Call]:
        for chosen, level, fold, kin in wide_first:
            heads = tuple(row.head for row, _ in groups[chosen, level, fold, kin])
            parts = features.ingredients(cache, chosen, level, fold)
            yield predict_heads, (features.fold_of(cache, fold), parts, heads, cache.plan.seed), {}

    for place, predictions in run_parallel(
        calls(), total=len(groups), workers=settings.workers, what="fitting heads"
    ):
        yield from zip(groups[wide_first[place]], predictions, strict=True)


def predict_heads(
    fold: OuterFold, parts: Ingredients, heads: Sequence[str], random_state: int
) -> list[Prediction]:
    """`predict_fold` of several heads on one design matrix."""
    design = fold.design(parts)
    return [predict_fold(design, head, random_state) for head in heads]


def _fitted_head(head: str) -> HeadSpec:
    """What is fitted for a row: that of a network is the mean of one source."""
    return head_spec("mean" if head == NETWORK else head)


def _chosen(choice: Choice) -> tuple[float, bool, dict[str, Any]]:
    return choice.temperature, choice.chosen, dict(choice.settings)


def _recalled(kept: KeptFit) -> Prediction:
    choice = Choice(kept.settings, kept.temperature, kept.chosen)
    return Prediction(kept.values, soften(kept.values, choice.temperature), choice)


def predict_fold(design: DesignMatrix, head: str, random_state: int) -> Prediction:
    """Choose, fit and predict the test rows; classes in sorted order, one that no training row has gets 0."""
    with one_thread():
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
    choice = choose(
        make_head(head, random_state=random_state, **untuned), design, fits=True, tunes=spec.tunes
    )
    model = make_head(head, random_state=random_state, **untuned, **choice.settings)
    return model.fit(design.x_train, design.y_train, groups=design.groups_train), choice


def accuracies(run: Run) -> list[float]:
    """Out-of-fold accuracy of every result of a run."""
    truth = np.array([run.classes.index(label) for label in run.labels])
    return [float(np.mean(np.argmax(result.probabilities, axis=1) == truth)) for result in run.results]


def _pool(predictions: Sequence[Prediction], folds: NDArray[np.int16]) -> Pooled:
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
