"""Settings and temperatures are found where they are known, and nothing is chosen where nothing can be."""

import numpy as np
import pytest

from moodfuse.fuse import make_head
from moodfuse.fuse.tuning import best_temperature, choose_on_rows, inner_scores, soften


def sample(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from them: a perfectly calibrated model."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(4), rows)
    truth = (rng.random(rows)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    return chances, truth


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(factor: float) -> None:
    """Probabilities that were made too certain or too even by a factor get it back, and calibrated ones keep theirs."""
    chances, truth = sample(20_000)
    found = best_temperature(soften(chances, 1 / factor), truth)
    assert found == pytest.approx(factor, rel=0.05)
    np.testing.assert_allclose(soften(soften(chances, 1 / factor), factor), chances, atol=1e-3)


def test_soften_keeps_the_order_and_the_sum() -> None:
    """A temperature moves no class past another, and zeros stay harmless."""
    chances = np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]])
    for temperature in (0.05, 2.0, 20.0):
        soft = soften(chances, temperature)
        np.testing.assert_allclose(soft.sum(axis=1), 1)
        assert np.array_equal(soft.argmax(axis=1), chances.argmax(axis=1))


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
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    noise = rng.normal(size=(60, 8))
    head = make_head(name)
    chosen = choose_on_rows(head, noise, y, None, seed=0)
    assert chosen is not None and chosen[setting] == min(head.grid)
    data = [(noise[:30], y[:30], noise[30:], y[30:])]
    losses, chances, truth = inner_scores(head, data, classes=3)
    assert losses.shape == (len(head.grid),) and chances.shape == (len(head.grid), 30, 3) and len(truth) == 30
    fresh = make_head(name, tune=False, **{setting: sorted(head.grid)[1]}).fit(noise[:30], y[:30])
    np.testing.assert_allclose(chances[1], fresh.predict_proba(noise[30:]), atol=1e-3)


def test_a_class_that_an_inner_fit_lacks_gets_no_chance() -> None:
    """Columns follow all classes, whatever classes an inner fold has."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), np.arange(20) % 2 * 2
    _, chances, _ = inner_scores(make_head("softmax"), [(x, y, x, np.ones(20, dtype=np.int64))], classes=3)
    assert not chances[:, :, 1].any() and np.allclose(chances.sum(axis=2), 1)
