"""Paired tests are exact, raise no false alarm too often, and say so in words."""

import runpy
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from moodfuse.evaluate.paired import holm, paired_tests, sign_flip_p
from moodfuse.evaluate.records import Interval, PairedTest, p_shown
from moodfuse.evaluate.resampling import draw_groups


def says(labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probabilities [N, 2] that are right where told."""
    return np.eye(2)[np.where(right, labels, 1 - labels)]


def test_p_values_equal_the_count_of_all_flips() -> None:
    """Enumerated over every sign, ties and groups without a difference included."""
    random = np.random.default_rng(0)
    for _ in range(60):
        sums = random.integers(-3, 4, random.integers(1, 11))
        flips = np.array(list(product((-1, 1), repeat=len(sums)))) @ np.abs(sums)
        assert sign_flip_p(sums) == pytest.approx((np.abs(flips) >= abs(sums.sum())).mean(), abs=1e-12)


def test_single_clips_give_mcnemars_exact_test() -> None:
    """20 against 7 clips, each its own group."""
    sums = np.array([1] * 20 + [-1] * 7 + [0] * 30)
    assert sign_flip_p(sums) == pytest.approx(binomtest(7, 27).pvalue, abs=1e-12)


def test_no_difference_is_no_finding() -> None:
    """Equal results have p = 1 and an interval around 0 that has a width."""
    labels = np.arange(20) % 2
    p = says(labels, np.arange(20) < 12)
    (test,) = paired_tests(
        labels, {"a": p, "b": p}, draw_groups(range(20), draws=100), pairs=[("a", "b", "mean")]
    )
    assert (test.difference, test.p_value, test.verdict) == (0.0, 1.0, "cannot tell")
    assert -0.3 < test.interval.low < 0 < test.interval.high < 0.3


def test_many_groups_need_no_enumeration() -> None:
    """5000 groups: a clear difference is found, a faint one is not, and p stays above 0."""
    assert sign_flip_p(np.array([1] * 3000 + [-1] * 2000)) == pytest.approx(1e-12)
    assert sign_flip_p(np.array([1] * 2505 + [-1] * 2495)) > 0.8


def test_holm_is_holms() -> None:
    """Worked by hand: raised by how many remain, never falling, never above 1."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.6])), [0.04, 0.09, 0.09, 0.6])
    np.testing.assert_allclose(holm(np.array([0.5, 0.5])), [1.0, 1.0])


def test_verdicts_follow_the_corrected_p() -> None:
    """Better and worse mirror each other, and the sentence says which."""
    labels = np.arange(60) % 2
    table = {"good": says(labels, np.arange(60) < 55), "bad": says(labels, np.arange(60) % 2 == 0)}
    drawn = draw_groups(range(60), draws=200)
    pairs = [("good", "bad", "mean"), ("bad", "good", "mean"), ("bad", "bad", "best single source")]
    found = paired_tests(labels, table, drawn, pairs=pairs)  # type: ignore[arg-type]
    assert [test.verdict for test in found] == ["better", "worse", "cannot tell"]
    assert found[0].difference == -found[1].difference == pytest.approx(55 / 60 - 0.5)
    assert found[0].interval.low == pytest.approx(-found[1].interval.high)
    assert "good is better than bad (+41.7 points" in found[0].sentence
    assert paired_tests(labels, table, drawn, pairs=[]) == ()


def test_sentences_say_what_they_do_not_know() -> None:
    """A tiny p is not 0.00, one group has no interval, and an interval beside 0 is said to be uncorrected."""
    test = PairedTest("a", "b", "mean", 0.2, Interval(0.05, 0.3), 1e-12, 1e-9, "better")
    assert test.sentence == "a is better than b (+20.0 points [+5.0, +30.0], p < 0.001 after Holm)"
    alone = replace(test, interval=Interval(np.nan, np.nan), p_holm=1.0, verdict="cannot tell").sentence
    assert (
        alone.endswith(
            "(+20.0 points with no interval: one group holds all or most clips, p = 1.00 after Holm)"
        )
        and "nan" not in alone
    )
    for ends, remark in (
        (Interval(0.01, 0.3), True),
        (Interval(-0.3, -0.01), True),
        (Interval(-0.1, 0.3), False),
    ):
        said = replace(test, interval=ends, p_holm=0.31, verdict="cannot tell").sentence
        assert ("the interval is not corrected for the number of comparisons" in said) == remark
    assert [p_shown(value) for value in (0.0496, 0.001, 0.3)] == ["p = 0.050", "p = 0.001", "p = 0.30"]


@pytest.mark.parametrize(("groups", "clips"), [(52, 1), (36, 2), (131, 1)])
def test_equal_results_are_seldom_told_apart(groups: int, clips: int) -> None:
    """At most 6 % false positives of one test at 5 %, but for the noise of 300 data sets; intervals hold 0."""
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
    wrong, held = benchmark["paired_rows"](benchmark["Layout"].equal(groups, clips), 0.6, sets=300, draws=300)
    assert wrong.figure <= 0.075 and held.figure >= 0.91
