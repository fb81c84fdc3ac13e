"""Which results are not significantly worse than the best."""

import numpy as np
import pytest

from moodfuse.evaluate.choosing import not_worse
from moodfuse.evaluate.resampling import GroupDraws, draw_groups

CLIPS = 60
LABELS = np.random.default_rng(0).integers(0, 3, CLIPS)


def table_of(right: float, *, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """Probabilities [60, 3] that give the truth about this share."""
    share = np.clip(right + noise * np.random.default_rng(seed).standard_normal(CLIPS), 0.01, 0.98)
    table = np.repeat((1 - share[:, None]) / 2, 3, axis=1)
    table[np.arange(CLIPS), LABELS] = share
    return table


def loss_of(table: np.ndarray) -> float:
    return float(-np.log(table[np.arange(CLIPS), LABELS]).mean())


@pytest.fixture(scope="module")
def drawn() -> GroupDraws:
    return draw_groups(range(CLIPS), draws=300)


def test_the_best_and_its_clones_are_kept(drawn: GroupDraws) -> None:
    """A clone differs by nothing, whatever it is called, and brings the same loss."""
    best = table_of(0.8)
    kept = not_worse(LABELS, {"b": best, "a clone": best.copy(), "z clone": best.copy()}, drawn)
    assert set(kept) == {"b", "a clone", "z clone"} and len(set(kept.values())) == 1
    assert kept["b"] == pytest.approx(loss_of(best))


def test_a_clearly_worse_one_is_dropped_and_a_hardly_worse_one_is_not(drawn: GroupDraws) -> None:
    """The difference must be larger than chance over groups lets it be."""
    table = {"best": table_of(0.8), "chance": table_of(0.33), "near": table_of(0.79, seed=1)}
    assert list(not_worse(LABELS, table, drawn)) == ["best", "near"]


def test_results_come_by_their_loss(drawn: GroupDraws) -> None:
    """The least first, in whatever order they were given; names order those that are equal."""
    tables = {f"{seed}": table_of(0.6, noise=0.2, seed=seed) for seed in range(5)}
    kept = not_worse(LABELS, dict(reversed(tables.items())), drawn)
    assert list(kept) == sorted(kept, key=lambda name: loss_of(tables[name])) and kept == not_worse(
        LABELS, tables, drawn
    )
    assert list(not_worse(LABELS, {"b": tables["0"], "a": tables["0"]}, drawn)) == ["a", "b"]


def test_without_two_groups_nothing_is_dropped() -> None:
    """One group says nothing of another, so that no result is shown to be worse."""
    table = {"best": table_of(0.9), "worst": table_of(0.1)}
    assert list(not_worse(LABELS, table, draw_groups(["one"] * CLIPS, draws=50))) == ["best", "worst"]


def test_groups_count_and_not_clips() -> None:
    """What clips alone would show to be worse, three groups of them may not."""
    groups = np.arange(CLIPS) % 3
    shares = np.array([0.75, 0.75, 0.1])[groups]  # worse in one group of three alone
    worse = np.repeat((1 - shares[:, None]) / 2, 3, axis=1)
    worse[np.arange(CLIPS), LABELS] = shares
    table = {"best": table_of(0.8, noise=0.0), "worse": worse}
    assert "worse" not in not_worse(LABELS, table, draw_groups(range(CLIPS), draws=300))
    assert "worse" in not_worse(LABELS, table, draw_groups(groups, draws=300))


def test_a_certain_error_costs_no_infinity(drawn: GroupDraws) -> None:
    """A probability of 0 is cut off, so that every loss is a number."""
    wrong = np.eye(3)[(LABELS + 1) % 3]
    assert all(np.isfinite(list(not_worse(LABELS, {"wrong": wrong, "best": table_of(0.8)}, drawn).values())))
