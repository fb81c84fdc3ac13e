"""The best of many results loses its luck when the choice is put on trial."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from moodfuse.evaluate.resampling import draw_groups
from moodfuse.evaluate.selection import choose_and_test, corrected_best

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


def test_equal_results_are_corrected_to_their_truth() -> None:
    """Of 60 equally good results the best looks far too good; corrected, it is right on average."""
    benchmark = runpy.run_path(str(BENCHMARK))
    layout = benchmark["Layout"].equal(52, 1)
    off, naive, held = benchmark["selection_rows"](layout, np.full(60, 0.6), "equal", sets=150, draws=150)
    assert abs(off.figure) < 0.02 and naive.figure > 0.08 and held.figure > 0.9


def test_a_clear_winner_keeps_its_score() -> None:
    """Where every draw picks one result, the corrected accuracy is its own, with the same interval's width."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    best = np.where(random.random(200) < 0.9, labels, (labels + 1) % 3)
    table = {"z best": np.eye(3)[best], "a poor": np.full((200, 3), 1 / 3)}
    found = corrected_best(labels, table, draw_groups(range(200), draws=500))
    assert found.result == "z best" and found.candidates == 2 and found.picks == (("z best", 1.0),)
    assert found.accuracy == (best == labels).mean() == pytest.approx(found.corrected, abs=0.005)
    width = found.accuracy_ci95.high - found.accuracy_ci95.low
    assert found.corrected_ci95.high - found.corrected_ci95.low == pytest.approx(width, rel=0.1)


def test_draws_are_chosen_on_and_scored_apart() -> None:
    """By hand: each draw's best on its groups, by loss where equal, and its share among the others."""
    random = np.random.default_rng(1)
    right, loss = (random.random((12, 4)) < 0.5).astype(float), random.random((12, 4))
    drawn = draw_groups(np.arange(12) // 2, draws=40)
    found = choose_and_test(right, loss, drawn)
    scores = []
    for counts, pick in zip(drawn.counts, found.picks, strict=True):
        weights = counts[drawn.member].astype(float)
        order = sorted(range(4), key=lambda index: (-(weights @ right)[index], (weights @ loss)[index]))
        assert order[0] == pick
        scores.append(right[weights == 0, pick].mean())
    assert found.corrected == pytest.approx(np.mean(scores), abs=1e-12)


def test_one_group_has_no_correction() -> None:
    """Nothing is left to score on, and that is said as NaN."""
    labels = np.array([0, 1])
    found = corrected_best(
        labels, {"a": np.eye(2), "b": np.eye(2)[::-1]}, draw_groups(["one", "one"], draws=5)
    )
    assert found.result == "a" and np.isnan(found.corrected) and np.isnan(found.corrected_ci95.low)
