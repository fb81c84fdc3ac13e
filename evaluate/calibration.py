"""How far probabilities can be taken at their word: reliability, and calibration before and after scaling.

The expected calibration error of few clips is far from 0 even for a model that is perfectly calibrated (Vaicenavicius
et al. 2019, arXiv:1902.06977), so each figure stands beside what such a model would show: labels are drawn from the
very probabilities, many times, and scored.
"""

from collections.abc import Iterator

import numpy as np

from moodfuse.cache.runs import Result
from moodfuse.evaluate import metrics
from moodfuse.evaluate.metrics import ECE_BINS, Floats, Labels, confidence_bins
from moodfuse.evaluate.records import Calibration, ReliabilityBin
from moodfuse.evaluate.resampling import DRAWS

_CELLS_AT_ONCE = 2_000_000


def calibration(labels: Labels, result: Result, *, draws: int = DRAWS, seed: int = 0) -> Calibration | None:
    """Calibration of a result's probabilities before and after temperature scaling.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    result : Result
    draws, seed : int
        Of the simulated labels.

    Returns
    -------
    Calibration or None
        `None` where the run kept no probabilities from before scaling.
    """
    before, after = result.unscaled, result.probabilities
    if before is None:
        return None
    perfect = perfect_errors(after, draws=draws, seed=seed)
    return Calibration(
        temperatures=tuple(float(value) for value in result.temperatures),
        log_loss_before=float(metrics.log_loss(labels, before)),
        log_loss_after=float(metrics.log_loss(labels, after)),
        ece_before=float(metrics.expected_calibration_error(labels, before)),
        ece_after=float(metrics.expected_calibration_error(labels, after)),
        ece_if_perfect=float(perfect.mean()),
        ece_if_perfect_high=float(np.quantile(perfect, 0.95)),
        bins_before=tuple(reliability(labels, before)),
        bins_after=tuple(reliability(labels, after)),
    )


def reliability(labels: Labels, probabilities: Floats, *, bins: int = ECE_BINS) -> Iterator[ReliabilityBin]:
    """Confidence and accuracy in bins of equal width of the top probability, the very bins of the calibration error.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    bins : int

    Yields
    ------
    ReliabilityBin
        From low to high, empty ones left out.
    """
    place = confidence_bins(probabilities, bins=bins)
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    for index in np.unique(place):
        rows = place == index
        yield ReliabilityBin(
            low=int(index) / bins,
            high=(int(index) + 1) / bins,
            clips=int(rows.sum()),
            confidence=float(top[rows].mean()),
            accuracy=float(right[rows].mean()),
        )


def perfect_errors(
    probabilities: Floats, *, draws: int = DRAWS, seed: int = 0, bins: int = ECE_BINS
) -> Floats:
    """Calibration errors that a perfectly calibrated model with these probabilities would show on as many clips.

    The error depends on a clip's label only by whether the top class is right, which it is with the top probability.
    Clips are taken as independent; where those of a group are right or wrong together, the error varies more than this.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (N, C)
    draws, seed : int
    bins : int

    Returns
    -------
    ndarray of float64, shape (draws,), in [0, 1]
    """
    top = probabilities.max(axis=1)
    cells = (confidence_bins(probabilities, bins=bins)[:, None] == np.arange(bins)).astype(np.float64)
    generator = np.random.default_rng(seed)
    size = max(1, _CELLS_AT_ONCE // len(top))
    found = []
    for start in range(0, draws, size):
        right = generator.random((min(size, draws - start), len(top))) < top
        found.append(np.abs((right - top) @ cells).sum(axis=1) / len(top))
    return np.concatenate(found)
