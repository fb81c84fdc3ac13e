"""The table of unusual files: how each is made, and the expected result of reading it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from odd_media import (
    AudioTrack,
    Making,
    VideoTrack,
    change,
    cut,
    damage_audio,
    encode_audio,
    encode_video,
    encoded_image,
    fill_media,
    mirror,
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
    """Frames of another size from the second second on."""
    with av.open(str(path), "w") as media:
        first = encode_video(media, VideoTrack(seconds=1.0))
        second = VideoTrack(size_wh=(128, 64), from_s=1.0, seconds=1.0)
        mux(
            media, first, encode_video(media, second, into=first[0].stream), encode_audio(media, AudioTrack())
        )


def channels_change(path: Path) -> None:
    """From the third second on the audio has two channels, of 0.5 and 0.25 of full scale."""
    join(path, AudioTrack(), AudioTrack(from_s=2.0, layout="stereo"))


def join(path: Path, *tracks: AudioTrack) -> None:
    """Write one MPEG-TS after the other, each with audio, and with video from where that begins."""
    data = b""
    for one in tracks:
        replace(TS, video=VideoTrack(from_s=one.from_s), audio=(one,))(path)
        data += path.read_bytes()
    path.write_bytes(data)


def audio_damaged(first: float, last: float, making: Making) -> Callable[[Path], None]:
    """Return what writes a file and damages a share of its audio."""

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


def start_ts(at_s: float) -> Making:
    """An MPEG-TS of 4 s whose timestamps start at a time."""
    at = round(at_s * 12) / 12
    return replace(TS, video=VideoTrack(from_s=at, seconds=4.0), audio=(AudioTrack(from_s=at, seconds=4.0),))


def longer(making: Making, at_s: float = 0.0) -> Making:
    """The same of 5 s, with a key frame each second, so that a reader may seek."""
    video = making.video
    if video is not None:
        options = {**video.options, "g": str(video.frames_per_s)}
        video = replace(video, seconds=5.0, from_s=at_s, options=options)
    audio = tuple(replace(one, seconds=5.0, from_s=at_s) for one in making.audio)
    return replace(making, video=video, audio=audio)


NOISE = np.random.default_rng(1).bytes(100_000)


@dataclass(frozen=True)
class Odd:
    """A file, its maker, and the expected result: a refusal by `code`, or the size and length of its clip.

    `missing` is the modality that it does not have, in a run with `allow_missing`. `window_s` and
    `short_side_px` are requested, where given.
    """

    name: str
    make: Callable[[Path], None]
    code: str = ""
    wh: tuple[int, int] = (96, 72)
    seconds: float = 2.0
    missing: str = ""
    allow_missing: bool = False
    window_s: tuple[float, float] | None = None
    short_side_px: int | None = None


FRONT, BACK = Making(options={"movflags": "+faststart"}), Making()
AVI = Making(VideoTrack("mpeg4"), (AudioTrack("libmp3lame"),))
MKV = Making(form="matroska")
FLV = Making(audio=(AudioTrack(rate_hz=44_100),))
WAV = Making(None, (AudioTrack("pcm_s16le"),), "wav")
TIMESTAMP_END_S = 2**33 / 90_000
MPEG2_INTERLACED = {"flags": "+ildct+ilme"}
HDR = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
VFR_S = (0.0, 0.031, 0.04, 0.3, 0.71, 0.72, 0.9, 1.35, 1.351, 1.6, 1.93)
EDITS = (change(b"elst", 8, ">Ii", 1500, 6 * 1024), change(b"elst", 8, ">Ii", 1500, 24_000 + 1024, which=1))
ENCRYPTION = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32, "encryption_kid": "1" * 32}
FULL_HD_4 = (3840, 2160)


def video(**changes: object) -> VideoTrack:
    """The usual video track, changed."""
    return replace(VideoTrack(), **changes)  # type: ignore[arg-type]


def audio(**changes: object) -> tuple[AudioTrack]:
    """The usual audio track, changed, as the only one."""
    return (replace(AudioTrack(), **changes),)  # type: ignore[arg-type]


FRAGMENTS = Making(options={"movflags": "+frag_keyframe+empty_moov+default_base_moof"})
LIVE = Making(form="matroska", options={"live": "1"})
WEBM = Making(VideoTrack("libvpx-vp9"), audio(codec="libopus"))
NO_TIMES = Making(VideoTrack("mpeg4", options={"bf": "2"}), audio(codec="pcm_s16le"))
PROGRAM = Making(VideoTrack("mpeg2video", frames_per_s=25), audio(codec="mp2"), "mpeg")
OGG = Making(VideoTrack("libvpx"), audio(codec="vorbis", layout="stereo"), "ogg")
WMV = Making(VideoTrack("wmv2"), audio(codec="wmav2", rate_hz=44_100, layout="stereo"), "asf")
REORDERED = Making(video(options={"preset": "veryfast", "bf": "3"}))
MP3 = Making(None, audio(codec="libmp3lame"))
SOUGHT = {
    "reordered.mp4": REORDERED,
    "no_duration.mkv": LIVE,
    "no_times.avi": NO_TIMES,
    "reordered.ts": replace(REORDERED, form="mpegts"),
    "program.mpg": PROGRAM,
    "usual.flv": FLV,
    "vp8.ogv": OGG,
    "usual.wmv": WMV,
}

READ = (
    Odd("usual.mp4", FRONT),
    Odd("fragments.mp4", FRAGMENTS),
    Odd("prores.mov", Making(VideoTrack("prores_ks", pix_fmt="yuv422p10le"), audio(codec="pcm_s24be"))),
    Odd("usual.mkv", MKV),
    Odd("usual.webm", WEBM),
    Odd("av1.mp4", Making(VideoTrack("libsvtav1"))),
    Odd("usual.avi", AVI),
    Odd("mjpeg.avi", Making(VideoTrack("mjpeg", pix_fmt="yuvj420p"), audio(codec="pcm_u8", rate_hz=11_025))),
    Odd("usual.ts", TS),
    Odd("ffv1.mkv", Making(VideoTrack("ffv1"), audio(codec="flac"))),
    Odd("song.wav", WAV, wh=(0, 0), missing="picture", allow_missing=True),
    Odd("late_song.mp3", longer(MP3), wh=(0, 0), missing="picture", allow_missing=True, window_s=(2.3, 4.3)),
    Odd("silent_film.mp4", Making(audio=()), missing="sound", allow_missing=True),
    Odd("cover.mp4", Making(cover=True)),
    Odd("uneven_rate.mkv", Making(video(times_s=VFR_S))),
    Odd("slow.mp4", Making(video(frames_per_s=Fraction(1, 2), seconds=4.0), audio(seconds=4.0)), seconds=4.0),
    Odd("quick.mp4", Making(video(frames_per_s=240, seconds=1.0), audio(seconds=1.0)), seconds=1.0),
    Odd("one_frame.mp4", Making(video(seconds=0), audio(seconds=1.0)), seconds=1.0),
    Odd("turned90.mp4", replace(BACK, patches=(mirror(0, 1, -1, 0),)), wh=(72, 96)),
    Odd("hdr.mp4", Making(video(codec="libx265", pix_fmt="yuv420p10le", tags=HDR))),
    Odd("full_range.mp4", Making(video(pix_fmt="yuvj420p", tags={"color_range": 2}))),
    Odd("odd_size.mkv", Making(video(pix_fmt="yuv444p", size_wh=(161, 119))), wh=(161, 119)),
    Odd("fields.ts", replace(TS, video=VideoTrack("mpeg2video", frames_per_s=25, options=MPEG2_INTERLACED))),
    Odd("wide_pixels.mp4", Making(video(options={"x264-params": "sar=2/1"})), wh=(192, 72)),
    Odd("resized.ts", resized),
    Odd("second_sound.mkv", Making(audio=(AudioTrack(default=False), AudioTrack(hz=600.0)))),
    Odd("surround.mp4", Making(audio=audio(layout="5.1"))),
    Odd("8_khz.avi", Making(VideoTrack("mpeg4"), audio(codec="pcm_mulaw", rate_hz=8_000))),
    Odd("96_khz.mkv", Making(audio=audio(codec="flac", rate_hz=96_000, layout="stereo"))),
    Odd("not_numbers.mkv", Making(audio=audio(codec="pcm_f32le", broken=True))),
    Odd("silence.mp4", Making(audio=audio(loudness=0.0))),
    Odd("edited.mp4", Making(options={"movie_timescale": "1000"}, patches=EDITS), seconds=1.5),
    Odd("long_sound.mkv", Making(audio=audio(seconds=3.5)), seconds=3.5),
    Odd("late_picture.mp4", Making(video(from_s=1.0, seconds=2.0), audio(seconds=3.0)), seconds=3.0),
    Odd("late_sound.mkv", Making(video(seconds=3.0), audio(from_s=1.0, seconds=2.0)), seconds=3.0),
    Odd("starts_early.ts", start_ts(TIMESTAMP_END_S - 0.5), seconds=4.0),
    Odd("starts_late.ts", start_ts(1000.0), seconds=4.0),
    Odd("timestamps_wrap.ts", start_ts(TIMESTAMP_END_S - 1.7), seconds=4.0),
    Odd("cut.ts", replace(TS, patches=(cut(0.5),)), seconds=1.1),
    *(Odd(f"late_{name}", longer(one), window_s=(2.3, 4.3)) for name, one in SOUGHT.items()),
    Odd("channels_change.ts", channels_change, seconds=4.0),
    Odd(
        "huge_flat.mp4",
        Making(video(size_wh=FULL_HD_4, frames_per_s=4, seconds=0.5, flat=True)),
        wh=(113, 64),
        short_side_px=64,
    ),
    Odd(
        "said_8192.mp4",
        replace(BACK, patches=(change(b"avc1", 24, ">HH", 8192, 8192, which=1),)),
        wh=(128, 72),
    ),
    Odd("really_mkv.mp4", MKV),
)

REFUSED = (
    Odd("empty.mp4", raw(b""), "empty"),
    Odd("missing.mp4", void, "missing"),
    Odd("folder.mp4", Path.mkdir, "not_a_file"),
    Odd("fifo.mp4", lambda path: os.mkfifo(path), "not_a_file"),
    Odd("link_to_device.mp4", lambda path: path.symlink_to("/dev/zero"), "not_a_file"),
    Odd("link_to_itself.mp4", lambda path: path.symlink_to(path.name), "unreadable"),
    Odd("png.mp4", lambda path: raw(encoded_image("png", "rgb24"))(path), "not_media"),
    Odd("noise.mp4", raw(NOISE), "not_media"),
    Odd("zeros.mp4", raw(bytes(100_000)), "not_media"),
    Odd("only_ftyp.mp4", raw(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2"), "truncated"),
    Odd("cut_index_first.mp4", replace(FRONT, patches=(cut(0.5),)), "truncated"),
    Odd("cut_index_last.mp4", replace(BACK, patches=(cut(0.5),)), "truncated"),
    Odd("cut.mkv", replace(MKV, patches=(cut(0.5),)), "truncated"),
    Odd("cut.avi", replace(AVI, patches=(cut(0.5),)), "truncated"),
    Odd("cut.flv", replace(FLV, patches=(cut(0.5),)), "truncated"),
    Odd("many_samples.mp4", replace(BACK, patches=(change(b"stsz", 4, ">II", 1, 1 << 31),)), "truncated"),
    Odd(
        "really_8192.avi",
        Making(VideoTrack("mjpeg", (8192, 8192), "yuvj420p", 1, flat=True, seconds=1.0)),
        "too_large",
    ),
    Odd("wide_pixels_strip.mp4", Making(video(options={"x264-params": "sar=16/1"})), "too_large"),
    Odd("only_picture.mp4", Making(audio=()), "no_audio"),
    Odd("song_with_cover.mp3", Making(None, audio(codec="libmp3lame"), cover=True), "no_video"),
    Odd("png.mov", Making(VideoTrack("png", pix_fmt="rgb24")), "codec"),
    Odd("dfpwm.wav", Making(None, audio(codec="dfpwm")), "codec", allow_missing=True),
    Odd(
        "rate_2_million.wav",
        replace(WAV, patches=(change(b"fmt ", 8, "<I", 2_000_000),)),
        "too_much",
        allow_missing=True,
    ),
    Odd(
        "100_channels.wav",
        replace(WAV, patches=(change(b"fmt ", 6, "<H", 100),)),
        "too_much",
        allow_missing=True,
    ),
    Odd("sound_damaged.avi", audio_damaged(0.3, 0.7, AVI), "decode_failed"),
    Odd("media_noise.mp4", replace(BACK, patches=(fill_media(NOISE),)), "decode_failed"),
    Odd("elsewhere.mp4", elsewhere, "truncated"),
    Odd("encrypted.mp4", Making(options=ENCRYPTION), "decode_failed"),
    Odd("long_box.mp4", replace(BACK, patches=(change(b"stts", 4, ">I", 0x7FFFFFFF),)), "memory"),
    Odd(
        "rate_changes.ts",
        lambda path: join(path, AudioTrack(), AudioTrack(from_s=2.0, rate_hz=32_000)),
        "decode_failed",
    ),
    Odd("window_outside.mp4", BACK, "window_outside", window_s=(5.0, 7.0)),
)

ODD_FILES = READ + REFUSED
