"""The ablation: combinations of sources x heads x levels x folds, with out-of-fold probabilities.

Under the protocol ``crossfit`` every setting (C, rounds, temperature) is chosen on rows that are out of
sample; where that is not possible, the result keeps its defaults and is marked ``uncalibrated``.
`moodfuse.fuse.cross_fitting` documents which networks each protocol reads.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from moodfuse.cache.digests import digest
from moodfuse.cache.fits import KeptFit, KeptFits
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.runs import LEAKY, Run, check_new_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import (
    Blocks,
    PlanFeatures,
    block_of_kept,
    fit_leaky_logits,
    fit_to_keep,
    logits_to_fit,
    plan_features,
)
from moodfuse.fuse.design import assemble, assemble_leaky
from moodfuse.fuse.heads import head_spec
from moodfuse.fuse.leak_guard import ClipRows, clip_rows
from moodfuse.fuse.run_inputs import (
    RunInputs,
    choose_plans,
    read_blocks,
    read_inputs,
    read_part_digests,
)
from moodfuse.fuse.run_record import library_versions, make_run
from moodfuse.fuse.settings import AblationSettings, PlannedResult, Task, planned_results, sources_of
from moodfuse.fuse.tuning import fitted_head, predict
from moodfuse.fuse.workers import IN_THIS_PROCESS, Workers, run_parallel

log = logging.getLogger(__name__)

RULES = 2
"""Counts changes of the code that change the outcome of every fit: designs, inner folds, chosen settings."""
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm")
_T = TypeVar("_T")


@dataclass(frozen=True)
class FitKeys:
    """Keys of the fits of one plan: digests of everything that decides their outcome.

    Clips, labels and groups are not in them: they name the folder of the kept fits (`moodfuse.cache.fits`).
    `common` is the digest of what all fits of the plan depend on, `parts` as from `read_part_digests`.
    """

    common: str
    parts: Mapping[str, tuple[str, str]]

    def of_result(self, result: PlannedResult, fold_count: int) -> list[str]:
        """Keys of a head's predictions, one per outer fold."""
        version = head_spec(fitted_head(result.head)).version
        facts = (result.head, version, result.level)
        return [self._key(result.sources, *facts, fold) for fold in range(fold_count)]

    def of_logits(self, source: str, holdout: Holdout) -> str:
        """Key of the logits of a source without any, from the fit that leaves out a holdout."""
        return self._key((source,), "fitted logits", head_spec("softmax").version, str(holdout))

    def _key(self, sources: Sequence[str], *facts: object) -> str:
        values = [self.common, facts, [(source, self.parts[source]) for source in sources]]
        return hashlib.sha256(repr(values).encode()).hexdigest()


def fit_keys(inputs: RunInputs, plan: Plan, parts: Mapping[str, tuple[str, str]]) -> FitKeys:
    """The keys of the fits of a plan."""
    common = {
        "rules": RULES,
        "libraries": {name: version for name, version in library_versions() if name in _LIBRARIES},
        "folds": plan.folds,
        "plan": sorted(plan.assignment.items()),
        "protocol": inputs.protocol,
        "crossfit": inputs.cross_fit,
        "seed": inputs.plan.seed,
    }
    return FitKeys(digest(common), parts)


def run_ablation(cache: FeatureCache, settings: AblationSettings) -> Run:
    """Fit every combination, head and level, fold by fold; finished fits are kept, the run is not written.

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
    wanted = _leaky_name(settings.run) if leaky else settings.run
    name = check_new_name(cache, wanted, prefix=LEAKY if leaky else "run")
    results = planned_results(cache, settings)
    inputs = read_inputs(cache, sources_of(results), settings.protocol)
    plans = choose_plans(inputs, settings.repeats)
    log.info("%d results, %d fold plans", len(results), len(plans.plans))
    clips = [clip_rows(plan, inputs.clips) for plan in plans.plans]
    fits = KeptFits(cache.path, cache.clips) if settings.keep else None
    done = [
        _fit_plan(cache, inputs, plan, plan_clips, results, fits, settings.workers)
        for plan, plan_clips in zip(plans.plans, clips, strict=True)
    ]
    return make_run(name, inputs, plans, clips, results, done, commands=(*cache.commands, settings.command))


def _fit_plan(
    cache: FeatureCache,
    inputs: RunInputs,
    plan: Plan,
    clips: ClipRows,
    results: Sequence[PlannedResult],
    fits: KeptFits | None,
    workers: Workers,
) -> dict[Task, KeptFit]:
    """The fits of all results and folds under one plan; blocks are read only where one is missing."""
    keys = fit_keys(inputs, plan, read_part_digests(cache, inputs, plan))

    def fit(tasks: list[Task]) -> Iterator[tuple[Task, KeptFit]]:
        blocks = read_blocks(cache, inputs, plan)
        features = fit_features(inputs, plan, clips, blocks, keys, fits, workers)
        return _fit_results(features, tasks, workers)

    tasks = {
        (result, fold): key
        for result in results
        for fold, key in enumerate(keys.of_result(result, plan.folds))
    }
    return _complete("fits", tasks, fits, fit)


def fit_features(
    inputs: RunInputs,
    plan: Plan,
    clips: ClipRows,
    blocks: Blocks,
    keys: FitKeys | None = None,
    fits: KeptFits | None = None,
    workers: Workers = IN_THIS_PROCESS,
) -> PlanFeatures:
    """What every source gives to each outer fold of a plan; sources without logits get theirs here.

    Fits of logits are kept under `keys` in `fits`, where these are given.
    """
    seed = inputs.plan.seed
    if inputs.protocol == LEAKY:
        fitted = {
            name: fit_leaky_logits(block, clips, seed=seed)
            for name, block in blocks.items()
            if block.logits is None
        }
        return plan_features(clips, inputs.protocol, blocks, fitted, seed=seed)
    wanted = logits_to_fit(blocks, plan, cross_fit=inputs.cross_fit)

    def fit(names: list[tuple[str, Holdout]]) -> Iterator[tuple[tuple[str, Holdout], KeptFit]]:
        calls = [(name, fit_to_keep, (wanted[name], name[1], clips, seed)) for name in names]
        return run_parallel(calls, workers=workers, what="fitting logits")

    tasks = {name: keys.of_logits(*name) if keys else "" for name in wanted}
    done = _complete("fits of logits", tasks, fits, fit)
    fitted = {name: block_of_kept(wanted[name], name[1], done[name], clips) for name in wanted}
    return plan_features(clips, inputs.protocol, blocks, fitted, seed=seed)


def _complete(
    what: str,
    tasks: Mapping[_T, str],
    fits: KeptFits | None,
    fit: Callable[[list[_T]], Iterable[tuple[_T, KeptFit]]],
) -> dict[_T, KeptFit]:
    """The fits of all tasks, given with their keys: the kept ones, and the others, kept as they are done."""
    kept = fits.find(tasks.values()) if fits else {}
    done = {task: kept[key] for task, key in tasks.items() if key in kept}
    missing = [task for task in tasks if task not in done]
    if done:
        log.info("%d of %d %s were done before", len(done), len(tasks), what)
    if not missing:
        return done
    try:
        for task, result in fit(missing):
            done[task] = result
            if fits:
                fits.keep(tasks[task], result)
    finally:
        if fits:
            fits.flush()
    return done


def _fit_results(
    features: PlanFeatures, tasks: Sequence[Task], workers: Workers
) -> Iterator[tuple[Task, KeptFit]]:
    make = assemble_leaky if features.protocol == LEAKY else assemble
    calls = []
    for result, fold in tasks:
        inputs = features.design_inputs(result.sources, result.level, fold)
        calls.append(((result, fold), predict, (make, inputs, result.head, features.seed)))
    return run_parallel(calls, workers=workers, what="fitting heads")


def _leaky_name(name: str | None) -> str | None:
    """Name of a leaky run: it begins with the word."""
    return name if name is None or name.startswith(LEAKY) else f"{LEAKY}-{name}"
