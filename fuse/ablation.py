"""The ablation: combinations of sources x heads x levels x folds, with out-of-fold probabilities.

Stage one leaves one network `{k}` a fold, or one frozen network; so for outer fold k both training and test rows come
from it (protocol ``no-crossfit``). A tuned network saw the training rows, and what a head would choose on them
(C) stays at its default: the result is marked ``uncalibrated``. Only the logits of frozen sources are cross-fitted.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os import cpu_count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from cache.folds import MIN_INNER_GROUPS
from cache.records import Block, Holdout
from cache.runs import Result, Run, check_new_name
from cache.store import FeatureCache
from fuse.combinations import Combination, parse_combinations
from fuse.design import LEVELS, DesignMatrix, Features, Level, assemble, check_level
from fuse.heads import HEADS, head_spec, make_head
from fuse.logits import can_cross_fit, fit_logits, holdouts_to_fit, logits_for_fold
from fuse.workers import Call, run_parallel

log = logging.getLogger(__name__)

PROTOCOL = "no-crossfit"
NETWORK = "network"
"""Head name of a source's own softmax."""
UNCALIBRATED = "uncalibrated"
FEW_GROUPS = f"fewer than {MIN_INNER_GROUPS} groups per class: default settings"


@dataclass(frozen=True)
class AblationSettings:
    """What to fit.

    Attributes
    ----------
    run : str or None
        Name of the run; the next free ``run-N`` if `None`.
    combine : tuple of str
        As for `parse_combinations`.
    heads, levels : tuple of str
    jobs : int
        Worker processes; changes no result.
    """

    run: str | None = None
    combine: tuple[str, ...] = ("all",)
    heads: tuple[str, ...] = tuple(HEADS)
    levels: tuple[str, ...] = LEVELS
    jobs: int = cpu_count() or 1

    def __post_init__(self) -> None:
        for head in self.heads:
            head_spec(head)
        for level in self.levels:
            check_level(level)
        if self.jobs < 1:
            raise InputError(f"--jobs is {self.jobs}; expected 1 or more")


@dataclass(frozen=True)
class FoldFeatures:
    """What every source gives to each outer fold: (source, fold) to its block, at both levels.

    `derived` names the sources whose logits were fitted here.
    """

    embedding: Mapping[tuple[str, int], Block]
    logits: Mapping[tuple[str, int], Features]
    derived: tuple[str, ...]

    def design(self, cache: FeatureCache, sources: Combination, level: Level, fold: int) -> DesignMatrix:
        """The guarded design matrix of a combination."""
        table: Mapping[tuple[str, int], Features] = self.logits if level == "logits" else self.embedding
        blocks = [table[source, fold] for source in sources]
        return assemble(cache.plan, cache.clips, blocks, test_fold=fold, level=level)


@dataclass(frozen=True)
class Task:
    """One fit: a row group of the ablation's table."""

    sources: Combination
    head: str
    level: Level
    fold: int


def run_ablation(cache: FeatureCache, settings: AblationSettings) -> Run:
    """Fit every combination, head and level, fold by fold; nothing is written.

    Parameters
    ----------
    cache : FeatureCache
    settings : AblationSettings

    Returns
    -------
    Run
        First a result with head ``"network"`` for each source, then the combinations.

    Raises
    ------
    InputError
        If the run's name is taken, before anything is fitted.
    LeakError
        If a block saw a clip that it would be tested on.
    MissingBlockError
        If features are not in the cache.
    """
    name = check_new_name(cache, settings.run)
    chosen = parse_combinations(settings.combine, cache.sources())
    sources = tuple(sorted({source for item in chosen for source in item}))
    features = load_features(cache, sources, jobs=settings.jobs)
    rows = [(item, head, check_level(level)) for item, head, level in product(chosen, settings.heads, settings.levels)]
    rows = [row for row in dict.fromkeys(rows) if row[2] in head_spec(row[1]).levels]
    keys = [Task((source,), NETWORK, "logits", fold) for source in sources for fold in range(cache.plan.folds)]
    keys += [Task(*row, fold) for row in rows for fold in range(cache.plan.folds)]
    log.info("%d combinations, %d results, %d fits", len(chosen), len(sources) + len(rows), len(keys))
    honest: dict[Task, bool] = {}

    def calls() -> Iterator[Call]:
        for task in keys:
            design = features.design(cache, task.sources, task.level, task.fold)
            honest[task] = design.honest
            yield predict_fold, (design, task.head, cache.plan.seed), {}

    chances = run_parallel(calls(), total=len(keys), jobs=settings.jobs, what="fitting heads")
    found = dict(zip(keys, chances, strict=True))
    return Run(
        name=name,
        protocol=PROTOCOL,
        classes=cache.classes,
        ids=tuple(status.clip.id for status in cache.clips),
        labels=tuple(status.clip.label for status in cache.clips),
        groups=tuple(status.group for status in cache.clips),
        folds=tuple(cache.plan.assignment[status.digest] for status in cache.clips),
        fold_count=cache.plan.folds,
        seed=cache.plan.seed,
        recipes=tuple((source, cache.recipe(source).digest16) for source in sources),
        results=_pool(cache, features, found, honest),
        notes=_run_notes(cache, features),
    )


def load_features(cache: FeatureCache, sources: Sequence[str], *, jobs: int) -> FoldFeatures:
    """Blocks of every source for each outer fold; sources without logits get theirs here.

    Parameters
    ----------
    cache : FeatureCache
    sources : sequence of str
    jobs : int
        Worker processes for the fits.
    """
    folds = range(cache.plan.folds)
    embedding = {(source, fold): cache.block(source, {fold}) for source in sources for fold in folds}
    logits: dict[tuple[str, int], Features] = {key: item for key, item in embedding.items() if item.logits is not None}
    wanted: dict[tuple[str, Holdout], Block] = {}
    for (source, _), block in embedding.items():
        if block.logits is None:
            wanted.update({(source, holdout): block for holdout in holdouts_to_fit(block, cache.plan, cache.clips)})
    calls: Iterator[Call] = (
        (fit_logits, (block, holdout, cache.plan, cache.clips), {"random_state": cache.plan.seed})
        for (_, holdout), block in wanted.items()
    )
    fitted = dict(zip(wanted, run_parallel(calls, total=len(wanted), jobs=jobs, what="fitting logits"), strict=True))
    for source, fold in embedding:
        if (source, fold) not in logits:
            fits = {holdout: block for (owner, holdout), block in fitted.items() if owner == source}
            logits[source, fold] = logits_for_fold(fits, cache.plan, cache.clips, test_fold=fold)
    return FoldFeatures(embedding, logits, derived=tuple(dict.fromkeys(source for source, _ in wanted)))


def fit_head(design: DesignMatrix, head: str, random_state: int) -> Any:
    """A head fitted on the training rows of a design matrix; it chooses settings only where they are out of sample."""
    spec = head_spec(head)
    if not spec.fits:
        model = make_head(head, classes=tuple(range(len(design.classes))))
    elif spec.tunes:
        model = make_head(head, random_state=random_state, tune=design.honest)
    else:
        model = make_head(head, random_state=random_state)
    return model.fit(design.x_train, design.y_train, groups=design.groups_train)


def predict_fold(design: DesignMatrix, head: str, random_state: int) -> NDArray[np.float64]:
    """Probabilities [N_test, C] of the test rows, classes in sorted order; one that no training row has gets 0."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        model = fit_head(design, "mean" if head == NETWORK else head, random_state)
        chances = model.predict_proba(design.x_test)
    spread = np.zeros((len(chances), len(design.classes)))
    spread[:, model.classes_] = chances
    return spread / spread.sum(axis=1, keepdims=True)


def accuracies(run: Run) -> list[float]:
    """Out-of-fold accuracy of every result of a run."""
    truth = np.array([run.classes.index(label) for label in run.labels])
    return [float(np.mean(np.argmax(result.probabilities, axis=1) == truth)) for result in run.results]


def _pool(
    cache: FeatureCache, features: FoldFeatures, found: Mapping[Task, NDArray[np.float64]], honest: Mapping[Task, bool]
) -> tuple[Result, ...]:
    """Results from their folds' rows, with what a reader must know."""
    folds = np.array([cache.plan.assignment[status.digest] for status in cache.clips])
    few = has_few_groups(cache)
    pooled: dict[tuple[Combination, str, Level], NDArray[np.float64]] = {}
    notes: dict[tuple[Combination, str, Level], dict[str, None]] = {}
    for task, chances in found.items():
        key = (task.sources, task.head, task.level)
        table = pooled.setdefault(key, np.full((len(folds), len(cache.classes)), np.nan))
        table[folds == task.fold] = chances
        said = notes.setdefault(key, {})
        spec = HEADS.get(task.head)
        derived = task.level == "logits" and not set(task.sources).isdisjoint(features.derived)
        if spec is not None and spec.fits and not honest[task]:
            said[UNCALIBRATED] = None
        elif few and (derived or (spec is not None and spec.tunes)):
            said[FEW_GROUPS] = None
    return tuple(Result(*key, table, tuple(notes[key])) for key, table in pooled.items())


def has_few_groups(cache: FeatureCache) -> bool:
    """Whether some class has fewer than 3 groups on the training side of some fold, so that nothing can be chosen."""
    for fold in range(cache.plan.folds):
        kept = Counter(unit.label for unit in cache.units if cache.plan.assignment[unit.key] != fold)
        if min(kept[label] for label in cache.classes) < MIN_INNER_GROUPS:
            return True
    return False


def _run_notes(cache: FeatureCache, features: FoldFeatures) -> tuple[str, ...]:
    if not features.derived:
        return ()
    how = "cross-fitted" if can_cross_fit(cache.plan, cache.clips) else "in sample, for too few folds hold every class"
    notes = (f"logits of {', '.join(features.derived)}: logistic regression on the embedding, {how}",)
    log.info("%s", notes[0])
    return notes
