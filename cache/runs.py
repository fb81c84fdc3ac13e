"""Runs: the out-of-fold probabilities of one ablation, as `fuse` writes and `evaluate` reads them."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache as call_once
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.folds import MIN_INNER_GROUPS
from moodfuse.cache.storage.files import listing, read_json, write_text
from moodfuse.cache.storage.parts import SCHEMA, check_dtypes, read_part, write_part
from moodfuse.cache.store import FeatureCache

log = logging.getLogger(__name__)
NETWORK = "network"
"""Head name of a source's own softmax."""
LEAKY: Final = "leaky"
"""The protocol that measures how much leakage inflates the score."""
LEAKY_MARK = "LEAKY"
"""Mark of every number of that protocol."""
UNCALIBRATED = "uncalibrated"
FEW_GROUPS = f"fewer than {MIN_INNER_GROUPS} groups per class: default settings"
DEFAULTS = (UNCALIBRATED, FEW_GROUPS)
"""Notes of a result whose settings stayed at their defaults."""
_ARRAYS = ("probabilities", "unscaled", "repeats", "series")
"""Arrays of a result in a run's predictions; only the first is required."""
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PREDICTION_COLUMNS = ("id", "group", "fold", "label", "result", "predicted")
"""Columns of out-of-fold predictions; a column of probabilities for each class follows."""
RERUN_HINT = "run fuse again under another --run name"
FORMAT = "moodfuse-predictions"


def result_name(sources: Sequence[str], head: str, level: str) -> str:
    """Short name of a result, unique in its run: ``c3d+i3d softmax logits``."""
    return f"{'+'.join(sources)} {head} {level}"


@dataclass(frozen=True)
class Result:
    """Out-of-fold probabilities of one head on one combination of sources.

    Attributes
    ----------
    sources : tuple of str
        Sorted.
    head, level : str
        A fusion head's name, or `NETWORK`; ``"logits"`` or ``"embedding"``.
    probabilities : ndarray of float64, shape (N, C)
        Row i is the clip `Run.ids[i]`, predicted by a head that saw no clip of its fold, over networks that
        saw none either, except under the leaky protocol, whose networks saw every clip; rows sum to 1.
    notes : tuple of str
        Warnings about the result, such as ``"uncalibrated"``.
    unscaled : ndarray of float64, shape (N, C), or None
        The same before temperature scaling; `None` where nothing was scaled.
    temperatures : tuple of float
        One per outer fold; 1 where none could be learned. Empty where nothing was scaled.
    repeats : ndarray of float64, shape (R - 1, N, C), or None
        `probabilities` under the further fold plans `Run.repeat_folds`; `None` where there are none.
    settings : tuple of mapping of str to float
        The settings of the head that inner folds chose, one mapping per outer fold; empty where none were
        chosen.
    series : ndarray of float64, shape (N, C), or None
        `probabilities` under the fold plan `Run.series_folds`, which keeps each series of numbered file names
        in one fold (`moodfuse.cache.name_series`); `None` where there is no series, or a source is tuned.
    """

    sources: tuple[str, ...]
    head: str
    level: str
    probabilities: np.ndarray
    notes: tuple[str, ...] = ()
    unscaled: np.ndarray | None = None
    temperatures: tuple[float, ...] = ()
    repeats: np.ndarray | None = None
    series: np.ndarray | None = None
    settings: tuple[Mapping[str, float], ...] = ()

    @property
    def over_plans(self) -> np.ndarray:
        """The probabilities under each of R fold plans, float64 [R, N, C]."""
        repeats = () if self.repeats is None else self.repeats
        return np.stack([self.probabilities, *repeats])

    @property
    def settings_by_name(self) -> dict[str, list[float | None]]:
        """The value of each chosen setting in each outer fold; `None` in folds where none was chosen."""
        names = dict.fromkeys(name for chosen in self.settings for name in chosen)
        return {name: [chosen.get(name) for chosen in self.settings] for name in names}

    @property
    def name(self) -> str:
        """See `result_name`."""
        return result_name(self.sources, self.head, self.level)


@dataclass(frozen=True)
class Run:
    """One ablation.

    Attributes
    ----------
    protocol : str
        ``"crossfit"``: pair holdouts; ``"no-crossfit"``: one network ``{k}`` per fold; ``"leaky"``: networks
        that saw every clip, and folds of clips, not groups, to measure how much leakage inflates the score.
    classes : tuple of str
        Sorted labels; the class axis of every result.
    ids, labels, groups, folds, digests : tuple
        One entry per clip; digests are empty in runs of older versions.
    fold_count, seed : int
        K and the plan's seed.
    recipes : tuple of (source, recipe digest)
    missing : tuple of tuple of str
        For each clip the modalities that were imputed, ``"sound"`` or ``"picture"``; empty where no clip
        needed it.
    repeat_folds : tuple of tuple of int
        Fold of each clip under each further plan of repeated cross-validation.
    series_folds : tuple of int
        Fold of each clip under the plan of `Result.series`; empty where there is none.
    commands : tuple of str
        The commands that made the run, in order.
    versions : tuple of (str, str)
        Versions of the libraries that decide its numbers.
    class_weight : str
        Class weights of the heads, ``"none"`` or ``"balanced"``; empty in runs of older versions, whose heads
        were balanced and not corrected for it.
    modalities : tuple of (source, str)
        The modality that each source reads, ``"sound"`` or ``"picture"``, where it is known: for imported
        features if it was declared, and not in runs of older versions.
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
    series_folds: tuple[int, ...] = ()
    commands: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    class_weight: str = ""
    modalities: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        shapes = dict.fromkeys(_ARRAYS, shape) | {"repeats": (len(self.repeat_folds), *shape)}
        for result in self.results:
            for name, expected in shapes.items():
                array = getattr(result, name)
                if array is None:
                    continue
                where = f"run {self.name}, {result.name}"
                if array.shape != expected:
                    raise InputError(f"{where}: {name} {array.shape}; expected {expected}")
                if not np.allclose(array.sum(axis=-1), 1.0, atol=1e-6):
                    raise InputError(f"{where}: rows of {name} do not sum to 1")

    def to_dataframe(self) -> Any:
        """Return the out-of-fold predictions of every result under the first fold plan.

        Returns
        -------
        pandas.DataFrame
            A row for each result and clip, with the columns of `predictions.csv`: `id`, `group`, `fold`,
            `label`, `result`, `predicted`, and the probability of each class.

        Raises
        ------
        InputError
            If pandas is not installed.
        """
        try:
            pandas = import_module("pandas")  # not a dependency of moodfuse
        except ImportError as error:
            raise InputError("to_dataframe needs pandas; run: pip install pandas") from error
        rows = [[*facts, *probabilities] for facts, probabilities in list_predictions(self, self.results)]
        return pandas.DataFrame(rows, columns=[*PREDICTION_COLUMNS, *self.classes])


def list_predictions(
    run: Run, results: Iterable[Result]
) -> Iterator[tuple[tuple[str | int, ...], list[float]]]:
    """Yield the values of `PREDICTION_COLUMNS`, and the probabilities, of each result and clip."""
    clips = list(zip(run.ids, run.groups, run.folds, run.labels, strict=True))
    for result in results:
        for clip, probabilities in zip(clips, result.probabilities, strict=True):
            predicted = run.classes[int(probabilities.argmax())]
            yield (*clip, result.name, predicted), probabilities.tolist()


def run_names(cache: FeatureCache) -> tuple[str, ...]:
    """Names of the runs in a cache, oldest first, after those that cannot be read."""
    names = [folder.name for folder in listing(cache.path / "runs") if os.path.lexists(folder / "run.json")]
    return tuple(sorted(names, key=lambda name: (_sequence_of(cache, name), name)))


def resolve_run_name(cache: FeatureCache, name: str | None, *, prefix: str = "run") -> str:
    """The given name of a new run, or the next ``<prefix>-N``; `InputError` if it is taken or not plain."""
    taken = set(run_names(cache))
    if name is None:
        return next(f"{prefix}-{n}" for n in range(1, len(taken) + 2) if f"{prefix}-{n}" not in taken)
    if not _RUN_NAME.fullmatch(name):
        raise InputError(f"run name {name!r} is not plain; use letters, digits, '.', '_' and '-', at most 64")
    if name in taken:
        names = ", ".join(sorted(taken))
        raise InputError(f"run {name!r} exists in {cache.path}; choose another --run name (taken: {names})")
    return name


def run_folder(cache: FeatureCache, name: str) -> Path:
    """Folder of a run."""
    return cache.path / "runs" / name


def _sequence_of(cache: FeatureCache, name: str) -> int:
    """Number of a run, 1 for the first; -1 where it cannot be read, which is logged."""
    try:
        return int(_run_values(cache, name).get("sequence", 0))
    except CacheError as error:
        _log_skipped(name, str(error))
        return -1


@call_once
def _log_skipped(name: str, reason: str) -> None:
    log.warning("run %s cannot be read and is skipped: %s", name, reason)


def _run_values(cache: FeatureCache, name: str) -> dict[str, Any]:
    file = run_folder(cache, name) / "run.json"
    values = read_json(file)
    if not isinstance(values, dict) or "protocol" not in values:
        raise DamagedPartError(f"{file}: is not a run; {RERUN_HINT}")
    return values


def write_run(cache: FeatureCache, run: Run) -> Path:
    """Write a run; `run.json` last, so that a run is complete or absent. Returns its folder."""
    resolve_run_name(cache, run.name)
    folder = run_folder(cache, run.name)
    values = {
        **vars(run),
        "schema": SCHEMA,
        "sequence": 1 + max((_sequence_of(cache, name) for name in run_names(cache)), default=0),
        "results": [
            {key: value for key, value in vars(result).items() if key not in _ARRAYS}
            for result in run.results
        ],
    }
    arrays = {
        f"{name}_{number:04d}": getattr(result, name)
        for number, result in enumerate(run.results)
        for name in _ARRAYS
        if getattr(result, name) is not None
    }
    attributes = {"format": FORMAT, "schema": SCHEMA, "run": run.name, "record": digest16(values)}
    part = write_part(folder, "predictions", arrays, attributes)
    write_text(folder / "run.json", canonical_json({**values, "predictions": part.name}))
    return folder


def runs_newest_first(cache: FeatureCache, *, leaky: bool) -> Iterator[Run]:
    """Leaky runs, or all others, each read only when it is asked for; one that cannot be read is skipped."""
    for name in reversed(run_names(cache)):
        try:
            if (_run_values(cache, name)["protocol"] == LEAKY) != leaky:
                continue
            run = read_run(cache, name)
        except (CacheError, InputError) as error:
            _log_skipped(name, str(error))
        else:
            yield run


def read_run(cache: FeatureCache, name: str | None = None) -> Run:
    """Read a run; the newest where no name is given.

    Raises `InputError` if there is none, or none of this name; `CacheError` if its files are damaged.
    """
    names = run_names(cache)
    if not names:
        raise InputError(f"{cache.path} has no run yet; run: moodfuse fuse --cache {cache.path}")
    if name is not None and name not in names:
        raise InputError(f"{cache.path} has no run {name!r}; it has: {', '.join(names)}")
    folder = run_folder(cache, name or names[-1])
    values = _run_values(cache, folder.name)
    try:
        arrays = _read_predictions(folder, values)
        results = tuple(
            Result(
                **_frozen(row),
                probabilities=arrays[f"probabilities_{number:04d}"],
                unscaled=arrays.get(f"unscaled_{number:04d}"),
                repeats=arrays.get(f"repeats_{number:04d}"),
                series=arrays.get(f"series_{number:04d}"),
            )
            for number, row in enumerate(values["results"])
        )
        record = {field.name: values[field.name] for field in fields(Run) if field.name in values}
        return Run(**_frozen(record) | {"results": results})
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedPartError(f"{folder}: is not a run ({error}); {RERUN_HINT}") from error
    except DamagedPartError as error:
        raise CacheError(f"{error}; {RERUN_HINT}") from error


def _frozen(value: Any) -> Any:
    """A value of JSON with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: _frozen(member) for key, member in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _read_predictions(folder: Path, values: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a run's predictions, which name the record that they were written with."""
    predictions = values.pop("predictions")
    if Path(predictions).name != predictions:
        raise DamagedPartError(f"{folder / 'run.json'}: names predictions in another folder")
    arrays, attributes = read_part(folder / predictions)
    check_predictions(folder / predictions, arrays, attributes)
    if attributes["record"] != digest16(values):
        raise DamagedPartError(
            f"{folder / 'run.json'}: is not the record that was written with the predictions"
        )
    return arrays


def check_predictions(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> None:
    """Check that a part has predictions: arrays of float64 by clip and class, of repeats also by plan."""
    if attributes.get("format") != FORMAT:
        raise DamagedPartError(f"{file}: is not predictions")
    check_dtypes(file, arrays, {name: ("<f8", 3 if name.startswith("repeats_") else 2) for name in arrays})
