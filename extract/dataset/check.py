"""`moodfuse check`: what a data set holds, what of it is refused and why, which clips are alike. Nothing is kept."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import join_groups
from moodfuse.cache.labels import label_warnings
from moodfuse.cache.planning import PlanChoice, next_plan
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.extract.dataset.duplicates import (
    FRAME_SIDE_PX,
    Audited,
    audit_lines,
    audit_of,
    compared,
    fan_out_for,
)
from moodfuse.extract.dataset.hashing import hash_files
from moodfuse.extract.dataset.ingest import outcome_of, status_of
from moodfuse.extract.dataset.scan import scan_data
from moodfuse.extract.failures import Tally, refusal_lines
from moodfuse.extract.media.container import MediaError, MediaFacts
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.limits import ReadingRules
from moodfuse.extract.media.pool import DecodeRequest, ProbeRequest, decode_many, probe_many
from moodfuse.extract.media.renditions import MEDIA_RULES
from moodfuse.extract.progress import track


@dataclass(frozen=True)
class Check:
    """Lines to print, and how many clips would be refused."""

    lines: tuple[str, ...]
    refused: int


@dataclass(frozen=True)
class CheckSettings:
    """What `check` is asked to do.

    Attributes
    ----------
    data : Path
    folds : int
    decode : bool
        Whether to decode the clips, and compare their sound and frames; otherwise only headers are read.
    group_pattern : str or None
        As for `scan`.
    impute : bool
        Whether a clip without sound or without picture is taken.
    jobs : int
        Decoding processes.
    rules : ReadingRules
        What each clip may cost, and which are taken.
    """

    data: Path
    folds: int = 6
    decode: bool = True
    group_pattern: str | None = None
    impute: bool = False
    jobs: int = 1
    rules: ReadingRules = field(default_factory=ReadingRules)


def check(settings: CheckSettings) -> Check:
    """Look at a data set as `extract` would.

    Parameters
    ----------
    settings : CheckSettings

    Raises
    ------
    InputError
        If the data set as a whole cannot be used, a plan of `folds` folds included.
    TooManyRefusedError
        If so many clips are refused as `rules` allow no more of.
    """
    data = settings.data
    found_data = scan_data(data, group_pattern=settings.group_pattern, audio_files=settings.impute)
    clips = found_data.clips
    files = hash_files(clips)
    groups = join_groups(clips, files)
    statuses: list[ClipStatus] = []
    audited: list[Audited] = []
    fan_out, tally = fan_out_for(len(clips)), Tally(settings.rules)
    for clip, found in zip(clips, _looked_at(clips, settings), strict=True):
        statuses.append(_status(clip, files[clip.id], groups[clip.id], found))
        tally.count(clip.id, "" if statuses[-1].ok else statuses[-1].reason)
        if isinstance(found, DecodedClip):
            audited.append(compared(statuses[-1], found, fan_out=fan_out))
    refused = [status for status in statuses if not status.ok]
    how = "unreadable" if settings.decode else "unreadable by their headers"
    lines = [f"{len(clips)} clips in {data}, {len(refused)} {how}"]
    lines += [f"  refused {status.clip.id}: {status.reason}: {status.detail}" for status in refused]
    if refused:
        lines += [f"  {line}" for line in refusal_lines([status.reason for status in refused])]
    lines += [
        f"  WARNING {status.clip.id}: {status.detail}" for status in statuses if status.ok and status.detail
    ]
    by_label = Counter(status.clip.label for status in statuses if status.ok)
    by_group = {
        label: len({s.group for s in statuses if s.ok and s.clip.label == label}) for label in by_label
    }
    lines += [
        f"  {label}: {count} clips, {by_group[label]} groups" for label, count in sorted(by_label.items())
    ]
    lines += [f"  WARNING {line}" for line in label_warnings(clips)]
    lines += _shared(statuses)
    if settings.decode:
        lines += audit_lines(audit_of(audited))
    lines += found_data.messages
    lines += _plan_lines(statuses, settings.folds, lines)
    return Check(tuple(lines), len(refused))


def _plan_lines(statuses: list[ClipStatus], folds: int, before: list[str]) -> list[str]:
    """The plan in words; where there can be none, all that was found before is said with the reason."""
    try:
        plan = next_plan((), statuses, PlanChoice(folds=folds))
    except InputError as error:
        raise InputError("\n".join([*before, str(error)])) from error
    sizes = Counter(plan.assignment.values())
    return [f"plan: {plan.folds} folds of {', '.join(str(sizes[fold]) for fold in range(plan.folds))} clips"]


def _looked_at(
    clips: Sequence[Clip], settings: CheckSettings
) -> Iterator[DecodedClip | MediaFacts | MediaError]:
    """Each clip decoded, or its headers, in worker processes; what speaks against it where it is refused."""
    jobs = max(1, min(settings.jobs, len(clips)))
    limits, what = settings.rules.limits, "Decoding" if settings.decode else "Headers"
    found: Iterator[tuple[object, DecodedClip | MediaFacts | MediaError]]
    if settings.decode:
        requests = (
            DecodeRequest(
                Path(clip.path),
                clip.start_s,
                clip.end_s,
                FRAME_SIDE_PX,
                one_view=settings.impute,
                allow_partial=settings.rules.allow_partial,
            )
            for clip in clips
        )
        found = iter(decode_many(requests, jobs=jobs, limits=limits))
    else:
        headers = (
            ProbeRequest(Path(clip.path), one_view=settings.impute, start_s=clip.start_s, end_s=clip.end_s)
            for clip in clips
        )
        found = iter(probe_many(headers, jobs=jobs, limits=limits))
    for _, result in track(found, total=len(clips), what=what):
        yield result


def _status(
    clip: Clip, file_sha256: str, group: str, found: DecodedClip | MediaFacts | MediaError
) -> ClipStatus:
    digest = f"{file_sha256} {clip.start_s} {clip.end_s}"
    if isinstance(found, MediaFacts):
        return ClipStatus(
            clip, digest, file_sha256, group, True, duration_s=found.duration_s, decoder=MEDIA_RULES
        )
    outcome = outcome_of(digest, found)
    return status_of(clip, outcome, file_sha256=file_sha256, group=group)


def _shared(statuses: list[ClipStatus]) -> list[str]:
    lines = []
    members: dict[str, list[ClipStatus]] = defaultdict(list)
    files: dict[str, list[ClipStatus]] = defaultdict(list)
    for status in statuses:
        members[status.group].append(status)
        if status.file_sha256 and status.ok:
            files[status.file_sha256].append(status)
    shared = {name: group for name, group in sorted(members.items()) if len(group) > 1}
    if shared:
        lines.append(f"{len(shared)} groups hold more than one clip")
    for same in files.values():
        names = sorted({status.clip.path for status in same})
        if len(names) > 1:
            lines.append(f"  identical files: {', '.join(status.clip.id for status in same)}")
    return lines
