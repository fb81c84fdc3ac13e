"""Many processes that fill one folder at once, each with all of the same clips, while others read it all the time."""

import logging
import multiprocessing
import queue
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from faults.samples import STILL, Sample, forget, right_rows
from moodfuse.cache.blocks import Rows, disagreements, part_files, read_rows
from moodfuse.cache.digests import digest_array
from moodfuse.cache.errors import InputError
from moodfuse.cache.planning import PlanChoice, next_plan
from moodfuse.cache.storage.files import BAD_SUFFIX, TEMPORARY_PREFIX
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache

DRIFT = np.float32(1.0)
"""What a writer that differs adds to every value."""


@dataclass(frozen=True)
class Crowd:
    """So many writers of all parts of a sample, and readers; `drifting` says whether the first writer differs."""

    parts: int = 500
    writers: int = 8
    readers: int = 4
    drifting: bool = False
    deadline_s: float = 600.0

    @property
    def sample(self) -> Sample:
        """The clips and parts that are written."""
        return Sample(parts=0, clips_per_part=4, added=self.parts)


@dataclass(frozen=True)
class Written:
    """What one writer did: rows that it was told differ, what it logged, how it failed."""

    differing: int
    warnings: tuple[str, ...]
    failure: str = ""


@dataclass(frozen=True)
class Read:
    """What one reader saw: reads, reads with a wrong row, what it logged, how it failed."""

    reads: int
    bad: int
    warnings: tuple[str, ...]
    failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a crowd.

    Attributes
    ----------
    seconds : float
    writers : tuple of Written
    readers : tuple of Read
    stuck : int
        Processes that did not end before the deadline.
    gone : int
        Parts that were seen once and not later: none is ever taken away. What stands under a name, its digest tells.
    stray : tuple of str
        Temporaries and files set aside that are left.
    """

    seconds: float
    writers: tuple[Written, ...]
    readers: tuple[Read, ...]
    stuck: int
    gone: int
    stray: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        """Tracebacks of processes that failed."""
        told: tuple[Written | Read, ...] = (*self.writers, *self.readers)
        return [item.failure for item in told if item.failure]


class _Heard(logging.Handler):
    """Keeps what is logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def write_all(crowd: Crowd, root: Path, number: int, start: Event, results: "Queue[Written | Read]") -> None:
    """One writer: the plan, every part in an order of its own, cut at places of its own, and the selection."""
    heard, differing, failure = _Heard(), 0, ""
    try:
        sample = crowd.sample
        digests = np.roll(np.array([status.digest for status in sample.statuses]), number)
        drift = DRIFT if crowd.drifting and not number else np.float32(0)
        start.wait()
        store = FeatureCache(root, create=True)
        store.write_plan(next_plan(store.plans, sample.statuses, PlanChoice(folds=2)), sample.statuses)
        store.write_recipe(STILL)
        for part in np.random.default_rng(number).permutation(crowd.parts):
            chosen = digests[part * sample.clips_per_part :][: sample.clips_per_part].tolist()
            values = {name: rows + drift for name, rows in right_rows(chosen, STILL.source).items()}
            differing += store.write_block_part(STILL, None, chosen, values)
        store.select([STILL])
    except Exception:  # noqa: BLE001 - told to the parent
        failure = traceback.format_exc()
    results.put(Written(differing, tuple(heard.said), failure))


def read_on(crowd: Crowd, root: Path, stop: Event, results: "Queue[Written | Read]") -> None:
    """One reader: all rows that are there, again and again, every other time as a new process would."""
    heard, reads, bad, failure = _Heard(), 0, 0, ""
    try:
        digests = crowd.sample.digests
        places = {digest: place for place, digest in enumerate(digests.tolist())}
        right = right_rows([digest.decode() for digest in digests.tolist()], STILL.source)
        while not stop.is_set():
            if reads % 2:
                forget()
            try:
                store = FeatureCache(root)
                rows = read_rows(
                    store.owner(STILL, None), digest_array(clip.digest for clip in store.clips), tuple(right)
                )
            except InputError:  # no cache yet, or no plan
                continue
            reads += 1
            order = [places[digest] for digest in digest_array(clip.digest for clip in store.clips).tolist()]
            bad += not _are_right(rows, {name: values[order] for name, values in right.items()}, crowd)
    except Exception:  # noqa: BLE001 - told to the parent
        failure = traceback.format_exc()
    results.put(Read(reads, bad, tuple(heard.said), failure))


def _are_right(rows: Rows, right: dict[str, np.ndarray], crowd: Crowd) -> bool:
    """Whether each row that was found is one that a writer gave for its clip."""
    for name, values in rows.arrays.items():
        same = (values == right[name]).all(axis=1)
        if crowd.drifting:
            same |= (values == right[name] + DRIFT).all(axis=1)
        if not same[rows.found].all():
            return False
    return True


def run_crowd(crowd: Crowd, root: Path) -> Outcome:
    """Let a crowd write and read one cache, and see what they leave."""
    context = multiprocessing.get_context("spawn")
    start, stop, results = context.Event(), context.Event(), context.Queue()
    writers = [
        context.Process(target=write_all, args=(crowd, root, number, start, results))
        for number in range(crowd.writers)
    ]
    readers = [
        context.Process(target=read_on, args=(crowd, root, stop, results)) for _ in range(crowd.readers)
    ]
    for process in (*writers, *readers):
        process.start()
    began = time.monotonic()
    start.set()
    told: list[Written | Read] = []
    seen: set[str] = set()
    gone: set[str] = set()
    while len(told) < len(writers) + len(readers) and time.monotonic() - began < crowd.deadline_s:
        gone |= _look(root, seen)
        with suppress(queue.Empty):
            told.append(results.get(timeout=0.1))
        if sum(isinstance(item, Written) for item in told) == len(writers):
            stop.set()
    seconds = time.monotonic() - began
    stuck = len(writers) + len(readers) - len(told)
    for process in (*writers, *readers):
        process.join(timeout=10.0)
        if process.is_alive():
            process.kill()
    written = tuple(item for item in told if isinstance(item, Written))
    read = tuple(item for item in told if isinstance(item, Read))
    return Outcome(seconds, written, read, stuck, len(gone | _look(root, seen)), _stray(root))


def _look(root: Path, seen: set[str]) -> set[str]:
    """Note the parts that are there; the names of those that were there before and are gone."""
    now = {str(file) for file in root.glob("features/*/*/*/[!.]*.h5")}
    gone = seen - now
    seen |= now
    return gone


def _stray(root: Path) -> tuple[str, ...]:
    files = root.rglob("*")
    return tuple(
        str(file)
        for file in files
        if file.name.startswith(TEMPORARY_PREFIX) or file.name.endswith(BAD_SUFFIX)
    )


def twice_differing(root: Path) -> int:
    """How many clips stand in two parts with different values, and that `disagreements` speaks of them."""
    forget()
    store = FeatureCache(root)
    owner = store.owner(STILL, None)
    first: dict[bytes, np.ndarray] = {}
    differing: set[bytes] = set()
    for file in part_files(owner.folder):
        arrays, _ = read_part(file)
        for clip, values in zip(arrays["clip"].tolist(), arrays["embedding"], strict=True):
            if not np.array_equal(first.setdefault(clip, values), values):
                differing.add(clip)
    if bool(differing) != bool(disagreements(owner)):
        raise AssertionError(f"{len(differing)} clips differ, and disagreements() says otherwise")
    return len(differing)
