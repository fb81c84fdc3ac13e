"""Times of joined files, gaps in audio, and lengths that the packets correct."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from moodfuse.extract.media.container import open_media
from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.limits import MediaError
from moodfuse.extract.media.windows import Window, WindowRequest, read_windows
from odd_media import AudioTrack, Making, VideoTrack, cut, damage_audio

RATE_HZ = 16_000
LOW = AudioTrack(hz=440.0, rising=False)
HIGH = AudioTrack(hz=880.0, rising=False)


def hz_at(clip: DecodedClip, second: float) -> int:
    """Return the strongest frequency of half a second of a clip's audio."""
    first = round(second * RATE_HZ)
    return 2 * int(np.abs(np.fft.rfft(clip.waveform[first : first + RATE_HZ // 2])).argmax())


def expect_truncated(path: Path) -> None:
    with pytest.raises(MediaError, match="ends before it should"):
        read_clip(path, allow_missing=True)


def join_files(path: Path, *makings: Making) -> Path:
    """Write files one after the other into one."""
    data = b""
    for making in makings:
        making(path)
        data += path.read_bytes()
    path.write_bytes(data)
    return path


def without_packets(source: Path, target: Path, kinds: tuple[str, ...] = ("audio",)) -> Path:
    """Copy a file without the packets from 1.5 to 4.5 s of its audio, or of other kinds of streams."""
    with av.open(str(source)) as media, av.open(str(target), "w") as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in media.streams}
        for one in media.demux():
            left_out = one.stream.type in kinds and one.size and 1.5 <= one.pts * one.time_base < 4.5
            if one.dts is not None and not left_out:
                one.stream = streams[one.stream.index]
                copy.mux(one)
    return target


@pytest.mark.parametrize(
    ("codec", "form"),
    [("libopus", "ogg"), ("flac", "ogg"), ("aac", "mpegts")],
)
def test_joined_audio_follow_each_other(codec: str, form: str, tmp_path: Path) -> None:
    """The audio of joined files is decoded one part after the other, also in a window inside the second
    part.
    """
    parts = [Making(None, (replace(tone, codec=codec, seconds=3.0),), form) for tone in (LOW, HIGH)]
    path = join_files(tmp_path / f"joined.{form}", *parts)
    clip = read_clip(path, allow_missing=True)
    assert clip.waveform_samples == pytest.approx(6 * RATE_HZ, abs=1600)
    assert [hz_at(clip, second) for second in (0.5, 2.0, 3.6, 5.0)] == [440, 440, 880, 880]
    assert hz_at(read_clip(path, start_s=4.0, end_s=5.5, allow_missing=True), 0.5) == 880


@pytest.mark.parametrize("form", ["mpegts", "mpeg"])
def test_joined_videos_follow_each_other(form: str, tmp_path: Path) -> None:
    """Frames and audio of the second part come after those of the first, and each window has its own."""
    codec, audio_codec = ("mpeg2video", "mp2") if form == "mpeg" else ("libx264", "aac")
    video = VideoTrack(codec, frames_per_s=25, seconds=3.0, options={"g": "12"})
    parts = [Making(video, (replace(tone, codec=audio_codec, seconds=3.0),), form) for tone in (LOW, HIGH)]
    path = join_files(tmp_path / "joined.video", *parts)
    clip = read_clip(path)
    first_s = 0.5 if form == "mpeg" else 0.0
    assert clip.end_s == pytest.approx(first_s + 6.0, abs=0.3)
    steps_s = np.diff(clip.frame_times_s)[3:]
    assert steps_s.min() > 0.1 and steps_s.max() < 0.3
    assert [hz_at(clip, first_s + second) for second in (0.5, 2.2, 3.6, 5.0)] == [440, 440, 880, 880]
    ((_, result),) = read_windows(WindowRequest(path, hop_s=1.0), [Window(0, 4.0, 5.5)])
    expected = read_clip(path, start_s=4.0, end_s=5.5)
    assert isinstance(result, DecodedClip)
    np.testing.assert_array_equal(result.frames, expected.frames)
    np.testing.assert_array_equal(result.waveform, expected.waveform)


@pytest.mark.parametrize("name", ["gap.webm", "gap.mp4", "gap.ts"])
def test_silence_that_was_not_sent_is_silence(name: str, tmp_path: Path) -> None:
    """A gap between audio packets is zeros at its place and no damage, also in a window inside of it."""
    webm = name == "gap.webm"
    video = VideoTrack("libvpx" if webm else "libx264", seconds=6.0, options={"g": "12"})
    tone = replace(LOW, codec="libopus" if webm else "aac", seconds=6.0, rate_hz=48_000 if webm else 44_100)
    Making(video, (tone,), "webm" if webm else "matroska")(tmp_path / "whole")
    path = without_packets(tmp_path / "whole", tmp_path / name)
    clip = read_clip(path)
    assert (clip.partial, clip.damaged) == ("", 0)
    assert clip.waveform_samples == pytest.approx(6 * RATE_HZ, abs=0.3 * RATE_HZ)
    assert not clip.waveform[2 * RATE_HZ : 4 * RATE_HZ].any()
    assert hz_at(clip, 0.5) == hz_at(clip, 5.0) == 440
    assert not read_clip(path, start_s=2.8, end_s=4.0).waveform.any()


def test_a_gap_in_all_streams_is_damage(tmp_path: Path) -> None:
    Making(VideoTrack(seconds=6.0, options={"g": "12"}), (replace(LOW, seconds=6.0),), "matroska")(
        tmp_path / "whole"
    )
    path = without_packets(tmp_path / "whole", tmp_path / "gap.ts", ("audio", "video"))
    with pytest.raises(MediaError, match="cannot be decoded"):
        read_clip(path)


def test_damaged_packets_are_no_silence(tmp_path: Path) -> None:
    """Audio packets that cannot be decoded count as damage, not as silence."""
    path = tmp_path / "noise.webm"
    Making(VideoTrack("libvpx", seconds=6.0), (replace(LOW, codec="libopus", seconds=6.0),), "webm")(path)
    damage_audio(path, 0.3, 0.7)
    with pytest.raises(MediaError, match="cannot be decoded"):
        read_clip(path)


@pytest.mark.parametrize(("codec", "form"), [("libmp3lame", "mp3"), ("aac", "adts")])
def test_an_estimated_length_gives_way_to_the_packets(codec: str, form: str, tmp_path: Path) -> None:
    """Audio of a varying bit rate without a length in its header is neither cut nor called truncated."""
    path = tmp_path / f"varying.{form}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * 44_100)
    waveform = np.concatenate([np.full(4 * 44_100, 1e-4), noise]).astype(np.float32)
    options = {"flags": "+qscale", "global_quality": "472"} if codec == "libmp3lame" else {"b": "128000"}
    form_options = {"write_xing": "0"} if form == "mp3" else {}
    with av.open(str(path), "w", format=form, options=form_options) as media:
        stream: Any = media.add_stream(codec, rate=44_100, layout="mono", options=options)
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        media.mux(stream.encode(frame))
        media.mux(stream.encode(None))
    clip = read_clip(path, allow_missing=True)
    assert clip.facts.duration_s == pytest.approx(6.0, abs=0.1)
    assert clip.waveform_samples == pytest.approx(6 * RATE_HZ, abs=1600)
    loud = np.abs(clip.waveform.reshape(-1, RATE_HZ)[:6, 4000:12_000]).max(axis=1) > 0.1
    assert loud.tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("form", "codec", "audio_codec"),
    [
        ("matroska", "libx264", "aac"),
        ("flv", "flv", "aac"),
        ("asf", "wmv2", "wmav2"),
        ("ogg", "libvpx", "libopus"),
        ("mpegts", "libx264", "aac"),
    ],
)
@pytest.mark.parametrize("audio_first", [True, False])
def test_a_stream_that_ends_first_is_not_truncated(
    form: str, codec: str, audio_codec: str, audio_first: bool, tmp_path: Path
) -> None:
    """A file in which one stream has no declared length and ends before the other is complete."""
    lengths_s = (4.0, 2.0) if audio_first else (2.0, 4.0)
    tone = AudioTrack(audio_codec, 48_000 if form != "asf" else 44_100, "stereo" if form == "asf" else "mono")
    path = tmp_path / "short.video"
    Making(VideoTrack(codec, seconds=lengths_s[0]), (replace(tone, seconds=lengths_s[1]),), form)(path)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"XURATION"))
    clip = read_clip(path)
    assert clip.end_s == pytest.approx(4.0, abs=0.3) and not clip.partial
    if not audio_first:
        np.testing.assert_array_equal(clip.frames[20], clip.frames[31])
    else:
        assert not clip.waveform[int(2.4 * RATE_HZ) :].any()


@pytest.mark.parametrize("form", ["webm", "matroska"])
def test_a_recording_without_lengths_is_whole(form: str, tmp_path: Path) -> None:
    """A browser recording has no declared length: it is taken from the packets, also if one stream ends
    first.
    """
    video, audio = ("libvpx", "libopus") if form == "webm" else ("libx264", "aac")
    making = Making(VideoTrack(video, seconds=4.0), (AudioTrack(audio, seconds=2.0),), form, {"live": "1"})
    making(tmp_path / "a")
    with open_media(tmp_path / "a") as media:
        assert media.container.duration is None
    clip = read_clip(tmp_path / "a")
    assert clip.end_s == pytest.approx(4.0, abs=0.1) and not clip.partial


@pytest.mark.parametrize("form", ["matroska", "flv"])
def test_a_cut_file_without_lengths_of_streams_is_truncated(form: str, tmp_path: Path) -> None:
    """A file without stream lengths is truncated if no stream reaches its declared end."""
    path, video = tmp_path / "cut", VideoTrack("flv" if form == "flv" else "libx264", seconds=4.0)
    Making(video, (AudioTrack(rate_hz=44_100, seconds=4.0),), form, patches=(cut(0.5),))(path)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"XURATION"))
    expect_truncated(path)


def test_flac_of_unknown_length_is_read_whole_and_a_cut_one_is_truncated(tmp_path: Path) -> None:
    """A FLAC written to a pipe has 0 samples in its header; one with a count has to hold them."""
    path = tmp_path / "a.flac"
    Making(None, (replace(LOW, codec="flac", seconds=4.0),), "flac")(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    expect_truncated(path)
    path.write_bytes(data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:])
    assert read_clip(path, allow_missing=True).waveform_samples == 4 * RATE_HZ


def test_a_header_that_declares_too_little_does_not_cut_the_clip(tmp_path: Path) -> None:
    """Two joined AVI files, whose header has the length of the first, are read to the end of the second."""
    making = Making(VideoTrack("mpeg4", seconds=3.0), (replace(LOW, codec="libmp3lame", seconds=3.0),), "avi")
    clip = read_clip(join_files(tmp_path / "joined.avi", making, making))
    assert clip.end_s == pytest.approx(6.0, abs=0.2) and hz_at(clip, 5.0) == 440


def test_seeking_in_one_part_finds_no_other(tmp_path: Path) -> None:
    """In FLAC in Ogg the first packets after a seek have guessed times: the step to true ones is no other
    part.
    """
    rate, noise, file = 48_000, np.random.default_rng(0), tmp_path / "tones.ogg"
    with av.open(file, "w") as target:
        stream = target.add_stream("flac", rate=rate, layout="mono")
        for second in range(42):
            tone = 0.3 * np.sin(2 * np.pi * (500 + 50 * second) * np.arange(rate) / rate)
            tone += 0.05 * noise.standard_normal(rate) * (second % 7)
            samples = (tone.clip(-1, 1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, second * rate
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    for second in (8, 10, 30, 38, 39):
        waveform = read_clip(file, allow_missing=True, start_s=second, end_s=second + 2).waveform[:16_000]
        assert abs(int(np.argmax(np.abs(np.fft.rfft(waveform)))) - (500 + 50 * second)) <= 2


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0])
def test_a_wav_from_a_pipe_is_read_to_its_end(size: int, tmp_path: Path) -> None:
    """Its header has a placeholder for the size."""
    path = tmp_path / "a.wav"
    Making(None, (replace(LOW, codec="pcm_s16le", seconds=10.0),), "wav")(path)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
    assert read_clip(path, allow_missing=True).waveform_samples == 10 * RATE_HZ
