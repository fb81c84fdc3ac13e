"""Opening files: what is refused, which track is read, and where a stream begins and ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.frames import time_frame
from odd_media import AudioTrack, Making, VideoTrack, encode_audio, encode_video, mux


def test_the_size_of_every_frame_is_checked() -> None:
    """A frame is measured in square pixels, before it is converted."""
    media: Any = SimpleNamespace(path=Path("grows.mp4"), pixel_aspect=50.0)
    with pytest.raises(MediaError, match="192000 x 2160"):
        time_frame(SimpleNamespace(width=3840, height=2160), media)


def test_tags_that_are_not_utf_8_do_not_matter(tmp_path: Path) -> None:
    """Old programs write titles in Latin-1."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as media:
        media.metadata["title"] = "Caf? noir"
        mux(media, encode_video(media, VideoTrack()), encode_audio(media, AudioTrack()))
    data = path.read_bytes()
    assert data.count(b"Caf? noir") == 1
    path.write_bytes(data.replace(b"Caf? noir", b"Caf\xe9 noir"))
    assert read_clip(path).facts.audio_codec == "aac"


def rename_codec(path: Path, old: bytes, new: bytes, which: int) -> None:
    """Declare another codec for one of the tracks of an MP4."""
    data = path.read_bytes()
    at = data.index(b"stsd")
    for _ in range(which):
        at = data.index(b"stsd", at + 4)
    at = data.index(old, at)
    esds = data.find(b"esds", at)
    data = data[:at] + new + data[at + 4 :]
    path.write_bytes(data[:esds] + b"sdse" + data[esds + 4 :] if old == b"mp4a" else data)


def two_tracks(path: Path, kind: str) -> None:
    """Write an MP4 with two tracks of a kind, bright and dark frames or a low and a high tone, and one
    other.
    """
    with av.open(str(path), "w") as media:
        videos = [VideoTrack(), VideoTrack(size_wh=(64, 48))] if kind == "video" else [VideoTrack()]
        audios = (
            [AudioTrack(hz=400.0, rising=False), AudioTrack(hz=800.0, rising=False)]
            if kind == "audio"
            else [AudioTrack()]
        )
        tracks = [encode_video(media, one) for one in videos] + [encode_audio(media, one) for one in audios]
        tracks[0][0].stream.disposition = tracks[-len(audios)][0].stream.disposition = Disposition.default
        mux(media, *tracks)


def test_an_audio_track_without_a_decoder_is_skipped(tmp_path: Path) -> None:
    """The default track is read, then the other one; if neither can be decoded, the first is the reason."""
    path = tmp_path / "a.mp4"
    two_tracks(path, "audio")
    assert np.abs(np.fft.rfft(read_clip(path).waveform[:16_000])).argmax() == 400
    rename_codec(path, b"mp4a", b"apac", 1)
    assert np.abs(np.fft.rfft(read_clip(path).waveform[:16_000])).argmax() == 800
    rename_codec(path, b"mp4a", b"apac", 2)
    with pytest.raises(MediaError, match="there is no decoder for it") as caught:
        read_clip(path)
    assert caught.value.code == "codec"


def test_a_video_track_with_an_unsupported_codec_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    two_tracks(path, "video")
    assert read_clip(path).frames.shape == (32, 72, 96, 3)
    rename_codec(path, b"avc1", b"png ", 0)
    assert read_clip(path).frames.shape == (32, 48, 64, 3)


def test_a_video_track_that_is_too_large_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as media:
        large = VideoTrack("mjpeg", (4096, 2176), "yuvj420p", 1, flat=True, seconds=1.0)
        mux(
            media,
            *(encode_video(media, one) for one in (large, VideoTrack())),
            encode_audio(media, AudioTrack()),
        )
    assert read_clip(path).frames.shape == (32, 72, 96, 3)


@pytest.mark.parametrize("form", ["matroska", "mp4", "flv", "asf"])
def test_audio_that_starts_late_is_silence_before(form: str, tmp_path: Path) -> None:
    """Audio from 8 s to 12 s is complete, whatever start the headers give; a window before it has no
    audio.
    """
    audio = AudioTrack("wmav2" if form == "asf" else "aac", 44_100, from_s=8.0, seconds=4.0)
    path = tmp_path / "late.video"
    Making(VideoTrack(frames_per_s=4, seconds=12.0), (audio,), form)(path)
    clip = read_clip(path)
    assert clip.extents[1].declared_s == pytest.approx(4.0, abs=0.15) and not clip.partial
    assert not clip.waveform[: int(7.9 * 16_000)].any()
    assert np.abs(clip.waveform[int(8.1 * 16_000) : int(11.8 * 16_000)]).max() > 0.4
    with pytest.raises(MediaError, match=r"the audio lasts from (8\.0|7\.9)") as caught:
        read_clip(path, end_s=5.0)
    assert caught.value.code == "no_audio"
