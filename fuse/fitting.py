"""Fits of heads on design matrices: settings chosen on inner folds, test rows predicted; many in parallel.

Nothing here sees a test row before it is predicted.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.cluster import run_on_cluster
from moodfuse.cache.fits import CachedFit, FitCache
from moodfuse.cache.runs import NETWORK
from moodfuse.cache.terminal import track
from moodfuse.fuse.design import DesignInputs, DesignMatrix, assemble
from moodfuse.fuse.heads import HeadSettings, get_head_spec, make_head
from moodfuse.fuse.heads.inner_folds import choose_settings, limit_to_one_thread
from moodfuse.fuse.inference import TEMPERATURES, TINY, Floats

log = logging.getLogger(__name__)
PRIOR = 1.0
"""Standard deviation of the normal prior of the temperature's logarithm, which weighs as much as a row."""
_K = TypeVar("_K")
Call = tuple[Any, Callable[..., Any], tuple[Any, ...]]
"""A key, a function, and its arguments."""


def fit_temperature(probabilities: Floats, y_true: NDArray[np.int64]) -> float:
    """Temperature of lowest log loss for probabilities [M, C] and class indices [M] (Guo et al. 2017).

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


def fitted_head(head: str) -> str:
    """The head that is fitted for a result: that of a network is the mean of one source."""
    return "mean" if head == NETWORK else head


def predict(inputs: DesignInputs, head: str, settings: HeadSettings) -> CachedFit:
    """Assemble a design matrix, fit a head on it, and predict the test rows: one task of a worker process."""
    return predict_fold(assemble(inputs), head, settings)


def predict_fold(design: DesignMatrix, head: str, settings: HeadSettings) -> CachedFit:
    """Fit a head and predict the test rows: probabilities [N_test, C] before their temperature.

    A class that no training row has gets 0.
    """
    model, chosen, temperature = fit_head(design, head, settings)
    with limit_to_one_thread():
        predicted = model.predict_proba(design.x[design.test])
    probabilities = np.zeros((len(predicted), len(design.classes)))
    probabilities[:, model.classes_] = predicted
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return CachedFit(probabilities, temperature, chosen is not None, chosen or {})


def fit_head(
    design: DesignMatrix, head: str, settings: HeadSettings
) -> tuple[Any, dict[str, Any] | None, float]:
    """Fit a head on the training rows of a design matrix.

    Returns the head, its chosen settings, `None` where none could be chosen, and its temperature.
    """
    name = fitted_head(head)
    with limit_to_one_thread():
        spec = get_head_spec(name)
        if not spec.fits:
            return _fit_mean(design, name)
        shared = vars(settings) | ({"widths": design.widths} if spec.takes_widths else {})
        chosen, temperature = _choose(make_head(name, **shared), design)
        model = make_head(name, **shared, tune=False, **(chosen or {}))
        return model.fit(design.x_train, design.y_train), chosen, temperature


def _fit_mean(design: DesignMatrix, name: str) -> tuple[Any, dict[str, Any] | None, float]:
    """A head that learns nothing from rows; its temperature is chosen on all training rows at once."""
    x, y = design.x_train, design.y_train
    model = make_head(name, classes=tuple(range(len(design.classes)))).fit(x, y)
    if not (design.out_of_sample and design.inner):
        return model, None, 1.0
    return model, {}, fit_temperature(model.predict_proba(x), y)


def _choose(model: Any, design: DesignMatrix) -> tuple[dict[str, Any] | None, float]:
    """Settings and temperature of a head, chosen on the inner folds."""
    if not design.inner:
        return None, 1.0
    data = (
        (fold.x[fold.fit], design.y[fold.fit], fold.x[fold.held_out], design.y[fold.held_out])
        for fold in design.inner
    )
    chosen, probabilities, y_true = choose_settings(model, data, classes=len(design.classes))
    return chosen, fit_temperature(probabilities, y_true)


@dataclass(frozen=True)
class FitRunner:
    """Makes the fits that are not cached yet, and caches each as it is done, where there is a cache."""

    fits: FitCache | None = None
    jobs: int = 1
    scheduler: str | None = None

    def run(
        self, what: str, keys: Mapping[_K, str], make_calls: Callable[[list[_K]], list[Call]]
    ) -> dict[_K, CachedFit]:
        """The fits of all tasks, which come with their keys; `make_calls` makes the calls of missing ones."""
        cached = self.fits.find(keys.values()) if self.fits else {}
        done = {task: cached[key] for task, key in keys.items() if key in cached}
        if done:
            log.info("%s: %d of %d were done before", what, len(done), len(keys))
        missing = [task for task in keys if task not in done]
        calls = make_calls(missing) if missing else []
        try:
            for task, fit in run_parallel(calls, jobs=self.jobs, scheduler=self.scheduler, what=what):
                done[task] = fit
                if self.fits:
                    self.fits.keep(keys[task], fit)
        finally:
            if self.fits:
                self.fits.flush()
        return {task: done[task] for task in keys}


def run_parallel(
    calls: Sequence[Call], *, jobs: int = 1, scheduler: str | None = None, what: str
) -> Iterator[tuple[Any, Any]]:
    """The key and the result of each call as it is done, under a progress bar with a title.

    Calls run in `jobs` processes of one thread each, or in this process where `jobs` is 1, or on the Dask
    cluster at `scheduler`; that changes no result.
    """
    if not calls:
        return
    if scheduler is not None:
        results = run_on_cluster(((_run, call) for call in calls), scheduler=scheduler)
    elif min(jobs, len(calls)) > 1:
        results = _run_in_processes(calls, min(jobs, len(calls)))
    else:
        results = (_run(*call) for call in calls)
    yield from track(results, total=len(calls), what=what)


def _run_in_processes(calls: Sequence[Call], jobs: int) -> Iterator[tuple[Any, Any]]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor
    from joblib.parallel import BACKENDS

    if "loky" not in BACKENDS:  # processes need locks, so /dev/shm; joblib has warned
        yield from (_run(*call) for call in calls)
        return
    try:
        with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            parallel = Parallel(return_as="generator_unordered", pre_dispatch="4*n_jobs")
            yield from parallel(delayed(_run)(*call) for call in calls)
    except KeyboardInterrupt:
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


def _run(key: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    return key, function(*arguments)
