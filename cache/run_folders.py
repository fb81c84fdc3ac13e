"""The folders of runs: their names, in what order they came, and the record that each begins with."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.storage.files import listing, read_json
from moodfuse.cache.store import FeatureCache

log = logging.getLogger(__name__)
_said: set[Path] = set()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def run_names(cache: FeatureCache) -> tuple[str, ...]:
    """Names of the runs in a cache, oldest first; those that cannot be read stand before all."""
    names = [folder.name for folder in listing(cache.path / "runs") if os.path.lexists(folder / "run.json")]
    return tuple(sorted(names, key=lambda name: (sequence_of(cache, name), name)))


def check_new_name(cache: FeatureCache, name: str | None, *, prefix: str = "run") -> str:
    """A name for a new run: the given one if it is free, else the next ``<prefix>-N``.

    Raises
    ------
    InputError
        If the name is taken or no plain file name.
    """
    taken = set(run_names(cache))
    if name is None:
        return next(f"{prefix}-{n}" for n in range(1, len(taken) + 2) if f"{prefix}-{n}" not in taken)
    if not _NAME.fullmatch(name):
        raise InputError(f"run name {name!r} is not plain; use letters, digits, '.', '_' and '-', at most 64")
    if name in taken:
        raise InputError(
            f"run {name!r} exists in {cache.path}; choose another --run name (taken: {', '.join(sorted(taken))})"
        )
    return name


def run_folder(cache: FeatureCache, name: str) -> Path:
    """Folder of a run."""
    return cache.path / "runs" / name


def sequence_of(cache: FeatureCache, name: str) -> int:
    """Place of a run among all, 1 for the first; -1 where it cannot be read, which is said once."""
    try:
        return int(run_values(cache, name).get("sequence", 0))
    except CacheError as error:
        say_unreadable(cache, name, error)
        return -1


def say_unreadable(cache: FeatureCache, name: str, error: Exception) -> None:
    """Log, once a process, that a run is passed over."""
    folder = run_folder(cache, name)
    if folder not in _said:
        _said.add(folder)
        log.warning("run %s cannot be read and is passed over: %s", name, error)


def run_values(cache: FeatureCache, name: str) -> dict[str, Any]:
    """What stands in a run's `run.json`.

    Raises
    ------
    DamagedPartError
        If that is no record of a run.
    CacheError
        If it cannot be read.
    """
    file = run_folder(cache, name) / "run.json"
    values = read_json(file)
    if not isinstance(values, dict) or "protocol" not in values:
        raise DamagedPartError(f"{file}: holds no run; run fuse again under another --run name")
    return values
