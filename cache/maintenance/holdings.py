"""What a cache holds, as records: `moodfuse.cache.maintenance.inventory` makes them, listing and pruning read them."""

from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.maintenance.naming import HoldoutName
from moodfuse.cache.storage.layout import BAD, TEMPORARY, Entry

IN_FORCE, SERVES, REPLACED, UNFINISHED = "in force", "serves heads", "replaced", "unfinished"
"""States of a recipe. One serves where heads in force are tuned on its activations; one is unfinished that was never
put in force, because `extract` runs or was stopped."""


@dataclass(frozen=True)
class ClipCounts:
    """Clips of the data set in force: all, readable, refused, and those of the readable that are in no plan."""

    listed: int
    ok: int
    refused: int
    test: int


@dataclass(frozen=True)
class PlanFile:
    """A fold plan on disk; `superseded` where two later ones of its repeat have its folds and seed."""

    place: str
    folds: int
    seed: int
    repeat: int
    sequence: int
    records: tuple[str, ...]
    bytes: int
    superseded: bool = False


@dataclass(frozen=True)
class PlanFacts:
    """The plan in force: K, its seed, its place in the sequence, what it covers, and how many plans are in force."""

    folds: int
    seed: int
    sequence: int
    clips: int
    groups: int
    repeats: int


@dataclass(frozen=True)
class HeldBlock:
    """The features of one network, and its weights.

    Attributes
    ----------
    trained : str
        `trained16`, or ``frozen``.
    names : tuple of HoldoutName
        What the plans in force call it; empty where no holdout of theirs is it.
    rows, clips : int
        Rows that its parts hold, and clips of the plan in force that it should hold.
    parts, bytes, weights_bytes : int
    recorded : bool
        Whether it says itself what it was tuned on, or needs no such record; else nobody can say what it is.
    """

    trained: str
    names: tuple[HoldoutName, ...]
    rows: int
    clips: int
    parts: int
    bytes: int
    weights_bytes: int
    recorded: bool = True

    @property
    def order(self) -> tuple[object, ...]:
        """Where it stands in a listing: by repeat, then by the number of folds left out, then by folds."""
        if not self.names:
            return (1, 0, 0, (), self.trained)
        first = self.names[0]
        folds = sorted(first.holdout.folds or ())
        return (0, first.repeat, len(folds), tuple(folds), self.trained)

    @property
    def complete(self) -> bool:
        """Whether it has a row for every clip."""
        return self.rows >= self.clips > 0


@dataclass(frozen=True)
class HeldRecipe:
    """One recipe of a source.

    Attributes
    ----------
    source : str
    folder : str
        Its folder below ``features`` and ``networks``.
    digest16 : str
    network, depth : str
        Empty where its record cannot be read.
    state : str
        `IN_FORCE`, `SERVES`, `REPLACED` or `UNFINISHED`.
    blocks : tuple of HeldBlock
        Those on disk, and the holdouts of single folds that are not there yet.
    bytes : int
        Of its features, weights and records.
    modified_s : float
        When any of its files was last written.
    """

    source: str
    folder: str
    digest16: str
    network: str
    depth: str
    state: str
    blocks: tuple[HeldBlock, ...]
    bytes: int
    modified_s: float

    @property
    def needed(self) -> bool:
        """Whether a source in force reads it."""
        return self.state in (IN_FORCE, SERVES)


@dataclass(frozen=True)
class HeldRun:
    """A run, and what of its sources is no more: `gone` from the cache, or `replaced` by another recipe."""

    name: str
    whole: bool
    bytes: int
    gone: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """What a cache holds.

    Attributes
    ----------
    path : Path
    clips : ClipCounts or None
    plan : PlanFacts or None
        `None` before the first `extract`, as `clips` is.
    plans : tuple of PlanFile
        Oldest first.
    recipes : tuple of HeldRecipe
    runs : tuple of HeldRun
    entries : tuple of Entry
        Every file.
    unreadable : tuple of str
        Parts without a sound header.
    fits : str
        Folder of the kept fits of the clips in force; empty where there are no fits.
    """

    path: Path
    clips: ClipCounts | None
    plan: PlanFacts | None
    plans: tuple[PlanFile, ...]
    recipes: tuple[HeldRecipe, ...]
    runs: tuple[HeldRun, ...]
    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]
    fits: str = ""

    def of_kind(self, *kinds: str) -> tuple[Entry, ...]:
        """Files of some kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)

    def bytes_of(self, *kinds: str) -> int:
        """Bytes of the files of some kinds."""
        return sum(entry.bytes for entry in self.of_kind(*kinds))

    @property
    def strays(self) -> tuple[Entry, ...]:
        """What was set aside, and temporaries."""
        return self.of_kind(BAD, TEMPORARY)

    @property
    def old_fits(self) -> tuple[Entry, ...]:
        """Kept fits of other clips, labels or groups than those in force."""
        return tuple(entry for entry in self.of_kind("fits") if entry.parents[1] != self.fits)

    @property
    def old_tables(self) -> tuple[Entry, ...]:
        """Tables of clips that neither the plan in force names nor the one before it, which is its fallback."""
        latest = [plan for plan in self.plans if not plan.repeat][-2:]
        named = {f"tables/clips-{name}.h5" for plan in latest for name in plan.records}
        return tuple(entry for entry in self.of_kind("table") if entry.place not in named)
