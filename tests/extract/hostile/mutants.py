"""Mutants of small media files by number, decoded in workers, and whether each gave a valid result.

The seed, the harm and its place follow from the number alone.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faults.mutants import cut, flip, smash, swap
from hostile.seeds import SEEDS, make_seed
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.limits import REASONS, Limits
from moodfuse.extract.media.pool import run_in_workers
from moodfuse.extract.media.renditions import SHORT_SIDE_PX

LIMITS = Limits(deadline_s=10.0, deadline_per_s=0.0, memory_mb=1024)
SLACK_S = 2.0
"""A task may end this much after its deadline."""
SLACK_MB = 64
"""The address space of idle workers differs by up to this much."""
EXTREMES = (0, 1, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flips(data: bytes, random: np.random.Generator) -> bytes:
    """Up to 64 bits, one after the other."""
    for _ in range(int(2 ** random.integers(7))):
        data = flip(data, random)
    return data


def head_flips(data: bytes, random: np.random.Generator) -> bytes:
    """Bits of the headers alone, which come first."""
    return flips(data[:1024], random) + data[1024:]


def resize(data: bytes, random: np.random.Generator, sizes: tuple[tuple[bytes, int, int], ...]) -> bytes:
    """Up to four sizes or counts of boxes, elements, chunks and packets are others, in place."""
    found = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        pattern, offset, width = sizes[random.integers(len(sizes))]
        places = [match.start() + offset for match in re.finditer(pattern, data, re.DOTALL)]
        if not places:
            continue
        place = max(0, places[int(random.integers(len(places)))])
        value = int.from_bytes(data[place : place + width], "big")
        values = (*EXTREMES, value + 1, value - 1, value * 2, value // 2, int(random.integers(1 << 32)))
        edited = values[random.integers(len(values))] % (1 << 8 * width)
        order = "little" if random.random() < 0.25 else "big"
        found[place : place + width] = edited.to_bytes(width, order)[: len(data) - place]
    return bytes(found)


HARMS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "bits": flips,
    "head": head_flips,
    "swap": swap,
    "cut": cut,
    "smash": smash,
}
KINDS = (*HARMS, "size", "size")


def mutant(seeds: dict[str, bytes], number: int) -> tuple[str, str, bytes]:
    """The name of the seed, the kind of harm, and the bytes of a mutant."""
    random = np.random.default_rng([number, 0x6D75])
    name = list(seeds)[number % len(seeds)]
    kind = KINDS[number // len(seeds) % len(KINDS)]
    harmed = (
        resize(seeds[name], random, SEEDS[name].sizes) if kind == "size" else HARMS[kind](seeds[name], random)
    )
    return name, kind, harmed


def make_seeds(folder: Path) -> dict[str, bytes]:
    """The bytes of every seed."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: make_seed(folder, name).read_bytes() for name in SEEDS}


@dataclass(frozen=True)
class MutantRequest:
    """A mutant to decode; its worker writes the second at which it began to another file.

    A lenient request takes partial clips, and those of one view.
    """

    path: Path
    number: int
    seed: str
    kind: str
    lenient: bool
    window_s: float = 30.0

    @property
    def began(self) -> Path:
        return self.path.with_suffix(".began")


@dataclass(frozen=True)
class Measured:
    """The outcome in a worker, and the most memory that it has used so far, resident and in addresses."""

    outcome: DecodedClip | MediaError
    resident_mb: float
    beyond_idle_mb: float


_idle_kb = 0


def measured(request: MutantRequest) -> Measured:
    """Decode in a worker, as `moodfuse.extract.media.pool.decode_many` does."""
    global _idle_kb
    _idle_kb = _idle_kb or _memory_kb("VmSize")
    request.began.write_text(str(time.monotonic()))
    try:
        outcome: DecodedClip | MediaError = read_clip(
            request.path,
            short_side_px=SHORT_SIDE_PX,
            allow_missing=request.lenient,
            allow_partial=request.lenient,
        )
    except MediaError as error:
        outcome = error
    return Measured(outcome, _memory_kb("VmHWM") / 1024, (_memory_kb("VmPeak") - _idle_kb) / 1024)


def _memory_kb(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


@dataclass(frozen=True)
class MutantResult:
    """The result of a mutant.

    `outcome` is ``"features"``, ``"partial"`` or the code of the refusal, and `faults` what is wrong with it. The
    seconds count from its start in the worker; the memory is the most that the worker used, 0 where it was killed.
    """

    request: MutantRequest
    outcome: str
    detail: str
    seconds: float
    resident_mb: float
    beyond_idle_mb: float
    faults: tuple[str, ...]

    @property
    def died(self) -> bool:
        """Whether it took its worker with it."""
        return "its worker ended" in self.detail or self.outcome == "timeout"


def run_mutants(
    folder: Path, count: int, *, jobs: int = 2, limits: Limits = LIMITS
) -> Iterator[MutantResult]:
    """Decode the mutants 0 to `count` in workers; their files are made as they are wanted, and removed."""
    seeds = make_seeds(folder / "seeds")

    def requests() -> Iterator[MutantRequest]:
        for number in range(count):
            name, kind, data = mutant(seeds, number)
            path = folder / f"{number}.{SEEDS[name].suffix}"
            path.write_bytes(data)
            yield MutantRequest(path, number, name, kind, lenient=number % 3 > 0)

    for request, found in run_in_workers(measured, requests(), jobs=jobs, limits=limits):
        yield _result_of(request, found, limits)
        request.path.unlink()
        request.began.unlink(missing_ok=True)


def _result_of(request: MutantRequest, found: Measured | MediaError, limits: Limits) -> MutantResult:
    began_s = float(request.began.read_text()) if request.began.exists() else time.monotonic()
    seconds = time.monotonic() - began_s
    outcome = found.outcome if isinstance(found, Measured) else found
    resident_mb, beyond_mb = (
        (found.resident_mb, found.beyond_idle_mb) if isinstance(found, Measured) else (0.0, 0.0)
    )
    faults = [*_faults_of(outcome)]
    if seconds > limits.seconds_for(request.window_s) + SLACK_S:
        faults.append(f"took {seconds:.1f} s")
    if beyond_mb > limits.memory_mb + SLACK_MB:
        faults.append(f"took {beyond_mb:.0f} MB")
    if isinstance(outcome, MediaError):
        return MutantResult(
            request, outcome.code, outcome.detail, seconds, resident_mb, beyond_mb, tuple(faults)
        )
    name = "partial" if outcome.partial else "features"
    return MutantResult(request, name, outcome.partial, seconds, resident_mb, beyond_mb, tuple(faults))


def _faults_of(outcome: object) -> Iterator[str]:
    """What is wrong with a clip or a refusal."""
    if isinstance(outcome, MediaError):
        if outcome.code not in REASONS:
            yield f"refused for {outcome.code!r}, which is no reason"
        return
    if not isinstance(outcome, DecodedClip):
        yield f"gave {type(outcome).__name__}"
        return
    frames, times_s, waveform = outcome.frames, outcome.frame_times_s, outcome.waveform
    blind, deaf = outcome.missing == "picture", outcome.missing == "sound"
    if (
        frames.dtype != np.uint8
        or frames.shape[3:] != (3,)
        or (len(frames), frames.size > 0) != (32 * (not blind), not blind)
    ):
        yield f"frames are {frames.dtype} {frames.shape}"
    if times_s.shape != (len(frames),) or not np.isfinite(times_s).all() or (np.diff(times_s) < 0).any():
        yield "times of the frames do not increase"
    if waveform.dtype != np.float32 or waveform.shape != (480_000,) or not np.abs(waveform).max() <= 1.0:
        yield f"the waveform is {waveform.dtype} {waveform.shape}, up to {np.abs(waveform).max()}"
    if not (deaf or 0 < outcome.waveform_samples <= 480_000) or waveform[outcome.waveform_samples :].any():
        yield f"{outcome.waveform_samples} samples are real"
    if not all(map(math.isfinite, (outcome.start_s, outcome.end_s, outcome.facts.duration_s))):
        yield "the window or the duration is not finite"
