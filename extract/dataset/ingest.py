"""Decode each clip of a dataset once, and record whether it can be used.

A clip is stored only after it has been validated: first its marks for the duplicate audit, then its outcome,
then what the caller keeps of the decoded media.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from moodfuse.cache.audits import ClipMarks, MarkStore
from moodfuse.cache.digests import clip_digest
from moodfuse.cache.folds import join_groups
from moodfuse.cache.records import Clip, ClipStatus, ExtraMedia, Outcome
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.terminal import track
from moodfuse.extract.dataset.fingerprints import find_audio_peaks, hash_frames
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import MEDIA_RULES, SHORT_SIDE_PX, DecodedClip
from moodfuse.extract.media.limits import MAX_FILE_BYTES, ReadingRules
from moodfuse.extract.media.pool import DecodeRequest, decode_many
from moodfuse.extract.pending import shared_chunks
from moodfuse.extract.progress import FailureCounter
from moodfuse.extract.runtime import import_torch_in_background

# Raise the number whenever fingerprints change.
MARK_RULES = f"{MEDIA_RULES}, marks 1"
# Raise the number when files are read that were refused before, so that they are tried again.
REFUSAL_RULES = f"{MEDIA_RULES}, refusals 2"
# These depend on where a file is or on this machine, not on the content that its digest names.
_RETRIED = frozenset({"missing", "not_a_file", "unreadable", "empty", "changed", "timeout", "memory"})
_WITHOUT_STREAM = frozenset({"no_audio", "no_video"})
_INCOMPLETE = frozenset({"truncated", "decode_failed"})
_PARTIAL = "partial"
_UNREAD = "unread"  # begins the key of a clip whose file could not be hashed


@dataclass(frozen=True)
class DecodeSettings:
    """How clips are decoded, in `jobs` worker processes; `impute` accepts clips without an audio or video
    stream.

    `on_decoded` is called with digest, clip and media of every decoded clip. Processes that share a cache
    take different chunks of `chunk` clips. `extra` is decoded too, for `on_decoded`.
    """

    jobs: int
    impute: bool = False
    rules: ReadingRules = field(default_factory=ReadingRules)
    on_decoded: Callable[[str, Clip, DecodedClip], None] | None = None
    chunk: int = 8
    extra: ExtraMedia = field(default_factory=ExtraMedia)


@lru_cache(1)  # it remembers the marks of the clips that were decoded last
def open_mark_store(cache: FeatureCache) -> MarkStore:
    """Where the marks of clips are stored."""
    return MarkStore(cache, MARK_RULES)


def compute_marks(decoded: DecodedClip) -> ClipMarks:
    """The marks of a decoded clip, which the duplicate audit compares."""
    peaks = find_audio_peaks(decoded.waveform[: decoded.waveform_samples])
    frames = hash_frames(decoded.frames, decoded.frame_times_s - decoded.start_s)
    return ClipMarks(*peaks, frames.hashes, frames.times_s)


def hash_files(clips: Iterable[Clip]) -> dict[str, str]:
    """SHA-256 of each clip's file by clip id; empty if it is no regular file, too large or unreadable."""
    paths = sorted({clip.path for clip in clips})
    digests = {path: _hash(path) for path in track(paths, total=len(paths), what="Reading files")}
    return {clip.id: digests[clip.path] for clip in clips}


def _hash(path: str) -> str:
    with suppress(OSError, ValueError):
        # Opening a pipe would wait for its writer.
        if os.path.isfile(path) and os.path.getsize(path) <= MAX_FILE_BYTES:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _file_state(path: str | Path) -> tuple[int, int] | None:
    """Size and time of the last change of a file; `None` if it cannot be read."""
    with suppress(OSError, ValueError):
        state = os.stat(path)
        return state.st_size, state.st_mtime_ns
    return None


def decode_dataset(cache: FeatureCache, clips: Sequence[Clip], decoding: DecodeSettings) -> list[ClipStatus]:
    """Status of every clip, in the order of `clips`; clips that the cache does not know are decoded."""
    states = {clip.path: _file_state(clip.path) for clip in clips}
    files = hash_files(clips)
    groups = join_groups(clips, files)
    keys = {clip.id: _key(clip, files[clip.id]) for clip in clips}
    outcomes = _find_reusable_outcomes(cache, set(keys.values()), decoding)
    wanted = {keys[clip.id]: clip for clip in clips if keys[clip.id] not in outcomes}
    tally = FailureCounter(decoding.rules)
    for key, name in {key: name for name, key in keys.items() if key in outcomes}.items():
        if not outcomes[key].ok:
            tally.count(name, outcomes[key].reason)

    def needed(digests: Sequence[str]) -> Iterable[str]:
        done = _find_reusable_outcomes(cache, digests, decoding)
        return [digest for digest in digests if digest not in done]

    outcomes |= decode_clips(cache, wanted, decoding, needed=needed, tally=tally, states=states)
    return [
        make_status(clip, outcomes[keys[clip.id]], file_sha256=files[clip.id], group=groups[clip.id])
        for clip in clips
    ]


def _key(clip: Clip, file_sha256: str) -> str:
    return clip_digest(file_sha256, clip.start_s, clip.end_s) if file_sha256 else f"{_UNREAD} {clip.id}"


def _find_reusable_outcomes(
    cache: FeatureCache, keys: Iterable[str], decoding: DecodeSettings
) -> dict[str, Outcome]:
    """Recorded outcomes of clips; those of usable clips count only if their marks are stored too."""
    marks = open_mark_store(cache)
    known = _known_outcomes(cache, keys, decoding)
    return {digest: outcome for digest, outcome in known.items() if not outcome.ok or marks.holds(digest)}


def _known_outcomes(cache: FeatureCache, keys: Iterable[str], decoding: DecodeSettings) -> dict[str, Outcome]:
    """Recorded outcomes under the present decoder and rules; a usable one is preferred."""
    known = {}
    for digest, outcomes in cache.outcomes([key for key in keys if not key.startswith(_UNREAD)]).items():
        if valid := [outcome for outcome in outcomes if _is_valid(outcome, decoding)]:
            known[digest] = max(valid, key=lambda outcome: outcome.ok)
    return known


def _is_valid(outcome: Outcome, decoding: DecodeSettings) -> bool:
    """Whether decoding the clip again would give the same outcome."""
    if outcome.decoder != (MEDIA_RULES if outcome.ok else REFUSAL_RULES) or outcome.reason in _RETRIED:
        return False
    if outcome.reason in _WITHOUT_STREAM if decoding.impute else outcome.missing:
        return False
    return outcome.reason not in (_INCOMPLETE if decoding.rules.allow_partial else {_PARTIAL})


def decode_clips(
    cache: FeatureCache,
    wanted: Mapping[str, Clip],
    decoding: DecodeSettings,
    *,
    needed: Callable[[Sequence[str]], Iterable[str]],
    tally: FailureCounter | None = None,
    states: Mapping[str, tuple[int, int] | None] | None = None,
) -> dict[str, Outcome]:
    """Decode clips, by digest, and store their marks and outcomes; returns the outcomes.

    `needed` is called with each chunk of digests just before it is decoded, since another process may have
    decoded it already. A file whose size or time differs from `states`, taken before hashing, is refused.
    """
    if not wanted:
        return {}
    tally = tally or FailureCounter(decoding.rules)
    keys: dict[DecodeRequest, str] = {}

    def requests() -> Iterator[DecodeRequest]:
        for chunk in shared_chunks(sorted(wanted), decoding.chunk):
            for key in needed(chunk):
                clip = wanted[key]
                request = DecodeRequest(
                    Path(clip.path),
                    clip.start_s,
                    clip.end_s,
                    SHORT_SIDE_PX,
                    decoding.impute,
                    allow_partial=decoding.rules.allow_partial,
                    extra=decoding.extra,
                )
                keys[request] = key
                yield request

    if decoding.on_decoded is not None:
        import_torch_in_background()
    marks, outcomes = open_mark_store(cache), dict[str, Outcome]()
    results = decode_many(requests(), jobs=min(decoding.jobs, len(wanted)), limits=decoding.rules.limits)
    with closing(track(results, total=len(wanted), what="Decoding")) as tracked:
        for request, result in tracked:
            key = keys[request]
            is_hashed = not key.startswith(_UNREAD)
            if isinstance(result, DecodedClip) and not is_hashed:
                result = MediaError("missing", request.path, "the file was unreadable when it was hashed")
            state = _file_state(request.path)
            if state is not None and states and state != states[wanted[key].path]:
                result = MediaError("changed", request.path)
            outcomes[key] = outcome = make_outcome(key, result)
            if isinstance(result, DecodedClip):
                marks.write(key, compute_marks(result))
            if is_hashed:
                cache.write_outcome(outcome)
            if isinstance(result, DecodedClip) and decoding.on_decoded is not None:
                decoding.on_decoded(key, wanted[key], result)
            if not outcome.ok:
                tally.count(wanted[key].id, outcome.reason)
    return outcomes | _known_outcomes(cache, wanted.keys() - outcomes.keys(), decoding)


def make_outcome(digest: str, result: DecodedClip | MediaError) -> Outcome:
    """The record of a decoded clip or of its refusal."""
    if not isinstance(result, DecodedClip):
        return Outcome(digest, False, reason=result.code, detail=result.sentence, decoder=REFUSAL_RULES)
    partial, damaged = result.partial, result.damaged
    details = (partial, f"{damaged} packets or frames are damaged" if damaged else "")
    return Outcome(
        digest,
        True,
        reason=_PARTIAL if partial else "",
        detail="; ".join(filter(None, details)),
        duration_s=result.end_s - result.start_s,
        decoder=MEDIA_RULES,
        missing=result.missing,
    )


def make_status(clip: Clip, outcome: Outcome, *, file_sha256: str, group: str) -> ClipStatus:
    """The status of a clip with this outcome; it has no digest if its file could not be hashed."""
    values = {name: getattr(outcome, name) for name in ("ok", "reason", "detail", "duration_s", "missing")}
    digest = outcome.digest if file_sha256 else ""
    return ClipStatus(clip, digest, file_sha256, group, decoder=MEDIA_RULES, **values)


def decode_again(
    cache: FeatureCache,
    wanted: Mapping[str, Clip],
    decoding: DecodeSettings,
    *,
    needed: Callable[[Sequence[str]], Iterable[str]],
) -> None:
    """Decode clips that were usable before; raises `MediaError` if one cannot be read now."""
    rules = replace(decoding.rules, allow_partial=True, max_failures=None)
    decoding = replace(decoding, impute=True, rules=rules)
    for key, outcome in decode_clips(cache, wanted, decoding, needed=needed).items():
        if not outcome.ok:
            path = wanted[key].path
            raise MediaError(outcome.reason, path, "it could be read before; the file was changed or removed")
