"""What becomes of each declared clip: its digest, its group, and whether it can be decoded.

Each clip is decoded once for all that want it: its marks are kept for the audit, then what became of it, then whoever
decodes takes what it needs. In this order nothing is kept of a clip of which it is not on record that it is good.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cache.audits import ClipMarks, MarkStore
from cache.folds import join_groups
from cache.identity import clip_digest, file_digest
from cache.records import Clip, ClipStatus, Outcome
from cache.store import FeatureCache
from extract.likeness import frame_marks, sound_peaks
from extract.media.container import REASONS, MediaError
from extract.media.decode import DecodedClip
from extract.media.pool import DecodeRequest, decode_many
from extract.media.renditions import MEDIA_RULES, SHORT_SIDE_PX
from extract.progress import track
from extract.sharing import shared_pieces

log = logging.getLogger(__name__)
MARK_RULES = f"{MEDIA_RULES}, marks 1"
"""What decides the marks of a clip; raise the number whenever those of `extract.likeness` change."""
RETRIED = frozenset({"timeout", "memory"})
LACKING = frozenset({"no_audio", "no_video"})
UNREAD = "unread"
"""Begins the key of a clip whose file gave no bytes to name it by."""
Take = Callable[[str, Clip, DecodedClip], None]
"""Takes what it needs of a clip that was decoded, given with its digest."""


@dataclass(frozen=True)
class Decoding:
    """How clips are decoded, and for whom.

    Attributes
    ----------
    jobs : int
        Decoding processes.
    impute : bool
        Whether a clip without sound or without picture is kept; otherwise it is refused.
    take : callable, optional
    piece : int
        So many clips are decoded one after the other, sorted by digest; processes at one cache share such pieces.
    """

    jobs: int
    impute: bool = False
    take: Take | None = None
    piece: int = 1


def mark_store(cache: FeatureCache) -> MarkStore:
    """Where the marks of the clips stand."""
    return MarkStore(cache, MARK_RULES)


def hash_files(clips: Iterable[Clip]) -> dict[str, str]:
    """Digest of each clip's file by clip id; empty where it is no regular file or cannot be read."""
    paths = sorted({clip.path for clip in clips})
    found = {path: _hash(Path(path)) for path in track(paths, total=len(paths), what="Reading files")}
    return {clip.id: found[clip.path] for clip in clips}


def _hash(path: Path) -> str:
    try:
        return file_digest(path) if path.is_file() else ""
    except OSError:
        return ""


def examine(
    cache: FeatureCache,
    clips: Sequence[Clip],
    decoding: Decoding,
    *,
    foresee: Callable[[list[ClipStatus], Collection[str]], object] | None = None,
) -> list[ClipStatus]:
    """Status of every clip; what is not known yet is decoded.

    Parameters
    ----------
    cache : FeatureCache
    clips : sequence of Clip
    decoding : Decoding
    foresee : callable, optional
        Given the statuses as they will be if every clip can be read, and the digests of those that have to be decoded,
        before any is; it may raise.

    Returns
    -------
    list of ClipStatus, in the order of `clips`
    """
    files = hash_files(clips)
    groups = join_groups(clips, files)
    keys = {clip.id: _key(clip, files[clip.id]) for clip in clips}

    def statuses(outcomes: Mapping[str, Outcome]) -> list[ClipStatus]:
        return [
            _status(clip, keys[clip.id], files[clip.id], groups[clip.id], outcomes[keys[clip.id]]) for clip in clips
        ]

    known = settled(cache, {key for key in keys.values() if not key.startswith(UNREAD)}, impute=decoding.impute)
    wanted = {keys[clip.id]: clip for clip in clips if keys[clip.id] not in known}
    if wanted and foresee is not None:
        foresee(statuses({**{key: Outcome(key, not key.startswith(UNREAD)) for key in wanted}, **known}), wanted)

    def unsettled(key: str) -> bool:
        return key not in settled(cache, [key], impute=decoding.impute)

    return statuses(known | decode_clips(cache, wanted, decoding, lacking=unsettled))


def settled(cache: FeatureCache, digests: Iterable[str], *, impute: bool) -> dict[str, Outcome]:
    """What is on record of clips, of those that can be read only where their marks are kept too."""
    marks = mark_store(cache)
    known = known_outcomes(cache, digests, impute=impute)
    return {digest: outcome for digest, outcome in known.items() if not outcome.ok or marks.holds(digest)}


def known_outcomes(cache: FeatureCache, digests: Iterable[str], *, impute: bool) -> dict[str, Outcome]:
    """What is on record of clips under the present decoder and rule; of several records one that went well."""
    found = {}
    for digest, outcomes in cache.outcomes(digests).items():
        fitting = [
            item
            for item in outcomes
            if item.decoder == MEDIA_RULES
            and item.reason not in RETRIED
            and not (item.reason in LACKING if impute else item.missing)  # judged under the other rule
        ]
        if fitting:
            found[digest] = max(fitting, key=lambda item: item.ok)
    return found


def _key(clip: Clip, file_sha256: str) -> str:
    return clip_digest(file_sha256, clip.start_s, clip.end_s) if file_sha256 else f"{UNREAD} {clip.id}"


def _status(clip: Clip, key: str, file_sha256: str, group: str, outcome: Outcome) -> ClipStatus:
    return ClipStatus(
        clip=clip,
        digest=key if file_sha256 else "",
        file_sha256=file_sha256,
        group=group,
        ok=outcome.ok,
        reason=outcome.reason,
        detail=outcome.detail,
        duration_s=outcome.duration_s,
        decoder=MEDIA_RULES,
        missing=outcome.missing,
    )


def decode_clips(
    cache: FeatureCache, wanted: Mapping[str, Clip], decoding: Decoding, *, lacking: Callable[[str], bool]
) -> dict[str, Outcome]:
    """Decode clips; outcome by the same keys. A bad clip costs itself alone.

    Parameters
    ----------
    cache : FeatureCache
    wanted : mapping of str to Clip
        By digest.
    decoding : Decoding
    lacking : callable
        Asked just before a clip is decoded whether it is wanted still: another process may have been quicker.
    """
    marks, outcomes = mark_store(cache), {}
    under_way: deque[str] = deque()
    with closing(_results(wanted, decoding, lacking, under_way)) as results:
        for result in track(results, total=len(wanted), what="Decoding"):
            key = under_way.popleft()
            outcomes[key] = _outcome(key, result)
            if isinstance(result, DecodedClip) and not marks.holds(key):
                marks.write(key, marks_of(result))
            if not key.startswith(UNREAD):
                cache.write_outcome(outcomes[key])
            if isinstance(result, DecodedClip) and decoding.take is not None:
                decoding.take(key, wanted[key], result)
    return outcomes | known_outcomes(cache, wanted.keys() - outcomes.keys(), impute=decoding.impute)


def _results(
    wanted: Mapping[str, Clip], decoding: Decoding, lacking: Callable[[str], bool], under_way: deque[str]
) -> Generator[DecodedClip | MediaError, None, None]:
    """What each clip gives, in turn; `under_way` holds the keys of those that were begun."""

    def requests() -> Iterator[DecodeRequest]:
        for key in chain.from_iterable(shared_pieces(sorted(wanted), decoding.piece)):
            if lacking(key):
                under_way.append(key)
                clip = wanted[key]
                yield DecodeRequest(Path(clip.path), clip.start_s, clip.end_s, SHORT_SIDE_PX, partial=decoding.impute)

    if wanted:
        for request, result in decode_many(requests(), jobs=max(1, min(decoding.jobs, len(wanted)))):
            unread = isinstance(result, DecodedClip) and under_way[0].startswith(UNREAD)
            yield MediaError("missing", request.path, "it could not be read at first") if unread else result


def marks_of(decoded: DecodedClip) -> ClipMarks:
    """What an audit compares of a decoded clip."""
    peaks = sound_peaks(decoded.waveform[: decoded.waveform_samples])
    frames = frame_marks(decoded.frames, decoded.frame_times_s - decoded.start_s)
    return ClipMarks(*peaks, frames.hashes, frames.times_s)


def _outcome(digest: str, result: DecodedClip | MediaError) -> Outcome:
    if isinstance(result, DecodedClip):
        return Outcome(
            digest, True, duration_s=result.end_s - result.start_s, decoder=MEDIA_RULES, missing=result.missing
        )
    detail = REASONS[result.code] + (f" ({result.detail})" if result.detail else "")
    return Outcome(digest, False, reason=result.code, detail=detail, decoder=MEDIA_RULES)


def decode_again(
    cache: FeatureCache, wanted: Mapping[str, Clip], decoding: Decoding, *, lacking: Callable[[str], bool]
) -> None:
    """Decode clips that could be read before.

    Raises
    ------
    MediaError
        If one cannot be read any more.
    """
    for key, outcome in decode_clips(cache, wanted, decoding, lacking=lacking).items():
        if not outcome.ok:
            clip = wanted[key]
            raise MediaError(outcome.reason, clip.path, "it was read before; the file has changed or gone since")
