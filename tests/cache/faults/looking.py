"""What tests of damage read: a file of each kind, its value, and the faults that verify reports."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moodfuse.cache.audits import MarkStore, read_audit
from moodfuse.cache.digests import digest
from moodfuse.cache.files import check_checksum
from moodfuse.cache.fits import FitCache
from moodfuse.cache.maintenance.repair import Repair, repair
from moodfuse.cache.maintenance.verify import Fault, Verification, _check, verify
from moodfuse.cache.media import MediaStore, Rendition
from moodfuse.cache.runs import read_run
from moodfuse.cache.storage.layout import entries
from moodfuse.cache.store import FeatureCache


def _blocks(cache: FeatureCache) -> object:
    return [block.embedding.tobytes() for block in (cache.block("net@a", 0), cache.block("still", "*"))]


def _run(cache: FeatureCache) -> object:
    run = read_run(cache, "run-1")
    return run.labels, run.ids, run.folds, run.results[0].probabilities.tobytes()


def _audio(cache: FeatureCache) -> object:
    store = MediaStore(cache.path / "media", Rendition("sound", "test"))
    return store.read(cache.statuses[0].digest).waveform.tobytes()


READERS: dict[str, Callable[[FeatureCache], object]] = {
    "marker": lambda cache: FeatureCache(cache.path).path,
    "plan": lambda cache: cache.plan,
    "table": lambda cache: cache.statuses,
    "outcome": lambda cache: cache.outcomes([cache.statuses[0].digest]),
    "choice": lambda cache: (cache.selection, cache.commands, cache.reading),
    "audit": read_audit,
    "marks": lambda cache: str(MarkStore(cache, "test").read(cache.statuses[0].digest)),
    "media": _audio,
    "recipe": lambda cache: [cache.recipe(source) for source in ("net@a", "still")],
    "training": _blocks,
    "features": _blocks,
    "network": lambda cache: check_checksum(file_of(cache, "network")),
    "checkpoint": lambda cache: check_checksum(file_of(cache, "checkpoint")),
    "fits": lambda cache: str(FitCache(cache.path, cache.clips).find([digest("fit")])),
    "run": _run,
    "predictions": _run,
}
"""The value of each kind of file of a whole cache, as a reader gets it."""
MISSING = (None, {}, "None", "{}")
"""What readers return for a file that is not there."""


def state(root: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def file_of(cache: FeatureCache, kind: str) -> Path:
    """The first file of a kind."""
    return next(entry.path for entry in entries(cache.path) if entry.kind == kind)


def relative_path(cache: FeatureCache, file: Path) -> str:
    """The path of a file below its cache."""
    return file.relative_to(cache.path).as_posix()


def fault_of(cache: FeatureCache, file: Path) -> Fault | None:
    """What `verify` finds wrong with one file, without the check of the others."""
    return _check(next(entry for entry in entries(cache.path) if entry.path == file))


def places(found: Verification) -> set[str]:
    """Places of all faults."""
    return {fault.relative_path for fault in found.faults}


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
