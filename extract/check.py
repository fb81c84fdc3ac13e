"""`moodfuse check`: what a data set holds, from headers; then, decoded, which clips are alike. Nothing is written."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from cache.errors import InputError
from cache.folds import join_groups
from cache.planning import PlanChoice, next_plan
from cache.records import Clip, ClipStatus
from extract.audit import audit_files, audit_lines
from extract.dataset import ignored_files, scan
from extract.examine import hash_files
from extract.media.container import REASONS, MediaError, probe
from extract.media.renditions import MEDIA_RULES
from extract.progress import track


@dataclass(frozen=True)
class Check:
    """Lines to print, and how many clips would be refused."""

    lines: tuple[str, ...]
    refused: int


def check(data: Path, *, folds: int, audit: bool = True, group_pattern: str | None = None, jobs: int = 1) -> Check:
    """Look at a data set as `extract` would.

    Parameters
    ----------
    data : Path
    folds : int
    audit : bool
        Whether to decode the clips and compare their sound and frames.
    group_pattern : str, optional
        As for `scan`.
    jobs : int
        Decoding processes.

    Raises
    ------
    InputError
        If the data set as a whole cannot be used, a plan of `folds` folds included.
    """
    clips = scan(data, group_pattern=group_pattern)
    files = hash_files(clips)
    groups = join_groups(clips, files)
    statuses = [
        _probe(clip, files[clip.id], groups[clip.id]) for clip in track(clips, total=len(clips), what="Headers")
    ]
    refused = [status for status in statuses if not status.ok]
    lines = [f"{len(clips)} clips in {data}, {len(refused)} unreadable by their headers"]
    lines += [f"  refused {status.clip.id}: {status.reason}: {status.detail}" for status in refused]
    by_label = Counter(status.clip.label for status in statuses if status.ok)
    by_group = {label: len({s.group for s in statuses if s.ok and s.clip.label == label}) for label in by_label}
    lines += [f"  {label}: {count} clips, {by_group[label]} groups" for label, count in sorted(by_label.items())]
    lines += _shared(statuses)
    if audit:
        lines += audit_lines(audit_files([status for status in statuses if status.ok], jobs=jobs))
    if ignored := ignored_files(data):
        lines.append(f"{len(ignored)} other files ignored (first: {ignored[0].name})")
    try:
        plan = next_plan((), statuses, PlanChoice(folds=folds))
        sizes = Counter(plan.assignment.values())
        lines.append(f"plan: {plan.folds} folds of {', '.join(str(sizes[fold]) for fold in range(plan.folds))} clips")
    except InputError as error:
        raise InputError("\n".join([*lines, str(error)])) from error
    return Check(tuple(lines), len(refused))


def _probe(clip: Clip, file_sha256: str, group: str) -> ClipStatus:
    digest = f"{file_sha256} {clip.start_s} {clip.end_s}"
    try:
        facts = probe(clip.path)
    except MediaError as error:
        detail = REASONS[error.code] + (f" ({error.detail})" if error.detail else "")
        return ClipStatus(clip, digest, file_sha256, group, False, error.code, detail, decoder=MEDIA_RULES)
    return ClipStatus(clip, digest, file_sha256, group, True, duration_s=facts.duration_s, decoder=MEDIA_RULES)


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
