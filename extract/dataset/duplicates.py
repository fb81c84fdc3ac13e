"""The group audit: pairs of clips that may be one song or one video, so that no split parts them.

Four signs are looked for: identical files, sound, frames, and names that count parts of a whole. The thresholds are
measured in `docs/audit.md`; sound and frames are compared as `moodfuse.extract.dataset.fingerprints` says.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from moodfuse.cache.audits import Audit, Finding, read_audit, write_audit
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.fingerprints import (
    FAN_OUT,
    NO_MARKS,
    Marks,
    Match,
    find_frames,
    find_sounds,
    frame_marks,
    marks_of_peaks,
    sound_marks,
)
from moodfuse.extract.dataset.ingest import mark_store
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.progress import track

log = logging.getLogger(__name__)
LEAST_SOUND = 12
"""Landmarks that must agree: no two different recordings among 52 clips shared more than 8."""
LEAST_FRAMES = 3
"""Different frames that must be alike: no two different videos among 52 clips shared one."""
MANY_CLIPS = 1000
"""From so many clips on fewer landmarks are kept, to bound the memory."""
FAN_OUT_OF_MANY = 6
FRAME_SIDE_PX = 64
LONGEST_COUNT = 12
"""A longer row of consecutive numbers, such as camera files, says nothing."""
RULES = (
    f"version 1: {LEAST_SOUND} landmarks of the sound or {LEAST_FRAMES} frames alike at one distance in time; "
    "identical files; names that count"
)
REMEDY = "if they are one, give them one group: a CSV with the column 'group', or --group-pattern REGEX"
_WINDOW = re.compile(r"@[\d.]+-[\d.]*$")
_K_OF_N = re.compile(r"^(?P<stem>.*?)[\s_.([-]*(?P<k>\d+)[\s_-]*of[\s_-]*(?P<n>\d+)[)\]]*$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<stem>.*[A-Za-z].*?)\s*\((?P<k>\d+)\)$")


@dataclass(frozen=True)
class Audited:
    """A clip as the audit sees it; marks are empty where it was not decoded."""

    id: str
    group: str
    file_sha256: str
    sound: Marks = NO_MARKS
    frames: Marks = NO_MARKS


def find_duplicates(clips: Sequence[Audited]) -> tuple[Finding, ...]:
    """Pairs of clips that may be one: those across groups first, then by kind, the likest first.

    Parameters
    ----------
    clips : sequence of Audited
    """
    found = [
        *_same_files(clips),
        *(
            _finding("sound", clips, item)
            for item in find_sounds([clip.sound for clip in clips], least=LEAST_SOUND)
        ),
        *(
            _finding("frames", clips, item)
            for item in find_frames([clip.frames for clip in clips], least=LEAST_FRAMES)
        ),
        *_counted_names(clips),
    ]
    same = {(item.first, item.second) for item in found if item.kind == "file"}
    kept = [item for item in found if item.kind == "file" or (item.first, item.second) not in same]
    order = ("file", "sound", "frames", "name")
    return tuple(sorted(kept, key=lambda i: (i.grouped, order.index(i.kind), -i.score, i.first, i.second)))


def _finding(kind: str, clips: Sequence[Audited], match: Match) -> Finding:
    one, other = clips[match.first], clips[match.second]
    times = (round(match.first_s, 3), round(match.second_s, 3), round(match.length_s, 3))
    return Finding(kind, one.id, other.id, round(match.share, 6), *times, grouped=one.group == other.group)


def _same_files(clips: Sequence[Audited]) -> Iterator[Finding]:
    """Neighbours among the clips of one file's bytes that are different files."""
    same: dict[str, list[Audited]] = defaultdict(list)
    for clip in clips:
        if clip.file_sha256:
            same[clip.file_sha256].append(clip)
    for members in same.values():
        for one, other in pairwise(members):
            if _path_of(one) != _path_of(other):
                yield Finding("file", one.id, other.id, 1.0, 0.0, 0.0, 0.0, grouped=one.group == other.group)


def _path_of(clip: Audited) -> str:
    """The clip's id without its window."""
    return _WINDOW.sub("", clip.id)


def _counted_names(clips: Sequence[Audited]) -> Iterator[Finding]:
    """Neighbours among names such as ``song-1-of-3`` and ``song-2-of-3``, or ``video(4)`` and ``video(5)``."""
    parts: dict[tuple[str, str, str], list[tuple[int, Audited]]] = defaultdict(list)
    numbered: dict[tuple[str, str], list[tuple[int, Audited]]] = defaultdict(list)
    for clip in clips:
        path = PurePath(_path_of(clip))
        if match := _K_OF_N.match(path.stem):
            parts[str(path.parent), match["stem"].casefold(), str(int(match["n"]))].append(
                (int(match["k"]), clip)
            )
        elif match := _NUMBERED.match(path.stem):
            numbered[str(path.parent), match["stem"]].append((int(match["k"]), clip))
    for members in parts.values():
        for (_, one), (_, other) in pairwise(sorted(members, key=lambda item: (item[0], item[1].id))):
            yield _named(one, other)
    for members in numbered.values():
        ranked = sorted(members, key=lambda item: (item[0], item[1].id))
        pairs = [(one, other) for (k, one), (after, other) in pairwise(ranked) if after == k + 1]
        if len(pairs) < LONGEST_COUNT:
            yield from (_named(one, other) for one, other in pairs)


def _named(one: Audited, other: Audited) -> Finding:
    return Finding("name", one.id, other.id, 0.5, 0.0, 0.0, 0.0, grouped=one.group == other.group)


def audit_cache(cache: FeatureCache) -> Audit | None:
    """The audit of the clips in force, made from their marks unless the cache holds it; `None` where some are gone."""
    known = read_audit(cache)
    if known is not None and known.rules == RULES:
        return known
    store, clips = mark_store(cache), []
    fan_out = fan_out_for(len(cache.clips))
    for status in track(cache.clips, total=len(cache.clips), what="Comparing clips"):
        marks = store.read(status.digest)
        if marks is None:
            log.warning(
                "%s: its marks are gone, so the clips are not compared; run extract again", status.clip.id
            )
            return None
        sound = marks_of_peaks(marks.peak_times, marks.peak_bins, fan_out=fan_out)
        clips.append(_audited(status, sound, Marks(marks.frame_hashes, marks.frame_times_s)))
    audit = audit_of(clips)
    write_audit(cache, audit)
    return audit


def compared(status: ClipStatus, decoded: DecodedClip, *, fan_out: int) -> Audited:
    """What is compared of a clip that was decoded for it.

    Parameters
    ----------
    status : ClipStatus
    decoded : DecodedClip
        With frames of a short side of `FRAME_SIDE_PX` or more.
    fan_out : int
        As `fan_out_for` gives it for all clips.
    """
    sound = sound_marks(decoded.waveform[: decoded.waveform_samples], fan_out=fan_out)
    return _audited(status, sound, frame_marks(decoded.frames, decoded.frame_times_s - decoded.start_s))


def audit_of(clips: Sequence[Audited]) -> Audit:
    """The audit of clips."""
    return Audit(RULES, find_duplicates(clips))


def fan_out_for(clips: int) -> int:
    """How many landmarks to keep, so that thousands of clips fit into memory."""
    return FAN_OUT if clips < MANY_CLIPS else FAN_OUT_OF_MANY


def _audited(status: ClipStatus, sound: Marks, frames: Marks) -> Audited:
    return Audited(status.clip.id, status.group, status.file_sha256, sound, frames)


def audit_lines(audit: Audit) -> Iterator[str]:
    """An audit in words: pairs across groups, a remedy, and how many are in one group already."""
    across = [item for item in audit.findings if not item.grouped]
    strong = [item for item in across if item.kind != "name"]
    if not across:
        yield "no two clips of different groups look, sound or are named alike"
    else:
        yield f"{len(strong)} pairs of clips of different groups may be one, {len(across) - len(strong)} more by name:"
        yield from (f"  {sentence(item)}" for item in across)
        yield f"  {REMEDY}"
    if together := len(audit.findings) - len(across):
        yield f"{together} pairs are alike and in one group already"


def sentence(finding: Finding) -> str:
    """One finding in words, with times and score."""
    pair = f"{finding.first} and {finding.second}"
    if finding.kind == "file":
        return f"same file: {pair}"
    if finding.kind == "name":
        return f"names that count: {pair}"
    where = f"from {finding.first_s:.1f} s and {finding.second_s:.1f} s for {finding.length_s:.1f} s"
    return f"{finding.kind} alike: {pair}, {where}, score {finding.score:.3f}"
