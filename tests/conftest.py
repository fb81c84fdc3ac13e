"""The system's browser, for tests of several packages, and the order of the tests."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest module first, so that one process does not run it alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_console_blocks.py")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running browser; without one the test is skipped, or fails if MOODFUSE_BROWSER is `required`."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)"
        if os.environ.get("MOODFUSE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()
