"""What torch is told before it starts."""

import os
from pathlib import Path

import pytest

from extract import runtime


@pytest.mark.parametrize(("says", "asked"), [("always [madvise] never", True), ("always madvise [never]", False)])
def test_huge_pages_are_asked_for_where_there_are_some(
    says: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch warns where it asks in vain, so it does not ask there."""
    place = tmp_path / "enabled"
    place.write_text(says)
    monkeypatch.setattr(runtime, "HUGE_PAGES", place)
    monkeypatch.setattr(os, "environ", {})
    runtime.settle()
    assert ("THP_MEM_ALLOC_ENABLE" in os.environ) is asked


def test_a_system_without_them_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems have no such file."""
    monkeypatch.setattr(runtime, "HUGE_PAGES", tmp_path / "none")
    monkeypatch.setattr(os, "environ", {})
    runtime.settle()
    assert set(os.environ) == {"GOMP_SPINCOUNT"}


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own choice is not another's default."""
    chosen = {"THP_MEM_ALLOC_ENABLE": "0", "OMP_WAIT_POLICY": "active"}
    monkeypatch.setattr(os, "environ", dict(chosen))
    runtime.settle()
    assert os.environ == chosen
