"""What the collectors of pictures and of sound have in common: how they decode, and when a window is too incomplete."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from extract.media.container import MediaError

COMPLETE = 0.95
SLACK_S = 0.1
PREROLL_S = 1.0


class Taker:
    """Takes the packets of one stream and what is decoded from them.

    Attributes
    ----------
    failures : int
        Packets that could not be decoded, and what came out of others damaged.
    done : bool
        It has all that it needs.
    late : bool
        What came first is already too late for its window.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.done = self.late = False

    def take(self, stream: Any, packet: Any) -> None:
        """Decode a packet, or with None what the decoder still holds, and add what comes out."""
        try:
            frames = packet.decode() if packet is not None else stream.decode(None)
        except (av.error.InvalidDataError, av.error.EOFError):
            self.failures += packet is not None
            return
        for frame in frames:
            self.add(frame)

    def add(self, frame: Any) -> None:
        """Take the next of what was decoded."""
        raise NotImplementedError


def seconds(ticks: int, base: Fraction) -> float:
    """Return a time in seconds, rounded once; many times faster than a product of fractions."""
    return ticks * base.numerator / base.denominator


def preroll_s(start_s: float) -> float:
    """Return from where a window is decoded: the whole second that lies one to two seconds before it, or 0."""
    return max(0.0, math.floor(start_s) - PREROLL_S)


def check_complete(path: Path, what: str, decoded_s: float, declared_s: float, *, failures: int = 0) -> None:
    """Refuse a window of which less than 95 % could be decoded."""
    if decoded_s < COMPLETE * declared_s - min(SLACK_S, declared_s / 2):
        code = "decode_failed" if failures > 1 else "truncated"
        raise MediaError(code, path, f"{what}: {max(decoded_s, 0.0):.2f} of {declared_s:.2f} s in the window")
