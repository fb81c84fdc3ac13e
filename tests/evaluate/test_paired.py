"""Paired tests are exact and have the stated error rate; the inflation of a leaky run is measured on the same clips."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import Interval, draw_groups
from moodfuse.evaluate.paired import (
    PairedTest,
    format_p,
    holm,
    measure_inflation,
    paired_tests,
    sign_flip_p,
)


def predictions(labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probabilities [N, 2], correct where `right`."""
    return np.eye(2)[np.where(right, labels, 1 - labels)]


def test_p_values_equal_the_count_of_all_flips() -> None:
    """They equal an enumeration of all signs, with ties and groups without a difference."""
    random = np.random.default_rng(0)
    for _ in range(60):
        sums = random.integers(-3, 4, random.integers(1, 11))
        flips = np.array(list(product((-1, 1), repeat=len(sums)))) @ np.abs(sums)
        assert sign_flip_p(sums) == pytest.approx((np.abs(flips) >= abs(sums.sum())).mean(), abs=1e-12)


def test_single_clips_give_mcnemars_exact_test() -> None:
    """20 against 7 clips, each its own group."""
    sums = np.array([1] * 20 + [-1] * 7 + [0] * 30)
    assert sign_flip_p(sums) == pytest.approx(binomtest(7, 27).pvalue, abs=1e-12)


def test_equal_results_are_not_significantly_different() -> None:
    """They have p = 1 and an interval around 0 with a width."""
    labels = np.arange(20) % 2
    p = predictions(labels, np.arange(20) < 12)
    (test,) = paired_tests(
        labels, {"a": p, "b": p}, draw_groups(range(20), draws=100), pairs=[("a", "b", "mean")]
    )
    assert (test.difference, test.p_value, test.verdict) == (0.0, 1.0, "cannot tell")
    assert -0.3 < test.interval.low < 0 < test.interval.high < 0.3


def test_many_groups_need_no_enumeration() -> None:
    """With 5000 groups a clear difference is significant, a faint one is not, and p stays above 0."""
    assert sign_flip_p(np.array([1] * 3000 + [-1] * 2000)) == pytest.approx(1e-12)
    assert sign_flip_p(np.array([1] * 2505 + [-1] * 2495)) > 0.8


def test_holms_correction_is_that_computed_by_hand() -> None:
    """P-values are multiplied by the number that remain, never fall, and stay below 1."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.6])), [0.04, 0.09, 0.09, 0.6])
    np.testing.assert_allclose(holm(np.array([0.5, 0.5])), [1.0, 1.0])


def test_verdicts_follow_the_corrected_p() -> None:
    """Better and worse mirror each other, and the sentence has the verdict."""
    labels = np.arange(60) % 2
    table = {
        "good": predictions(labels, np.arange(60) < 55),
        "bad": predictions(labels, np.arange(60) % 2 == 0),
    }
    drawn = draw_groups(range(60), draws=200)
    pairs = [("good", "bad", "mean"), ("bad", "good", "mean"), ("bad", "bad", "best single source")]
    found = paired_tests(labels, table, drawn, pairs=pairs)  # type: ignore[arg-type]
    assert [test.verdict for test in found] == ["better", "worse", "cannot tell"]
    assert found[0].difference == -found[1].difference == pytest.approx(55 / 60 - 0.5)
    assert found[0].interval.low == pytest.approx(-found[1].interval.high)
    assert "good is better than bad (+41.7 points" in found[0].sentence
    assert paired_tests(labels, table, drawn, pairs=[]) == ()


def test_sentences_state_their_limits() -> None:
    """A tiny p is not 0.00, one group has no interval, and an uncorrected interval without 0 has a remark."""
    test = PairedTest("a", "b", "mean", 0.2, Interval(0.05, 0.3), 1e-12, 1e-9, "better")
    assert (
        test.sentence == "a is better than b (+20.0 points, 95 % CI [+5.0, +30.0], p < 0.001, Holm-corrected)"
    )
    alone = replace(test, interval=Interval(np.nan, np.nan), p_holm=1.0, verdict="cannot tell").sentence
    assert alone.endswith(
        "(+20.0 points, no interval: one group holds all or most clips, p = 1.00, Holm-corrected)"
    )
    for ends, remark in (
        (Interval(0.01, 0.3), True),
        (Interval(-0.3, -0.01), True),
        (Interval(-0.1, 0.3), False),
    ):
        sentence = replace(test, interval=ends, p_holm=0.31, verdict="cannot tell").sentence
        assert ("the interval is not corrected for the number of comparisons" in sentence) == remark
    assert [format_p(value) for value in (0.0496, 0.001, 0.3)] == ["p = 0.050", "p = 0.001", "p = 0.30"]


@pytest.mark.parametrize(("groups", "clips"), [(52, 1), (36, 2), (131, 1)])
def test_false_positives_are_as_rare_as_stated(simulations: dict[str, Any], groups: int, clips: int) -> None:
    """At most 6 % of tests at the 5 % level are false positives, within the noise of 300 data sets."""
    layout = simulations["Layout"].equal(groups, clips)
    wrong, held = simulations["paired_rows"](layout, 0.6, sets=300, draws=300)
    assert wrong.figure <= 0.075 and held.figure >= 0.91


def leak_run(
    name: str, skill: float, *, ways: tuple[str, ...] = ("network", "softmax", "mean"), seed: int = 0
) -> Run:
    """Thirty clips in fifteen groups; `skill` is the expected accuracy."""
    random = np.random.default_rng(seed)
    labels = np.arange(30) % 3
    results = []
    for head in ways:
        predicted = np.where(random.random(30) < skill, labels, (labels + 1) % 3)
        sources = ("a",) if head == "network" else ("a", "b")
        results.append(Result(sources, head, "logits", np.eye(3)[predicted]))
    return Run(
        name=name,
        protocol="crossfit",
        classes=("x", "y", "z"),
        ids=tuple(f"clip-{index}" for index in range(30)),
        labels=tuple("xyz"[label] for label in labels),
        groups=tuple(str(index // 2) for index in range(30)),
        folds=tuple(index % 3 for index in range(30)),
        fold_count=3,
        seed=0,
        recipes=(),
        results=tuple(results),
    )


def turned(run: Run, order: np.ndarray) -> Run:
    """The same run with its clips in another order, and a group for each."""
    results = tuple(replace(result, probabilities=result.probabilities[order]) for result in run.results)
    ids, labels = (tuple(np.array(names)[order].tolist()) for names in (run.ids, run.labels))
    return replace(run, ids=ids, labels=labels, groups=ids, results=results, protocol="leaky")


def test_inflation_is_leaky_minus_clean_accuracy() -> None:
    """Rows are in the order of the first run, the mean is over fusions, and the order of clips does not matter."""
    run, leaky = leak_run("clean", 0.5), leak_run("leak", 0.95, seed=1)
    found = measure_inflation(run, leaky, draws=200)
    assert (found.run, found.leaky_run) == ("clean", "leak")
    assert [row.result for row in found.rows] == [result.name for result in run.results]
    for row in found.rows:
        assert row.gain == pytest.approx(row.leaky_accuracy - row.accuracy) and row.gain > 0
        assert row.gain_ci95.low < row.gain < row.gain_ci95.high
    assert found.mean_gain == pytest.approx(np.mean([row.gain for row in found.rows[1:]]))
    assert found.mean_gain_ci95.low < found.mean_gain < found.mean_gain_ci95.high
    assert measure_inflation(run, turned(leaky, np.random.default_rng(0).permutation(30)), draws=200) == found


def test_heads_on_one_source_do_not_enter_the_mean() -> None:
    """The mean over fusions is over results of two sources and more."""
    run, leaky = leak_run("clean", 0.5), leak_run("leak", 0.95, seed=1)
    single = [replace(one.results[1], sources=("a",)) for one in (run, leaky)]
    more = [replace(one, results=(*one.results, row)) for one, row in zip((run, leaky), single, strict=True)]
    found = measure_inflation(*more, draws=50)
    assert len(found.rows) == 4 and found.mean_gain == measure_inflation(run, leaky, draws=50).mean_gain


def test_only_shared_rows_are_compared() -> None:
    """A result of only one run is left out; without fusions the mean is over networks."""
    found = measure_inflation(leak_run("a", 0.5), leak_run("b", 0.9, ways=("network",)), draws=50)
    assert [row.result for row in found.rows] == ["a network logits"]
    assert found.mean_gain == found.rows[0].gain


def test_other_clips_classes_or_results_are_refused() -> None:
    """The message has the difference and a remedy."""
    run, leaky = leak_run("clean", 0.5), leak_run("leak", 0.9)
    with pytest.raises(
        InputError, match="clean has the classes x, y, z, run leak x, y, w; run fuse --protocol leaky"
    ):
        measure_inflation(run, replace(leaky, classes=("x", "y", "w")))
    with pytest.raises(InputError, match="clean and leak differ in 2 clips, such as 'clip-0'"):
        measure_inflation(run, replace(leaky, ids=("other", *leaky.ids[1:])))
    with pytest.raises(InputError, match="clip 'clip-0' is 'x' in run clean, 'y' in leak"):
        measure_inflation(run, replace(leaky, labels=("y", *leaky.labels[1:])))
    with pytest.raises(InputError, match="share no result"):
        measure_inflation(leak_run("clean", 0.5, ways=("softmax",)), leak_run("leak", 0.9, ways=("network",)))
