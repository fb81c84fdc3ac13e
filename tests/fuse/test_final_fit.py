"""The model of a result: exactly the procedure that was scored, from existing networks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import PlanFeatures
from moodfuse.fuse.design import assemble
from moodfuse.fuse.final_fit import FinalModel, ScoredResult, fit_final_model, why_not_exportable
from moodfuse.fuse.fitting import fit_temperature, predict_fold
from moodfuse.fuse.inference import TEMPERATURES, NetworkOutput, apply_temperature
from moodfuse.fuse.leak_guard import make_clip_rows
from moodfuse.fuse.settings import CROSSFIT, NO_CROSSFIT

Builder = Callable[..., FeatureCache]
SOURCES = ("c3d", "i3d")
RESULTS = [
    (SOURCES, "softmax", "logits"),
    (SOURCES, "softmax", "embedding"),
    (SOURCES, "lightgbm", "embedding"),
    (("i3d",), "lightgbm:num_leaves=4,search=3", "embedding"),
    (SOURCES, "mean", "logits"),
    (("i3d",), "logistic", "logits"),
    (("i3d",), "softmax", "embedding"),
]


def without_fold(cache: FeatureCache, fold: int) -> FeatureCache:
    """The same cache as if the clips of the last fold had never been in the dataset."""
    other = FeatureCache(cache.path)
    plan = cache.plan
    kept = [status for status in cache.clips if plan.assignment[status.digest] != fold]
    assignment = {status.digest: plan.assignment[status.digest] for status in kept}
    smaller = Plan(plan.folds - 1, plan.seed, plan.group_rule, assignment, plan.records, plan.sequence)
    other.__dict__["all_plans"] = (smaller,)
    return other


def read_outputs(
    whole: FeatureCache, final: FinalModel, smaller: FeatureCache, source: str, digest: str
) -> list[NetworkOutput]:
    """The outputs of the model's networks for a clip that only the whole cache has."""
    outputs = []
    recipe = smaller.recipe(source)
    for holdout in final.networks[source]:
        training_clips = smaller.training_clips(recipe, holdout) if recipe.sees_labels else None
        arrays = whole.rows(recipe, training_clips, whole.clips, ("embedding", "logits")).arrays
        row = [status.digest for status in whole.clips].index(digest)
        logits = arrays["logits"][row] if "logits" in arrays else None
        outputs.append(NetworkOutput(arrays["embedding"][row], logits))
    return outputs


@pytest.mark.parametrize("protocol", [CROSSFIT, NO_CROSSFIT])
def test_the_model_is_what_was_scored(
    protocol: str, build: Builder, load_features: Callable[..., PlanFeatures]
) -> None:
    """Without one fold's clips, the model predicts for them what the run did, for every head and level."""
    cache = build(pairs=True)
    fold = cache.plan.folds - 1
    smaller, features = without_fold(cache, fold), load_features(cache, SOURCES, protocol)
    held_out = [status.digest for status in cache.clips if cache.plan.assignment[status.digest] == fold]
    for sources, head, level in RESULTS:
        case = (sources, level, fold)
        scored = predict_fold(assemble(features.make_design_inputs(*case)), head, features.settings)
        expected = apply_temperature(scored.values, scored.temperature)
        final = fit_final_model(smaller, ScoredResult(sources, head, level, protocol, SOURCES))
        for row, digest in zip(expected, held_out, strict=True):
            outputs = [read_outputs(cache, final, smaller, source, digest) for source in sources]
            values = [final.fusion.values(number, output) for number, output in enumerate(outputs)]
            probabilities = final.fusion.probabilities(values)
            assert np.allclose(probabilities, row, rtol=0, atol=1e-6), (sources, head, level)


def test_the_temperature_is_corrected_by_the_out_of_fold_probabilities(crossfitted: FeatureCache) -> None:
    """Probabilities that are too near to uniform lower it, certain ones raise it; defaults stay."""
    scored = ScoredResult(SOURCES, "softmax", "logits", CROSSFIT, SOURCES)
    labels = make_clip_rows(crossfitted.plan, crossfitted.clips).labels
    unsure = np.where(np.eye(3)[labels] == 1, 0.4, 0.3)
    sure = np.where(np.eye(3)[(labels + (np.arange(len(labels)) % 3 == 0)) % 3] == 1, 0.98, 0.01)
    plain = fit_final_model(crossfitted, scored).fusion
    for out_of_fold in (unsure, sure):
        fusion = fit_final_model(crossfitted, scored, out_of_fold[None]).fusion
        expected = plain.temperature * fit_temperature(out_of_fold, labels)
        assert fusion.temperature == pytest.approx(np.clip(expected, *TEMPERATURES))
        assert (fusion.temperature < plain.temperature) == (out_of_fold is unsure)
    defaults = replace(scored, defaults=True)
    assert fit_final_model(crossfitted, defaults, unsure[None]).fusion.temperature == 1.0


def test_class_weights_reach_every_fit_of_a_model(build: Builder) -> None:
    """With classes of unequal size, a model of balanced heads differs, also in logits that are fitted."""
    cache = build(tuned={}, frozen={"i3d": 12}, groups_per_class=8)
    kept = [status for number, status in enumerate(cache.clips) if number % 3 or number % 2]
    cache.__dict__["clips"] = tuple(kept)
    scored = ScoredResult(("i3d",), "softmax", "logits", CROSSFIT, ("i3d",))
    plain, balanced = (
        fit_final_model(cache, replace(scored, class_weight=weight)).fusion for weight in (None, "balanced")
    )
    assert not np.allclose(plain.sources[0].own[0].weights, balanced.sources[0].own[0].weights)
    assert not np.allclose(plain.head.weights, balanced.head.weights)  # type: ignore[union-attr]


def test_probabilities_without_a_source(crossfitted: FeatureCache) -> None:
    """They differ from those with it; of the mean head the other source alone remains."""
    cache = crossfitted
    for head in ("mean", "softmax"):
        final = fit_final_model(cache, ScoredResult(SOURCES, head, "logits", CROSSFIT, SOURCES))
        digest = cache.clips[-1].digest
        outputs = [read_outputs(cache, final, cache, source, digest) for source in SOURCES]
        values = [final.fusion.values(number, output) for number, output in enumerate(outputs)]
        without = final.fusion.without(1, values)
        assert not np.allclose(without, final.fusion.probabilities(values))
        assert np.isclose(without.sum(), 1) and np.isclose(final.fusion.own(0, outputs[0]).sum(), 1)
        if head == "mean":
            only = fit_final_model(
                cache, ScoredResult(("c3d",), "network", "logits", CROSSFIT, SOURCES)
            ).fusion
            same = replace(only, temperature=final.fusion.temperature)
            assert np.allclose(without, same.probabilities(values[:1]))


def test_what_cannot_be_exported(cache: FeatureCache) -> None:
    """A leaky result, and one whose network is missing; the error names the remedy."""
    missing = ScoredResult(("c3d",), "softmax", "embedding", NO_CROSSFIT, SOURCES)
    assert "--for-export" in why_not_exportable(cache, missing)
    with pytest.raises(InputError, match="cannot be exported"):
        fit_final_model(cache, missing)
    assert "leak" in why_not_exportable(cache, replace(missing, protocol="leaky"))
    assert why_not_exportable(cache, ScoredResult(("i3d",), "softmax", "embedding", CROSSFIT, SOURCES)) == ""


def test_in_sample_logits_choose_nothing(build: Builder) -> None:
    """With two folds a frozen source's logits are fitted in sample: the model keeps the defaults."""
    cache = build(folds=2, tuned={}, frozen={"i3d": 12, "s3d": 8}, permute=True)
    for sources, head in ((("i3d",), "network"), (("i3d", "s3d"), "mean"), (("i3d", "s3d"), "softmax")):
        fusion = fit_final_model(
            cache, ScoredResult(sources, head, "logits", NO_CROSSFIT, ("i3d", "s3d"))
        ).fusion
        assert not fusion.chosen and fusion.temperature == 1.0


def test_what_was_scored_with_defaults_keeps_them(cache: FeatureCache) -> None:
    """All clips together would be enough to choose others, but the scores are those of the defaults."""
    scored = ScoredResult(("i3d",), "softmax", "embedding", CROSSFIT, SOURCES)
    assert fit_final_model(cache, scored).fusion.chosen
    fusion = fit_final_model(cache, replace(scored, defaults=True)).fusion
    assert not fusion.chosen and fusion.temperature == 1.0
