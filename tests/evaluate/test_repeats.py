"""Repeated cross-validation: the corrected resampled t interval, worked by hand."""

import numpy as np
import pytest
from scipy.stats import t

from moodfuse.evaluate.repeats import repeated_score


def says(right: np.ndarray) -> np.ndarray:
    """Probabilities [..., 2] of label 0 that are right where told."""
    return np.stack([right, ~right], axis=-1).astype(float)


def test_interval_is_nadeau_and_bengios() -> None:
    """Three plans of four folds of five: variance (1/12 + 5/15) s^2, 11 degrees of freedom."""
    random = np.random.default_rng(0)
    right = random.random((3, 20)) < 0.6
    folds = np.stack([random.permutation(20) % 4 for _ in range(3)])
    found = repeated_score(np.zeros(20, dtype=int), says(right), folds)
    shares = np.array([right[plan][folds[plan] == fold].mean() for plan in range(3) for fold in range(4)])
    reach = t.ppf(0.975, 11) * np.sqrt((1 / 12 + 1 / 3) * shares.var(ddof=1))
    assert (found.repeats, found.accuracy) == (3, pytest.approx(shares.mean()))
    assert found.spread == pytest.approx(right.mean(axis=1).std(ddof=1))
    assert (found.ci95.low, found.ci95.high) == pytest.approx((shares.mean() - reach, shares.mean() + reach))


def test_one_plan_has_no_spread_and_ends_at_the_scale() -> None:
    """A single plan of two folds: no spread, and a wide interval that is cut off at 0 and 1."""
    right = np.array([[True, False, True, True]])
    found = repeated_score(np.zeros(4, dtype=int), says(right), np.array([[0, 0, 1, 1]]))
    assert found.repeats == 1 and np.isnan(found.spread)
    assert (found.ci95.low, found.ci95.high) == (0.0, 1.0)


def test_more_repeats_never_promise_independence() -> None:
    """The same plan ten times over hardly narrows the interval below what the overlap allows."""
    right, folds = np.arange(24) % 3 > 0, np.arange(24) // 4
    once = repeated_score(np.zeros(24, dtype=int), says(right[None]), folds[None])
    often = repeated_score(np.zeros(24, dtype=int), says(np.tile(right, (10, 1))), np.tile(folds, (10, 1)))
    assert often.ci95.high - often.ci95.low > 0.4 * (once.ci95.high - once.ci95.low)
