"""A service with a stand-in for a model, and clients in threads."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running_service import StandIn, make_clip_bytes, served, wait_until_empty


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A real video of two seconds."""
    return make_clip_bytes()


@pytest.fixture(scope="session")
def start_service() -> Callable[..., Any]:
    """Starts a service whose private folder is in `folder`, and is removed when it has stopped."""
    from moodfuse.serve.messages import MIB, Limits

    @contextmanager
    def start(folder: Path, *, limits: Any = None, labeller: Any = None) -> Iterator[Any]:
        limits = limits or Limits(upload_bytes=2 * MIB, upload_s=2.0, request_s=1.0, at_once=1, waiting=2)
        with served(labeller or StandIn(), limits=limits, temporary=folder) as running:
            yield running
        assert os.listdir(folder) == []

    return start


@pytest.fixture(scope="session")
def shared(start_service: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service that the quick tests share, with its stand-in for a model and its folder."""
    folder, labeller = tmp_path_factory.mktemp("service"), StandIn(delay_s=30)
    with start_service(folder, labeller=labeller) as running:
        yield SimpleNamespace(ask=running.ask, predict=running.predict, raw=running.raw, labeller=labeller,
                              folder=folder, address=(running.host, running.port),
                              jobs=running.server.config.app.state.jobs)  # fmt: skip


@pytest.fixture
def service(shared: Any) -> Iterator[Any]:
    """The shared service, which must have no file left when the test is over."""
    shared.labeller.opened.clear()
    shared.labeller.gate.clear()
    yield shared
    shared.labeller.gate.set()
    assert wait_until_empty(shared.folder, seconds=5) == []


@pytest.fixture
def in_background() -> Iterator[Callable]:
    """Starts calls in threads."""
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit
