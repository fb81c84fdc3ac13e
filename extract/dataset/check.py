"""`moodfuse check`: what a dataset holds, which clips would be refused and why, and which are similar."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.console import short_repr
from moodfuse.cache.csv_rows import describe_doubtful_labels
from moodfuse.cache.errors import InputError
from moodfuse.cache.feasibility import check_feasible
from moodfuse.cache.folds import PlanChoice, join_groups, next_plan
from moodfuse.cache.records import Clip, ClipStatus, Outcome
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.terminal import track
from moodfuse.extract.dataset.duplicates import (
    audit_clips,
    describe_audit,
    describe_copies,
    describe_series,
)
from moodfuse.extract.dataset.ingest import (
    DecodeSettings,
    decode_dataset,
    hash_files,
    make_outcome,
    make_status,
    open_mark_store,
)
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.media.container import MediaFacts
from moodfuse.extract.media.decode import MEDIA_RULES
from moodfuse.extract.media.limits import ReadingRules
from moodfuse.extract.media.pool import DecodeRequest, probe_many
from moodfuse.extract.progress import FailureCounter, describe_statuses

LISTED_GROUPS = 10


@dataclass(frozen=True)
class Check:
    """Lines to print, and how many clips would be refused."""

    lines: tuple[str, ...]
    refused: int


def check(
    data: Path,
    *,
    folds: int = 6,
    decode: bool = True,
    group_pattern: str | None = None,
    impute: bool = False,
    jobs: int = 1,
    rules: ReadingRules | None = None,
) -> Check:
    """Read a dataset as `extract` would, into a temporary folder; without `decode` read only headers.

    The other arguments are named as in `ExtractSettings`. Raises `InputError` where `extract` would.
    """
    decoding = DecodeSettings(jobs, impute, rules or ReadingRules())
    scanned = scan_data(data, group_pattern=group_pattern, audio_files=impute)
    try:
        check_feasible(scanned.clips, PlanChoice(folds=folds))
    except InputError as error:
        groups = join_groups(scanned.clips, {clip.id: clip.path for clip in scanned.clips})
        first = f"{len(scanned.clips)} clips in {data}, not read because no fold plan is possible"
        lines = [first, *(f"  {line}" for line in _label_lines(scanned.clips, groups)), *scanned.messages]
        raise InputError("\n".join([*lines, str(error)])) from error
    if decode:
        with tempfile.TemporaryDirectory(prefix="moodfuse-") as folder:
            cache = FeatureCache(Path(folder) / "check", create=True)
            statuses = decode_dataset(cache, scanned.clips, decoding)
            audit = audit_clips([status for status in statuses if status.ok], open_mark_store(cache))
        similar = describe_audit(audit) if audit is not None else ()
    else:
        statuses, similar = _read_headers(scanned.clips, decoding), ()
    unreadable = sum(not status.ok for status in statuses)
    how = "unreadable" if decode else "unreadable by their headers"
    first = f"{len(statuses)} clips in {data}, {unreadable} {how}"
    lines = [first, *(f"  {line}" for line in _clip_lines(statuses)), *similar]
    lines += [*describe_series(statuses, group_pattern), *scanned.messages]
    try:
        plan = next_plan((), statuses, PlanChoice(folds=folds))
    except InputError as error:  # all lines are printed with the reason
        raise InputError("\n".join([*lines, str(error)])) from error
    sizes = Counter(plan.assignment.values())
    counts = ", ".join(str(sizes[fold]) for fold in range(plan.folds))
    return Check((*lines, f"plan: {plan.folds} folds of {counts} clips"), unreadable)


def _read_headers(clips: Sequence[Clip], decoding: DecodeSettings) -> list[ClipStatus]:
    """Status of every clip by the headers of its file."""
    files, limits = hash_files(clips), decoding.rules.limits
    groups, tally = join_groups(clips, files), FailureCounter(decoding.rules)
    requests = [
        DecodeRequest(Path(clip.path), clip.start_s, clip.end_s, allow_missing=decoding.impute)
        for clip in clips
    ]
    results = probe_many(requests, jobs=min(decoding.jobs, len(clips)), limits=limits)
    statuses = []
    for clip, (_, result) in zip(clips, track(results, total=len(clips), what="Headers"), strict=True):
        digest = f"{files[clip.id]} {clip.start_s} {clip.end_s}"
        if isinstance(result, MediaFacts):
            outcome = Outcome(digest, True, duration_s=result.duration_s, decoder=MEDIA_RULES)
        else:
            outcome = make_outcome(digest, result)
        statuses.append(make_status(clip, outcome, file_sha256=files[clip.id], group=groups[clip.id]))
        tally.count(clip.id, outcome.reason)
    return statuses


def _label_lines(clips: Sequence[Clip], groups: Mapping[str, str]) -> Iterator[str]:
    """Warnings about labels, the clips and groups of each label, and which groups hold several clips.

    `groups` is by id, of usable clips.
    """
    yield from (f"WARNING {line}" for line in describe_doubtful_labels(clips))
    usable = [clip for clip in clips if clip.id in groups]
    for label, count in sorted(Counter(clip.label for clip in usable).items()):
        groups_of_label = {groups[clip.id] for clip in usable if clip.label == label}
        yield f"{label}: {count} clips, {len(groups_of_label)} groups"
    sizes = Counter(groups[clip.id] for clip in usable)
    if shared := sorted((-size, group) for group, size in sizes.items() if size > 1):
        names = ", ".join(f"{short_repr(group)} ({-size} clips)" for size, group in shared[:LISTED_GROUPS])
        if len(shared) > LISTED_GROUPS:
            names += f", and {len(shared) - LISTED_GROUPS} more"
        counted = "1 group holds" if len(shared) == 1 else f"{len(shared)} groups hold"
        yield f"{counted} more than one clip: {names}"


def _clip_lines(statuses: Sequence[ClipStatus]) -> Iterator[str]:
    """Which clips are refused, the clips and groups of each label, and copies of files."""
    yield from describe_statuses(statuses)
    groups = {status.clip.id: status.group for status in statuses if status.ok}
    yield from _label_lines([status.clip for status in statuses], groups)
    yield from describe_copies(statuses)
