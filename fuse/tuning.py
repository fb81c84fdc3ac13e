"""One head on one design matrix: settings chosen on inner folds, fitted, the test rows predicted.

Nothing here sees a test row before it is predicted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.fits import KeptFit
from moodfuse.cache.runs import NETWORK
from moodfuse.fuse.design import DesignInputs, DesignMatrix
from moodfuse.fuse.heads import head_spec, make_head
from moodfuse.fuse.heads.exported import TEMPERATURES, TINY, Floats
from moodfuse.fuse.heads.inner_folds import InnerData, best_candidate, inner_scores
from moodfuse.fuse.workers import one_thread

PRIOR = 1.0
"""Standard deviation of the normal prior of the temperature's logarithm, which weighs as much as a row."""


def best_temperature(probabilities: Floats, y_true: NDArray[np.int64]) -> float:
    """Temperature of least log loss of probabilities [M, C] of rows with class indices [M] (Guo et al. 2017).

    Every row counts once. A normal prior on the logarithm keeps a few rows that are all right from making
    every probability a certainty.
    """
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(probabilities, TINY))

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        losses = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(y_true)), y_true]
        return float(np.mean(losses) + log_temperature**2 / (2 * PRIOR**2 * len(y_true)))

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


@dataclass(frozen=True)
class Choice:
    """The settings and the temperature that were chosen for one outer fold, if any could be."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    chosen: bool = False


def fitted_head(head: str) -> str:
    """The head that is fitted for a result: that of a network is the mean of one source."""
    return "mean" if head == NETWORK else head


def predict(
    assemble: Callable[[DesignInputs], DesignMatrix], inputs: DesignInputs, head: str, random_state: int
) -> KeptFit:
    """Assemble a design matrix, fit a head on it, and predict the test rows: one task of a worker process."""
    return predict_fold(assemble(inputs), head, random_state)


def predict_fold(design: DesignMatrix, head: str, random_state: int) -> KeptFit:
    """Fit a head and predict the test rows: probabilities [N_test, C] before their temperature.

    A class that no training row has gets 0.
    """
    with one_thread():
        model, choice = fit_head(design, head, random_state)
        found = model.predict_proba(design.x_test)
    probabilities = np.zeros((len(found), len(design.classes)))
    probabilities[:, model.classes_] = found
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return KeptFit(probabilities, choice.temperature, choice.chosen, dict(choice.settings))


def fit_head(design: DesignMatrix, head: str, random_state: int) -> tuple[Any, Choice]:
    """A head fitted on the training rows of a design matrix, and what was chosen for it."""
    name = fitted_head(head)
    if not head_spec(name).fits:
        model = make_head(name, classes=tuple(range(len(design.classes))))
        model.fit(design.x_train, design.y_train)
        return model, _choose_temperature(model, design)
    choice = choose(make_head(name, random_state=random_state, tune=False), design)
    model = make_head(name, random_state=random_state, tune=False, **choice.settings)
    return model.fit(design.x_train, design.y_train, groups=design.groups_train), choice


def choose(model: Any, design: DesignMatrix) -> Choice:
    """Settings and temperature of a head that is not fitted yet, chosen on the inner folds."""
    if not design.inner:
        return Choice()
    losses, probabilities, y_true = inner_scores(model, _inner_data(design), classes=len(design.classes))
    best = best_candidate(losses)
    return Choice(model.candidates()[best], best_temperature(probabilities[best], y_true), chosen=True)


def _inner_data(design: DesignMatrix) -> Iterator[InnerData]:
    for fold in design.inner:
        yield fold.x[fold.fit], design.y[fold.fit], fold.x[fold.held_out], design.y[fold.held_out]


def _choose_temperature(model: Any, design: DesignMatrix) -> Choice:
    """The temperature of a head that learns nothing from rows, scored on all training rows at once."""
    if not (design.out_of_sample and design.inner):
        return Choice()
    return Choice({}, best_temperature(model.predict_proba(design.x_train), design.y_train), chosen=True)
