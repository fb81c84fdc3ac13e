"""`moodfuse check`: what a data set holds, which clips would be refused and why, and which are similar."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice, join_groups, next_plan
from moodfuse.cache.labels import label_warnings
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.extract.dataset.duplicates import AuditedClip, audit_lines, audit_of, audited, fan_out_for
from moodfuse.extract.dataset.fingerprints import audio_marks, frame_marks
from moodfuse.extract.dataset.ingest import hash_files, outcome_of, status_of
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.failures import Tally, refusal_lines
from moodfuse.extract.media.container import MediaError, MediaFacts
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.limits import ReadingRules
from moodfuse.extract.media.pool import DecodeRequest, ProbeRequest, decode_many, probe_many
from moodfuse.extract.media.renditions import MEDIA_RULES
from moodfuse.extract.progress import track

_FRAME_SIDE_PX = 64
Result = DecodedClip | MediaFacts | MediaError


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
    """Read a data set as `extract` would, without storing anything; raises `InputError` where that would."""
    scanned = scan_data(settings.data, group_pattern=settings.group_pattern, audio_files=settings.impute)
    clips = scanned.clips
    files = hash_files(clips)
    groups = join_groups(clips, files)
    statuses: list[ClipStatus] = []
    compared: list[AuditedClip] = []
    fan_out, tally = fan_out_for(len(clips)), Tally(settings.rules)
    for clip, result in zip(clips, _results(clips, settings), strict=True):
        status = _status(clip, files[clip.id], groups[clip.id], result)
        statuses.append(status)
        tally.count(clip.id, "" if status.ok else status.reason)
        if isinstance(result, DecodedClip):
            audio = audio_marks(result.waveform[: result.waveform_samples], fan_out=fan_out)
            frames = frame_marks(result.frames, result.frame_times_s - result.start_s)
            compared.append(audited(status, audio, frames))
    refused = [status for status in statuses if not status.ok]
    lines = [*_clip_lines(statuses, settings), *(f"  WARNING {line}" for line in label_warnings(clips))]
    lines += _group_lines(statuses)
    if settings.decode:
        lines += audit_lines(audit_of(compared))
    lines += scanned.messages
    try:
        plan = next_plan((), statuses, PlanChoice(folds=settings.folds))
    except InputError as error:  # everything that was found is printed with the reason
        raise InputError("\n".join([*lines, str(error)])) from error
    sizes = Counter(plan.assignment.values())
    lines.append(
        f"plan: {plan.folds} folds of {', '.join(str(sizes[fold]) for fold in range(plan.folds))} clips"
    )
    return Check(tuple(lines), len(refused))


def _results(clips: Sequence[Clip], settings: CheckSettings) -> Iterator[Result]:
    """Each clip decoded, or its headers, from worker processes."""
    jobs, limits = max(1, min(settings.jobs, len(clips))), settings.rules.limits
    partial, impute = settings.rules.allow_partial, settings.impute
    results: Iterator[tuple[object, Result]]
    if settings.decode:
        requests = (
            DecodeRequest(Path(clip.path), clip.start_s, clip.end_s, _FRAME_SIDE_PX, impute, partial)
            for clip in clips
        )
        results = iter(decode_many(requests, jobs=jobs, limits=limits))
    else:
        headers = (ProbeRequest(Path(clip.path), impute, clip.start_s, clip.end_s) for clip in clips)
        results = iter(probe_many(headers, jobs=jobs, limits=limits))
    for _, result in track(results, total=len(clips), what="Decoding" if settings.decode else "Headers"):
        yield result


def _status(clip: Clip, file_sha256: str, group: str, result: Result) -> ClipStatus:
    digest = f"{file_sha256} {clip.start_s} {clip.end_s}"
    if isinstance(result, MediaFacts):
        duration_s = result.duration_s
        return ClipStatus(clip, digest, file_sha256, group, True, duration_s=duration_s, decoder=MEDIA_RULES)
    return status_of(clip, outcome_of(digest, result), file_sha256=file_sha256, group=group)


def _clip_lines(statuses: Sequence[ClipStatus], settings: CheckSettings) -> Iterator[str]:
    """How many clips there are, which are refused, and the clips and groups of each label."""
    refused = [status for status in statuses if not status.ok]
    usable = [status for status in statuses if status.ok]
    how = "unreadable" if settings.decode else "unreadable by their headers"
    yield f"{len(statuses)} clips in {settings.data}, {len(refused)} {how}"
    yield from (f"  refused {status.clip.id}: {status.reason}: {status.detail}" for status in refused)
    if refused:
        yield from (f"  {line}" for line in refusal_lines([status.reason for status in refused]))
    yield from (f"  WARNING {status.clip.id}: {status.detail}" for status in usable if status.detail)
    for label, count in sorted(Counter(status.clip.label for status in usable).items()):
        groups = {status.group for status in usable if status.clip.label == label}
        yield f"  {label}: {count} clips, {len(groups)} groups"


def _group_lines(statuses: Sequence[ClipStatus]) -> Iterator[str]:
    sizes = Counter(status.group for status in statuses)
    if shared := sum(size > 1 for size in sizes.values()):
        yield f"{shared} groups hold more than one clip"
    files: dict[str, list[Clip]] = defaultdict(list)
    for status in statuses:
        if status.file_sha256 and status.ok:
            files[status.file_sha256].append(status.clip)
    for same in files.values():
        if len({clip.path for clip in same}) > 1:
            yield f"  identical files: {', '.join(clip.id for clip in same)}"
