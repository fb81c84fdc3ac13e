"""What becomes of each declared clip: its digest, its group, and whether it can be decoded.

Each clip is decoded once for all that want it: its marks are kept for the audit, then what became of it, then whoever
decodes takes what it needs. In this order nothing is kept of a clip of which it is not on record that it is good.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from moodfuse.cache.audits import ClipMarks, MarkStore
from moodfuse.cache.digests import clip_digest
from moodfuse.cache.folds import join_groups
from moodfuse.cache.records import Clip, ClipStatus, Outcome
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.fingerprints import frame_marks, sound_peaks
from moodfuse.extract.dataset.hashing import State, hash_files, state_of, states_of
from moodfuse.extract.failures import Tally
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.limits import ReadingRules
from moodfuse.extract.media.pool import DecodeRequest, decode_many
from moodfuse.extract.media.renditions import MEDIA_RULES, SHORT_SIDE_PX
from moodfuse.extract.progress import track
from moodfuse.extract.runtime import load_torch_meanwhile
from moodfuse.extract.sharing import shared_pieces

log = logging.getLogger(__name__)
MARK_RULES = f"{MEDIA_RULES}, marks 1"
"""What decides the marks of a clip; raise the number whenever those of `moodfuse.extract.dataset.fingerprints` change."""
REFUSAL_RULES = f"{MEDIA_RULES}, refusals 2"
"""What decides that a clip is refused; raise the number when files are read that were refused, so that they are tried
again. Clips that could be read keep their records."""
OF_THE_PATH = frozenset({"missing", "not_a_file", "unreadable", "empty", "changed"})
"""Said of where a file is, not of the bytes that the record names: they went away after they were hashed."""
RETRIED = frozenset({"timeout", "memory"}) | OF_THE_PATH
LACKING = frozenset({"no_audio", "no_video"})
INCOMPLETE = frozenset({"truncated", "decode_failed"})
PARTIAL = "partial"
"""Marks a clip that was taken although less than 95 % of it could be decoded."""
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
    rules : ReadingRules
        What each clip may cost, and which are taken.
    take : callable, optional
    piece : int
        So many clips are decoded one after the other, sorted by digest; processes at one cache share such pieces.
    hashed : mapping of str to State or None
        By its path, what each file was as it was hashed; of one that is another by then nothing is kept.
    """

    jobs: int
    impute: bool = False
    rules: ReadingRules = field(default_factory=ReadingRules)
    take: Take | None = None
    piece: int = 1
    hashed: Mapping[str, State | None] = field(default_factory=dict)


def mark_store(cache: FeatureCache) -> MarkStore:
    """Where the marks of the clips stand."""
    return MarkStore(cache, MARK_RULES)


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
    decoding = replace(decoding, hashed=states_of(clips))
    files = hash_files(clips)
    groups = join_groups(clips, files)
    keys = {clip.id: _key(clip, files[clip.id]) for clip in clips}
    names = {key: name for name, key in keys.items()}

    def statuses(outcomes: Mapping[str, Outcome]) -> list[ClipStatus]:
        return [
            status_of(clip, outcomes[keys[clip.id]], file_sha256=files[clip.id], group=groups[clip.id])
            for clip in clips
        ]

    known = settled(cache, {key for key in keys.values() if not key.startswith(UNREAD)}, decoding)
    tally = Tally(decoding.rules)
    for key in dict.fromkeys(keys.values()):
        if key in known:
            tally.count(names[key], "" if known[key].ok else known[key].reason)
    wanted = {keys[clip.id]: clip for clip in clips if keys[clip.id] not in known}
    if wanted and foresee is not None:
        foresee(
            statuses({**{key: Outcome(key, not key.startswith(UNREAD)) for key in wanted}, **known}), wanted
        )

    def unsettled(key: str) -> bool:
        return key not in settled(cache, [key], decoding)

    return statuses(known | decode_clips(cache, wanted, decoding, lacking=unsettled, tally=tally))


def settled(cache: FeatureCache, digests: Iterable[str], decoding: Decoding) -> dict[str, Outcome]:
    """What is on record of clips, of those that can be read only where their marks are kept too."""
    marks = mark_store(cache)
    known = known_outcomes(cache, digests, decoding)
    return {digest: outcome for digest, outcome in known.items() if not outcome.ok or marks.holds(digest)}


def known_outcomes(cache: FeatureCache, digests: Iterable[str], decoding: Decoding) -> dict[str, Outcome]:
    """What is on record of clips under the present decoder and rules; of several records one that went well."""
    found = {}
    for digest, outcomes in cache.outcomes(digests).items():
        fitting = [
            item
            for item in outcomes
            if item.decoder == (MEDIA_RULES if item.ok else REFUSAL_RULES) and _holds(item, decoding)
        ]
        if fitting:
            found[digest] = max(fitting, key=lambda item: item.ok)
    return found


def _holds(outcome: Outcome, decoding: Decoding) -> bool:
    """Whether decoding the clip again could come to nothing else: it was judged under the same rules."""
    if outcome.reason in RETRIED:
        return False
    other_views = outcome.reason in LACKING if decoding.impute else bool(outcome.missing)
    return not other_views and outcome.reason not in (
        INCOMPLETE if decoding.rules.allow_partial else {PARTIAL}
    )


def _key(clip: Clip, file_sha256: str) -> str:
    return clip_digest(file_sha256, clip.start_s, clip.end_s) if file_sha256 else f"{UNREAD} {clip.id}"


def status_of(clip: Clip, outcome: Outcome, *, file_sha256: str, group: str) -> ClipStatus:
    """A clip's status from what came of it; without a digest where the file gave no bytes to name it by."""
    return ClipStatus(
        clip=clip,
        digest=outcome.digest if file_sha256 else "",
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
    cache: FeatureCache,
    wanted: Mapping[str, Clip],
    decoding: Decoding,
    *,
    lacking: Callable[[str], bool],
    tally: Tally | None = None,
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
    tally : Tally, optional
        Counts the clips, beside those that it has counted before.
    """
    tally = tally or Tally(decoding.rules)
    marks, outcomes = mark_store(cache), dict[str, Outcome]()
    under_way: deque[str] = deque()
    with closing(_results(wanted, decoding, lacking, under_way)) as results:
        for result in track(results, total=len(wanted), what="Decoding"):
            key = under_way.popleft()
            outcomes[key] = outcome_of(key, result)
            if isinstance(result, DecodedClip) and not marks.holds(key):
                marks.write(key, marks_of(result))
            if not key.startswith(UNREAD):
                cache.write_outcome(outcomes[key])
            if isinstance(result, DecodedClip) and decoding.take is not None:
                decoding.take(key, wanted[key], result)
            tally.count(wanted[key].id, "" if outcomes[key].ok else outcomes[key].reason)
    return outcomes | known_outcomes(cache, wanted.keys() - outcomes.keys(), decoding)


def _results(
    wanted: Mapping[str, Clip], decoding: Decoding, lacking: Callable[[str], bool], under_way: deque[str]
) -> Generator[DecodedClip | MediaError, None, None]:
    """What each clip gives, in turn; `under_way` holds the keys of those that were begun."""

    def requests() -> Iterator[DecodeRequest]:
        for key in chain.from_iterable(shared_pieces(sorted(wanted), decoding.piece)):
            if lacking(key):
                under_way.append(key)
                clip = wanted[key]
                yield DecodeRequest(
                    Path(clip.path),
                    clip.start_s,
                    clip.end_s,
                    SHORT_SIDE_PX,
                    one_view=decoding.impute,
                    allow_partial=decoding.rules.allow_partial,
                )

    if wanted:
        jobs = max(1, min(decoding.jobs, len(wanted)))
        if decoding.take is not None:
            load_torch_meanwhile()
        for request, result in decode_many(requests(), jobs=jobs, limits=decoding.rules.limits):
            yield _of_hashed(under_way[0], request.path, result, decoding.hashed)


def _of_hashed(
    key: str, path: Path, result: DecodedClip | MediaError, hashed: Mapping[str, State | None]
) -> DecodedClip | MediaError:
    """What was found, if it was found in the bytes that were hashed; otherwise that it was not."""
    if isinstance(result, MediaError) and result.code in OF_THE_PATH:
        return result
    if isinstance(result, DecodedClip) and key.startswith(UNREAD):
        return MediaError("missing", path, "it could not be read at first")
    name = str(path)
    return MediaError("changed", path) if name in hashed and hashed[name] != state_of(path) else result


def marks_of(decoded: DecodedClip) -> ClipMarks:
    """What an audit compares of a decoded clip."""
    peaks = sound_peaks(decoded.waveform[: decoded.waveform_samples])
    frames = frame_marks(decoded.frames, decoded.frame_times_s - decoded.start_s)
    return ClipMarks(*peaks, frames.hashes, frames.times_s)


def outcome_of(digest: str, result: DecodedClip | MediaError) -> Outcome:
    """What goes on record of a clip: of a refusal its reason, of a clip that was read what was wrong with it."""
    if not isinstance(result, DecodedClip):
        return Outcome(digest, False, reason=result.code, detail=result.sentence, decoder=REFUSAL_RULES)
    damaged = f"{result.damaged} packets or pictures are damaged" if result.damaged else ""
    return Outcome(
        digest,
        True,
        reason=PARTIAL if result.partial else "",
        detail="; ".join(filter(None, (result.partial, damaged))),
        duration_s=result.end_s - result.start_s,
        decoder=MEDIA_RULES,
        missing=result.missing,
    )


def decode_again(
    cache: FeatureCache, wanted: Mapping[str, Clip], decoding: Decoding, *, lacking: Callable[[str], bool]
) -> None:
    """Decode clips that could be read before, by whichever rules they were taken then.

    Raises
    ------
    MediaError
        If one cannot be read any more.
    """
    rules = replace(decoding.rules, allow_partial=True, max_failures=None)
    for key, outcome in decode_clips(
        cache, wanted, replace(decoding, impute=True, rules=rules), lacking=lacking
    ).items():
        if not outcome.ok:
            clip = wanted[key]
            raise MediaError(
                outcome.reason, clip.path, "it was read before; the file has changed or gone since"
            )
