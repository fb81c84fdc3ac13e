"""The clips and the plan that imported features are matched with: those of the cache, or of a table of labels.

A cache that `extract` filled knows its clips from their media, so a table can only agree with it. A cache that was
made by imports has its clips from a table, and a changed table gives it a new plan, in which clips keep their folds.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import Digests, digest_array
from moodfuse.cache.errors import InputError
from moodfuse.cache.planning import PlanChoice, next_plan
from moodfuse.cache.recipe import IMPORT
from moodfuse.cache.records import ClipStatus, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.features import first_few, shown
from moodfuse.cache.transfer.labels import label_warnings, read_labels


@dataclass(frozen=True)
class DataSet:
    """Clips and their plan.

    Attributes
    ----------
    statuses : tuple of ClipStatus, by id
        Every clip, refused and test clips too.
    plan : Plan
    declared : bool
        Whether a table of labels declares it, so that it is to be written unless it is in force.
    dealt : bool
        Whether a clip has its fold from this very command, neither from a plan before nor from a column ``fold``.
    changes : tuple of str
        Sentences on what the table changes of the clips and folds that were in force.
    """

    statuses: tuple[ClipStatus, ...]
    plan: Plan
    declared: bool = False
    dealt: bool = False
    changes: tuple[str, ...] = ()

    @cached_property
    def clips(self) -> tuple[ClipStatus, ...]:
        """The clips that the plan covers, by id."""
        assignment = self.plan.assignment
        return tuple(status for status in self.statuses if status.ok and status.digest in assignment)

    @cached_property
    def digests(self) -> Digests:
        """Of these clips, S64 [N]."""
        return digest_array(status.digest for status in self.clips)


def choose_data_set(
    cache: FeatureCache | None,
    labels: Path | None,
    choice: PlanChoice,
    say: Callable[[str], None],
    *,
    replace: bool = False,
) -> DataSet:
    """The clips in force, or those that a table declares.

    Parameters
    ----------
    cache : FeatureCache or None
        `None` where there is none yet.
    labels : Path or None
        CSV of ``id,label[,group][,fold][,split]``.
    choice : PlanChoice
    say : callable
        Takes each warning about the table.
    replace : bool
        Whether a table may have no clip in common with those in force.

    Raises
    ------
    InputError
        If there are no clips, the table cannot be used, or it contradicts clips that were read from media.
    """
    current = cache.plans[-1] if cache is not None and cache.plans else None
    if labels is None:
        if cache is None or current is None:
            raise InputError(
                "the cache knows no clips yet; add --labels FILE.csv with id,label[,group][,fold], or run: moodfuse "
                "extract DATA --cache DIR"
            )
        _check_choice(current, choice)
        return DataSet(cache.statuses, current)
    statuses = read_labels(labels)
    for line in label_warnings(status.clip for status in statuses):
        say(f"WARNING {labels}: {line}")
    given = tuple(sorted(statuses, key=lambda status: status.clip.id))
    if cache is not None and current is not None and not _is_declared(cache, given):
        _check_choice(current, choice)
        _check_agreement(labels, given, cache)
        return DataSet(cache.statuses, current)
    plan = next_plan(cache.plans if cache is not None else (), given, choice)
    made = DataSet(given, plan, declared=True, dealt=_deals(current, plan, given))
    if cache is None or current is None or current.records == plan.records:
        changes = () if current is None else tuple(_fold_changes(current, plan))
        return dataclasses.replace(made, changes=changes)
    before = cache.statuses
    if not replace and not set(_ids(before)) & set(_ids(given)):
        raise InputError(
            f"{labels}: none of its {len(given)} ids ({first_few(_ids(given))}) is one of the {len(before)} clips of "
            f"{cache.path} ({first_few(_ids(before))}); name another --cache folder, or add --replace: no source of now "
            "has features of these clips"
        )
    return dataclasses.replace(made, changes=(*_clip_changes(before, given), *_fold_changes(current, plan)))


def _ids(statuses: Sequence[ClipStatus]) -> list[str]:
    return [status.clip.id for status in statuses]


def _is_declared(cache: FeatureCache, given: Sequence[ClipStatus]) -> bool:
    """Whether the clips in force come from a table too; where it is this very one, theirs may be damaged."""
    if cache.plan.records == (table_name(given),):
        return True
    return {status.decoder for status in cache.statuses} == {IMPORT}


def _check_choice(plan: Plan, choice: PlanChoice) -> None:
    for option, wanted, found in (("--folds", choice.folds, plan.folds), ("--seed", choice.seed, plan.seed)):
        if wanted is not None and wanted != found:
            raise InputError(f"{option} is {wanted}, but the plan in force has {found}; drop the option")


def _deals(current: Plan | None, plan: Plan, given: Sequence[ClipStatus]) -> bool:
    """Whether some clip's fold is news to whoever made the features."""
    if any(status.clip.fold is not None for status in given if status.digest in plan.assignment):
        return False  # the fold of a test clip says nothing
    return current is None or not plan.assignment.items() <= current.assignment.items()


def _clip_changes(before: Sequence[ClipStatus], given: Sequence[ClipStatus]) -> Iterator[str]:
    """What a table says otherwise than the one in force, in sentences."""
    known = {status.clip.id: status for status in before}
    new = [name for name in _ids(given) if name not in known]
    listed = set(_ids(given))
    gone = [name for name in _ids(before) if name not in listed]
    for what, names in (("added", new), ("gone", gone)):
        if names:
            yield f"{len(names)} clips {what} (first: {first_few(names)})"
    for what in ("label", "group", "split"):
        changed = [status.clip.id for status in given if _is_changed(known.get(status.clip.id), status, what)]
        if changed:
            yield f"{what} of {len(changed)} clips changed (first: {first_few(changed)})"


def _is_changed(known: ClipStatus | None, given: ClipStatus, what: str) -> bool:
    """Whether a clip that was there has another value now."""
    if known is None:
        return False
    if what == "group":
        return known.group != given.group
    return bool(getattr(known.clip, what) != getattr(given.clip, what))


def _fold_changes(before: Plan, plan: Plan) -> Iterator[str]:
    """How the folds differ from those in force, in a sentence."""
    was, now = before.assignment, plan.assignment
    moved = sum(was.get(digest, fold) != fold for digest, fold in now.items())
    if before.folds != plan.folds:
        yield f"{plan.folds} folds in place of {before.folds}"
    if moved:
        yield f"{moved} of {len(now)} clips are in another fold"


def _check_agreement(labels: Path, given: Sequence[ClipStatus], cache: FeatureCache) -> None:
    """Hold a table of labels to clips that `extract` read."""
    known = {status.clip.id: status for status in cache.statuses}
    if strange := [name for name in _ids(given) if name not in known]:
        raise InputError(
            f"{labels}: {len(strange)} of {len(given)} ids are not clips of {cache.path} (first: "
            f"{first_few(strange)}), which extract made; its ids look like {first_few(known)}; drop --labels, or name "
            "another --cache folder"
        )
    for status in given:
        for name, found, expected in _differences(status, known[status.clip.id], cache.plan):
            raise InputError(
                f"{labels}: {name} of clip {shown(status.clip.id)} is {found!r}, but {expected!r} in {cache.path}, "
                "which extract made; correct the table, drop --labels, or name another --cache folder"
            )
    listed = set(_ids(given))
    if absent := [name for name in _ids(cache.clips) if name not in listed]:
        raise InputError(
            f"{labels}: lacks {len(absent)} of {len(cache.clips)} clips of {cache.path} (first: {first_few(absent)}); "
            "add them, or drop --labels"
        )


def _differences(given: ClipStatus, known: ClipStatus, plan: Plan) -> Iterator[tuple[str, object, object]]:
    """What a table says otherwise: name, value there, value in the cache. A column that it lacks says nothing."""
    clip = given.clip
    if clip.label != known.clip.label.strip():
        yield "label", clip.label, known.clip.label
    if clip.group is not None and clip.group not in (known.group.strip(), (known.clip.group or "").strip()):
        yield "group", clip.group, known.group
    fold = plan.assignment.get(known.digest)
    if clip.fold is not None and clip.fold != fold:
        yield "fold", clip.fold, fold
    if clip.split != known.clip.split:
        yield "split", clip.split, known.clip.split
