"""Nothing fitted for fold k depends on fold k, and a leak planted into any fitting step is found.

The comparison: labels and features of fold k's rows are replaced by noise, and everything that is fitted for
fold k must stay equal, bit for bit. With a planted leak it must not.
"""

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import LeakError
from moodfuse.cache.records import Block, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse import fitting
from moodfuse.fuse.cross_fitting import PlanFeatures
from moodfuse.fuse.design import assemble
from moodfuse.fuse.heads import HEADS, HeadSettings
from moodfuse.fuse.inference import LEVELS
from moodfuse.fuse.settings import CROSSFIT, NO_CROSSFIT, PlannedResult

FOLD = 1
Fitted = Mapping[str, list[np.ndarray]]
Loader = Callable[..., PlanFeatures]
BOTH = ("c3d", "i3d")
TREES = [PlannedResult(("i3d",), "lightgbm", "embedding")]
RESULTS = [*TREES, *(PlannedResult(BOTH, head, level) for head in HEADS for level in HEADS[head].levels)]
QUICK = [result for result in RESULTS if result.head in ("softmax", "mean")]
NETWORK_ONLY = [PlannedResult(("c3d",), "softmax", level) for level in LEVELS]


def fit_all(features: PlanFeatures, results: Sequence[PlannedResult], fold: int = FOLD) -> Fitted:
    """Everything that is fitted for a fold: matrices, choices, and the heads' own numbers."""
    fitted = {}
    for result in results:
        case = (result.sources, result.level, fold)
        design = assemble(features.make_design_inputs(*case))
        model, settings, temperature = fitting.fit_head(design, result.head, HeadSettings())
        parts = [np.array([temperature, *map(float, (settings or {}).values())]), design.x_train]
        for inner in design.inner:
            parts += [inner.x[inner.fit], inner.x[inner.held_out]]
        names = ("coef_", "intercept_", "mean_", "scale_", "C_")
        parts += [np.asarray(getattr(model, name)) for name in names if hasattr(model, name)]
        if result.head == "lightgbm":
            parts.append(np.array([model.to_text()]))
        fitted[result.name] = parts
    return fitted


def with_noise(cache: FeatureCache, fold: int, plan: Plan) -> FeatureCache:
    """The cache with other labels and features for the clips of a plan's fold, in every block."""
    noisy = FeatureCache(cache.path)
    in_fold = np.array([plan.assignment[status.digest] == fold for status in cache.clips])
    next_label = dict(zip(cache.classes, cache.classes[1:] + cache.classes[:1], strict=True))
    noisy.__dict__["clips"] = tuple(
        replace(status, clip=replace(status.clip, label=next_label[status.clip.label])) if noise else status
        for status, noise in zip(cache.clips, in_fold, strict=True)
    )
    rng = np.random.default_rng(9)

    def perturb(values: np.ndarray) -> np.ndarray:
        return np.where(in_fold[:, None], rng.normal(size=values.shape).astype(np.float32) * 5 + 3, values)

    def block(source: str, holdout: object, *, plan: object = None) -> Block:
        original = cache.block(source, holdout, plan=plan)  # type: ignore[arg-type]
        logits = None if original.logits is None else perturb(original.logits)
        return replace(original, embedding=perturb(original.embedding), logits=logits)

    noisy.block = block  # type: ignore[method-assign]
    return noisy


def differing(
    cache: FeatureCache,
    load: Loader,
    results: Sequence[PlannedResult],
    *,
    fold: int = FOLD,
    noise: int = FOLD,
    protocol: str = CROSSFIT,
    plan: Plan | None = None,
) -> list[str]:
    """Results whose fits for a fold depend on the rows of the fold `noise`."""
    sources, plan = sorted({source for result in results for source in result.sources}), plan or cache.plan
    clean, noisy = (
        fit_all(load(data, sources, protocol, plan=plan), results, fold)
        for data in (cache, with_noise(cache, noise, plan))
    )
    return [
        name
        for name, parts in clean.items()
        if len(parts) != len(noisy[name])
        or not all(np.array_equal(one, two) for one, two in zip(parts, noisy[name], strict=True))
    ]


def test_test_rows_enter_no_fit(crossfitted: FeatureCache, load_features: Loader) -> None:
    """Noise in fold k leaves everything that was fitted for fold k bit-equal, for every head and level.

    Noise in another fold changes every fit.
    """
    assert differing(crossfitted, load_features, RESULTS) == []
    assert {result.head for result in RESULTS} == set(HEADS)
    names = [result.name for result in QUICK]
    assert differing(crossfitted, load_features, QUICK, noise=FOLD + 1) == names


@pytest.mark.parametrize("protocol", [CROSSFIT, NO_CROSSFIT])
def test_test_rows_enter_no_fit_of_a_repeat_or_without_pairs(
    build: Callable[..., FeatureCache], load_features: Loader, protocol: str
) -> None:
    """The same under a further fold plan, and for one network per fold."""
    cache = build(pairs=True, repeats=2, without_video=2)
    (further,) = cache.repeat_plans
    assert differing(cache, load_features, QUICK, protocol=protocol, plan=further) == []


DESIGN, FITTING, CROSS = (f"moodfuse.fuse.{name}" for name in ("design", "fitting", "cross_fitting"))
LEAKS = {
    "scaler": (
        *(DESIGN, "DesignMatrix.x_train"),
        *("self.x[~self.test]", "(self.x - self.x.mean(axis=0))[~self.test]"),
        NETWORK_ONLY,
    ),
    "imputation": (DESIGN, "_stack_columns", "known = fit & ~absent", "known = ~absent", NETWORK_ONLY),
    "head": (
        *(FITTING, "fit_head", "model.fit(design.x_train, design.y_train)"),
        *("model.fit(design.x, np.maximum(design.y, 0))", NETWORK_ONLY),
    ),
    "setting of rows out of sample": (
        *(DESIGN, "_make_inner_folds", "fit, inner == number)", "fit | ~train, inner == number)"),
        TREES,
    ),
    "setting in pair networks": (
        *(DESIGN, "_make_inner_folds", "fit, rows.folds == number)", "fit | ~train, rows.folds == number)"),
        NETWORK_ONLY,
    ),
    "temperature": (
        *(FITTING, "_choose", "fold.x[fold.held_out], design.y[fold.held_out]"),
        "fold.x[fold.held_out | design.test], np.maximum(design.y, 0)[fold.held_out | design.test]",
        NETWORK_ONLY,
    ),
    "temperature of mean": (
        *(FITTING, "_fit_mean", "model.predict_proba(x), y)"),
        "model.predict_proba(design.x), np.maximum(design.y, 0))",
        [result for result in QUICK if result.head == "mean"],
    ),
    "fitted logits": (CROSS, "fit_logits", "isin(rows.folds, folds)", "isin(rows.folds, folds[0])", QUICK),
    "rows of fitted logits": (CROSS, "fit_logits", "design.x[kept]", "design.x[: kept.sum()]", QUICK),
    "network of a fold": (
        *(CROSS, "PlanFeatures.embedding", "Holdout.of(fold)", "Holdout.of((fold + 1) % 4)"),
        NETWORK_ONLY,
    ),
}
"""By fitting step: module, function, its text, the text with a leak, and the results to compare."""


def plant(monkeypatch: pytest.MonkeyPatch, module_name: str, function: str, old: str, new: str) -> None:
    """Put a leak into a function for one test, in every module that has it by name."""
    module = sys.modules[module_name]
    owner_name, _, name = function.rpartition(".")
    owner = getattr(module, owner_name) if owner_name else module
    original = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(getattr(original, "fget", original)))
    assert old in source, f"{function} no longer holds {old!r}"
    namespace = dict(vars(module))
    exec(compile(source.replace(old, new), function, "exec"), namespace)
    for user in (owner, *(sys.modules[other] for other in (DESIGN, FITTING, CROSS))):
        if vars(user).get(name) is original:
            monkeypatch.setattr(user, name, namespace[name])


@pytest.mark.parametrize("step", LEAKS)
def test_a_planted_leak_is_found(
    crossfitted: FeatureCache, load_features: Loader, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a leak in one fitting step, fits depend on the test rows, or the guard raises."""
    *leak, results = LEAKS[step]
    plant(monkeypatch, *leak)
    with contextlib.suppress(LeakError):
        assert differing(crossfitted, load_features, results), f"the leak in {step} was not found"


def test_a_prediction_depends_on_no_other_test_row(crossfitted: FeatureCache, load_features: Loader) -> None:
    """Noise in all test rows but one leaves that one's probabilities as they were."""
    features = load_features(crossfitted, BOTH, CROSSFIT)
    for head, level in (("softmax", "logits"), ("logistic", "embedding"), ("lightgbm", "embedding")):
        case = (BOTH, level, FOLD)
        design = assemble(features.make_design_inputs(*case))
        x, others = design.x.copy(), np.flatnonzero(design.test)[1:]
        x[others] = np.random.default_rng(5).normal(size=x[others].shape) * 7 - 2
        clean, noisy = (
            fitting.predict_fold(matrix, head, HeadSettings()) for matrix in (design, replace(design, x=x))
        )
        assert np.array_equal(clean.values[0], noisy.values[0])
        assert not np.array_equal(clean.values, noisy.values) and clean.temperature == noisy.temperature
