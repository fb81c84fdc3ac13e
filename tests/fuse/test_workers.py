"""Calls come back with their key, whatever the number of workers; BLAS is held to one thread."""

import errno
import logging
import os

import pytest
from joblib.parallel import BACKENDS
from threadpoolctl import threadpool_info

from moodfuse.fuse import workers
from moodfuse.fuse.workers import Workers, one_thread, run_parallel


def test_results_carry_their_key() -> None:
    """One worker or two, every call is made once, and none where there is none."""
    for jobs in (1, 2):
        calls = [(f"call {number}", pow, (number, 2)) for number in range(9)]
        found = dict(run_parallel(calls, workers=Workers(jobs), what="squares"))
        assert found == {f"call {number}": number**2 for number in range(9)}
    assert not list(run_parallel((), workers=Workers(2), what="nothing"))


@pytest.mark.parametrize("since_import", [True, False])
def test_without_dev_shm_the_heads_are_fitted_in_one_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, since_import: bool
) -> None:
    """Without `/dev/shm` the heads are fitted in one process with the same results and one warning."""

    def refused(self: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if since_import:
        monkeypatch.delitem(BACKENDS, "loky")
    else:
        monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", refused)
    workers._can_start_processes.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            calls = [(number, os.getpid, ()) for number in range(3)]
            found = dict(run_parallel(calls, workers=Workers(2), what="processes"))
            assert found == dict.fromkeys(range(3), os.getpid())
    workers._can_start_processes.cache_clear()
    assert len(caplog.messages) == 1 and "/dev/shm" in caplog.text and "--shm-size" in caplog.text


def test_one_thread_holds_every_blas() -> None:
    """That of SciPy too, which is another than NumPy's."""
    import scipy.linalg.blas  # noqa: F401

    with one_thread():
        held = {
            item["filepath"]: item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"
        }
    assert set(held.values()) == {1}
