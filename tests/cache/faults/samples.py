"""A cache whose rows tell their clip, the writing of three parts more, and a judge of what is left of it."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from moodfuse.cache import blocks
from moodfuse.cache.audits import Audit, Finding, read_audit, write_audit
from moodfuse.cache.digests import Digests, clip_digest, digest
from moodfuse.cache.errors import CacheError, InputError, MissingBlockError, UnknownNameError
from moodfuse.cache.planning import PlanChoice, next_plan
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Clip, ClipStatus, Outcome
from moodfuse.cache.storage import parts
from moodfuse.cache.storage.files import BAD_SUFFIX, STALE_S, TEMPORARY_PREFIX, write_aside
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache

STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
TUNED = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
AUDIT = Audit("made", (Finding("name", "a", "b", 0.5, 0.0, 1.5, 2.0, grouped=False),))
WIDTHS = {"embedding": 512, "logits": 2}


def right_rows(digests: Iterable[str], source: str) -> dict[str, np.ndarray]:
    """The one right row of each clip, float32 [n, D] by array."""
    made = np.stack([_right_row(item, source) for item in digests])
    return {"embedding": made[:, : WIDTHS["embedding"]], "logits": made[:, WIDTHS["embedding"] :]}


@cache
def _right_row(digest: str, source: str) -> np.ndarray:
    return np.random.default_rng([int(digest[:8], 16), len(source)]).standard_normal(
        sum(WIDTHS.values()), np.float32
    )


def forget() -> None:
    """Forget which parts were checked, as a new process has."""
    parts._verified.clear()
    blocks._clips_of.cache_clear()


@dataclass(frozen=True)
class Verdict:
    """What a reader finds.

    Attributes
    ----------
    wrong : tuple of str
        What was read as good and is not what was written: must never be.
    lost : tuple of str
        What was there before and cannot be read, or was set aside.
    accepted : int
        Parts that were read as good.
    """

    wrong: tuple[str, ...]
    lost: tuple[str, ...]
    accepted: int

    @property
    def sound(self) -> bool:
        """Whether everything that is accepted is right and nothing is lost."""
        return not self.wrong and not self.lost


@dataclass(frozen=True)
class Sample:
    """A cache of some parts of one source (0: none at all), and three parts more, one of them a new source's."""

    parts: int = 100
    clips_per_part: int = 2
    added: int = 3
    statuses: tuple[ClipStatus, ...] = field(init=False)

    def __post_init__(self) -> None:
        statuses = []
        for number in range((self.parts + self.added) * self.clips_per_part):
            label, file = ("excited", "sad")[number // 2 % 2], digest(f"file {number}")
            clip = Clip(id=f"{label}/{number:05d}.mp4", path=f"/data/{number:05d}.mp4", label=label)
            group = f"song {number // 2}"
            statuses.append(
                ClipStatus(clip, clip_digest(file, 0.0, None), file, group, ok=True, duration_s=30.0)
            )
        object.__setattr__(self, "statuses", tuple(statuses))

    @property
    def earlier(self) -> tuple[ClipStatus, ...]:
        """Clips of the cache before it is extended."""
        return self.statuses[: self.parts * self.clips_per_part]

    @cached_property
    def digests(self) -> Digests:
        """Of all clips, S64 [N]."""
        return np.array([status.digest for status in self.statuses], dtype="S64")

    def fill(self, root: Path) -> Path:
        """Make the cache of `parts` parts, with the temporary of a writer that was killed two days ago."""
        root.mkdir()
        if not self.parts:
            return root
        store = FeatureCache(root, create=True)
        self.put_plan(store, self.earlier)
        store.write_recipe(STILL)
        for number in range(self.parts):
            self.write_part(store, STILL, number)
        store.select([STILL], command="moodfuse extract clips")
        stale = store.block_folder(STILL, None) / f"{TEMPORARY_PREFIX}1-0123456789ab.h5"
        stale.write_bytes(b"half")
        os.utime(stale, (time.time() - 2 * STALE_S,) * 2)
        return root

    def extend(self, root: Path) -> None:
        """Do what `extract` does with new clips: outcomes, plan and tables, a part after the other, the selection."""
        store = FeatureCache(root, create=True)
        for status in self.statuses[len(self.earlier) :]:
            store.write_outcome(Outcome(status.digest, ok=True, duration_s=30.0, decoder="made"))
        self.put_plan(store, self.statuses)
        store.write_recipe(STILL)
        for number in range(self.parts, self.parts + self.added - 1):
            self.write_part(store, STILL, number)
        store.write_recipe(TUNED)
        roles = store.roles(TUNED, 0) or ()
        store.write_roles(TUNED, roles)
        write_aside(store.network_path(TUNED, roles), np.arange(1500).tobytes())
        self.write_part(store, TUNED, self.parts + self.added - 1)
        store.select([STILL, TUNED], command="moodfuse extract clips --source net")
        if read_audit(store) is None:
            write_audit(store, AUDIT)

    def clips_of(self, number: int) -> list[str]:
        """Digests of the clips of one part."""
        first = number * self.clips_per_part
        return [status.digest for status in self.statuses[first : first + self.clips_per_part]]

    def write_part(self, store: FeatureCache, recipe: Recipe, number: int) -> int:
        """Write the right rows of one part; returns how many differ from what is there."""
        roles = store.roles(recipe, 0)
        return store.write_block_part(
            recipe, roles, self.clips_of(number), right_rows(self.clips_of(number), recipe.source)
        )

    @staticmethod
    def put_plan(store: FeatureCache, statuses: tuple[ClipStatus, ...]) -> None:
        store.write_plan(next_plan(store.plans, statuses, PlanChoice(folds=2)), statuses)

    def judge(self, root: Path) -> Verdict:
        """Read everything, as a new process would, and hold it to what was written."""
        forget()
        wrong, lost = [], []
        accepted = 0
        for file in sorted(root.glob("features/*/*/*/[!.]*.h5")):
            try:
                wrong += _wrong_rows(file)
                accepted += 1
            except CacheError as error:
                lost.append(str(error))
        try:
            wrong += self._wrong_block(FeatureCache(root))
        except MissingBlockError as error:
            lost.append(str(error))
        except (CacheError, InputError) as error:
            if self.parts or isinstance(error, CacheError):
                lost.append(str(error))
        lost += [f"{file} was set aside" for file in root.rglob(f"*{BAD_SUFFIX}")]
        return Verdict(tuple(wrong), tuple(lost), accepted)

    def _wrong_block(self, store: FeatureCache) -> list[str]:
        """What is wrong in the table, the plan and the block that a reader gets."""
        wrong = []
        known = [list(self.earlier), list(self.statuses)]
        if list(store.statuses) not in [sorted(item, key=lambda status: status.clip.id) for item in known]:
            wrong.append("the table of clips is neither the old nor the new one")
        if set(store.plan.assignment) != {status.digest for status in store.statuses}:
            wrong.append("the plan covers other clips than the table")
        digests = [status.digest for status in store.clips]
        found = np.ones(len(digests), dtype=bool)
        try:
            block = store.block("still", "*")
            arrays = {name: values for name in WIDTHS if (values := getattr(block, name)) is not None}
        except (MissingBlockError, UnknownNameError):  # right, where a new clip has no features yet
            kept = store.rows(STILL, None, store.clips, tuple(WIDTHS))
            arrays, found = dict(kept.arrays), kept.found
        for name, values in arrays.items():
            if not np.array_equal(values[found], right_rows(digests, STILL.source)[name][found]):
                wrong.append(f"rows of {name} are wrong")
        if read_audit(store) not in (None, AUDIT):
            wrong.append("the audit is another than was written")
        if missing := {status.digest for status in self.earlier} - set(np.array(digests)[found].tolist()):
            raise MissingBlockError(f"{len(missing)} clips that were there are gone")
        return wrong


def _wrong_rows(file: Path) -> list[str]:
    """What a part's arrays and attributes have wrong."""
    arrays, attributes = read_part(file)
    source, recipe, trained = file.parts[-4:-1]
    right = right_rows([clip.decode() for clip in arrays["clip"].tolist()], source)
    same = set(arrays) == {*right, "clip"} and all(
        np.array_equal(arrays[name], right[name]) for name in right
    )
    named = (attributes["source"], attributes["recipe"], attributes["trained"]) == (source, recipe, trained)
    return [] if same and named else [f"{file}: accepted with other content than was written"]
