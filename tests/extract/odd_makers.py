"""Makers of those odd files that take more than a record: from raw bytes, of two parts, or no files at all."""

import os
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
from odd_media import (
    AudioTrack,
    Making,
    VideoTrack,
    damage_audio,
    encode_audio,
    encode_video,
    encoded_image,
    mux,
    point_elsewhere,
)

TS = Making(form="mpegts", options={"mpegts_copyts": "1"})


def raw(data: bytes | str) -> Callable[[Path], None]:
    """Return what writes some bytes, or text."""
    return lambda path: void(path.write_bytes(data if isinstance(data, bytes) else data.encode()))


def void(_: object) -> None:
    """Return nothing, whatever is given."""


def resized(path: Path) -> None:
    """Pictures of another size from the second second on."""
    with av.open(str(path), "w") as media:
        first = encode_video(media, VideoTrack(seconds=1.0))
        second = VideoTrack(size_wh=(128, 64), from_s=1.0, seconds=1.0)
        mux(
            media, first, encode_video(media, second, into=first[0].stream), encode_audio(media, AudioTrack())
        )


def joined(path: Path) -> None:
    """Two MPEG-TS one after the other, whose clock goes on but whose counters begin again."""
    join(path, AudioTrack(), AudioTrack(from_s=2.0))


def channels_change(path: Path) -> None:
    """From the third second on the sound has two channels, of 0.5 and 0.25 of full scale."""
    join(path, AudioTrack(), AudioTrack(from_s=2.0, layout="stereo"))


def join(path: Path, *sounds: AudioTrack) -> None:
    """Write one MPEG-TS after the other, each with a sound and with pictures from where that begins."""
    data = b""
    for one in sounds:
        replace(TS, video=VideoTrack(from_s=one.from_s), audio=(one,))(path)
        data += path.read_bytes()
    path.write_bytes(data)


def attached(path: Path) -> None:
    """A Matroska file with a picture attached to it."""
    with av.open(str(path), "w") as media:
        tracks = encode_video(media, VideoTrack()), encode_audio(media, AudioTrack())
        media.add_attachment("cover.jpg", "image/jpeg", encoded_image("mjpeg", "yuvj420p"))
        mux(media, *tracks)


def zipped(path: Path) -> None:
    """A ZIP of a text."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip.mp4", "no clip" * 100)


def listens(path: Path) -> None:
    """A socket of the file system; bound by a short relative name, as its path may be too long."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def link_to_fifo(path: Path) -> None:
    """A symbolic link to a pipe."""
    os.mkfifo(path.with_suffix(".fifo"))
    path.symlink_to(path.with_suffix(".fifo"))


def locked(path: Path) -> None:
    """A file that nobody may read."""
    Making()(path)
    path.chmod(0)


def audio_damaged(first: float, last: float, making: Making) -> Callable[[Path], None]:
    """Return what writes a file and damages a share of its sound."""

    def make(path: Path) -> None:
        making(path)
        damage_audio(path, first, last)

    return make


def elsewhere(path: Path) -> None:
    """An MP4 that refers to the media in another file, by an absolute path."""
    target = path.with_name("elsewhere_media.mp4")
    Making()(target)
    data = point_elsewhere(target.read_bytes(), target)
    path.write_bytes(data)


def gif(path: Path) -> None:
    """A moving GIF, whatever the name."""
    Making(VideoTrack("gif", pix_fmt="rgb8", seconds=1.0), (), "gif")(path)


def start_ts(at_s: float) -> Making:
    """An MPEG-TS of 4 s whose clock starts at a time."""
    at = round(at_s * 12) / 12
    return replace(TS, video=VideoTrack(from_s=at, seconds=4.0), audio=(AudioTrack(from_s=at, seconds=4.0),))


def longer(making: Making, at_s: float = 0.0) -> Making:
    """The same of 5 s, with a key picture each second, so that a reader may seek."""
    picture = making.video
    if picture is not None:
        options = {**picture.options, "g": str(picture.frames_per_s)}
        picture = replace(picture, seconds=5.0, from_s=at_s, options=options)
    sounds = tuple(replace(one, seconds=5.0, from_s=at_s) for one in making.audio)
    return replace(making, video=picture, audio=sounds)
