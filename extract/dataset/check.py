"""`moodfuse check`: what a dataset holds, which clips would be refused and why, and which are similar."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.cache.csv_rows import label_warnings
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice, join_groups, next_plan
from moodfuse.cache.records import Clip, ClipStatus, Outcome
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.duplicates import audit_clips, describe_audit, describe_copies
from moodfuse.extract.dataset.ingest import (
    Decoding,
    examine,
    hash_files,
    make_outcome,
    make_status,
    mark_store,
)
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.media.container import MediaFacts
from moodfuse.extract.media.decode import MEDIA_RULES
from moodfuse.extract.media.limits import ReadingRules
from moodfuse.extract.media.pool import DecodeRequest, probe_many
from moodfuse.extract.progress import Tally, describe_statuses, track


@dataclass(frozen=True)
class Check:
    """Lines to print, and how many clips would be refused."""

    lines: tuple[str, ...]
    refused: int


@dataclass(frozen=True)
class CheckSettings:
    """Settings of `check`, named as those of `ExtractSettings`; without `decode` only headers are read."""

    data: Path
    folds: int = 6
    decode: bool = True
    group_pattern: str | None = None
    impute: bool = False
    jobs: int = 1
    rules: ReadingRules = field(default_factory=ReadingRules)


def check(settings: CheckSettings) -> Check:
    """Read a dataset as `extract` would, into a temporary folder; raises `InputError` where that would."""
    scanned = scan_data(settings.data, group_pattern=settings.group_pattern, audio_files=settings.impute)
    if settings.decode:
        with tempfile.TemporaryDirectory(prefix="moodfuse-") as folder:
            cache = FeatureCache(Path(folder) / "check", create=True)
            decoding = Decoding(settings.jobs, settings.impute, settings.rules)
            statuses = examine(cache, scanned.clips, decoding)
            audit = audit_clips([status for status in statuses if status.ok], mark_store(cache))
    else:
        statuses, audit = _read_headers(scanned.clips, settings), None
    lines = list(_clip_lines(statuses, settings))
    lines += describe_audit(audit) if audit is not None else []
    lines += scanned.messages
    try:
        plan = next_plan((), statuses, PlanChoice(folds=settings.folds))
    except InputError as error:  # all lines are printed with the reason
        raise InputError("\n".join([*lines, str(error)])) from error
    sizes = Counter(plan.assignment.values())
    lines.append(
        f"plan: {plan.folds} folds of {', '.join(str(sizes[fold]) for fold in range(plan.folds))} clips"
    )
    return Check(tuple(lines), sum(not status.ok for status in statuses))


def _read_headers(clips: Sequence[Clip], settings: CheckSettings) -> list[ClipStatus]:
    """Status of every clip by the headers of its file."""
    files = hash_files(clips)
    groups, tally = join_groups(clips, files), Tally(settings.rules)
    requests = [
        DecodeRequest(Path(clip.path), clip.start_s, clip.end_s, allow_missing=settings.impute)
        for clip in clips
    ]
    results = probe_many(requests, jobs=min(settings.jobs, len(clips)), limits=settings.rules.limits)
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


def _clip_lines(statuses: Sequence[ClipStatus], settings: CheckSettings) -> Iterator[str]:
    """How many clips there are, which are refused, and the clips and groups of each label."""
    usable = [status for status in statuses if status.ok]
    how = "unreadable" if settings.decode else "unreadable by their headers"
    yield f"{len(statuses)} clips in {settings.data}, {len(statuses) - len(usable)} {how}"
    yield from (f"  {line}" for line in describe_statuses(statuses))
    yield from (f"  WARNING {line}" for line in label_warnings(status.clip for status in statuses))
    for label, count in sorted(Counter(status.clip.label for status in usable).items()):
        groups = {status.group for status in usable if status.clip.label == label}
        yield f"  {label}: {count} clips, {len(groups)} groups"
    sizes = Counter(status.group for status in statuses)
    if shared := sum(size > 1 for size in sizes.values()):
        yield f"{shared} groups hold more than one clip"
    yield from (f"  {line}" for line in describe_copies(statuses))
