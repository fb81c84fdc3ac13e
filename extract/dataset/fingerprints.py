"""Fingerprints of audio and frames, and a search for pairs of clips that share them.

Audio: peaks of the spectrogram are joined in pairs; a pair's two frequencies and their distance in time are
its hash, as in Wang 2003 (An industrial-strength audio search algorithm, ISMIR). Frames: the signs of the
lowest frequencies of a discrete cosine transform of the luma (Zauner 2010, Implementation and benchmarking of
perceptual image hash functions).

Two clips are similar if many of their hashes agree at one distance in time. Hashes that are equal by chance
agree at all distances, so the largest number of hashes at one distance is what counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
WINDOW, HOP = 1024, 512
PEAK_BINS, PEAK_FRAMES = 12, 8
FLOOR_DB = 60.0  # peaks further below the loudest one are left out
SILENCE = 1e-4  # audio that never exceeds this has no fingerprint
FAN_OUT = 16  # peaks that each peak is joined with; more find weaker similarity and take more memory
SPAN_FRAMES = (2, 64)
PEAKS_PER_S = 25

HASH_SIDE, LUMA_SIDE = 8, 32
FLAT = 6.0  # frames whose luma deviates less (of 255) are black or plain and have no fingerprint
NEAR_BITS = 6  # frames are similar if their hashes differ in at most this many of 64 bits
BAND_BITS = 16  # frames are compared if one of the four bands of their hashes is equal

MAX_PER_HASH = 40  # a hash that occurs more often, such as that of a steady tone, joins no pair
AUDIO_TOLERANCE_S, FRAME_TOLERANCE_S = 0.064, 1.0  # frames are about a second apart
_OFFSETS = 1 << 20  # more than the number of distances in time that two clips can have

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Marks:
    """Fingerprint of one clip: `hashes`, uint64 [M], and `times_s`, float64 [M], from the clip's start."""

    hashes: NDArray[np.uint64]
    times_s: NDArray[np.float64]


NO_MARKS = Marks(np.zeros(0, np.uint64), np.zeros(0))


@dataclass(frozen=True)
class Match:
    """Two clips, by index, of which many hashes agree at one distance in time.

    The similar stretch begins at `first_s` and `second_s`; `share` is the number of hashes that agree over
    those that the clip with fewer of them has in it.
    """

    first: int
    second: int
    share: float
    first_s: float
    second_s: float
    length_s: float


def find_audio_peaks(waveform: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Spectrogram peaks of mono audio at 16 kHz, in order of time: hops and frequency bins, uint16 [P]."""
    from scipy.ndimage import maximum_filter

    if not len(waveform) or np.abs(waveform).max() < SILENCE:
        return np.zeros(0, np.uint16), np.zeros(0, np.uint16)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, (0, WINDOW)), WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)) + 1e-9
    level = 20 * np.log10(power)
    around = maximum_filter(level, size=(2 * PEAK_FRAMES + 1, 2 * PEAK_BINS + 1))
    times, bins = np.nonzero((level == around) & (level > level.max() - FLOOR_DB))
    most = int(PEAKS_PER_S * len(frames) * HOP / SAMPLE_RATE_HZ) + 1
    if len(times) > most:
        loudest = np.sort(np.argsort(-level[times, bins], kind="stable")[:most])
        times, bins = times[loudest], bins[loudest]
    return times.astype(np.uint16), bins.astype(np.uint16)


def join_peaks(times: NDArray[np.uint16], bins: NDArray[np.uint16], *, fan_out: int = FAN_OUT) -> Marks:
    """Fingerprint from the peaks of `find_audio_peaks`, each joined with up to `fan_out` that follow it."""
    if not len(times):
        return NO_MARKS
    hops, rows = times.astype(np.int64), bins.astype(np.int64)
    hashes, starts = [], []
    for step in range(1, fan_out + 1):
        distance = hops[step:] - hops[:-step]
        good = (distance >= SPAN_FRAMES[0]) & (distance <= SPAN_FRAMES[1])
        hashes.append((rows[:-step][good] << 16) | (rows[step:][good] << 6) | (distance[good] - 1))
        starts.append(hops[:-step][good])
    times_s = np.concatenate(starts).astype(np.float64) * (HOP / SAMPLE_RATE_HZ)
    return Marks(np.concatenate(hashes).astype(np.uint64), times_s)


def hash_frames(frames: NDArray[np.uint8], times_s: NDArray[np.float64]) -> Marks:
    """Fingerprint of frames, uint8 [T, H, W, 3], at `times_s` from the clip's start.

    Plain frames are left out, and frames similar to the one before, so that a still counts once.
    """
    from PIL import Image
    from scipy.fft import dctn

    hashes: list[int] = []
    kept: list[float] = []
    for frame, time_s in zip(frames, times_s, strict=True):
        luma = Image.fromarray(frame).convert("L").resize((LUMA_SIDE, LUMA_SIDE), Image.Resampling.BOX)
        small = np.asarray(luma)
        if small.std() < FLAT:
            continue
        low = dctn(small.astype(np.float64), norm="ortho")[: HASH_SIDE + 1, : HASH_SIDE + 1].ravel()[1:65]
        value = int(np.packbits(low > np.median(low)).view(">u8")[0])
        if hashes and (value ^ hashes[-1]).bit_count() <= NEAR_BITS:
            continue
        hashes.append(value)
        kept.append(float(time_s))
    return Marks(np.array(hashes, dtype=np.uint64), np.array(kept))


def match_audio(marks: Sequence[Marks], *, least: int) -> list[Match]:
    """Pairs of clips with `least` or more audio hashes that agree at one distance in time."""
    hashes = np.concatenate([NO_MARKS.hashes, *(clip.hashes for clip in marks)])
    one, other = _equal_pairs(hashes, np.arange(len(hashes)))
    return _find_matches(marks, one, other, tolerance_s=AUDIO_TOLERANCE_S, least=least)


def match_frames(marks: Sequence[Marks], *, least: int) -> list[Match]:
    """Pairs of clips with `least` or more similar frames at one distance in time."""
    hashes = np.concatenate([NO_MARKS.hashes, *(clip.hashes for clip in marks)])
    shifts = np.arange(0, 64, BAND_BITS, dtype=np.uint64)[:, None]
    bands = ((hashes >> shifts) & np.uint64((1 << BAND_BITS) - 1)) | (shifts << np.uint64(BAND_BITS))
    one, other = _equal_pairs(bands.ravel(), np.tile(np.arange(len(hashes)), len(shifts)))
    near = np.bitwise_count(hashes[one] ^ hashes[other]) <= NEAR_BITS
    one, other = np.unique(np.stack([one[near], other[near]]), axis=1)
    return _find_matches(marks, one, other, tolerance_s=FRAME_TOLERANCE_S, least=least)


def _equal_pairs(keys: NDArray[np.uint64], rows: Rows) -> tuple[Rows, Rows]:
    """All pairs of rows with equal keys."""
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    sizes = np.diff(np.append(starts, len(keys)))
    used = np.repeat(np.where(sizes > MAX_PER_HASH, 1, sizes), sizes)
    # How many rows with the same key come after each row.
    followers = used - 1 - (np.arange(len(keys)) - np.repeat(starts, sizes))
    positions = np.flatnonzero(followers > 0)
    ones, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for lag in range(1, MAX_PER_HASH):
        positions = positions[followers[positions] >= lag]
        ones.append(rows[positions])
        others.append(rows[positions + lag])
    return np.concatenate(ones), np.concatenate(others)


def _find_matches(
    marks: Sequence[Marks], one: Rows, other: Rows, *, tolerance_s: float, least: int
) -> list[Match]:
    """Pairs of clips among agreeing hashes, by their rows, each at the distance in time where most agree."""
    times_s = np.concatenate([NO_MARKS.times_s, *(clip.times_s for clip in marks)])
    clips = np.repeat(np.arange(len(marks)), [len(clip.hashes) for clip in marks])
    apart = clips[one] != clips[other]
    one, other = one[apart], other[apart]
    steps = np.round((times_s[other] - times_s[one]) / tolerance_s).astype(np.int64)
    pair = clips[one] * len(marks) + clips[other]
    keys, bins, counts = np.unique(
        pair * _OFFSETS + steps + _OFFSETS // 2, return_inverse=True, return_counts=True
    )
    follows = np.append(keys[1:] == keys[:-1] + 1, False)
    # A distance between two neighbouring bins spreads its agreement over both.
    both = counts + np.where(follows, np.append(counts[1:], 0), 0)
    best: dict[int, int] = {}
    for number in np.flatnonzero(both >= least):
        owner = int(keys[number] // _OFFSETS)
        if owner not in best or both[number] > both[best[owner]]:
            best[owner] = int(number)
    matches = []
    for at in best.values():
        rows = (bins == at) | ((bins == at + 1) & follows[at])
        first, second = int(clips[one[rows][0]]), int(clips[other[rows][0]])
        first_s, second_s = times_s[one[rows]], times_s[other[rows]]
        size = min(_count_between(marks[first], first_s), _count_between(marks[second], second_s))
        count = min(len(np.unique(one[rows])), len(np.unique(other[rows])))
        length_s = float(max(np.ptp(first_s), np.ptp(second_s)))
        share = min(1.0, count / size)
        matches.append(Match(first, second, share, float(first_s.min()), float(second_s.min()), length_s))
    return matches


def _count_between(marks: Marks, times_s: NDArray[np.float64]) -> int:
    return int(((marks.times_s >= times_s.min()) & (marks.times_s <= times_s.max())).sum())
