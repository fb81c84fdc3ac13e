"""Nothing fitted for fold k depends on fold k; and a leak put into any fitting step is seen.

The first test replaces labels and features of fold k's rows by noise and compares, bit for bit, everything
that is fitted for it. The others put one deliberate leak into the code, step by step, and ask the same
question: it must be no.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.errors import LeakError
from moodfuse.cache.records import Block, Holdout, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import PlanFeatures
from moodfuse.fuse.design import DesignInputs, assemble
from moodfuse.fuse.heads import HEADS, LEVELS
from moodfuse.fuse.leak_guard import clip_rows
from moodfuse.fuse.settings import CROSSFIT, NO_CROSSFIT, PlannedResult, Protocol
from moodfuse.fuse.tuning import fit_head, predict_fold

FOLD = 1
SOURCES = (("i3d",), ("c3d", "i3d"))
RESULTS = [
    PlannedResult(*item) for item in product(SOURCES, HEADS, LEVELS) if item[2] in HEADS[item[1]].levels
]
QUICK = [result for result in RESULTS if result.head in ("softmax", "mean")]
TREES = [result for result in RESULTS if result.head == "lightgbm" and len(result.sources) == 1]


@pytest.fixture
def fitted(load_features: Callable[..., PlanFeatures]) -> Callable[..., dict[str, list[np.ndarray]]]:
    """Everything that is fitted for a fold: matrices, choices, and the heads' own numbers."""

    def fit(
        cache: FeatureCache,
        fold: int,
        results: list[PlannedResult],
        *,
        protocol: Protocol = CROSSFIT,
        plan: Plan | None = None,
    ) -> dict[str, list[np.ndarray]]:
        sources = sorted({source for result in results for source in result.sources})
        features = load_features(cache, sources, protocol, plan=plan)
        parts_of: dict[str, list[np.ndarray]] = {}
        for result in results:
            design = features.design(result.sources, result.level, fold)
            model, choice = fit_head(design, result.head, 0)
            parts = [np.array([choice.temperature, *map(float, choice.settings.values())]), design.x_train]
            for inner in design.inner:
                parts += [inner.x[inner.fit], inner.x[inner.held_out]]
            names = ("coef_", "intercept_", "mean_", "scale_", "C_", "rounds_")
            parts += [np.asarray(getattr(model, name)) for name in names if hasattr(model, name)]
            if result.head == "lightgbm":
                parts.append(np.array([model.model_.booster_.model_to_string()]))
            parts_of[result.name] = parts
        return parts_of

    return fit


@pytest.fixture
def perturbed(replace_clips: Callable[..., None]) -> Callable[..., FeatureCache]:
    """A cache with other labels and features for the clips of a plan's fold, in every block."""

    def perturb(cache: FeatureCache, fold: int, plan: Plan | None = None) -> FeatureCache:
        other = FeatureCache(cache.path)
        in_fold = {digest for digest, at in (plan or cache.plan).assignment.items() if at == fold}
        next_label = dict(zip(cache.classes, cache.classes[1:] + cache.classes[:1], strict=True))
        clips = [
            replace(status, clip=replace(status.clip, label=next_label[status.clip.label]))
            if status.digest in in_fold
            else status
            for status in cache.clips
        ]
        replace_clips(other, clips)
        rows = np.array([status.digest in in_fold for status in cache.clips])[:, None]
        rng = np.random.default_rng(9)

        def noisy(values: np.ndarray) -> np.ndarray:
            return np.where(rows, rng.normal(size=values.shape).astype(np.float32) * 5 + 3, values)

        def block(source: str, holdout: object, *, plan: object = None) -> Block:
            original = cache.block(source, holdout, plan=plan)  # type: ignore[arg-type]
            logits = None if original.logits is None else noisy(original.logits)
            return replace(original, embedding=noisy(original.embedding), logits=logits)

        other.block = block  # type: ignore[method-assign]
        return other

    return perturb


@pytest.fixture
def differing(
    fitted: Callable[..., dict[str, list[np.ndarray]]], perturbed: Callable[..., FeatureCache]
) -> Callable[..., list[str]]:
    """Results whose fits depend on the rows of the fold under test."""

    def differ(
        cache: FeatureCache, results: list[PlannedResult], fold: int = FOLD, **options: Any
    ) -> list[str]:
        noisy = perturbed(cache, fold, options.get("plan"))
        return unequal(fitted(cache, fold, results, **options), fitted(noisy, fold, results, **options))

    return differ


def unequal(clean: dict[str, list[np.ndarray]], noisy: dict[str, list[np.ndarray]]) -> list[str]:
    """Results of which any fitted number differs."""
    return [
        name
        for name, parts in clean.items()
        if len(parts) != len(noisy[name])
        or not all(np.array_equal(one, two) for one, two in zip(parts, noisy[name], strict=True))
    ]


def test_test_rows_enter_no_fit(crossfitted: FeatureCache, differing: Callable[..., list[str]]) -> None:
    """Noise in fold k leaves everything that was fitted for fold k bit-equal, for every head and level."""
    assert differing(crossfitted, RESULTS) == []
    assert {result.head for result in RESULTS} == set(HEADS)
    assert differing(crossfitted, QUICK, FOLD + 2) == []


@pytest.mark.parametrize("protocol", [CROSSFIT, NO_CROSSFIT])
def test_test_rows_enter_no_fit_of_a_repeat_or_without_pairs(
    build: Callable[[object], FeatureCache],
    differing: Callable[..., list[str]],
    protocol: Protocol,
) -> None:
    """The same under a further fold plan, and for one network per fold, whatever it saw of other folds."""
    cache = build(pairs=True, repeats=2, without_video=2)
    (further,) = cache.repeat_plans
    assert further.assignment != cache.plan.assignment
    for plan in (further,) if protocol == CROSSFIT else (cache.plan, further):
        assert differing(cache, QUICK, protocol=protocol, plan=plan) == []


@dataclass(frozen=True)
class Mutation:
    """A leak: some text of a function of the code, and what it becomes."""

    step: str
    where: str
    old: str
    new: str


INNER = "moodfuse.fuse.design._inner_folds"
MUTATIONS = (
    Mutation(
        "scaler",
        "moodfuse.fuse.design.DesignMatrix.x_train",
        "self.x[~self.test]",
        "(self.x - self.x.mean(axis=0))[~self.test]",
    ),
    Mutation("imputation", "moodfuse.fuse.design._columns", "known = fit & ~absent", "known = ~absent"),
    Mutation(
        "head",
        "moodfuse.fuse.tuning.fit_head",
        "design.x_train, design.y_train, groups=design.groups_train",
        "design.x, np.maximum(design.y, 0), groups=design.groups",
    ),
    Mutation(
        "C and rounds of rows out of sample",
        INNER,
        "fit, inner == number)",
        "fit | ~train, inner == number)",
    ),
    Mutation(
        "C and rounds in pair networks",
        INNER,
        "fit, rows.folds == number)",
        "fit | ~train, rows.folds == number)",
    ),
    Mutation(
        "temperature",
        "moodfuse.fuse.tuning._inner_data",
        "fold.x[fold.held_out], design.y[fold.held_out]",
        "fold.x[fold.held_out | design.test], np.maximum(design.y, 0)[fold.held_out | design.test]",
    ),
    Mutation(
        "temperature of mean",
        "moodfuse.fuse.tuning._choose_temperature",
        "model.predict_proba(design.x_train), design.y_train",
        "model.predict_proba(design.x), np.maximum(design.y, 0)",
    ),
    Mutation(
        "fitted logits",
        "moodfuse.fuse.cross_fitting.fit_logits",
        "np.isin(rows.folds, folds)",
        "np.isin(rows.folds, folds[0])",
    ),
    Mutation(
        "C of fitted logits",
        "moodfuse.fuse.cross_fitting.fit_on_rows",
        "design.x[kept], index",
        "design.x[: kept.sum()], index",
    ),
    Mutation(
        "network of a fold",
        "moodfuse.fuse.cross_fitting.PlanFeatures.embedding",
        "else Holdout(frozenset({fold}))",
        "else Holdout(frozenset({(fold + 1) % 4}))",
    ),
)

IN_NETWORKS = (
    "scaler",
    "imputation",
    "head",
    "C and rounds in pair networks",
    "temperature",
    "network of a fold",
)
"""Steps that rows of a tuned source take too, for which no logits have to be fitted first."""


def plant(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a leak into the code for one test, wherever the function is known by name."""
    path, _, name = mutation.where.rpartition(".")
    module = sys.modules.get(path) or sys.modules[path.rpartition(".")[0]]
    owner = module if path in sys.modules else getattr(module, path.rpartition(".")[2])
    found = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(found.fget if isinstance(found, property) else found))
    assert mutation.old in source, f"{mutation.where} no longer holds {mutation.old!r}"
    namespace = dict(vars(module))
    exec(compile(source.replace(mutation.old, mutation.new), mutation.where, "exec"), namespace)
    modules = [
        sys.modules[f"moodfuse.fuse.{item}"] for item in ("ablation", "cross_fitting", "design", "tuning")
    ]
    for user in (owner, *modules):
        if vars(user).get(name) is found:
            monkeypatch.setattr(user, name, namespace[name])
    if globals().get(name) is found:
        monkeypatch.setitem(globals(), name, namespace[name])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.step)
def test_a_planted_leak_is_seen(
    crossfitted: FeatureCache,
    mutation: Mutation,
    differing: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a leak in one fitting step, fits depend on the test rows, or the guard refuses to go on."""
    plant(mutation, monkeypatch)
    quick = [result for result in QUICK if len(result.sources) > 1]
    if mutation.step in IN_NETWORKS:
        quick = [PlannedResult(("c3d",), "softmax", level) for level in LEVELS]
    results = quick + (TREES if "out of sample" in mutation.step else [])
    try:
        found = differing(crossfitted, results)
    except LeakError as error:
        found = [str(error)]
    assert found, f"the leak in {mutation.step} went unseen"
    assert results == quick or any("lightgbm" in name for name in found)


def leak_of(cache: FeatureCache, number: int) -> None:
    """Declare one leak, of three kinds in turn, and use it as the ablation would."""
    rng = np.random.default_rng(number)
    fold = int(rng.integers(4))
    clips = cache.clips
    tested = [status for status in clips if cache.plan.assignment[status.digest] == fold]
    others = [status for status in clips if cache.plan.assignment[status.digest] != fold]
    victim, sister = tested[rng.integers(len(tested))], others[rng.integers(len(others))]
    level = LEVELS[rng.integers(2)]
    block = cache.block("c3d", {fold})
    if number % 3 == 0:
        held = [other for other in range(4) if other != fold]
        wrong = cache.block("c3d", set(rng.choice(held, int(rng.integers(1, 3)), replace=False).tolist()))
        claims = (wrong.holdout, Holdout.of(fold), Holdout.frozen(), Holdout.of(range(4)))
        block = replace(wrong, holdout=claims[rng.integers(4)])
    elif number % 3 == 1:
        clips = tuple(replace(item, group=victim.group) if item is sister else item for item in clips)
    else:
        clips = tuple(
            replace(item, file_sha256=victim.file_sha256) if item is sister else item for item in clips
        )
    assemble(DesignInputs(clip_rows(cache.plan, clips), [block], level, fold))


def test_a_hundred_declared_leaks_are_refused(crossfitted: FeatureCache) -> None:
    """Wrong holdouts, groups in two folds and the same bytes in two groups are refused, one and all."""
    for number in range(102):
        with pytest.raises(LeakError, match=r"saw|holdout|group|same file"):
            leak_of(crossfitted, number)


def test_noise_in_another_fold_is_seen(
    crossfitted: FeatureCache,
    fitted: Callable[..., dict[str, list[np.ndarray]]],
    perturbed: Callable[..., FeatureCache],
) -> None:
    """The control: what the comparison calls equal would not be, had the noise reached it."""
    clean, noisy = fitted(crossfitted, FOLD, QUICK), fitted(perturbed(crossfitted, FOLD + 1), FOLD, QUICK)
    assert unequal(clean, noisy) == list(clean)


@pytest.fixture(scope="module")
def features(crossfitted: FeatureCache, load_features: Callable[..., PlanFeatures]) -> PlanFeatures:
    """What all sources give under cross-fitting."""
    return load_features(crossfitted, ("c3d", "i3d"), CROSSFIT)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.name)
def test_a_prediction_depends_on_no_other_test_row(features: PlanFeatures, result: PlannedResult) -> None:
    """Noise in all test rows but one leaves that one's probabilities as they were."""
    design = features.design(result.sources, result.level, FOLD)
    others = np.flatnonzero(design.test)[1:]
    x = design.x.copy()
    x[others] = np.random.default_rng(5).normal(size=x[others].shape) * 7 - 2
    clean, noisy = (predict_fold(made, result.head, 0) for made in (design, replace(design, x=x)))
    assert np.array_equal(clean.values[0], noisy.values[0]) and not np.array_equal(clean.values, noisy.values)
    assert clean.temperature == noisy.temperature
