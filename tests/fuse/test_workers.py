"""Calls come back with their place, whatever the number of workers; BLAS is held to one thread."""

from threadpoolctl import threadpool_info

from fuse.workers import Workers, one_thread, run_parallel


def test_results_carry_their_place() -> None:
    """One worker or two, every call is answered once, and none is asked for where there is none."""
    for jobs in (1, 2):
        calls = ((pow, (number, 2), {}) for number in range(9))
        found = dict(run_parallel(calls, total=9, workers=Workers(jobs), what="squares"))
        assert found == {number: number**2 for number in range(9)}
    assert not list(run_parallel((), total=0, workers=Workers(2), what="nothing"))


def test_one_thread_holds_every_blas() -> None:
    """That of SciPy too, which is another than NumPy's."""
    import scipy.linalg.blas  # noqa: F401

    with one_thread():
        held = {item["filepath"]: item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"}
    assert set(held.values()) == {1}
