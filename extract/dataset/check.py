"""`moodfuse check`: what a dataset holds, which clips would be refused and why, and which are similar."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.csv_rows import describe_doubtful_labels
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice, join_groups, next_plan
from moodfuse.cache.records import Clip, ClipStatus, Outcome
from moodfuse.cache.store import FeatureCache
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
from moodfuse.extract.progress import FailureCounter, describe_statuses, track


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


def _clip_lines(statuses: Sequence[ClipStatus]) -> Iterator[str]:
    """Which clips are refused, and the clips and groups of each label."""
    yield from describe_statuses(statuses)
    yield from (f"WARNING {line}" for line in describe_doubtful_labels(status.clip for status in statuses))
    usable = [status for status in statuses if status.ok]
    for label, count in sorted(Counter(status.clip.label for status in usable).items()):
        groups = {status.group for status in usable if status.clip.label == label}
        yield f"{label}: {count} clips, {len(groups)} groups"
    sizes = Counter(status.group for status in statuses)
    if shared := sum(size > 1 for size in sizes.values()):
        yield f"{shared} groups hold more than one clip"
    yield from describe_copies(statuses)
