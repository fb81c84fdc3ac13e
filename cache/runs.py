"""Runs: the out-of-fold probabilities of one ablation, as stage two leaves them and stage three reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.folds import MIN_INNER_GROUPS
from moodfuse.cache.run_folders import (
    check_new_name,
    run_folder,
    run_names,
    run_values,
    say_unreadable,
    sequence_of,
)
from moodfuse.cache.storage.files import write_text
from moodfuse.cache.storage.parts import SCHEMA, check_dtypes, read_part, write_part
from moodfuse.cache.store import FeatureCache

NETWORK = "network"
"""Head name of a source's own softmax."""
LEAKY: Final = "leaky"
"""The protocol that measures what a leak is worth."""
LEAKY_MARK = "LEAKY"
"""What stands wherever a number of that protocol does."""
UNCALIBRATED = "uncalibrated"
FEW_GROUPS = f"fewer than {MIN_INNER_GROUPS} groups per class: default settings"
DEFAULTS = (UNCALIBRATED, FEW_GROUPS)
"""Notes of a result whose settings stayed at their defaults."""
ARRAYS = ("probabilities", "unscaled", "repeats")
"""Arrays of a result, as they stand in a run's predictions; the last two only where there are any."""
_ADDED = ("digests", "missing", "repeat_folds", "commands", "versions")
FORMAT = "moodfuse-predictions"
_ATTRIBUTES = {"format": FORMAT, "schema": SCHEMA}


def result_name(sources: Sequence[str], head: str, level: str) -> str:
    """Short name of a result, unique in its run: ``c3d+i3d softmax logits``."""
    return f"{'+'.join(sources)} {head} {level}"


@dataclass(frozen=True)
class Result:
    """Out-of-fold probabilities of one head on one combination of sources.

    Attributes
    ----------
    sources : tuple of str
        Source names, sorted.
    head : str
        A fusion head's name, or `NETWORK`.
    level : str
        ``"logits"`` or ``"embedding"``.
    probabilities : ndarray of float64, shape (N, C)
        Row i is the clip `Run.ids[i]`, predicted by a head that saw no clip of its fold, over networks that saw none
        either, but for the leaky protocol, whose networks saw every clip; rows sum to 1.
    notes : tuple of str
        What a reader must know, such as ``"uncalibrated"``.
    unscaled : ndarray of float64, shape (N, C), or None
        The same before temperature scaling; `None` where nothing was scaled.
    temperatures : tuple of float
        One an outer fold; 1 where none could be learned. Empty where nothing was scaled.
    repeats : ndarray of float64, shape (R - 1, N, C), or None
        `probabilities` under the further fold plans `Run.repeat_folds`; `None` where there are none.
    """

    sources: tuple[str, ...]
    head: str
    level: str
    probabilities: np.ndarray
    notes: tuple[str, ...] = ()
    unscaled: np.ndarray | None = None
    temperatures: tuple[float, ...] = ()
    repeats: np.ndarray | None = None

    @property
    def name(self) -> str:
        """See `result_name`."""
        return result_name(self.sources, self.head, self.level)


@dataclass(frozen=True)
class Run:
    """One ablation.

    Attributes
    ----------
    name : str
    protocol : str
        ``"crossfit"``: pair holdouts; ``"no-crossfit"``: one network ``{k}`` a fold; ``"leaky"``: networks that saw
        every clip, and folds of clips, not groups: it measures what a leak is worth.
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
    digests : tuple of str
        Clip digests; empty in runs of older versions.
    missing : tuple of tuple of str
        For each clip the views that it lacks and that were imputed, ``"sound"`` or ``"picture"``; empty where no clip
        lacks any.
    repeat_folds : tuple of tuple of int
        Fold of each clip under each further plan of repeated cross-validation.
    commands : tuple of str
        The commands that made the run, in order.
    versions : tuple of (str, str)
        Versions of the libraries that decide its numbers.
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
    digests: tuple[str, ...] = ()
    missing: tuple[tuple[str, ...], ...] = ()
    repeat_folds: tuple[tuple[int, ...], ...] = ()
    commands: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        for result in self.results:
            wanted: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
                "probabilities": (result.probabilities, shape)
            }
            if result.unscaled is not None:
                wanted["unscaled"] = (result.unscaled, shape)
            if result.repeats is not None:
                wanted["repeats"] = (result.repeats, (len(self.repeat_folds), *shape))
            for name, (array, expected) in wanted.items():
                if array.shape != expected:
                    raise InputError(
                        f"run {self.name}, {result.name}: {name} {array.shape}; expected {expected}"
                    )
                if not np.allclose(array.sum(axis=-1), 1.0, atol=1e-6):
                    raise InputError(f"run {self.name}, {result.name}: rows of {name} do not sum to 1")


def write_run(cache: FeatureCache, run: Run) -> Path:
    """Write a run; `run.json` last, so that a run is whole or absent. Returns its folder."""
    check_new_name(cache, run.name)
    folder = run_folder(cache, run.name)
    arrays = {
        f"{name}_{number:04d}": getattr(result, name)
        for number, result in enumerate(run.results)
        for name in ARRAYS
        if getattr(result, name) is not None
    }
    values = {
        "schema": SCHEMA,
        "sequence": 1 + max((sequence_of(cache, name) for name in run_names(cache)), default=0),
        **{
            name: list(getattr(run, name))
            for name in ("classes", "ids", "labels", "groups", "folds", "recipes", "notes", *_ADDED)
        },
        **{name: getattr(run, name) for name in ("name", "protocol", "fold_count", "seed")},
        "results": [
            {name: getattr(item, name) for name in ("sources", "head", "level", "notes", "temperatures")}
            for item in run.results
        ],
    }
    part = write_part(
        folder, "predictions", arrays, {**_ATTRIBUTES, "run": run.name, "record": digest16(values)}
    )
    write_text(folder / "run.json", canonical_json({**values, "predictions": part.name}))
    return folder


def runs_newest_first(cache: FeatureCache, *, leaky: bool) -> Iterator[Run]:
    """Leaky runs, or all others, each read only when it is asked for; one that cannot be read is passed over."""
    for name in reversed(run_names(cache)):
        try:
            if (run_values(cache, name)["protocol"] == LEAKY) != leaky:
                continue
            run = read_run(cache, name)
        except (CacheError, InputError) as error:
            say_unreadable(cache, name, error)
        else:
            yield run


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
    values = run_values(cache, folder.name)
    try:
        predictions = values.pop("predictions")
        if Path(predictions).name != predictions:
            raise DamagedPartError(f"{folder / 'run.json'}: names predictions in another folder")
        arrays, attributes = read_part(folder / predictions)
        check_predictions(folder / predictions, arrays, attributes)
        if attributes["record"] != digest16(values):
            raise DamagedPartError(
                f"{folder / 'run.json'}: is not the record that was written with the predictions"
            )
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
            digests=tuple(values.get("digests", ())),
            missing=tuple(map(tuple, values.get("missing", ()))),
            repeat_folds=tuple(map(tuple, values.get("repeat_folds", ()))),
            commands=tuple(values.get("commands", ())),
            versions=tuple((name, version) for name, version in values.get("versions", ())),
        )
    except KeyError as error:
        raise DamagedPartError(
            f"{folder}: {error} is missing; run fuse again under another --run name"
        ) from error
    except TypeError as error:
        raise DamagedPartError(
            f"{folder}: is no run ({error}); run fuse again under another --run name"
        ) from error
    except DamagedPartError as error:
        raise CacheError(f"{error}; or run fuse again under another --run name") from error


def check_predictions(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> None:
    """Check that a part holds predictions: arrays of float64 by clip and class, those of repeats by plan as well.

    Raises
    ------
    DamagedPartError
    """
    if attributes.get("format") != FORMAT:
        raise DamagedPartError(f"{file}: holds no predictions")
    check_dtypes(file, arrays, {name: ("<f8", 3 if name.startswith("repeats_") else 2) for name in arrays})


def _results(rows: Sequence[dict[str, object]], arrays: dict[str, np.ndarray]) -> list[Result]:
    return [
        Result(
            sources=tuple(row["sources"]),  # type: ignore[arg-type]
            head=str(row["head"]),
            level=str(row["level"]),
            notes=tuple(row["notes"]),  # type: ignore[arg-type]
            probabilities=arrays[f"probabilities_{number:04d}"],
            unscaled=arrays.get(f"unscaled_{number:04d}"),
            temperatures=tuple(row.get("temperatures", ())),  # type: ignore[arg-type]
            repeats=arrays.get(f"repeats_{number:04d}"),
        )
        for number, row in enumerate(rows)
    ]
