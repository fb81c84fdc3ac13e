"""What ships: exactly the procedure that was scored, from networks that are there already."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import predict_fold
from moodfuse.fuse.final_fit import Scored, Shipped, ship, why_not_shipped
from moodfuse.fuse.heads.registry import HEADS
from moodfuse.fuse.inference import NetworkSays
from moodfuse.fuse.protocols import CROSSFIT, NO_CROSSFIT, load_features
from moodfuse.fuse.workers import Workers

Builder = Callable[..., FeatureCache]
SOURCES = ("c3d", "i3d")
ROWS = [
    row
    for row in product((("i3d",), SOURCES), HEADS, ("logits", "embedding"))
    if row[2] in HEADS[row[1]].levels and (row[1] != "lightgbm" or row[0] == SOURCES)
]


def without_fold(cache: FeatureCache, fold: int) -> FeatureCache:
    """The same cache as if the clips of the last fold had never been in the data set."""
    other = FeatureCache(cache.path)
    plan = cache.plan
    kept = [status for status in cache.clips if plan.assignment[status.digest] != fold]
    assignment = {status.digest: plan.assignment[status.digest] for status in kept}
    smaller = Plan(plan.folds - 1, plan.seed, plan.group_rule, assignment, plan.records, plan.sequence)
    other.__dict__["all_plans"] = (smaller,)
    return other


def says(
    whole: FeatureCache, shipped: Shipped, smaller: FeatureCache, source: str, digest: str
) -> list[NetworkSays]:
    """What the shipped networks say of a clip that only the whole cache has."""
    found = []
    recipe = smaller.recipe(source)
    for holdout in shipped.networks[source]:
        roles = smaller.roles(recipe, holdout) if recipe.sees_labels else None
        rows = whole.rows(recipe, roles, whole.clips, ("embedding", "logits")).arrays
        place = [status.digest for status in whole.clips].index(digest)
        found.append(
            NetworkSays(rows["embedding"][place], rows["logits"][place] if "logits" in rows else None)
        )
    return found


@pytest.mark.parametrize("protocol", [CROSSFIT, NO_CROSSFIT])
def test_what_is_scored_is_what_ships(protocol: str, build: Builder, build_corpus: type) -> None:
    """Without one fold's clips, what ships says of them what the run said of them, for every head and level."""
    cache = build(build_corpus(pairs=True))
    fold = cache.plan.folds - 1
    smaller = without_fold(cache, fold)
    features = load_features(cache, cache.plan, SOURCES, protocol, workers=Workers())  # type: ignore[arg-type]
    held = [status.digest for status in cache.clips if cache.plan.assignment[status.digest] == fold]
    for sources, head, level in ROWS:
        expected = predict_fold(features.design(cache, sources, level, fold), head, cache.plan.seed).scaled
        shipped = ship(smaller, Scored(sources, head, level, protocol, SOURCES))
        for row, digest in zip(expected, held, strict=True):
            parts = [says(cache, shipped, smaller, source, digest) for source in sources]
            values = [shipped.fusion.values(number, part) for number, part in enumerate(parts)]
            assert np.allclose(shipped.fusion.probabilities(values), row, rtol=0, atol=1e-6), (
                sources,
                head,
                level,
            )


def test_left_out_sources_move_the_answer_and_own_answers_are_theirs(
    build: Builder, build_corpus: type
) -> None:
    """Without the only source that knows, the answer is nearer to even; of the mean head the other source remains."""
    cache = build(build_corpus(pairs=True))
    for head in ("mean", "softmax"):
        shipped = ship(cache, Scored(SOURCES, head, "logits", CROSSFIT, SOURCES))
        digest = cache.clips[0].digest
        parts = [says(cache, shipped, cache, source, digest) for source in SOURCES]
        values = [shipped.fusion.values(number, part) for number, part in enumerate(parts)]
        alone = shipped.fusion.without(1, values)
        assert not np.allclose(alone, shipped.fusion.probabilities(values))
        assert np.isclose(alone.sum(), 1) and np.isclose(shipped.fusion.own(0, parts[0]).sum(), 1)
        if head == "mean":
            only = ship(cache, Scored(("c3d",), "network", "logits", CROSSFIT, SOURCES)).fusion
            same = replace(only, temperature=shipped.fusion.temperature)
            assert np.allclose(alone, same.probabilities(values[:1]))


def test_what_cannot_ship_says_why(build: Builder, build_corpus: type) -> None:
    """A leaky result, and one whose network is not there, are refused with the remedy."""
    cache = build(build_corpus())
    missing = Scored(("c3d",), "softmax", "embedding", NO_CROSSFIT, SOURCES)
    assert "--for-export" in why_not_shipped(cache, missing)
    with pytest.raises(InputError, match="cannot be exported"):
        ship(cache, missing)
    assert "leak" in why_not_shipped(cache, replace(missing, protocol="leaky"))
    assert why_not_shipped(cache, Scored(("i3d",), "softmax", "embedding", CROSSFIT, SOURCES)) == ""
    assert cache.has_block("c3d", Holdout.of(0))


def test_in_sample_logits_choose_nothing(build: Builder, build_corpus: type) -> None:
    """With two folds a frozen source's logits are fitted in sample: what ships keeps the defaults, as it was scored."""
    cache = build(build_corpus(folds=2, tuned={}, frozen={"i3d": 12, "s3d": 8}, permute=True))
    for sources, head in ((("i3d",), "network"), (("i3d", "s3d"), "mean"), (("i3d", "s3d"), "softmax")):
        fusion = ship(cache, Scored(sources, head, "logits", NO_CROSSFIT, ("i3d", "s3d"))).fusion
        assert not fusion.chosen and fusion.temperature == 1.0


def test_what_was_scored_with_defaults_ships_with_them(build: Builder, build_corpus: type) -> None:
    """All clips together would do to choose, but the scores are those of the defaults."""
    cache = build(build_corpus(pairs=True))
    scored = Scored(("i3d",), "softmax", "embedding", CROSSFIT, SOURCES)
    assert ship(cache, scored).fusion.chosen
    kept = ship(cache, replace(scored, defaults=True)).fusion
    assert not kept.chosen and kept.temperature == 1.0
