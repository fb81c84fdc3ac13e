"""The ablation: combinations of sources x heads x levels x folds, with out-of-fold probabilities.

Under the protocol ``crossfit`` every setting (C, rounds, temperature) is chosen on rows that are out of
sample; where that is not possible, the result keeps its defaults and is marked ``uncalibrated``.
`moodfuse.fuse.cross_fitting` documents which networks each protocol reads.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence

from moodfuse.cache.digests import digest
from moodfuse.cache.fits import KeptFit, KeptFits
from moodfuse.cache.records import Plan
from moodfuse.cache.runs import LEAKY, Run, check_new_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import fit_features
from moodfuse.fuse.fitting import Call, FitRunner, fitted_head, predict
from moodfuse.fuse.heads import get_head_spec
from moodfuse.fuse.leak_guard import clip_rows
from moodfuse.fuse.run_inputs import RunInputs, choose_plans, read_blocks, read_inputs, read_part_digests
from moodfuse.fuse.run_record import library_versions, make_run
from moodfuse.fuse.settings import AblationSettings, PlannedResult, Task, planned_results, sources_of

log = logging.getLogger(__name__)

RULES = 2
"""Counts changes of the code that change the outcome of every fit: designs, inner folds, chosen settings."""
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm")


def make_fit_keys(inputs: RunInputs, plan: Plan, parts: Mapping[str, tuple[str, str]]) -> Callable[..., str]:
    """A function of sources and further facts that gives the key of a fit: a digest of all that decides it.

    Clips, labels and groups are not in it: they name the folder of the cached fits (`moodfuse.cache.fits`).
    `parts` is as from `read_part_digests`.
    """
    common = {
        "rules": RULES,
        "libraries": {name: version for name, version in library_versions() if name in _LIBRARIES},
        "folds": plan.folds,
        "plan": sorted(plan.assignment.items()),
        "protocol": inputs.protocol,
        "crossfit": inputs.cross_fit,
        "seed": inputs.plan.seed,
    }
    common_digest = digest(common)

    def key(sources: Sequence[str], *facts: object) -> str:
        values = [common_digest, facts, [(source, parts[source]) for source in sources]]
        return hashlib.sha256(repr(values).encode()).hexdigest()

    return key


def run_ablation(cache: FeatureCache, settings: AblationSettings) -> Run:
    """Fit every combination, head and level, fold by fold; finished fits are cached, the run is not written.

    Returns the run: first a result with head `NETWORK` for each source, then the combinations.

    Raises
    ------
    InputError
        If the run's name is taken, before anything is fitted.
    LeakError
        If a block saw a clip that it would be tested on.
    MissingBlockError
        If features are not in the cache.
    """
    name, is_leaky = settings.run, settings.protocol == LEAKY
    if is_leaky and name is not None and not name.startswith(LEAKY):
        name = f"{LEAKY}-{name}"
    name = check_new_name(cache, name, prefix=LEAKY if is_leaky else "run")
    results = planned_results(cache, settings)
    inputs = read_inputs(cache, sources_of(results), settings.protocol)
    plans, note = choose_plans(inputs, settings.repeats)
    log.info("%d results, %d fold plans", len(results), len(plans))
    fits = KeptFits(cache.path, cache.clips) if settings.keep else None
    runner = FitRunner(fits, settings.jobs, settings.scheduler)
    done = [_fit_plan(cache, inputs, plan, results, runner) for plan in plans]
    clips = [clip_rows(plan, inputs.clips) for plan in plans]
    return make_run(name, inputs, clips, done, note=note, commands=(*cache.commands, settings.command))


def _fit_plan(
    cache: FeatureCache, inputs: RunInputs, plan: Plan, results: Sequence[PlannedResult], runner: FitRunner
) -> dict[Task, KeptFit]:
    """The fits of all results and folds under one plan; blocks are read only where one is missing."""
    key = make_fit_keys(inputs, plan, read_part_digests(cache, inputs, plan))

    def make_calls(missing: list[Task]) -> list[Call]:
        rows = clip_rows(plan, inputs.clips)
        features = fit_features(inputs, rows, read_blocks(cache, inputs, plan), key, runner)
        return [
            (
                (result, fold),
                predict,
                (features.make_design_inputs(result.sources, result.level, fold), result.head, features.seed),
            )
            for result, fold in missing
        ]

    version = {result: get_head_spec(fitted_head(result.head)).version for result in results}
    keys = {
        (result, fold): key(result.sources, result.head, version[result], result.level, fold)
        for result in results
        for fold in range(plan.folds)
    }
    return runner.run("fitting heads", keys, make_calls)
