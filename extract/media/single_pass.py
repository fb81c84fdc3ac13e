"""One pass through a video that gives the clips of many windows, each with the bits that `read_clip` gives for it.

The pictures of all windows are decoded once, and the pass holds those of the windows under way and no more. The sound
of a window is decoded when its pictures are complete, by a decoder of its own that begins where `read_clip` would: the
decoders of AAC, AC-3 and MP2 carry a noise generator or a dither through the whole file, so what they give depends on
where they began. To decode sound costs a few hundredths of what pictures do.

What the pass could not give is read by `read_clip` itself, and so is every window with damage, since what a decoder
conceals it with depends on where it began as well. So every refusal is in the words of `read_clip`, and damage in one
place costs no window elsewhere. One thing is taken on trust: that a picture's packets, where none is damaged, give the
same after a seek as in one pass, once the decoder gives pictures at all.
"""

import math
from array import array
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av

from moodfuse.extract.media.collect import (
    Collectors,
    DecodedClip,
    collect,
    decode_into,
    packets,
    seek,
    settle_window,
)
from moodfuse.extract.media.container import MediaError, Opened, open_media
from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.frames import Picture, Pictures, middles_s, picture_of
from moodfuse.extract.media.stream_decoder import Taker, preroll_s
from moodfuse.extract.media.waveform import Sound

MOST_BEYOND = 16
"""Windows behind the last picture of a file that are tried one by one; a file may declare weeks."""

if TYPE_CHECKING:
    from moodfuse.extract.media.windows import Window, WindowsWish


@dataclass
class _UnderWay:
    """A window that has begun; `spoiled` where the pass will not have its pictures."""

    window: "Window"
    pictures: Pictures | None = None
    spoiled: bool = False

    @property
    def done(self) -> bool:
        return self.spoiled or self.pictures is None or self.pictures.done


class _First(Taker):
    """Decodes only up to the first picture after a seek: what `read_clip` would begin with.

    That took `packets` packets, of which `mark` tells the last: the first may be the rest of one that the seek cut in
    two.
    """

    def __init__(self, opened: Opened, window: tuple[float, float]) -> None:
        super().__init__(opened.path)
        self.opened, self.window = opened, window
        self.mark: int | None = None
        self.packets = 0

    def take(self, stream: Any, packet: Any) -> None:
        if packet is not None:
            self.mark = _mark(packet)
            self.packets += 1
        super().take(stream, packet)

    def add(self, frame: Any) -> None:
        picture = picture_of(frame, self.opened)
        if picture is not None:
            self.late = not self.done and picture.time_s > middles_s(*self.window)[0] + 1e-9
            self.done = True


class Sweep(Taker):
    """One pass through the pictures of a file, which gives each picture to the windows under way.

    Parameters
    ----------
    opened : Opened
        Nothing of it read yet.
    wish : WindowsWish
    windows : sequence of Window
        At least one, by their starts; the pass begins at the first.
    """

    def __init__(self, opened: Opened, wish: "WindowsWish", windows: "Sequence[Window]") -> None:
        super().__init__(opened.path)
        self.opened, self.wish = opened, wish
        self.waiting = deque(windows)
        self.under_way: deque[_UnderWay] = deque()
        self.taking: list[_UnderWay] = []
        self.last: Picture | None = None
        self.met = array("q")
        self.damaged_at = 0
        self.from_start = True
        self.ended = False

    def results(self) -> Generator[DecodedClip | MediaError, None, None]:
        """Yield the clip or the refusal of each window, in their order."""
        if self.opened.video is not None:
            yield from self._results_under_way()
        beyond = 0
        while self.under_way or self.waiting:
            if not self.under_way:
                self._begin()
            item = self.under_way.popleft()
            found = self._finished(item)
            yield found
            reached_s = -math.inf if self.last is None else self.last.time_s
            behind = self.ended and item.window.start_s > reached_s
            beyond = beyond + 1 if isinstance(found, MediaError) and behind else 0
            if isinstance(found, MediaError) and beyond >= MOST_BEYOND:
                yield from self._rest(found)

    def _rest(self, like: MediaError) -> Iterator[MediaError]:
        """Refuse the windows that are left: the file has ended, whatever length it declares."""
        while self.under_way or self.waiting:
            if self.under_way:
                self.under_way.popleft()
            else:
                self.waiting.popleft()
            yield MediaError(like.code, like.path, "the file has ended before")

    def _results_under_way(self) -> Iterator[DecodedClip | MediaError]:
        """Decode, and yield for each window whose pictures are complete."""
        from_s = preroll_s(self.waiting[0].start_s)
        self.from_start = not (from_s > 0.0 and seek(self.opened, from_s))
        try:
            for stream, packet, _ in packets(self.opened):
                if stream.index == self.opened.video.index:
                    self.take(stream, packet)
                while self.under_way and self.under_way[0].done:
                    yield self._finished(self.under_way.popleft())
            self.ended = True
        except (
            MemoryError,
            av.error.FFmpegError,
        ):  # no more can be read here: each window that is left is read alone
            self._spoil()
            while self.waiting:
                self.under_way.append(_UnderWay(self.waiting.popleft(), spoiled=True))

    def take(self, stream: Any, packet: Any) -> None:
        """Decode a packet, note what is damaged, and give what comes out to the windows that still lacked a picture."""
        self.taking = [item for item in self.under_way if not item.done]
        before = self.failures
        if packet is not None:
            self.met.append(_mark(packet))
        try:
            super().take(stream, packet)
        except (MemoryError, av.error.FFmpegError):
            self.failures += 1
            self._spoil()
        if self.failures > before:
            self.damaged_at = len(self.met)

    def add(self, frame: Any) -> None:
        """Give a picture to the windows under way, among which are now those that start before it."""
        picture = picture_of(frame, self.opened)
        self.failures += picture is None or picture.is_corrupt
        if picture is None:
            return
        if self.last is not None and picture.time_s < self.last.time_s:
            self._restart()
        while self.waiting and self.waiting[0].start_s <= picture.time_s:
            self._begin()
        if self.last is None or picture.time_s > self.last.time_s:
            self.last = picture
        for item in self.taking:
            if item.pictures is not None:
                item.pictures.show(picture)

    def _begin(self) -> None:
        """Put the next window under way, with the picture that is on screen as it starts."""
        item = _UnderWay(self.waiting.popleft())
        try:
            window = settle_window(self.opened, item.window.start_s, item.window.end_s)
            if self.opened.video is not None:
                item.pictures = Pictures(self.opened, window, self.wish.short_side_px)
                if self.last is not None:
                    item.pictures.show(self.last)
        except MediaError:
            item.spoiled = True
        self.under_way.append(item)
        self.taking.append(item)

    def _restart(self) -> None:
        """Begin again where times go back, as in a damaged file; `read_clip` may meet none of what lies before."""
        self._spoil()
        self.taking.clear()
        self.last, self.from_start = None, False
        self.damaged_at = 0
        del self.met[:]

    def _spoil(self) -> None:
        """Give up the windows under way whose pictures are not complete."""
        for item in self.under_way:
            if not item.done:
                item.spoiled, item.pictures = True, None

    def _finished(self, item: _UnderWay) -> DecodedClip | MediaError:
        """Return a window's clip; what the pass would refuse is read alone, and refused there or not."""
        clip = None
        with suppress(MediaError, MemoryError, av.error.FFmpegError):
            clip = None if item.spoiled else self._clip(item)
        return clip if clip is not None and not clip.partial else _read_alone(item.window, self.wish)

    def _clip(self, item: _UnderWay) -> DecodedClip | None:
        """Return a window's clip with the sound that `read_clip` would decode, or None where the pass lacks something.

        As there, the file is decoded from its start where seeking lands too late for the first picture or sound.
        """
        for from_s in (preroll_s(item.window.start_s), 0.0):
            own = open_media(self.wish.path, one_view=self.wish.one_view)
            with own.media:
                window = settle_window(own, item.window.start_s, item.window.end_s)
                first = _First(own, window)
                sound = Sound(own, window) if own.audio is not None else None
                takers: dict[int, Taker] = {}
                if own.video is not None and from_s > 0.0:
                    takers[own.video.index] = first
                if sound is not None:
                    takers[own.audio.index] = sound
                if not decode_into(takers, own, from_s):
                    continue
                if item.pictures is not None and not self._has_met(first, from_s):
                    return None
                found = Collectors(own, window, item.pictures, sound)
                return collect(found, one_view=self.wish.one_view, allow_partial=self.wish.allow_partial)
        return None

    def _has_met(self, first: _First, from_s: float) -> bool:
        """Whether the pass came by what `read_clip` would begin with, and since then nothing damaged.

        A decoder that began elsewhere may conceal damage with other pictures.
        """
        if from_s <= 0.0:
            return self.from_start and not self.damaged_at
        if not first.done or first.mark is None or first.mark not in self.met:
            return False
        return self.damaged_at <= self.met.index(first.mark) + 1 - first.packets


def _mark(packet: Any) -> int:
    """Return a number that tells a packet from the others of its file."""
    return hash((packet.pts, packet.pos, packet.size))


def _read_alone(window: "Window", wish: "WindowsWish") -> DecodedClip | MediaError:
    """Return what `read_clip` gives or raises, without what the traceback would keep alive."""
    try:
        return read_clip(
            wish.path,
            start_s=window.start_s,
            end_s=window.end_s,
            short_side_px=wish.short_side_px,
            threads=wish.threads,
            one_view=wish.one_view,
            allow_partial=wish.allow_partial,
        )
    except MediaError as error:
        return MediaError(error.code, error.path, error.detail)
