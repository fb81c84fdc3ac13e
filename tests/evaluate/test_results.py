"""Scores by class, calibration before and after scaling, and the interval of repeated cross-validation."""

import numpy as np
import pytest
from scipy.stats import t
from sklearn import metrics as sk

from moodfuse.cache.runs import Result
from moodfuse.evaluate.results import calibration, class_scores, repeated_score


def predictions(right: np.ndarray) -> np.ndarray:
    """Probabilities [..., 2] of label 0, correct where `right`."""
    return np.stack([right, ~right], axis=-1).astype(float)


def test_class_scores_equal_scikit_learn() -> None:
    """Precision, recall and F1 of each class; NaN where a class is never predicted, or never true."""
    labels, p = np.array([0, 0, 1, 1, 3]), np.eye(4)[[0, 1, 1, 1, 0]]
    found = class_scores(labels, p, tuple("abcd"))
    wanted = sk.precision_recall_fscore_support(
        labels, p.argmax(axis=1), labels=range(4), zero_division=np.nan
    )
    for index, item in enumerate(found):
        numbers = (item.precision, item.recall, item.f1, item.clips)
        np.testing.assert_allclose(numbers, [column[index] for column in wanted], atol=1e-12)


def test_calibration_shows_the_effect_of_scaling() -> None:
    """From overconfident to calibrated probabilities loss and error fall, to the error of a perfect model."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4) / 2, 2000)
    labels = (random.random((2000, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    result = Result(("c3d",), "softmax", "logits", p, unscaled=sharp, temperatures=(3, 3.0))
    found = calibration(labels, result, draws=300)
    assert found is not None and found.temperatures == (3.0, 3.0)
    assert found.log_loss_after < found.log_loss_before and found.ece_after < found.ece_before / 2
    assert found.ece_after < 1.2 * found.ece_if_perfect_high
    assert found.ece_if_perfect < found.ece_if_perfect_high
    assert found == calibration(labels, result, draws=300)


def test_the_interval_of_repeats_is_nadeau_and_bengios() -> None:
    """Three plans of four folds of five: variance (1/12 + 5/15) s^2, 11 degrees of freedom."""
    random = np.random.default_rng(0)
    right = random.random((3, 20)) < 0.6
    folds = np.stack([random.permutation(20) % 4 for _ in range(3)])
    found = repeated_score(np.zeros(20, dtype=int), predictions(right), folds)
    shares = np.array([right[plan][folds[plan] == fold].mean() for plan in range(3) for fold in range(4)])
    reach = t.ppf(0.975, 11) * np.sqrt((1 / 12 + 1 / 3) * shares.var(ddof=1))
    assert (found.repeats, found.accuracy) == (3, pytest.approx(shares.mean()))
    assert found.spread == pytest.approx(right.mean(axis=1).std(ddof=1))
    assert (found.ci95.low, found.ci95.high) == pytest.approx((shares.mean() - reach, shares.mean() + reach))


def test_one_plan_has_no_spread_and_an_interval_within_the_scale() -> None:
    """A single plan of two folds has a wide interval, limited to 0 and 1."""
    right = np.array([[True, False, True, True]])
    found = repeated_score(np.zeros(4, dtype=int), predictions(right), np.array([[0, 0, 1, 1]]))
    assert found.repeats == 1 and np.isnan(found.spread)
    assert (found.ci95.low, found.ci95.high) == (0.0, 1.0)


def test_more_repeats_do_not_narrow_the_interval_without_limit() -> None:
    """The same plan ten times over hardly narrows the interval, as the training sets overlap."""
    right, folds = np.arange(24) % 3 > 0, np.arange(24) // 4
    once = repeated_score(np.zeros(24, dtype=int), predictions(right[None]), folds[None])
    often = repeated_score(
        np.zeros(24, dtype=int), predictions(np.tile(right, (10, 1))), np.tile(folds, (10, 1))
    )
    assert often.ci95.high - often.ci95.low > 0.4 * (once.ci95.high - once.ci95.low)
