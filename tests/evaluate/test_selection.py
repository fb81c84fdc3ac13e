"""The accuracy of the best result is corrected for the selection; results not worse are listed."""

from typing import Any

import numpy as np
import pytest

from moodfuse.evaluate.intervals import resample_groups
from moodfuse.evaluate.selection import estimate_best, find_equivalent_results, select_and_test

CLIPS = 60
LABELS = np.random.default_rng(0).integers(0, 3, CLIPS)


def test_equal_results_are_corrected_to_their_accuracy(simulations: dict[str, Any]) -> None:
    """Of 60 equally good results the best looks far too good; the corrected accuracy is unbiased."""
    layout = simulations["Layout"].equal(52, 1)
    off, naive, held = simulations["selection_rows"](layout, np.full(60, 0.6), "equal", sets=150, draws=150)
    assert abs(off.figure) < 0.02 and naive.figure > 0.08 and held.figure > 0.9


def test_a_clear_winner_keeps_its_score() -> None:
    """If every draw selects one result, the corrected accuracy is its own, with as wide an interval."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    best = np.where(random.random(200) < 0.9, labels, (labels + 1) % 3)
    table = {"z best": np.eye(3)[best], "a poor": np.full((200, 3), 1 / 3)}
    headline = estimate_best(labels, table, resample_groups(range(200), draws=500))
    assert headline.result == "z best" and headline.candidates == 2 and headline.picks == (("z best", 1.0),)
    assert headline.accuracy == (best == labels).mean() == pytest.approx(headline.corrected, abs=0.005)
    width = headline.accuracy_ci95.high - headline.accuracy_ci95.low
    assert headline.corrected_ci95.high - headline.corrected_ci95.low == pytest.approx(width, rel=0.1)


def test_each_draw_selects_on_its_groups_and_scores_on_the_others() -> None:
    """The selection of each draw, with ties by loss, and its score are those computed by hand."""
    random = np.random.default_rng(1)
    right, loss = (random.random((12, 4)) < 0.5).astype(float), random.random((12, 4))
    drawn = resample_groups(np.arange(12) // 2, draws=40)
    selection = select_and_test(right, loss, drawn)
    scores = []
    for counts, pick in zip(drawn.counts, selection.picks, strict=True):
        weights = counts[drawn.member].astype(float)
        order = sorted(range(4), key=lambda index: (-(weights @ right)[index], (weights @ loss)[index]))
        assert order[0] == pick
        scores.append(right[weights == 0, pick].mean())
    assert selection.corrected == pytest.approx(np.mean(scores), abs=1e-12)


def test_one_group_has_no_correction() -> None:
    """No group is left to score on, and no result can be shown to be worse."""
    labels, table = np.array([0, 1]), {"a": np.eye(2), "b": np.eye(2)[::-1]}
    drawn = resample_groups(["one", "one"], draws=5)
    headline = estimate_best(labels, table, drawn)
    assert headline.result == "a" and np.isnan(headline.corrected) and not headline.corrected_ci95.known
    assert list(find_equivalent_results(labels, table, drawn)) == ["a", "b"]


def table_of(right: float, *, seed: int = 0) -> np.ndarray:
    """Probabilities [60, 3] whose mean for the true class is about `right`."""
    share = np.clip(right + 0.1 * np.random.default_rng(seed).standard_normal(CLIPS), 0.01, 0.98)
    table = np.repeat((1 - share[:, None]) / 2, 3, axis=1)
    table[np.arange(CLIPS), LABELS] = share
    return table


def test_significantly_worse_results_are_dropped() -> None:
    """A clearly worse result is dropped; a slightly worse one and a copy of the best are kept."""
    best = table_of(0.8)
    table = {"best": best, "chance": table_of(0.33), "a copy": best.copy(), "near": table_of(0.79, seed=1)}
    kept = find_equivalent_results(LABELS, table, resample_groups(range(CLIPS), draws=300))
    assert list(kept) == ["a copy", "best", "near"] and kept["a copy"] == kept["best"]
    assert kept["best"] == pytest.approx(-np.log(best[np.arange(CLIPS), LABELS]).mean())
    assert list(kept.values()) == sorted(kept.values())
