"""Which clips sound or look alike: landmarks of the sound, hashes of the frames, and pairs found by an inverted index.

Sound: peaks of the spectrogram are joined in pairs, and a pair's two frequencies and their distance in time are its
hash, as in Wang 2003 (An industrial-strength audio search algorithm, ISMIR). Frames: the signs of the lowest
frequencies of a discrete cosine transform of the luma (Zauner 2010, Implementation and benchmarking of perceptual
image hash functions).

Two clips are alike where many of their marks agree at one distance in time. Marks that are equal by chance agree at
all distances, so what counts is the largest number at one of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
WINDOW, HOP = 1024, 512
PEAK_BINS, PEAK_FRAMES = 12, 8
FLOOR_DB = 60.0
"""Peaks more than so far below the loudest of the clip do not count."""
SILENCE = 1e-4
"""Sound that never passes this is silent and has no marks."""
FAN_OUT = 16
"""Peaks that each peak is joined with; more of them find fainter likeness and take more memory."""
SPAN_FRAMES = (2, 64)
PEAKS_PER_S = 25

HASH_SIDE, LUMA_SIDE = 8, 32
FLAT = 6.0
"""Frames whose luma deviates less (of 255) are black, white or plain and have no mark."""
NEAR_BITS = 6
"""Frames whose hashes differ in at most so many of 64 bits are alike."""

MOST_PER_HASH = 40
"""Hashes of more marks than this are commonplaces, such as a steady tone, and join no pair."""
PAIRS_AT_ONCE = 1 << 20
"""So many pairs of equal marks are held at a time, or those of one clip if these are more."""
BAND_BITS = 16
"""Frames are compared where one of four bands of their hashes is equal."""
SOUND_TOLERANCE_S, FRAME_TOLERANCE_S = 0.064, 1.0
"""Width of the distances in time that count as one; frames are about a second apart."""
SPREAD = 1 << 20
"""More than the number of distances in time that two clips can have."""


Places = NDArray[np.int64]
Pairs = tuple[Places, Places]
"""Places of marks that agree, in the row of all marks; the first of each two is of the clip that comes first."""


@dataclass(frozen=True)
class Marks:
    """Marks of one clip.

    Attributes
    ----------
    hashes : ndarray of uint64, shape (M,)
    times_s : ndarray of float64, shape (M,)
        From the clip's start.
    """

    hashes: NDArray[np.uint64]
    times_s: NDArray[np.float64]


NO_MARKS = Marks(np.zeros(0, np.uint64), np.zeros(0))


@dataclass(frozen=True)
class Match:
    """Two clips whose marks agree at one distance in time.

    Attributes
    ----------
    first, second : int
        Places of the clips, `first` before `second`.
    count : int
        Agreeing marks.
    share : float
        Of the marks that the clip with fewer of them has while they agree, in [0, 1].
    first_s, second_s, length_s : float
        Where the likeness begins in each clip, and how long it lasts.
    """

    first: int
    second: int
    count: int
    share: float
    first_s: float
    second_s: float
    length_s: float


def sound_marks(waveform: NDArray[np.float32], *, fan_out: int = FAN_OUT) -> Marks:
    """Landmarks of mono sound at 16 kHz, float32 [samples]; none where it is silent."""
    return marks_of_peaks(*sound_peaks(waveform), fan_out=fan_out)


def sound_peaks(waveform: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Peaks of the spectrogram of mono sound at 16 kHz, at most `PEAKS_PER_S`: hop and frequency bin of each, [P].

    They rise in time, and no peak is passed within a few bins and hops; there are none where it is silent.
    """
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


def marks_of_peaks(times: NDArray[np.uint16], bins: NDArray[np.uint16], *, fan_out: int = FAN_OUT) -> Marks:
    """Landmarks that the peaks of a sound make: each joined with up to `fan_out` of those that follow it."""
    if not len(times):
        return NO_MARKS
    return _pairs_of_peaks(times.astype(np.int64), bins.astype(np.int64), fan_out)


def _pairs_of_peaks(times: NDArray[np.int64], bins: NDArray[np.int64], fan_out: int) -> Marks:
    """Each peak with the next few that follow it within `SPAN_FRAMES`; rising times."""
    hashes, starts, ranks = [], [], []
    for step in range(1, fan_out + 1):
        distance = times[step:] - times[:-step]
        good = (distance >= SPAN_FRAMES[0]) & (distance <= SPAN_FRAMES[1])
        parts = (bins[:-step][good], bins[step:][good], distance[good] - 1)
        low, high, apart = (part.astype(np.uint64) for part in parts)
        hashes.append((low << np.uint64(16)) | (high << np.uint64(6)) | apart)
        starts.append(times[:-step][good])
        ranks.append(np.full(good.sum(), step))
    every, at = np.concatenate(hashes), np.concatenate(starts)
    order = np.lexsort((np.concatenate(ranks), at))
    return Marks(every[order], at[order].astype(np.float64) * (HOP / SAMPLE_RATE_HZ))


def frame_marks(frames: NDArray[np.uint8], times_s: NDArray[np.float64]) -> Marks:
    """Hashes of frames, uint8 [T, H, W, 3] at `times_s` from the clip's start.

    Black and plain frames have none, nor has a frame that is like the one marked before it: a still counts once.
    """
    from PIL import Image
    from scipy.fft import dctn

    hashes: list[int] = []
    kept: list[float] = []
    for frame, time_s in zip(frames, times_s, strict=True):
        small = np.asarray(
            Image.fromarray(frame).convert("L").resize((LUMA_SIDE, LUMA_SIDE), Image.Resampling.BOX)
        )
        if small.std() < FLAT:
            continue
        low = dctn(small.astype(np.float64), norm="ortho")[: HASH_SIDE + 1, : HASH_SIDE + 1].ravel()[1:65]
        value = int(np.packbits(low > np.median(low)).view(">u8")[0])
        if hashes and (value ^ hashes[-1]).bit_count() <= NEAR_BITS:
            continue
        hashes.append(value)
        kept.append(float(time_s))
    return Marks(np.array(hashes, dtype=np.uint64), np.array(kept))


def find_sounds(marks: Sequence[Marks], *, least: int) -> list[Match]:
    """Pairs of clips with `least` or more landmarks that agree at one distance in time."""
    index = _Index(marks)
    pieces = (equal[0] for equal in index.equal_pairs([index.hashes]))
    return [
        match for pair in pieces for match in index.matches(*pair, tolerance_s=SOUND_TOLERANCE_S, least=least)
    ]


def find_frames(marks: Sequence[Marks], *, least: int) -> list[Match]:
    """Pairs of clips with `least` or more frames that are alike, at one distance in time."""
    index = _Index(marks)
    bands = [
        (index.hashes >> np.uint64(shift)) & np.uint64((1 << BAND_BITS) - 1)
        for shift in range(0, 64, BAND_BITS)
    ]
    found: list[Match] = []
    for equal in index.equal_pairs(bands):
        one, other = np.concatenate([np.stack(pair) for pair in equal], axis=1)
        near = np.bitwise_count(index.hashes[one] ^ index.hashes[other]) <= NEAR_BITS
        one, other = np.unique(np.stack([one[near], other[near]]), axis=1)
        found += index.matches(one, other, tolerance_s=FRAME_TOLERANCE_S, least=least)
    return found


class _Equal:
    """Marks of equal keys; a key of more than `MOST_PER_HASH` marks is left out."""

    def __init__(self, keys: NDArray[np.uint64], clips: Places) -> None:
        self.order = np.argsort(keys, kind="stable")
        ranked = keys[self.order]
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])[: len(ranked)])
        sizes = np.diff(np.append(starts, len(ranked)))
        size_of = np.repeat(np.where(sizes > MOST_PER_HASH, 1, sizes), sizes)
        self.further = np.maximum(size_of - 1 - (np.arange(len(ranked)) - np.repeat(starts, sizes)), 0)
        self.clips = clips[self.order]

    def pairs_of(self, first: int, end: int) -> Pairs:
        """Every two marks of equal keys, the first of them of a clip from `first` up to, without, `end`."""
        places = np.flatnonzero((self.clips >= first) & (self.clips < end) & (self.further > 0))
        ones, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for lag in range(1, MOST_PER_HASH):
            places = places[self.further[places] >= lag]
            ones.append(self.order[places])
            others.append(self.order[places + lag])
        return np.concatenate(ones), np.concatenate(others)


class _Index:
    """Marks of all clips in one row, with the clip of each."""

    def __init__(self, marks: Sequence[Marks]) -> None:
        self.hashes = np.concatenate([np.zeros(0, np.uint64), *(item.hashes for item in marks)])
        self.times_s = np.concatenate([np.zeros(0), *(item.times_s for item in marks)])
        self.clips = np.repeat(np.arange(len(marks)), [len(item.hashes) for item in marks])
        self.marks = marks

    def equal_pairs(self, bands: Sequence[NDArray[np.uint64]]) -> Iterator[list[Pairs]]:
        """Of each band every two marks of equal keys, for some clips at a time: about `PAIRS_AT_ONCE`.

        So many copies of one video take time, not memory.
        """
        equal = [_Equal(keys, self.clips) for keys in bands]
        sizes = sum(
            np.bincount(band.clips, weights=band.further, minlength=len(self.marks)) for band in equal
        )
        first, held = 0, 0.0
        for clip, size in enumerate([*np.atleast_1d(sizes), np.inf]):
            if held and held + size > PAIRS_AT_ONCE:
                yield [band.pairs_of(first, clip) for band in equal]
                first, held = clip, 0.0
            held += size

    def matches(self, one: Places, other: Places, *, tolerance_s: float, least: int) -> list[Match]:
        """Pairs of clips among agreeing marks, each at the distance in time where most agree."""
        apart = self.clips[one] != self.clips[other]
        one, other = one[apart], other[apart]
        bins = (
            np.round((self.times_s[other] - self.times_s[one]) / tolerance_s).astype(np.int64) + SPREAD // 2
        )
        pair = self.clips[one] * len(self.marks) + self.clips[other]
        keys, place, counts = np.unique(pair * SPREAD + bins, return_inverse=True, return_counts=True)
        follows = np.append(keys[1:] == keys[:-1] + 1, False)
        # Agreement is spread over two neighbouring bins where the distance lies between them.
        both = counts + np.where(follows, np.append(counts[1:], 0), 0)
        found: dict[int, int] = {}
        for number in np.flatnonzero(both >= least):
            owner = int(keys[number] // SPREAD)
            if owner not in found or both[number] > both[found[owner]]:
                found[owner] = int(number)
        return [
            self._match(one, other, (place == best) | ((place == best + 1) & follows[best]))
            for best in found.values()
        ]

    def _match(self, one: NDArray[np.int64], other: NDArray[np.int64], rows: NDArray[np.bool_]) -> Match:
        first, second = int(self.clips[one[rows][0]]), int(self.clips[other[rows][0]])
        here, there = self.times_s[one[rows]], self.times_s[other[rows]]
        size = min(
            _marks_between(self.marks[first], here.min(), here.max()),
            _marks_between(self.marks[second], there.min(), there.max()),
        )
        count = min(len(np.unique(one[rows])), len(np.unique(other[rows])))
        length_s = float(max(here.max() - here.min(), there.max() - there.min()))
        return Match(
            first, second, count, min(1.0, count / size), float(here.min()), float(there.min()), length_s
        )


def _marks_between(marks: Marks, start_s: float, end_s: float) -> int:
    return int(((marks.times_s >= start_s) & (marks.times_s <= end_s)).sum())
