"""Calibration before and after scaling, beside what a perfect model would show."""

import numpy as np
import pytest

from moodfuse.cache.runs import Result
from moodfuse.evaluate import metrics
from moodfuse.evaluate.calibration import calibration, perfect_errors, reliability


def sharpened(p: np.ndarray, power: float) -> np.ndarray:
    """Probabilities at another temperature."""
    return p**power / (p**power).sum(axis=1, keepdims=True)


def calibrated(clips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from them."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(4) / 2, clips)
    return (random.random((clips, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1), p


def test_bins_add_up_to_the_calibration_error() -> None:
    """The gaps of the bins, weighted by their clips, are the ECE; every clip is in the bin of its confidence."""
    labels, p = calibrated(300)
    bins = list(reliability(labels, p))
    assert sum(item.clips for item in bins) == 300 and len({item.low for item in bins}) == len(bins) <= 15
    assert all(item.low < item.confidence <= item.high for item in bins)
    gaps = sum(item.clips * abs(item.accuracy - item.confidence) for item in bins) / 300
    assert gaps == pytest.approx(float(metrics.expected_calibration_error(labels, p)), abs=1e-12)


def test_a_perfect_model_shows_what_is_foretold() -> None:
    """The errors of calibrated data sets have the mean and the 95th percentile that the simulation gives."""
    _, p = calibrated(60)
    foretold = perfect_errors(p, draws=4000, seed=1)
    random = np.random.default_rng(2)
    found = []
    for _ in range(2000):
        labels = (random.random((60, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
        found.append(float(metrics.expected_calibration_error(labels, p)))
    assert np.mean(found) == pytest.approx(foretold.mean(), abs=0.004)
    assert np.quantile(found, 0.95) == pytest.approx(np.quantile(foretold, 0.95), abs=0.01)


def test_scaling_shows_in_both_figures() -> None:
    """Overconfident probabilities before, calibrated ones after: loss and error fall, to what a perfect model shows."""
    labels, p = calibrated(2000)
    result = Result(("c3d",), "softmax", "logits", p, unscaled=sharpened(p, 3.0), temperatures=(3, 3.0))
    found = calibration(labels, result, draws=300)
    assert found is not None
    assert found.temperatures == (3.0, 3.0)
    assert found.log_loss_after < found.log_loss_before and found.ece_after < found.ece_before / 2
    assert (
        found.ece_after < 1.2 * found.ece_if_perfect_high and found.ece_if_perfect < found.ece_if_perfect_high
    )
    assert found == calibration(labels, result, draws=300)
