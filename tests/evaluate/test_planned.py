"""Planned tests: their questions, the corrected t test, Holm's correction, sentences, false positives."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.evaluation import evaluate_run, run_labels
from moodfuse.evaluate.intervals import DIFFERENCE, Interval, resample_groups
from moodfuse.evaluate.paired import majority_is_correct
from moodfuse.evaluate.planned import (
    AUDIO_TO_VIDEO,
    BEST_SINGLE,
    TRAINED_HEAD,
    VIDEO_TO_AUDIO,
    PlannedTest,
    corrected_t_test,
    holm,
    list_comparisons,
    planned_tests,
    score_modalities,
)

SETS = {("music",): 0.5, ("speech",): 0.1, ("faces",): 0.2, ("music", "speech"): 0.5}
SETS |= {("faces", "music", "speech"): 0.9}
"""Sources, and how often a head on them is right."""


def make_run(skill: dict[tuple[str, ...], float] = SETS) -> Run:
    """Softmax on embeddings and the mean, over 60 clips under two fold plans; two audio, one video source."""
    labels = np.arange(60) % 3
    random = np.random.default_rng(0)

    def predict(right: float) -> np.ndarray:
        guess = np.where(random.random((2, 60)) < right, labels, (labels + 1) % 3)
        return np.asarray(0.8 * np.eye(3)[guess] + 0.2 / 3)

    results = []
    for sources, right in skill.items():
        first, second = predict(right)
        results.append(Result(sources, "softmax", "embedding", first, repeats=second[None]))
    first, second = predict(0.4)
    results.append(Result(max(skill, key=len), "mean", "logits", first, repeats=second[None]))
    folds = tuple((np.arange(60) // 3 % 4).tolist())
    return Run(
        name="one",
        protocol="crossfit",
        classes=("a", "b", "c"),
        ids=tuple(map(str, range(60))),
        labels=tuple("abc"[label] for label in labels),
        groups=tuple(str(row // 2) for row in range(60)),
        folds=folds,
        fold_count=4,
        seed=0,
        recipes=(),
        results=tuple(results),
        repeat_folds=(folds,),
        modalities=(("faces", "picture"), ("music", "sound"), ("speech", "sound")),
    )


def run_tests(run: Run) -> tuple[PlannedTest, ...]:
    return planned_tests(run, run_labels(run), resample_groups(run.groups, draws=10))


def test_each_question_compares_the_results_that_answer_it() -> None:
    """All sources against all audio, all video, each single source, and the mean, for one head."""
    compared = {
        question: (result.name, [one.name for one in baselines])
        for question, result, baselines in list_comparisons(make_run())
    }
    fusion = "faces+music+speech softmax embedding"
    singles = [f"{name} softmax embedding" for name in ("faces", "music", "speech")]
    assert compared == {
        VIDEO_TO_AUDIO: (fusion, ["music+speech softmax embedding"]),
        AUDIO_TO_VIDEO: (fusion, ["faces softmax embedding"]),
        BEST_SINGLE: (fusion, singles),
        TRAINED_HEAD: (fusion, ["faces+music+speech mean logits"]),
    }


def test_head_and_level_do_not_depend_on_the_results() -> None:
    """The embedding level of softmax comes first, also where another head is perfect."""
    run = make_run()
    perfect = np.eye(3)[run_labels(run)]
    better = [
        replace(result, head=head, level=level, probabilities=perfect)
        for result in run.results[:-1]
        for head, level in (("lightgbm", "embedding"), ("softmax", "logits"))
    ]
    wider = replace(run, results=(*better, *run.results))
    assert {one.result.head + one.result.level for one in list_comparisons(wider)} == {"softmaxembedding"}
    others = replace(run, results=(*better, run.results[-1]))
    assert {one.result.head + one.result.level for one in list_comparisons(others)} == {"softmaxlogits"}


def test_heads_with_settings_are_tested_too() -> None:
    """Of several settings of one head, those listed first."""
    run = make_run()
    first, second = (
        [replace(one, head=f"softmax:C={penalty}") if one.head == "softmax" else one for one in run.results]
        for penalty in (3, 1)
    )
    heads = {one.result.head for one in list_comparisons(replace(run, results=(*first, *second)))}
    assert heads == {"softmax:C=3"}


def test_questions_without_their_results_are_left_out() -> None:
    """Runs without modalities, single sources, or fusions; of two sources, each is a modality."""
    run = make_run()
    questions = [one.question for one in list_comparisons(replace(run, modalities=()))]
    assert questions == [BEST_SINGLE, TRAINED_HEAD]
    fewer = replace(run, results=run.results[2:])
    assert [one.question for one in list_comparisons(fewer)] == [
        VIDEO_TO_AUDIO,
        AUDIO_TO_VIDEO,
        TRAINED_HEAD,
    ]
    audio_only = replace(run, modalities=tuple((source, "sound") for source, _ in run.modalities))
    assert [one.question for one in list_comparisons(audio_only)] == [BEST_SINGLE, TRAINED_HEAD]
    pair = {("music",): 0.5, ("faces",): 0.2, ("faces", "music"): 0.7}
    pair_questions = [one.question for one in list_comparisons(make_run(pair))]
    assert pair_questions == [VIDEO_TO_AUDIO, AUDIO_TO_VIDEO, TRAINED_HEAD]
    assert list(list_comparisons(replace(run, results=run.results[:3]))) == []
    assert run_tests(replace(run, results=run.results[:3])) == ()


def test_differences_are_means_over_clips_and_fold_plans() -> None:
    """The best single source is that of the outcome; a loss is lower where the result is better."""
    run = make_run()
    tests = {(test.question, test.outcome): test for test in run_tests(run)}
    assert len(tests) == 8 and {test.repeats for test in tests.values()} == {2}
    right = {
        one.name: np.mean(
            [one.probabilities.argmax(axis=1), one.repeats[0].argmax(axis=1)] == run_labels(run)
        )
        for one in run.results
        if one.repeats is not None
    }
    for test in tests.values():
        if test.outcome == "accuracy":
            assert test.difference == pytest.approx(right[test.result] - right[test.against])
        assert (test.difference > 0) == (test.outcome == "accuracy") and test.verdict == "better"
        assert test.interval.low < test.difference < test.interval.high
    assert tests[BEST_SINGLE, "accuracy"].against == "music softmax embedding"


def test_modalities_are_scored_under_one_head() -> None:
    """Means over both plans; the Shapley values add up to the gain over the most common label."""
    run = make_run()
    labels, drawn = run_labels(run), resample_groups(run.groups, draws=200)
    rows = {row.modality: row for row in score_modalities(run, labels, drawn)}
    assert list(rows) == ["audio", "video", "audio and video"]
    wanted = ("music+speech", "faces", "faces+music+speech")
    assert [row.result for row in rows.values()] == [f"{name} softmax embedding" for name in wanted]
    tests = {(test.question, test.outcome): test.difference for test in run_tests(run)}
    audio, video, both = (row.accuracy for row in rows.values())
    assert both - audio == pytest.approx(tests[VIDEO_TO_AUDIO, "accuracy"])
    assert both - video == pytest.approx(tests[AUDIO_TO_VIDEO, "accuracy"])
    nothing = majority_is_correct(labels, np.asarray(run.folds)).mean()
    assert rows["audio"].shapley == pytest.approx((audio - nothing + both - video) / 2)
    assert rows["audio"].shapley + rows["video"].shapley == pytest.approx(both - nothing)
    for row in rows.values():
        assert row.accuracy_ci95.low < row.accuracy < row.accuracy_ci95.high
    assert rows["audio and video"].shapley is None
    scored = {one.result.name: one.mean_accuracy for one in evaluate_run(run, draws=20).scored}
    assert all((row.accuracy, row.accuracy_ci95) == scored[row.result] for row in rows.values())
    renamed = tuple(
        replace(one, head=f"{one.head}:C=10") if one.head == "softmax" else one for one in run.results
    )
    with_settings = score_modalities(replace(run, results=renamed), labels, drawn)
    assert [row.accuracy for row in with_settings] == [row.accuracy for row in rows.values()]
    assert score_modalities(replace(run, modalities=()), labels, drawn) == ()
    assert score_modalities(replace(run, results=run.results[3:]), labels, drawn) == ()


def test_a_fusion_must_be_better_than_each_single_source() -> None:
    """The largest p-value counts, and p is 1 where one source is better; that is not called worse."""
    run = make_run({**SETS, ("faces", "music", "speech"): 0.5, ("music",): 0.95})
    tests = [test for test in run_tests(run) if test.question == BEST_SINGLE]
    assert {(test.against, test.p_value, test.verdict) for test in tests} == {
        ("music softmax embedding", 1.0, "not significant")
    }
    assert all("no significant improvement in" in test.sentence for test in tests)


def test_the_corrected_t_test_is_that_computed_by_hand() -> None:
    """Twelve groups of two, six folds: variance (1/5 + 6/5) s^2 / 12, with 11 degrees of freedom."""
    gains = np.random.default_rng(1).normal(0.1, 0.3, 24)
    drawn = resample_groups(np.arange(24) // 2, draws=2)
    tested = corrected_t_test(gains, 6, drawn, DIFFERENCE)
    groups = gains.reshape(12, 2).mean(axis=1)
    error = np.sqrt((1 / 5 + 6 / 5) * groups.var(ddof=1) / 12)
    assert tested.mean == pytest.approx(gains.mean())
    assert tested.p_value == pytest.approx(2 * t.sf(abs(gains.mean()) / error, 11))
    reach = t.ppf(0.975, 11) * error
    assert tested.interval.ends == pytest.approx((gains.mean() - reach, gains.mean() + reach), abs=0.005)


def test_equal_gains_have_a_p_value() -> None:
    """No gain has p = 1, and a gain of every clip that of a sign test; one group has no test."""
    drawn = resample_groups(range(10), draws=2)
    assert corrected_t_test(np.zeros(10), 5, drawn, DIFFERENCE).p_value == 1.0
    assert corrected_t_test(np.ones(10), 5, drawn, DIFFERENCE).p_value == pytest.approx(2 / 2**10)
    alone = corrected_t_test(np.ones(10), 5, resample_groups(["one"] * 10, draws=2), DIFFERENCE)
    assert alone.p_value == 1.0 and not alone.interval.known


def test_holms_correction_is_that_computed_by_hand() -> None:
    """P-values are multiplied by the number that remain, never fall, and stay below 1."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.6])), [0.04, 0.09, 0.09, 0.6])
    np.testing.assert_allclose(holm(np.array([0.5, 0.5])), [1.0, 1.0])


def test_all_planned_tests_of_a_run_are_corrected_together() -> None:
    tests = run_tests(make_run())
    np.testing.assert_allclose(
        [test.p_holm for test in tests], holm(np.array([test.p_value for test in tests]))
    )


def test_sentences_are_plain() -> None:
    """They have the effect, its interval and p; tiny p-values are not 0, and one group has no interval."""
    test = PlannedTest(
        VIDEO_TO_AUDIO, "accuracy", "a+v", "a", 5, 0.096, Interval(0.019, 0.173), 1e-9, 1e-8, "better"
    )
    assert test.sentence == (
        "Adding video to audio raises accuracy by 9.6 points "
        "(95 % CI +1.9 to +17.3, p < 0.001, Holm-corrected): a+v against a"
    )
    lower = replace(test, outcome="log_loss", difference=-0.192, interval=Interval(-0.3, -0.1), p_holm=0.02)
    assert "lowers log loss by 0.19 nats (95 % CI -0.30 to -0.10, p = 0.020" in lower.sentence
    unclear = replace(test, p_holm=0.31, verdict="not significant")
    assert unclear.sentence == (
        "Adding video to audio: no significant difference in accuracy (+9.6 points, 95 % CI +1.9 to +17.3, "
        "p = 0.31, Holm-corrected; the interval is not corrected for the number of tests): a+v against a"
    )
    alone = replace(unclear, interval=Interval(np.nan, np.nan)).sentence
    assert "no interval: one group holds all or most clips" in alone and "not corrected" not in alone


def test_false_positives_are_as_rare_as_stated() -> None:
    """At most 6 % of tests, within the noise of 100 data sets, where video adds nothing to the accuracy."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "planned_tests.py"))
    drawn = resample_groups(range(52), draws=1)

    def make(strength: float, seed: int) -> object:
        return script["draw"](52, 1, 24, strength, seed)

    (_, single), (_, repeated) = script["simulate"](make, drawn, 1.03, 100)
    for tests in (single, repeated):
        rates = script["count"](tests, ("accuracy", "log_loss"))
        assert rates.corrected <= 0.06 and rates.single <= 0.15
