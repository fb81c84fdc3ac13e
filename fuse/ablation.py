"""Ablations: combinations of sources x heads x levels x folds, with out-of-fold probabilities."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from cache.errors import InputError, UnknownNameError
from cache.runs import Result, Run, check_new_name
from cache.store import FeatureCache
from fuse.design import Columns, Design, assemble, columns_of_block
from fuse.heads import HEADS, LEVELS, head_spec, make_head

log = logging.getLogger(__name__)
PROTOCOL = "no-crossfit"
SEED_SOURCES = ("c3d", "i3d", "onedmcnn", "twodmcnn")
SEED_COMBINATIONS = (
    ("c3d", "onedmcnn"),
    ("i3d", "onedmcnn"),
    ("c3d", "twodmcnn"),
    ("i3d", "twodmcnn"),
    SEED_SOURCES,
)
"""The combinations of Table 2 of Zhou Ping 2022."""
IN_SAMPLE = "uncalibrated"
FEW_GROUPS = "defaults: a class has fewer than 3 groups"
MANY_SOURCES = 6


@dataclass(frozen=True)
class AblationSettings:
    """What `fuse` is asked to do; empty tuples mean every head and level, and all combinations."""

    run: str | None = None
    combine: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True)
class _Task:
    """One fit: a head on a combination at a level, tested on one fold."""

    sources: tuple[str, ...]
    head: str
    level: str
    fold: int


def parse_combinations(values: Sequence[str], sources: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Combinations of two or more sources, by name.

    Parameters
    ----------
    values : sequence of str
        ``"seed"`` (the seed's four pairs and all four), ``"all"`` (every subset of two or more) or ``"c3d+i3d"``.
    sources : sequence of str
        Sources in the cache.

    Raises
    ------
    UnknownNameError
        If a named source is not in the cache.
    InputError
        If a combination cannot be made of what is in the cache.
    """
    found: list[tuple[str, ...]] = []
    for value in values:
        if value == "seed":
            if absent := sorted(set(SEED_SOURCES) - set(sources)):
                raise InputError(
                    f"--combine seed needs {', '.join(SEED_SOURCES)}; {', '.join(absent)} missing from the cache; "
                    f"run extract with --source {absent[0]}, or use --combine all"
                )
            found.extend(SEED_COMBINATIONS)
        elif value == "all":
            if len(sources) > MANY_SOURCES:
                raise InputError(f"--combine all over {len(sources)} sources is {2 ** len(sources)} subsets; name some")
            found.extend(item for size in range(2, len(sources) + 1) for item in combinations(sorted(sources), size))
        else:
            names = tuple(sorted(set(value.split("+"))))
            for name in names:
                if name not in sources:
                    raise UnknownNameError("source", name, tuple(sources))
            if len(names) < 2:
                raise InputError(f"--combine {value}: one source is no combination; its network's own row is always there")
            found.append(names)
    return tuple(dict.fromkeys(found))


def run_ablation(cache: FeatureCache, settings: AblationSettings) -> Run:
    """Fit every head on every combination, level and fold, and pool the out-of-fold probabilities.

    Parameters
    ----------
    cache : FeatureCache
    settings : AblationSettings

    Returns
    -------
    Run
        Not yet written. The first results are the networks' own, one a source.

    Raises
    ------
    InputError
        If the name is taken, or a combination, head or level is unknown.
    LeakError
        If a block saw a test clip.
    """
    name = check_new_name(cache, settings.run)
    heads = settings.heads or tuple(HEADS)
    levels = settings.levels or LEVELS
    for head in heads:
        head_spec(head)
    if unknown := [level for level in levels if level not in LEVELS]:
        raise UnknownNameError("level", unknown[0], LEVELS)
    if not cache.sources():
        raise InputError(f"{cache.path} holds no source yet; run: moodfuse extract DATA --cache {cache.path}")
    combos = parse_combinations(settings.combine or ("all",), cache.sources())
    wanted = sorted({source for combo in combos for source in combo} or set(cache.sources()))
    columns = _Columns(cache)
    tasks = [
        _Task(combo, head, level, fold)
        for combo in combos
        for head in heads
        for level in levels
        if level in head_spec(head).levels
        for fold in range(cache.plan.folds)
    ]
    designs = ((task.head, columns.design(task.sources, task.level, task.fold), len(cache.classes)) for task in tasks)
    results = [_network_result(cache, columns, source) for source in wanted]
    fitted = list(_track(_fit_all(designs, settings.jobs), len(tasks)))
    results += _pool(cache, columns, tasks, fitted)
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
        recipes=tuple((source, cache.selection[source]) for source in wanted),
        results=tuple(results),
        notes=_run_notes(cache, wanted),
    )


class _Columns:
    """Columns of every source, level and fold, each read or made once."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self._kept: dict[tuple[str, str, int], Columns] = {}
        self._derived: dict[str, Any] = {}

    def get(self, source: str, level: str, fold: int) -> Columns:
        key = (source, level, fold)
        if key not in self._kept:
            block = self.cache.block(source, {fold})
            if level == "logits" and block.logits is None:
                from fuse.logits import DerivedLogits

                maker = self._derived.setdefault(
                    source, DerivedLogits(block, self.cache.plan, self.cache.clips, self.cache.classes)
                )
                self._kept[key] = maker.columns(fold)
            else:
                self._kept[key] = columns_of_block(block, level)
        return self._kept[key]

    def design(self, sources: tuple[str, ...], level: str, fold: int) -> Design:
        columns = [self.get(source, level, fold) for source in sources]
        return assemble(self.cache.plan, self.cache.clips, columns, test_fold=fold, classes=self.cache.classes)


def _network_result(cache: FeatureCache, columns: _Columns, source: str) -> Result:
    from fuse.heads_mean import softmax

    probabilities = np.zeros((len(cache.clips), len(cache.classes)))
    for fold in range(cache.plan.folds):
        design = columns.design((source,), "logits", fold)
        probabilities[design.test] = softmax(design.x_test)
    return Result((source,), "network", "logits", probabilities)


def _fit_all(designs: Iterable[tuple[str, Design, int]], jobs: int) -> Iterator[tuple[np.ndarray, bool]]:
    if jobs == 1:
        yield from (_fit(*item) for item in designs)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=jobs, return_as="generator")(delayed(_fit)(*item) for item in designs)


def _fit(head: str, design: Design, classes: int) -> tuple[np.ndarray, bool]:
    """Probabilities [n_test, C] of one head on one fold, and whether inner cross-validation chose its settings.

    Training rows that are in sample cannot choose anything honestly: settings stay at their defaults then.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        model = make_head(head)
        if hasattr(model, "C") and not design.honest:
            from fuse.heads_linear import DEFAULT_C

            model.C = DEFAULT_C
        model.fit(design.x_train, design.y_train, groups=design.groups_train)
        probabilities = np.zeros((len(design.test), classes))
        probabilities[:, model.classes_] = model.predict_proba(design.x_test)
    return probabilities, bool(getattr(model, "chosen_", True))


def _pool(
    cache: FeatureCache, columns: _Columns, tasks: Sequence[_Task], fitted: Sequence[tuple[np.ndarray, bool]]
) -> list[Result]:
    pooled: dict[tuple[tuple[str, ...], str, str], np.ndarray] = {}
    notes: dict[tuple[tuple[str, ...], str, str], set[str]] = {}
    for task, (probabilities, chosen) in zip(tasks, fitted, strict=True):
        key = (task.sources, task.head, task.level)
        design = columns.design(task.sources, task.level, task.fold)
        pooled.setdefault(key, np.zeros((len(cache.clips), len(cache.classes))))[design.test] = probabilities
        said = notes.setdefault(key, set())
        if head_spec(task.head).fits and not design.honest:
            said.add(IN_SAMPLE)
        elif not chosen:
            said.add(FEW_GROUPS)
    return [Result(*key, probabilities, tuple(sorted(notes[key]))) for key, probabilities in pooled.items()]


def _run_notes(cache: FeatureCache, sources: Sequence[str]) -> tuple[str, ...]:
    notes = []
    tuned = [source for source in sources if cache.recipe(source).tuning is not None]
    if tuned:
        notes.append(
            f"no pair holdouts: heads that read tuned values of {', '.join(tuned)} train on in-sample rows, so they keep "
            "default settings and are marked uncalibrated"
        )
    untrained = [source for source in sources if not cache.recipe(source).pretrained]
    if untrained:
        notes.append(f"no pretrained weights: {', '.join(untrained)} started from random values")
    few = min(
        sum(unit.label == label and cache.plan.assignment[unit.key] != fold for unit in cache.units)
        for label in cache.classes
        for fold in range(cache.plan.folds)
    )
    if few < 3:
        notes.append(f"a class has {few} group(s) on a training side, fewer than 3: fixed epochs and default settings")
        log.warning("%s", notes[-1])
    return tuple(notes)


def _track(items: Iterator[Any], total: int) -> Iterator[Any]:
    if not sys.stderr.isatty() or not total:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, total=total, description="Fitting heads", console=Console(stderr=True))
