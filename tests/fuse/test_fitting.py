"""Settings and temperatures are found where they are known; calls run once, in any number of processes."""

import os

import numpy as np
import pytest
from joblib.parallel import BACKENDS
from threadpoolctl import threadpool_info

from moodfuse.fuse import make_head
from moodfuse.fuse.fitting import fit_temperature, run_parallel
from moodfuse.fuse.heads.inner_folds import choose_on_rows, choose_settings, limit_to_one_thread
from moodfuse.fuse.inference import apply_temperature


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(factor: float) -> None:
    """Labels are sampled from probabilities; scaled by a factor, these get it back as their temperature."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 20_000)
    y_true = (rng.random(20_000)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    changed = apply_temperature(probabilities, 1 / factor)
    assert fit_temperature(changed, y_true) == pytest.approx(factor, rel=0.05)
    np.testing.assert_allclose(apply_temperature(changed, factor), probabilities, atol=1e-3)


def test_extreme_rows_give_a_bounded_temperature() -> None:
    """All right or all wrong: few rows move the temperature little, many far, and never past its bounds."""
    sure = np.eye(3)[[0, 1, 2, 0]] * 0.9 + 0.1 / 3
    right, wrong = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 1])
    assert 0.3 < fit_temperature(sure, right) < 0.9 and 2 < fit_temperature(sure, wrong) <= 20
    many = np.tile(sure, (500, 1))
    assert 0.05 <= fit_temperature(many, np.tile(right, 500)) < fit_temperature(sure, right)
    assert fit_temperature(sure, wrong) < fit_temperature(many, np.tile(wrong, 500)) <= 20


@pytest.mark.parametrize("name", ["softmax", "logistic", "lightgbm"])
def test_the_least_inner_loss_is_chosen(name: str) -> None:
    """On noise that is the simplest setting; it is scored as a fit with it would predict."""
    y = np.arange(60) % 3
    noise = np.random.default_rng(0).normal(size=(60, 8))
    head = make_head(name)
    assert choose_on_rows(head, noise, y, None, seed=0) == head.grid[0]
    chosen, probabilities, y_true = choose_settings(
        head, [(noise[:30], y[:30], noise[30:], y[30:])], classes=3
    )
    assert probabilities.shape == (30, 3) and np.array_equal(y_true, y[30:])
    fresh = make_head(name, tune=False, **chosen).fit(noise[:30], y[:30])
    np.testing.assert_allclose(probabilities, fresh.predict_proba(noise[30:]), atol=1e-3)


def test_a_class_without_rows_in_an_inner_fit_gets_probability_0() -> None:
    """Columns follow all classes, also those that an inner fold does not have."""
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2 * 2
    held_out = (x, np.ones(20, dtype=np.int64))
    _, probabilities, _ = choose_settings(make_head("softmax"), [(x, y, *held_out)], classes=3)
    assert not probabilities[:, 1].any() and np.allclose(probabilities.sum(axis=1), 1)


def test_without_locks_all_calls_run_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev/shm is missing, joblib has no worker processes."""
    monkeypatch.delitem(BACKENDS, "loky")
    calls = [(number, os.getpid, ()) for number in range(3)]
    assert dict(run_parallel(calls, jobs=2, what="processes")) == dict.fromkeys(range(3), os.getpid())


def test_one_thread_limits_every_blas() -> None:
    """That of SciPy as well, which is not NumPy's."""
    import scipy.linalg.blas  # noqa: F401

    with limit_to_one_thread():
        pools = threadpool_info()
    assert {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"} == {1}
