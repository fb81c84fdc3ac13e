"""Settings and temperatures are found where they are known, and nothing is chosen where nothing can be."""

import numpy as np
import pytest

from moodfuse.fuse import make_head
from moodfuse.fuse.heads.exported import apply_temperature
from moodfuse.fuse.heads.inner_folds import choose_on_rows, inner_scores
from moodfuse.fuse.tuning import best_temperature


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(factor: float) -> None:
    """Labels drawn from probabilities: what was made too certain or too even by a factor gets it back."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 20_000)
    y_true = (rng.random(20_000)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    changed = apply_temperature(probabilities, 1 / factor)
    assert best_temperature(changed, y_true) == pytest.approx(factor, rel=0.05)
    np.testing.assert_allclose(apply_temperature(changed, factor), probabilities, atol=1e-3)


def test_a_temperature_keeps_the_order_and_the_sum() -> None:
    """It moves no class past another, zeros are harmless, 1 changes no bit, and each row may have its own."""
    probabilities = np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]])
    for temperature in (0.05, 2.0, 20.0):
        scaled = apply_temperature(probabilities, temperature)
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
        assert np.array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
        rows = apply_temperature(probabilities, np.array([temperature, 1.0]))
        assert np.array_equal(rows, [scaled[0], probabilities[1]])


def test_extreme_rows_give_a_bounded_temperature() -> None:
    """All right or all wrong: few rows move the temperature little, many far, and never past its bounds."""
    sure = np.eye(3)[[0, 1, 2, 0]] * 0.9 + 0.1 / 3
    right, wrong = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 1])
    assert 0.3 < best_temperature(sure, right) < 0.9 and 2 < best_temperature(sure, wrong) <= 20
    many = np.tile(sure, (500, 1))
    assert 0.05 <= best_temperature(many, np.tile(right, 500)) < best_temperature(sure, right)
    assert best_temperature(sure, wrong) < best_temperature(many, np.tile(wrong, 500)) <= 20


@pytest.mark.parametrize(("name", "setting"), [("softmax", "C"), ("logistic", "C"), ("lightgbm", "rounds")])
def test_the_least_inner_loss_wins(name: str, setting: str) -> None:
    """The chosen setting is the one of least loss; noise asks for the simplest."""
    y = np.arange(60) % 3
    noise = np.random.default_rng(0).normal(size=(60, 8))
    head = make_head(name)
    chosen = choose_on_rows(head, noise, y, None, seed=0)
    assert chosen is not None and chosen[setting] == min(head.grid)
    data = [(noise[:30], y[:30], noise[30:], y[30:])]
    losses, probabilities, y_true = inner_scores(head, data, classes=3)
    assert losses.shape == (len(head.grid),) and probabilities.shape == (len(head.grid), 30, 3)
    assert np.array_equal(y_true, y[30:])
    fresh = make_head(name, tune=False, **{setting: sorted(head.grid)[1]}).fit(noise[:30], y[:30])
    np.testing.assert_allclose(probabilities[1], fresh.predict_proba(noise[30:]), atol=1e-3)


def test_a_class_without_rows_in_an_inner_fit_gets_probability_0() -> None:
    """Columns follow all classes, whatever classes an inner fold has."""
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2 * 2
    held_out = (x, np.ones(20, dtype=np.int64))
    _, probabilities, _ = inner_scores(make_head("softmax"), [(x, y, *held_out)], classes=3)
    assert not probabilities[:, :, 1].any() and np.allclose(probabilities.sum(axis=2), 1)
