"""The duplicate audit: pairs of clips of different groups that may be the same song or video.

The audit looks for four signs: identical files, similar audio, similar frames, and file names that number the
parts of a whole. `docs/audit.md` reports how the thresholds were measured.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePath

from moodfuse.cache.audits import KINDS, Audit, ClipMarks, Finding, MarkStore, read_audit, write_audit
from moodfuse.cache.name_series import describe_name_series, find_name_series, strip_window
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.terminal import ProgressBar
from moodfuse.extract.dataset.fingerprints import (
    FAN_OUT,
    Marks,
    Match,
    join_peaks,
    match_audio,
    match_frames,
)
from moodfuse.extract.dataset.ingest import open_mark_store

log = logging.getLogger(__name__)
MIN_AUDIO = 12  # no two different recordings among 52 clips shared more than 8 hashes
MIN_FRAMES = 3  # no two different videos among 52 clips shared a frame
MANY_CLIPS, FAN_OUT_OF_MANY = 1000, 6  # bounds the memory
LONGEST_NUMBERING = 12  # a longer row of consecutive numbers, such as camera files, is no evidence
# Stored with each audit; changing it repeats the audit of every cache.
RULES = (
    f"version 1: {MIN_AUDIO} landmarks of the sound or {MIN_FRAMES} frames alike at one distance in "
    "time; identical files; names that count"
)
REMEDY = (
    "if they belong together, give them one group: a CSV with the column 'group', or --group-pattern REGEX"
)
_K_OF_N = re.compile(r"^(?P<stem>.*?)[\s_.([-]*(?P<k>\d+)[\s_-]*of[\s_-]*(?P<n>\d+)[)\]]*$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<stem>.*[A-Za-z].*?)\s*\((?P<k>\d+)\)$")


@dataclass(frozen=True)
class AuditedClip:
    """What is compared of a clip; `file_sha256` is empty if its file is not compared."""

    id: str
    group: str
    file_sha256: str
    marks: ClipMarks


def find_duplicates(clips: Sequence[AuditedClip]) -> tuple[Finding, ...]:
    """Pairs of clips that may be duplicates: across groups first, then by kind, the most similar first."""
    files = list(_same_files(clips))
    same = {(finding.first, finding.second) for finding in files}
    fan_out = FAN_OUT if len(clips) < MANY_CLIPS else FAN_OUT_OF_MANY
    peaks = [join_peaks(clip.marks.peak_times, clip.marks.peak_bins, fan_out=fan_out) for clip in clips]
    audio = match_audio(peaks, least=MIN_AUDIO)
    images = [Marks(clip.marks.frame_hashes, clip.marks.frame_times_s) for clip in clips]
    frames = match_frames(images, least=MIN_FRAMES)
    others = [
        *(_similar("sound", clips, match) for match in audio),
        *(_similar("frames", clips, match) for match in frames),
        *_numbered_names(clips),
    ]
    findings = [*files, *(finding for finding in others if (finding.first, finding.second) not in same)]
    return tuple(
        sorted(findings, key=lambda f: (f.grouped, KINDS.index(f.kind), -f.score, f.first, f.second))
    )


def _finding(kind: str, one: AuditedClip, other: AuditedClip, score: float) -> Finding:
    return Finding(kind, one.id, other.id, score, 0.0, 0.0, 0.0, one.group == other.group)


def _similar(kind: str, clips: Sequence[AuditedClip], match: Match) -> Finding:
    finding = _finding(kind, clips[match.first], clips[match.second], round(match.share, 6))
    times_s = {name: round(getattr(match, name), 3) for name in ("first_s", "second_s", "length_s")}
    return replace(finding, **times_s)


def _same_files(clips: Sequence[AuditedClip]) -> Iterator[Finding]:
    """Consecutive clips with equal content under different paths."""
    same: dict[str, list[AuditedClip]] = defaultdict(list)
    for clip in clips:
        same[clip.file_sha256].append(clip)
    for file_sha256, members in same.items():
        for one, other in pairwise(members):
            if file_sha256 and strip_window(one.id) != strip_window(other.id):
                yield _finding("file", one, other, 1.0)


def describe_copies(statuses: Sequence[ClipStatus]) -> Iterator[str]:
    """A line for each file that clips have under several paths."""
    copies: dict[str, dict[str, str]] = defaultdict(dict)
    for status in statuses:
        if status.file_sha256 and status.ok:
            copies[status.file_sha256].setdefault(status.clip.path, status.clip.id)
    for ids in copies.values():
        if len(ids) > 1:
            yield f"the same file {len(ids)} times, so one group: {', '.join(sorted(ids.values()))}"


def describe_series(statuses: Sequence[ClipStatus], group_pattern: str | None) -> Iterator[str]:
    """Lines about series of numbered file names that carry one label; see `cache.name_series`."""
    usable = [status for status in statuses if status.ok]
    series = find_name_series(
        [status.clip.id for status in usable],
        [status.clip.label for status in usable],
        [status.group for status in usable],
    )
    yield from describe_name_series(series, group_pattern)


def _numbered_names(clips: Sequence[AuditedClip]) -> Iterator[Finding]:
    """Consecutive parts such as ``song-1-of-3`` and ``song-2-of-3``, or ``video(4)`` and ``video(5)``."""
    series: dict[tuple[str, str, int], list[tuple[int, str, AuditedClip]]] = defaultdict(list)
    for clip in clips:
        path = PurePath(strip_window(clip.id))
        if match := _K_OF_N.match(path.stem):
            series[str(path.parent), match["stem"].casefold(), int(match["n"])].append(
                (int(match["k"]), clip.id, clip)
            )
        elif match := _NUMBERED.match(path.stem):
            series[str(path.parent), match["stem"], 0].append((int(match["k"]), clip.id, clip))
    for (_, _, parts), members in series.items():
        ranked = sorted(members, key=lambda member: member[:2])
        pairs = [
            (one, other) for (k, _, one), (after, _, other) in pairwise(ranked) if parts or after == k + 1
        ]
        if parts or len(pairs) < LONGEST_NUMBERING:
            yield from (_finding("name", one, other, 0.5) for one, other in pairs)


def audit_clips(statuses: Sequence[ClipStatus], store: MarkStore) -> Audit | None:
    """The audit of clips; `None` if the marks of a clip are missing."""
    clips = []
    for status in statuses:
        marks = store.read(status.digest)
        if marks is None:
            log.warning(
                "%s: its marks are missing, so clips are not compared; run extract again", status.clip.id
            )
            return None
        clips.append(AuditedClip(status.clip.id, status.group, status.file_sha256, marks))
    with ProgressBar("Comparing clips", transient=True):
        return Audit(RULES, find_duplicates(clips))


def audit_cache(cache: FeatureCache) -> Audit | None:
    """The audit of the current clips, as stored or made now; `None` if the marks of a clip are missing."""
    known = read_audit(cache)
    if known is not None and known.rules == RULES:
        return known
    audit = audit_clips(cache.clips, open_mark_store(cache))
    if audit is not None:
        write_audit(cache, audit)
    return audit


def describe_audit(audit: Audit) -> Iterator[str]:
    """The pairs of different groups as lines for the user, what to do, and how many are in one group."""
    across = [finding for finding in audit.findings if not finding.grouped]
    if across:
        similar = _pairs(finding for finding in across if finding.kind != "name")
        pairs = "pair" if len(similar) == 1 else "pairs"
        yield (
            f"{len(similar)} {pairs} of clips of different groups may be duplicates, "
            f"{len(_pairs(across) - similar)} more by name:"
        )
        yield from (f"  {_describe(finding)}" for finding in across)
        yield f"  {REMEDY}"
    else:
        yield "no clips of different groups have similar audio, frames or names"
    if together := _pairs(finding for finding in audit.findings if finding.grouped):
        pairs = "pair is" if len(together) == 1 else "pairs are"
        yield f"{len(together)} similar {pairs} in one group already"


def _pairs(findings: Iterable[Finding]) -> set[frozenset[str]]:
    """The pairs of clips of findings; a pair may have several, such as similar audio and numbered names."""
    return {frozenset((finding.first, finding.second)) for finding in findings}


def _describe(finding: Finding) -> str:
    kinds = {
        "file": "same file",
        "name": "numbered names",
        "sound": "similar audio",
        "frames": "similar frames",
    }
    text = f"{kinds[finding.kind]}: {finding.first} and {finding.second}"
    if not finding.length_s:
        return text
    where = f"from {finding.first_s:.1f} s and {finding.second_s:.1f} s for {finding.length_s:.1f} s"
    return f"{text}, {where}, score {finding.score:.3f}"
