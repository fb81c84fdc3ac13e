"""What becomes of each declared clip: its digest, its group, and whether it can be decoded. Decoded media is kept."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cache.folds import join_groups
from cache.identity import clip_digest, file_digest
from cache.media import Media, MediaStore
from cache.records import Clip, ClipStatus, Outcome
from cache.store import FeatureCache
from extract.media.container import REASONS, MediaError
from extract.media.decode import DECODER, DecodedClip
from extract.media.pool import DecodeRequest, decode_many
from extract.progress import track

log = logging.getLogger(__name__)
MEDIA_SHORT_SIDE_PX = 256
MEDIA_RULES = f"{DECODER}, short side {MEDIA_SHORT_SIDE_PX} px"
RETRIED = frozenset({"timeout", "memory"})
LACKING = frozenset({"no_audio", "no_video"})
UNREAD = "unread"
"""Begins the key of a clip whose file gave no bytes to name it by."""


def media_store(cache: FeatureCache) -> MediaStore:
    """The media store of the present decoder."""
    return MediaStore(cache, MEDIA_RULES)


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


def examine(cache: FeatureCache, clips: Sequence[Clip], *, jobs: int, impute: bool = False) -> list[ClipStatus]:
    """Status of every clip; what is not known yet is decoded and kept.

    Parameters
    ----------
    cache : FeatureCache
    clips : sequence of Clip
    jobs : int
        Decoding processes.
    impute : bool
        Whether a clip without sound or without picture is kept; otherwise it is refused.

    Returns
    -------
    list of ClipStatus, in the order of `clips`
    """
    files = hash_files(clips)
    groups = join_groups(clips, files)
    keys = {clip.id: _key(clip, files[clip.id]) for clip in clips}
    known = known_outcomes(cache, {key for key in keys.values() if not key.startswith(UNREAD)}, impute=impute)
    wanted = {keys[clip.id]: clip for clip in clips if keys[clip.id] not in known}
    known |= decode_and_keep(cache, wanted, jobs=jobs, impute=impute)
    return [_status(clip, keys[clip.id], files[clip.id], groups[clip.id], known[keys[clip.id]]) for clip in clips]


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


def decode_and_keep(
    cache: FeatureCache, wanted: Mapping[str, Clip], *, jobs: int, impute: bool = False
) -> dict[str, Outcome]:
    """Decode clips into the media store; outcome by the same keys. A bad clip costs itself alone."""
    store = media_store(cache)
    requests = [
        DecodeRequest(Path(clip.path), clip.start_s, clip.end_s, short_side_px=MEDIA_SHORT_SIDE_PX, partial=impute)
        for clip in wanted.values()
    ]
    results = decode_many(requests, jobs=max(1, min(jobs, len(requests)))) if requests else iter(())
    outcomes = {}
    for key, (_, result) in zip(wanted, track(results, total=len(requests), what="Decoding"), strict=True):
        if isinstance(result, DecodedClip):
            media = Media(result.frames, result.frame_times_s, result.waveform, result.waveform_samples)
            store.write(key, media)
        outcomes[key] = _outcome(key, result)
        if not key.startswith(UNREAD):
            cache.write_outcome(outcomes[key])
    return outcomes


def _outcome(digest: str, result: DecodedClip | MediaError) -> Outcome:
    if isinstance(result, DecodedClip):
        return Outcome(
            digest, True, duration_s=result.end_s - result.start_s, decoder=MEDIA_RULES, missing=result.missing
        )
    detail = REASONS[result.code] + (f" ({result.detail})" if result.detail else "")
    return Outcome(digest, False, reason=result.code, detail=detail, decoder=MEDIA_RULES)


def ensure_media(cache: FeatureCache, clips: Iterable[ClipStatus], *, jobs: int) -> None:
    """Decode again what features are wanted of and the media store no longer holds."""
    store = media_store(cache)
    wanted = {status.digest: status.clip for status in clips if store.find(status.digest, verify=True) is None}
    for key, outcome in decode_and_keep(cache, wanted, jobs=jobs, impute=True).items():
        if not outcome.ok:
            clip = wanted[key]
            raise MediaError(outcome.reason, clip.path, "it was read before; the file has changed or gone since")
