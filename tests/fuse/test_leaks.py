"""Nothing fitted for fold k depends on fold k; and a leak put into any fitting step is seen.

The first test replaces labels and features of fold k's rows by noise and compares, bit for bit, everything that is
fitted for it. The others put one deliberate leak into the code, step by step, and ask the same question: it must be no.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from moodfuse.cache.errors import LeakError
from moodfuse.cache.records import Block, Holdout, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import Row, fit_head, predict_fold
from moodfuse.fuse.design import Ingredients, assemble
from moodfuse.fuse.features import LEVELS
from moodfuse.fuse.heads.registry import HEADS
from moodfuse.fuse.protocols import CROSSFIT, NO_CROSSFIT, PlanFeatures, Protocol, load_features
from moodfuse.fuse.workers import Workers

FOLD = 1
SOURCES = (("i3d",), ("c3d", "i3d"))
ROWS = [Row(*item) for item in product(SOURCES, HEADS, LEVELS) if item[2] in HEADS[item[1]].levels]
QUICK = [row for row in ROWS if row.head in ("softmax", "mean")]
TREES = [row for row in ROWS if row.head == "lightgbm" and len(row.sources) == 1]


def perturbed(cache: FeatureCache, fold: int, plan: Plan | None = None) -> FeatureCache:
    """The cache with other labels and features for the clips of a plan's fold, in every block."""
    other = FeatureCache(cache.path)
    held = {digest for digest, at in (plan or cache.plan).assignment.items() if at == fold}
    turn = dict(zip(cache.classes, cache.classes[1:] + cache.classes[:1], strict=True))
    other.__dict__["clips"] = tuple(
        replace(status, clip=replace(status.clip, label=turn[status.clip.label]))
        if status.digest in held
        else status
        for status in cache.clips
    )
    rows = np.array([status.digest in held for status in cache.clips])[:, None]
    rng = np.random.default_rng(9)

    def block(source: str, holdout: object, *, plan: object = None) -> Block:
        original = cache.block(source, holdout, plan=plan)  # type: ignore[arg-type]

        def noisy(values: np.ndarray | None) -> np.ndarray | None:
            noise = None if values is None else rng.normal(size=values.shape).astype(np.float32) * 5 + 3
            return None if values is None else np.where(rows, noise, values)

        embedding, logits = noisy(original.embedding), noisy(original.logits)
        assert embedding is not None
        return replace(original, embedding=embedding, logits=logits)

    other.block = block  # type: ignore[method-assign]
    return other


def fitted(
    cache: FeatureCache,
    fold: int,
    rows: list[Row],
    *,
    protocol: Protocol = CROSSFIT,
    plan: Plan | None = None,
) -> dict[str, list[np.ndarray]]:
    """Everything that is fitted for a fold: matrices, choices, and the heads' own numbers."""
    sources = sorted({source for row in rows for source in row.sources})
    features = load_features(cache, plan or cache.plan, sources, protocol, workers=Workers())
    found: dict[str, list[np.ndarray]] = {}
    for row in rows:
        design = features.design(cache, row.sources, row.level, fold)
        model, choice = fit_head(design, row.head, 0)
        parts = [np.array([choice.temperature, *map(float, choice.settings.values())]), design.x_train]
        parts += [matrix for inner in design.inner for matrix in (inner.x[inner.fit], inner.x[inner.held])]
        names = ("coef_", "intercept_", "mean_", "scale_", "C_", "rounds_")
        parts += [np.asarray(getattr(model, name)) for name in names if hasattr(model, name)]
        if row.head == "lightgbm":
            parts.append(np.array([model.model_.booster_.model_to_string()]))
        found[f"{'+'.join(row.sources)} {row.head} {row.level}"] = parts
    return found


def unequal(clean: dict[str, list[np.ndarray]], noisy: dict[str, list[np.ndarray]]) -> list[str]:
    """Results of which any fitted number differs."""
    return [
        name
        for name, parts in clean.items()
        if len(parts) != len(noisy[name])
        or not all(np.array_equal(one, two) for one, two in zip(parts, noisy[name], strict=True))
    ]


def differing(cache: FeatureCache, rows: list[Row], fold: int = FOLD) -> list[str]:
    """Results whose fits depend on the rows of the fold under test."""
    return unequal(fitted(cache, fold, rows), fitted(perturbed(cache, fold), fold, rows))


def test_test_rows_enter_no_fit(crossfitted: FeatureCache) -> None:
    """Noise in fold k leaves everything that was fitted for fold k bit-equal, for every head and level."""
    assert differing(crossfitted, ROWS) == []
    assert {row.head for row in ROWS} == set(HEADS)
    assert differing(crossfitted, QUICK, FOLD + 2) == []


@pytest.mark.parametrize("protocol", [CROSSFIT, NO_CROSSFIT])
def test_test_rows_enter_no_fit_of_a_repeat_or_without_pairs(
    build: Callable[[object], FeatureCache], build_corpus: type, protocol: Protocol
) -> None:
    """The same under a further fold plan, and for one network a fold, whatever it saw of the other folds."""
    cache = build(build_corpus(pairs=True, repeats=2, lacking=2))
    (further,) = cache.repeat_plans
    assert further.assignment != cache.plan.assignment
    for plan in (further,) if protocol == CROSSFIT else (cache.plan, further):
        fold = FOLD
        clean = fitted(cache, fold, QUICK, protocol=protocol, plan=plan)
        noisy = fitted(perturbed(cache, fold, plan), fold, QUICK, protocol=protocol, plan=plan)
        assert unequal(clean, noisy) == []


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
        "moodfuse.fuse.matrix.DesignMatrix.x_train",
        "self.x[~self.test]",
        "(self.x - self.x.mean(axis=0))[~self.test]",
    ),
    Mutation("imputation", "moodfuse.fuse.design._matrix", "known = fit & ~absent", "known = ~absent"),
    Mutation(
        "head",
        "moodfuse.fuse.ablation.fit_head",
        "design.x_train, design.y_train, groups=design.groups_train",
        "design.x, np.maximum(design.y, 0), groups=design.groups",
    ),
    Mutation(
        "C and rounds of honest rows", INNER, "fit, inner == number)", "fit | rows.test, inner == number)"
    ),
    Mutation(
        "C and rounds in pair networks", INNER, "fit, folds == number)", "fit | rows.test, folds == number)"
    ),
    Mutation(
        "temperature",
        "moodfuse.fuse.tuning._inner_data",
        "fold.x[fold.held], design.y[fold.held]",
        "fold.x[fold.held | design.test], np.maximum(design.y, 0)[fold.held | design.test]",
    ),
    Mutation(
        "temperature of mean",
        "moodfuse.fuse.tuning.choose",
        "design.x_train)\n        return Choice({}, best_temperature(chances, design.y_train)",
        "design.x)\n        return Choice({}, best_temperature(chances, np.maximum(design.y, 0))",
    ),
    Mutation(
        "derived logits",
        "moodfuse.fuse.cross_fitting.head_and_logits",
        "design.digests), folds)",
        "design.digests), folds[0])",
    ),
    Mutation(
        "C of derived logits",
        "moodfuse.fuse.cross_fitting.fitted_scores",
        "np.flatnonzero(kept)",
        "np.arange(kept.sum())",
    ),
    Mutation(
        "network of a fold",
        "moodfuse.fuse.protocols.load_features",
        "(source, {fold}",
        "(source, {(fold + 1) % 4}",
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
    users = [
        owner,
        *(
            sys.modules[item]
            for item in (
                "moodfuse.fuse.protocols",
                "moodfuse.fuse.cross_fitting",
                "moodfuse.fuse.ablation",
                "moodfuse.fuse.tuning",
            )
        ),
    ]
    for user in users:
        if vars(user).get(name) is found:
            monkeypatch.setattr(user, name, namespace[name])
    if globals().get(name) is found:
        monkeypatch.setitem(globals(), name, namespace[name])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.step)
def test_a_planted_leak_is_seen(
    crossfitted: FeatureCache, mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a leak in one fitting step, fits depend on the test rows, or the guard refuses to go on."""
    plant(mutation, monkeypatch)
    quick = [row for row in QUICK if len(row.sources) > 1]
    if mutation.step in IN_NETWORKS:
        quick = [Row(("c3d",), "softmax", level) for level in LEVELS]
    rows = quick + (TREES if "rounds of honest" in mutation.step else [])
    try:
        found = differing(crossfitted, rows)
    except LeakError as error:
        found = [str(error)]
    assert found, f"the leak in {mutation.step} went unseen"
    assert rows == quick or any("lightgbm" in name for name in found)


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
    assemble(cache.plan, clips, Ingredients([block], level), test_fold=fold)


def test_a_hundred_declared_leaks_are_refused(crossfitted: FeatureCache) -> None:
    """Wrong holdouts, groups in two folds and the same bytes in two groups are refused, one and all."""
    for number in range(102):
        with pytest.raises(LeakError, match=r"saw|holdout|group|same file"):
            leak_of(crossfitted, number)


def test_noise_in_another_fold_is_seen(crossfitted: FeatureCache) -> None:
    """The control: what the comparison calls equal would not be, had the noise reached it."""
    clean, noisy = fitted(crossfitted, FOLD, QUICK), fitted(perturbed(crossfitted, FOLD + 1), FOLD, QUICK)
    assert unequal(clean, noisy) == list(clean)


@pytest.fixture(scope="module")
def features(crossfitted: FeatureCache) -> PlanFeatures:
    """What all sources give under cross-fitting."""
    return load_features(crossfitted, crossfitted.plan, ("c3d", "i3d"), CROSSFIT, workers=Workers())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{'+'.join(row.sources)} {row.head} {row.level}")
def test_a_prediction_depends_on_no_other_test_row(
    crossfitted: FeatureCache, features: PlanFeatures, row: Row
) -> None:
    """Noise in all test rows but one leaves that one's probabilities as they were: nothing is learned from a test."""
    design = features.design(crossfitted, row.sources, row.level, FOLD)
    others = np.flatnonzero(design.test)[1:]
    x = design.x.copy()
    x[others] = np.random.default_rng(5).normal(size=x[others].shape) * 7 - 2
    clean, noisy = (predict_fold(made, row.head, 0) for made in (design, replace(design, x=x)))
    assert np.array_equal(clean.scaled[0], noisy.scaled[0]) and not np.array_equal(clean.scaled, noisy.scaled)
