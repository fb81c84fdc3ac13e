"""What the collectors of pictures and of sound have in common: how they decode, and when a window is too incomplete."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from moodfuse.extract.media.clock import seconds
from moodfuse.extract.media.container import COMPLETE, SLACK_S, MediaError
from moodfuse.extract.media.limits import MAX_FRAMES

PREROLL_S = 1.0


@dataclass(frozen=True)
class Extent:
    """How much of a stream was decoded in a window, beside what its headers declare.

    Attributes
    ----------
    what : str
        ``"picture"`` or ``"sound"``.
    decoded_s, declared_s : float
        Seconds in the window.
    damaged : int
        Packets that could not be decoded, and pictures that came out damaged.
    frames, declared_frames : int
        Pictures; of sound, and where the headers give no rate, 0.
    """

    what: str
    decoded_s: float
    declared_s: float
    damaged: int
    frames: int = 0
    declared_frames: int = 0

    @property
    def complete(self) -> bool:
        """Whether 95 % was decoded; a tenth of a second does not count, as headers are not exact."""
        return self.decoded_s >= COMPLETE * self.declared_s - min(SLACK_S, self.declared_s / 2)

    def __str__(self) -> str:
        counted = f", {self.frames} of {self.declared_frames} pictures" if self.declared_frames else ""
        return (
            f"{self.what}: {max(self.decoded_s, 0.0):.2f} of {self.declared_s:.2f} s in the window{counted}"
        )


class Taker:
    """Takes the packets of one stream and what is decoded from them.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    failures : int
        Packets that could not be decoded, and what came out of others damaged.
    losses : int
        Packets before which something of the file seems to be lost, set by `decode_into`.
    packets_end_s : float
        The end of the furthest packet on the file's own clock.
    done : bool
        It has all that it needs.
    late : bool
        What came first is already too late for its window.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures = self.losses = self.decoded = 0
        self.packets_end_s = -math.inf
        self.done = self.late = False

    def take(self, stream: Any, packet: Any) -> None:
        """Decode a packet, or with None what the decoder still holds, and add what comes out."""
        if packet is not None and packet.pts is not None:
            end_s = seconds(packet.pts + (packet.duration or 0), packet.time_base)
            self.packets_end_s = max(self.packets_end_s, end_s)
        try:
            frames = packet.decode() if packet is not None else stream.decode(None)
        except (av.error.InvalidDataError, av.error.EOFError):
            self.failures += packet is not None
            return
        self.decoded += len(frames)
        if self.decoded > MAX_FRAMES:
            raise MediaError("too_much", self.path, f"more than {MAX_FRAMES} pictures or stretches of sound")
        for frame in frames:
            self.add(frame)

    def add(self, frame: Any) -> None:
        """Take the next of what was decoded."""
        raise NotImplementedError


def preroll_s(start_s: float) -> float:
    """Return from where a window is decoded: the whole second that lies one to two seconds before it, or 0."""
    return max(0.0, math.floor(start_s) - PREROLL_S)


def check_complete(path: Path, extent: Extent, *, damage: bool = False, allow_partial: bool = False) -> None:
    """Refuse a window of which less than 95 % could be decoded, unless that is allowed.

    Parameters
    ----------
    path : Path
    extent : Extent
    damage : bool
        Whether damage is to blame, so that more of the file would not help.
    allow_partial : bool
    """
    if not extent.complete and not allow_partial:
        raise MediaError("decode_failed" if damage else "truncated", path, str(extent))
