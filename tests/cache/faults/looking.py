"""What tests of verify and repair look at: a file of each kind, where it stands, what was found, what is withheld."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moodfuse.cache.maintenance.repair import Repair, repair
from moodfuse.cache.maintenance.verify import Fault, Verification, _check, verify
from moodfuse.cache.storage.layout import entries
from moodfuse.cache.store import FeatureCache


def state(root: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def file_of(cache: FeatureCache, kind: str) -> Path:
    """The first file of a kind."""
    return next(entry.path for entry in entries(cache.path) if entry.kind == kind)


def place(cache: FeatureCache, file: Path) -> str:
    """The path of a file below its cache."""
    return file.relative_to(cache.path).as_posix()


def fault_of(cache: FeatureCache, file: Path) -> Fault | None:
    """What `verify` finds wrong with one file, without the check of the others."""
    return _check(next(entry for entry in entries(cache.path) if entry.path == file))


def places(found: Verification) -> set[str]:
    """Places of all faults."""
    return {fault.place for fault in found.faults}


def mend(cache: FeatureCache) -> Repair:
    """Verify and repair."""
    return repair(cache.path, verify(cache.path))


@contextmanager
def denied(path: Path) -> Iterator[None]:
    """A file or folder that may not be read."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        yield
    finally:
        path.chmod(mode)
