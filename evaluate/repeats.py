"""Accuracy over repeated cross-validation, with an interval that knows that training sets overlap.

Accuracies of J folds are no J independent figures: their training sets share most clips. The corrected resampled t
interval widens their variance s**2 / J to (1 / J + n_test / n_train) s**2 (Nadeau and Bengio 2003, Machine Learning
52:239; for repeated cross-validation Bouckaert and Frank 2004, PAKDD). It answers for another draw of the training
clips as well, which the intervals over groups in `moodfuse.evaluate.intervals` do not.
"""

import numpy as np
from numpy.typing import NDArray

from moodfuse.evaluate.intervals import COVERAGE, UNDEFINED
from moodfuse.evaluate.metrics import Floats, Labels
from moodfuse.evaluate.records import Interval, RepeatedScore


def repeated_score(labels: Labels, probabilities: Floats, folds: NDArray[np.int64]) -> RepeatedScore:
    """Accuracy over the folds of several plans.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    probabilities : ndarray of float64, shape (R, N, C)
        Out-of-fold probabilities under each plan.
    folds : ndarray of int, shape (R, N)
        Fold of each clip under each plan.

    Returns
    -------
    RepeatedScore
        Its interval is cut off at 0 and 1, and undefined for fewer than 2 folds, and where all folds score alike.
    """
    right = probabilities.argmax(axis=-1) == labels
    found = [
        (rows[inside].mean(), inside.sum())
        for rows, plan in zip(right, folds, strict=True)
        for inside in (plan == fold for fold in np.unique(plan))
    ]
    accuracies, sizes = np.array(found, dtype=np.float64).T
    repeats = right.mean(axis=1)
    return RepeatedScore(
        repeats=len(right),
        accuracy=float(accuracies.mean()),
        spread=float(repeats.std(ddof=1)) if len(repeats) > 1 else float("nan"),
        ci95=_interval(accuracies, float(np.mean(sizes / np.maximum(right.shape[1] - sizes, 1)))),
    )


def _interval(accuracies: Floats, test_to_train: float) -> Interval:
    """The corrected interval of the mean of fold accuracies [J]."""
    from scipy.special import stdtrit

    count = len(accuracies)
    if count < 2:
        return UNDEFINED
    if np.ptp(accuracies) < 1e-12:
        return UNDEFINED  # equal folds say nothing of how far others would stray
    error = np.sqrt((1 / count + test_to_train) * accuracies.var(ddof=1))
    reach = float(stdtrit(count - 1, (1 + COVERAGE) / 2)) * error
    low, high = np.clip([accuracies.mean() - reach, accuracies.mean() + reach], 0.0, 1.0)
    return Interval(float(low), float(high))
