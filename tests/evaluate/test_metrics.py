"""Metrics equal scikit-learn's, and calibration errors match simulations."""

import numpy as np
import pytest
from sklearn import metrics as sk

from moodfuse.evaluate import metrics


def cases(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random labels and probabilities: ties, absent classes, small and larger sets."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(count):
        classes, clips = int(rng.integers(2, 7)), int(rng.integers(6, 60))
        labels = rng.integers(0, classes - (number % 3 == 0 and classes > 2), clips)
        labels[0] = (labels[1] + 1) % max(labels.max(), 1)
        p = rng.dirichlet(np.ones(classes), clips)
        if number % 2:
            p = (np.round(p * 5) + 0.1) / (np.round(p * 5) + 0.1).sum(axis=1, keepdims=True)
        pairs.append((labels, p))
    return pairs


def draw_labels(p: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Labels drawn from the probabilities themselves."""
    return (random.random((len(p), 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)


def test_metrics_equal_scikit_learn() -> None:
    """Accuracy, macro F1, one-vs-rest AUC and log loss on 20 random cases, absent classes too, to 1e-12."""
    for labels, p in cases(20):
        top = p.argmax(axis=1)
        present = [k for k in range(p.shape[1]) if 0 < (labels == k).sum() < len(labels)]
        area = np.mean([sk.roc_auc_score(labels == k, p[:, k]) for k in present])
        wanted = {
            "accuracy": sk.accuracy_score(labels, top),
            "macro_f1": sk.f1_score(labels, top, average="macro", zero_division=0),
            "auc": area,
            "log_loss": sk.log_loss(labels, p, labels=list(range(p.shape[1]))),
        }
        values = metrics.all_metrics(labels, p)
        assert {name: float(values[name]) for name in wanted} == pytest.approx(wanted, abs=1e-12)
        across, up = metrics.macro_roc_curve(labels, p)
        assert np.trapezoid(up, across) == pytest.approx(area, abs=1e-12)


def test_a_weight_of_two_equals_repeating_the_clip() -> None:
    """All metrics accept weights as counts."""
    for labels, p in cases(20):
        counts = np.random.default_rng(1).integers(0, 3, len(labels))
        counts[:2] = 1
        rows = np.repeat(np.arange(len(labels)), counts)
        for metric in metrics.METRICS.values():
            weighted = metric(labels, p, counts[None, :].astype(float))  # type: ignore[operator]
            repeated = metric(labels[rows], p[rows])  # type: ignore[operator]
            assert float(weighted[0]) == pytest.approx(float(repeated), abs=1e-12, nan_ok=True)


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    """The gaps of the bins, weighted by their clips, are the ECE; a bin contains its confidence."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4) / 2, 300)
    labels = draw_labels(p, random)
    bins = metrics.reliability_bins(labels, p)
    assert sum(one.clips for one in bins) == 300 and len({one.low for one in bins}) == len(bins) <= 15
    assert all(one.low < one.confidence <= one.high for one in bins)
    gaps = sum(one.clips * abs(one.accuracy - one.confidence) for one in bins) / 300
    assert gaps == pytest.approx(float(metrics.expected_calibration_error(labels, p)), abs=1e-12)


def test_simulated_calibration_errors_are_those_of_calibrated_data() -> None:
    """The errors of calibrated datasets have the mean and the 95th percentile of the simulation."""
    random = np.random.default_rng(2)
    p = random.dirichlet(np.ones(4) / 2, 60)
    simulated = metrics.ece_if_calibrated(p, draws=4000, seed=1)
    errors = [float(metrics.expected_calibration_error(draw_labels(p, random), p)) for _ in range(2000)]
    assert np.mean(errors) == pytest.approx(simulated.mean(), abs=0.004)
    assert np.quantile(errors, 0.95) == pytest.approx(np.quantile(simulated, 0.95), abs=0.01)
