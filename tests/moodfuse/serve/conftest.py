"""A service with a stand-in for a model, and clients in threads."""

import os
import runpy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def script() -> SimpleNamespace:
    """The functions of the benchmark of the service."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "serve_load.py")))


@pytest.fixture(scope="session")
def clip(script: SimpleNamespace) -> bytes:
    """A real video of two seconds."""
    return script.make_clip_bytes()


@pytest.fixture(scope="session")
def start_service(script: SimpleNamespace) -> Callable[..., Any]:
    """Starts a service whose private folder is in `folder`, and is removed when it has stopped."""

    @contextmanager
    def start(folder: Path, *, limits: Any = None, labeller: Any = None) -> Iterator[Any]:
        limits = limits or script.Limits(
            upload_bytes=2 * script.MIB, upload_s=2.0, request_s=1.0, at_once=1, waiting=2
        )
        with script.served(labeller or script.StandIn(), limits=limits, temporary=folder) as running:
            yield running
        assert os.listdir(folder) == []

    return start


@pytest.fixture(scope="session")
def shared(
    script: SimpleNamespace, start_service: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A service that the quick tests share, with its stand-in for a model and its folder."""
    folder, labeller = tmp_path_factory.mktemp("service"), script.StandIn(delay_s=30)
    with start_service(folder, labeller=labeller) as running:
        yield SimpleNamespace(ask=running.ask, predict=running.predict, raw=running.raw, labeller=labeller,
                              folder=folder, address=(running.host, running.port),
                              jobs=running.server.config.app.state.jobs)  # fmt: skip


@pytest.fixture
def service(script: SimpleNamespace, shared: Any) -> Iterator[Any]:
    """The shared service, which must have no file left when the test is over."""
    shared.labeller.opened.clear()
    shared.labeller.gate.clear()
    yield shared
    shared.labeller.gate.set()
    assert script.wait_until_empty(shared.folder, seconds=5) == []


@pytest.fixture
def in_background() -> Iterator[Callable]:
    """Starts calls in threads."""
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit
