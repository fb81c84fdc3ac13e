"""What reading one clip may cost, and how a worker process is held to that.

The limits keep a bad file from taking the machine; they are no sandbox. A service that takes files from strangers runs
in a container besides.
"""

import math
import os
from dataclasses import dataclass, field

from moodfuse.cache.errors import InputError

MAX_PIXELS = 3840 * 2160
MAX_ASPECT = 20
"""The longer side of a picture over the shorter one."""
MAX_CODED_PIXELS = 4096 * 2304
"""What a decoder may allocate a picture for: codecs fill sides up to whole blocks."""
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64
MAX_FILE_BYTES = 256 << 30
MAX_PACKETS = 4_000_000
MAX_FRAMES = 2_000_000
"""Packets, and pictures or stretches of sound, on the way to the end of a window; several times those of ten hours."""
MAX_OPEN_FILES = 64
MAX_DEADLINE_S = 366.0 * 86_400
MAX_MEMORY_MB = 1 << 24
"""The most that can be asked for: what clocks and limits of the system take."""


@dataclass(frozen=True)
class Limits:
    """What a worker may spend on one clip.

    Attributes
    ----------
    deadline_s, deadline_per_s : float
        Seconds, and so many more for each second of the window.
    memory_mb : int
        Megabytes of address space beside those of the idle worker.
    """

    deadline_s: float = 60.0
    deadline_per_s: float = 2.0
    memory_mb: int = 2048

    def __post_init__(self) -> None:
        if not 0 < self.deadline_s <= MAX_DEADLINE_S:
            raise InputError(f"the deadline is {self.deadline_s} s; expected more than 0, and a year at most")
        if not (math.isfinite(self.deadline_per_s) and self.deadline_per_s >= 0):
            raise InputError(
                f"the deadline is {self.deadline_per_s} s for a second of a clip; expected 0 or more"
            )
        if not 64 <= self.memory_mb <= MAX_MEMORY_MB:
            raise InputError(f"{self.memory_mb} MB of memory for a clip; expected 64 to {MAX_MEMORY_MB}")

    def seconds_for(self, window_s: float) -> float:
        """The deadline of a window, seconds; a year at most."""
        return min(MAX_DEADLINE_S, self.deadline_s + self.deadline_per_s * max(0.0, window_s))


@dataclass(frozen=True)
class ReadingRules:
    """How a batch of clips is read: what each may cost, and which are taken.

    Attributes
    ----------
    limits : Limits
    allow_partial : bool
        Whether a clip of which less than 95 % can be decoded is taken, and marked.
    max_failures : int or None
        So many refused clips end the batch.
    """

    limits: Limits = field(default_factory=Limits)
    allow_partial: bool = False
    max_failures: int | None = None


def confine(limits: Limits) -> None:
    """Hold this process to `limits`: address space, open files, no core dump.

    Where the system has no such limits, the deadline, which the parent keeps, is the only one.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if taken := address_space_bytes():
        _lower(resource.RLIMIT_AS, taken + (limits.memory_mb << 20))


def allow_cpu(seconds: float) -> None:
    """Let the system end this process once it has computed for so many seconds more."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1, keep_hard=True)


def address_space_bytes() -> int:
    """Bytes of address space that this process has taken; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


def _lower(what: int, value: int, *, keep_hard: bool = False) -> None:
    """Set a limit of the system, never above the one that holds."""
    import resource

    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, hard if keep_hard else value))
