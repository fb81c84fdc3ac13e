"""Runs: the out-of-fold probabilities of one ablation, as stage two leaves them and stage three reads them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.errors import CacheError, DamagedPartError, InputError
from cache.identity import canonical_json
from cache.parts import read_json, read_part, write_part, write_text
from cache.store import SCHEMA, FeatureCache

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Result:
    """Out-of-fold probabilities of one head on one combination of sources.

    Attributes
    ----------
    sources : tuple of str
        Source names, sorted.
    head : str
        A fusion head's name, or ``"network"`` for a network's own softmax.
    level : str
        ``"logits"`` or ``"embedding"``.
    probabilities : ndarray of float64, shape (N, C)
        Row i is the clip `Run.ids[i]`, predicted by a model that saw no clip of its fold; rows sum to 1.
    notes : tuple of str
        What a reader must know, such as ``"uncalibrated"``.
    """

    sources: tuple[str, ...]
    head: str
    level: str
    probabilities: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Short unique name: ``c3d+i3d softmax logits``."""
        return f"{'+'.join(self.sources)} {self.head} {self.level}"


@dataclass(frozen=True)
class Run:
    """One ablation.

    Attributes
    ----------
    name : str
    protocol : str
        ``"no-crossfit"``: networks ``{k}``, tested on fold k alone.
    classes : tuple of str
        Sorted labels; the class axis of every result.
    ids, labels, groups : tuple of str
        One entry a clip.
    folds : tuple of int
        Fold of each clip.
    fold_count, seed : int
        K and the plan's seed.
    recipes : tuple of (source, recipe digest)
    results : tuple of Result
    notes : tuple of str
    """

    name: str
    protocol: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    folds: tuple[int, ...]
    fold_count: int
    seed: int
    recipes: tuple[tuple[str, str], ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for result in self.results:
            shape = (len(self.ids), len(self.classes))
            if result.probabilities.shape != shape:
                raise InputError(f"run {self.name}, {result.name}: {result.probabilities.shape}; expected {shape}")
            if not np.allclose(result.probabilities.sum(axis=1), 1.0, atol=1e-6):
                raise InputError(f"run {self.name}, {result.name}: rows do not sum to 1")


def run_names(cache: FeatureCache) -> tuple[str, ...]:
    """Names of the runs in a cache, oldest first."""
    files = list((cache.path / "runs").glob("*/run.json"))
    order = {file.parent.name: (read_json(file).get("sequence", 0), file.parent.name) for file in files}
    return tuple(sorted(order, key=lambda name: order[name]))


def check_new_name(cache: FeatureCache, name: str | None) -> str:
    """A name for a new run: the given one if it is free, else the next ``run-N``.

    Raises
    ------
    InputError
        If the name is taken or no plain file name.
    """
    taken = set(run_names(cache))
    if name is None:
        return next(f"run-{number}" for number in range(1, len(taken) + 2) if f"run-{number}" not in taken)
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


def write_run(cache: FeatureCache, run: Run) -> Path:
    """Write a run; `run.json` last, so that a run is whole or absent. Returns its folder."""
    check_new_name(cache, run.name)
    folder = run_folder(cache, run.name)
    arrays = {f"probabilities_{number:04d}": result.probabilities for number, result in enumerate(run.results)}
    part = write_part(
        folder, "predictions", arrays, {"format": "moodfuse-predictions", "schema": SCHEMA, "run": run.name}
    )
    values = {
        "schema": SCHEMA,
        "sequence": 1 + max((_sequence(cache, name) for name in run_names(cache)), default=0),
        "predictions": part.name,
        **{
            name: list(getattr(run, name))
            for name in ("classes", "ids", "labels", "groups", "folds", "recipes", "notes")
        },
        **{name: getattr(run, name) for name in ("name", "protocol", "fold_count", "seed")},
        "results": [
            {"sources": list(item.sources), "head": item.head, "level": item.level, "notes": list(item.notes)}
            for item in run.results
        ],
    }
    write_text(folder / "run.json", canonical_json(values))
    return folder


def _sequence(cache: FeatureCache, name: str) -> int:
    return int(read_json(run_folder(cache, name) / "run.json").get("sequence", 0))


def read_run(cache: FeatureCache, name: str | None = None) -> Run:
    """Read a run; the newest where no name is given.

    Raises
    ------
    InputError
        If there is none, or none of this name.
    DamagedPartError
        If its files do not fit together.
    """
    names = run_names(cache)
    if not names:
        raise InputError(f"{cache.path} holds no run yet; run: moodfuse fuse --cache {cache.path}")
    if name is not None and name not in names:
        raise InputError(f"{cache.path} holds no run {name!r}; it holds: {', '.join(names)}")
    folder = run_folder(cache, name or names[-1])
    values = read_json(folder / "run.json")
    try:
        arrays, _ = read_part(folder / values["predictions"])
        return Run(
            name=values["name"],
            protocol=values["protocol"],
            classes=tuple(values["classes"]),
            ids=tuple(values["ids"]),
            labels=tuple(values["labels"]),
            groups=tuple(values["groups"]),
            folds=tuple(values["folds"]),
            fold_count=values["fold_count"],
            seed=values["seed"],
            recipes=tuple((source, recipe) for source, recipe in values["recipes"]),
            results=tuple(_results(values["results"], arrays)),
            notes=tuple(values["notes"]),
        )
    except KeyError as error:
        raise DamagedPartError(f"{folder}: {error} is missing; run fuse again under another --run name") from error
    except DamagedPartError as error:
        raise CacheError(f"{error}; or run fuse again under another --run name") from error


def _results(rows: Sequence[dict[str, object]], arrays: dict[str, np.ndarray]) -> list[Result]:
    return [
        Result(
            sources=tuple(row["sources"]),  # type: ignore[arg-type]
            head=str(row["head"]),
            level=str(row["level"]),
            notes=tuple(row["notes"]),  # type: ignore[arg-type]
            probabilities=arrays[f"probabilities_{number:04d}"],
        )
        for number, row in enumerate(rows)
    ]
