"""Choosing a head's settings and temperature on inner folds; nothing here sees a test row.

A head that chooses offers `candidates()` and `try_candidates(x, y, held)`. The candidate of least inner log loss wins,
classes weighted to count alike, the simplest of equals. The temperature divides log-probabilities (Guo et al. 2017,
arXiv:1706.04599) and is the one of least inner log loss of the chosen candidate, every row counting once, under a
normal prior on its logarithm: a few rows that are all right must not make every probability a certainty.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.fuse.inner_folds import inner_split
from moodfuse.fuse.matrix import DesignMatrix, Values

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
InnerData = tuple[Values, Ints, Values, Ints]
"""Rows to fit on with their class indices, rows to score with theirs."""

TEMPERATURES = (0.05, 20.0)
"""Least and greatest temperature; log loss is convex in its inverse."""
PRIOR = 1.0
"""Standard deviation of the prior of the logarithm of the temperature; its weight is that of one row."""
_TINY = 1e-12
_EQUAL = 9
"""Decimals to which losses are compared."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one outer fold.

    Attributes
    ----------
    settings : mapping of str to value
        Of the head; empty for its defaults.
    temperature : float
    chosen : bool
        Whether anything could be chosen.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    chosen: bool = False


def choose(model: Any, design: DesignMatrix, *, fits: bool, tunes: bool) -> Choice:
    """Choose for a head on the inner folds of a design matrix.

    Parameters
    ----------
    model : classifier
        A head that is not fitted yet.
    design : DesignMatrix
    fits : bool
        Whether the head learns from rows; one that does not is scored on all training rows at once.
    tunes : bool
        Whether it has settings to choose; otherwise only the temperature is.
    """
    if not fits:
        if not (design.honest and design.inner):
            return Choice()
        chances = model.predict_proba(design.x_train)
        return Choice({}, best_temperature(chances, design.y_train), chosen=True)
    if not design.inner:
        return Choice()
    losses, chances, truth = inner_scores(model, _inner_data(design), classes=len(design.classes))
    place = int(np.argmin(np.round(losses, _EQUAL))) if tunes else 0
    settings = model.candidates()[place] if tunes else {}
    return Choice(settings, best_temperature(chances[place], truth), chosen=True)


def _inner_data(design: DesignMatrix) -> Iterator[InnerData]:
    for fold in design.inner:
        yield fold.x[fold.fit], design.y[fold.fit], fold.x[fold.held], design.y[fold.held]


def choose_on_rows(
    model: Any, x: Values, y: Ints, groups: ArrayLike | None, *, seed: int, rows: Ints | None = None
) -> dict[str, Any] | None:
    """Settings chosen on grouped inner splits of some rows; `None` where a class has fewer than 3 groups.

    `y` and `groups` are of the `rows` of `x`, of all in their order where none are given.
    """
    folds = inner_split(y, groups, seed=seed)
    if folds is None:
        return None
    rows = np.arange(len(x)) if rows is None else rows

    def data() -> Iterator[InnerData]:
        for fold in np.unique(folds):
            fit, held = folds != fold, folds == fold
            yield x[rows[fit]], y[fit], x[rows[held]], y[held]

    losses, _, _ = inner_scores(model, data(), classes=int(y.max()) + 1)
    chosen: dict[str, Any] = model.candidates()[int(np.argmin(np.round(losses, _EQUAL)))]
    return chosen


def inner_scores(model: Any, data: Iterable[InnerData], *, classes: int) -> tuple[Floats, Floats, Ints]:
    """Try every candidate on every inner fold.

    Parameters
    ----------
    model : classifier
    data : iterable of InnerData
    classes : int

    Returns
    -------
    losses : ndarray of float64, shape (candidates,)
        Log loss over the rows of all inner folds, classes weighted to count alike.
    chances : ndarray of float64, shape (candidates, M, classes)
    truth : ndarray of int64, shape (M,)
    """
    tried, labels = [], []
    for x, y, held, truth in data:
        chances = model.try_candidates(x, y, held)
        spread = np.zeros((*chances.shape[:2], classes))
        spread[:, :, np.unique(y)] = chances
        tried.append(spread)
        labels.append(truth)
        del x, held  # or they would stand beside those of the next fold while it is made
    chances, truth = np.concatenate(tried, axis=1), np.concatenate(labels)
    counts = np.bincount(truth, minlength=classes)
    weights = len(truth) / (np.count_nonzero(counts) * counts[truth])
    of_truth = chances[:, np.arange(len(truth)), truth]
    return -np.log(np.maximum(of_truth, _TINY)) @ weights, chances, truth


def best_temperature(chances: Floats, truth: Ints) -> float:
    """The temperature of least log loss, with its prior, of probabilities [M, C] of rows with class indices [M]."""
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(chances, _TINY))

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        losses = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]
        return float(np.mean(losses) + log_temperature**2 / (2 * PRIOR**2 * len(truth)))

    found = minimize_scalar(
        loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def soften(chances: Floats, temperature: float) -> Floats:
    """Probabilities [N, C] under a temperature: above 1 nearer to even, below 1 more certain. Ranks stay."""
    if temperature == 1.0:
        return chances
    logs = np.log(np.maximum(chances, _TINY)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares
