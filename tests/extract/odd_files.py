"""The table of unusual files: how each is made, and the expected result of reading it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from odd_makers import (
    TS,
    attached,
    audio_damaged,
    channels_change,
    elsewhere,
    gif,
    join,
    joined,
    link_to_fifo,
    listens,
    locked,
    longer,
    raw,
    resized,
    start_ts,
    void,
    zipped,
)
from odd_media import AudioTrack, Making, VideoTrack, change, cut, encoded_image, fill_media, mirror, turn

NOISE = np.random.default_rng(1).bytes(100_000)


@dataclass(frozen=True)
class Odd:
    """A file, its maker, and the expected result: a refusal by `code`, or the size and length of its clip.

    `missing` is the modality that it does not have, in a run with `allow_missing`. `window_s` and `short_side_px` are
    requested, where given; `sound` is the audio track that is read. `audio_compared` is whether the reference program
    averages its channels in the same way.
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
    sound: int = 0
    audio_compared: bool = True


FRONT, BACK = Making(options={"movflags": "+faststart"}), Making()
AVI = Making(VideoTrack("mpeg4"), (AudioTrack("libmp3lame"),))
MKV = Making(form="matroska")
FLV = Making(audio=(AudioTrack(rate_hz=44_100),))
WAV = Making(None, (AudioTrack("pcm_s16le"),), "wav")
CLOCK_END_S = 2**33 / 90_000
X264_INTERLACED = {"flags": "+ildct+ilme", "x264-params": "tff=1:sar=1/1"}
MPEG2_INTERLACED = {"flags": "+ildct+ilme"}
HDR = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
VFR_S = (0.0, 0.031, 0.04, 0.3, 0.71, 0.72, 0.9, 1.35, 1.351, 1.6, 1.93)
EDITS = (change(b"elst", 8, ">Ii", 1500, 6 * 1024), change(b"elst", 8, ">Ii", 1500, 24_000 + 1024, which=1))
OF_1000_CHANNELS = "not_media" if int(av.__version__.split(".")[0]) < 19 else "too_much"
"""A stream of so many channels is none to FFmpeg 8, while FFmpeg 9 gives their number."""
ENCRYPTION = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32, "encryption_kid": "1" * 32}
FULL_HD_4 = (3840, 2160)


def video(**changes: object) -> VideoTrack:
    """The usual video track, changed."""
    return replace(VideoTrack(), **changes)  # type: ignore[arg-type]


def sound(**changes: object) -> tuple[AudioTrack]:
    """The usual audio track, changed, as the only one."""
    return (replace(AudioTrack(), **changes),)  # type: ignore[arg-type]


FRAGMENTS = Making(options={"movflags": "+frag_keyframe+empty_moov+default_base_moof"})
LIVE = Making(form="matroska", options={"live": "1"})
WEBM = Making(VideoTrack("libvpx-vp9"), sound(codec="libopus"))
NO_TIMES = Making(VideoTrack("mpeg4", options={"bf": "2"}), sound(codec="pcm_s16le"))
PROGRAM = Making(VideoTrack("mpeg2video", frames_per_s=25), sound(codec="mp2"), "mpeg")
OGG = Making(VideoTrack("libvpx"), sound(codec="vorbis", layout="stereo"), "ogg")
WMV = Making(VideoTrack("wmv2"), sound(codec="wmav2", rate_hz=44_100, layout="stereo"), "asf")
REORDERED = Making(video(options={"preset": "veryfast", "bf": "3"}))
MP3, FLAC = Making(None, sound(codec="libmp3lame")), Making(None, sound(codec="flac"))
SOUGHT = {
    "index_last.mp4": BACK,
    "reordered.mp4": REORDERED,
    "fragments.mp4": FRAGMENTS,
    "usual.mkv": MKV,
    "no_duration.mkv": LIVE,
    "usual.webm": WEBM,
    "usual.avi": AVI,
    "no_times.avi": NO_TIMES,
    "usual.ts": TS,
    "reordered.ts": replace(REORDERED, form="mpegts"),
    "program.mpg": PROGRAM,
    "usual.flv": FLV,
    "vp8.ogv": OGG,
    "usual.wmv": WMV,
}
CLOCK_PARTS = {"starts_late": 1000.0, "clock_wraps": CLOCK_END_S - 2.7, "starts_early": CLOCK_END_S - 0.5}

READ = (
    Odd("usual.mp4", FRONT),
    Odd("index_last.mp4", BACK),
    Odd("fragments.mp4", FRAGMENTS),
    Odd("prores.mov", Making(VideoTrack("prores_ks", pix_fmt="yuv422p10le"), sound(codec="pcm_s24be"))),
    Odd("usual.mkv", MKV),
    Odd("no_duration.mkv", LIVE),
    Odd("usual.webm", WEBM),
    Odd("av1.mp4", Making(VideoTrack("libsvtav1"))),
    Odd("usual.avi", AVI),
    Odd("mjpeg.avi", Making(VideoTrack("mjpeg", pix_fmt="yuvj420p"), sound(codec="pcm_u8", rate_hz=11_025))),
    Odd("no_times.avi", NO_TIMES),
    Odd("usual.ts", TS),
    Odd("program.mpg", PROGRAM, seconds=2.5),
    Odd("usual.flv", FLV),
    Odd("vp8.ogv", OGG),
    Odd("usual.wmv", WMV),
    Odd("ffv1.mkv", Making(VideoTrack("ffv1"), sound(codec="flac"))),
    Odd("song.wav", WAV, wh=(0, 0), missing="picture", allow_missing=True),
    Odd("song.mp3", MP3, wh=(0, 0), missing="picture", allow_missing=True),
    Odd("song.flac", FLAC, wh=(0, 0), missing="picture", allow_missing=True),
    Odd(
        "cover.mp3",
        Making(None, sound(codec="libmp3lame"), cover=True),
        wh=(0, 0),
        missing="picture",
        allow_missing=True,
    ),
    Odd("silent_film.mp4", Making(audio=()), missing="sound", allow_missing=True),
    Odd("cover.mp4", Making(cover=True)),
    Odd("attached.mkv", attached),
    Odd("uneven_rate.mkv", Making(video(times_s=VFR_S))),
    Odd("slow.mp4", Making(video(frames_per_s=Fraction(1, 2), seconds=4.0), sound(seconds=4.0)), seconds=4.0),
    Odd("quick.mp4", Making(video(frames_per_s=240, seconds=1.0), sound(seconds=1.0)), seconds=1.0),
    Odd("one_frame.mp4", Making(video(seconds=0), sound(seconds=1.0)), seconds=1.0),
    Odd("one_second.mp4", Making(video(seconds=1.0), sound(seconds=1.0)), seconds=1.0),
    Odd("turned90.mp4", replace(BACK, patches=(turn(90),)), wh=(72, 96)),
    Odd("turned180.mp4", replace(BACK, patches=(turn(180),))),
    Odd("turned270.mp4", replace(BACK, patches=(turn(270),)), wh=(72, 96)),
    Odd("mirrored.mp4", replace(BACK, patches=(mirror(-1, 0, 0, 1),))),
    Odd("upside_down.mp4", replace(BACK, patches=(mirror(1, 0, 0, -1),))),
    Odd("transposed.mp4", replace(BACK, patches=(mirror(0, 1, 1, 0),)), wh=(72, 96)),
    Odd("transversed.mp4", replace(BACK, patches=(mirror(0, -1, -1, 0),)), wh=(72, 96)),
    Odd("ten_bit.mkv", Making(video(codec="libx265", pix_fmt="yuv420p10le"))),
    Odd("hdr.mp4", Making(video(codec="libx265", pix_fmt="yuv420p10le", tags=HDR))),
    Odd(
        "bt709.mp4",
        Making(video(tags={"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1})),
    ),
    Odd("full_range.mp4", Making(video(pix_fmt="yuvj420p", tags={"color_range": 2}))),
    Odd("odd_size.mkv", Making(video(pix_fmt="yuv444p", size_wh=(161, 119))), wh=(161, 119)),
    Odd("fields.ts", replace(TS, video=VideoTrack("mpeg2video", frames_per_s=25, options=MPEG2_INTERLACED))),
    Odd("fields.mkv", Making(video(options=X264_INTERLACED))),
    Odd("wide_pixels.mp4", Making(video(options={"x264-params": "sar=2/1"})), wh=(192, 72)),
    Odd("tall_pixels.mp4", Making(video(options={"x264-params": "sar=8/15"})), wh=(51, 72)),
    Odd("resized.ts", resized),
    Odd("joined.ts", joined, seconds=4.0),
    Odd("second_sound.mkv", Making(audio=(AudioTrack(default=False), AudioTrack(hz=600.0))), sound=1),
    Odd("stereo.mp4", Making(audio=sound(layout="stereo"))),
    Odd("surround.mp4", Making(audio=sound(layout="5.1"))),
    Odd("8_khz.avi", Making(VideoTrack("mpeg4"), sound(codec="pcm_mulaw", rate_hz=8_000))),
    Odd("96_khz.mkv", Making(audio=sound(codec="flac", rate_hz=96_000, layout="stereo"))),
    Odd("not_numbers.mkv", Making(audio=sound(codec="pcm_f32le", broken=True))),
    Odd("silence.mp4", Making(audio=sound(loudness=0.0))),
    Odd("edited.mp4", Making(options={"movie_timescale": "1000"}, patches=EDITS), seconds=1.5),
    Odd("long_sound.mkv", Making(audio=sound(seconds=3.5)), seconds=3.5),
    Odd("long_picture.mkv", Making(video(seconds=3.5)), seconds=3.5),
    Odd("late_picture.mkv", Making(video(from_s=1.0, seconds=2.0), sound(seconds=3.0)), seconds=3.0),
    Odd("late_picture.mp4", Making(video(from_s=1.0, seconds=2.0), sound(seconds=3.0)), seconds=3.0),
    Odd("late_sound.mkv", Making(video(seconds=3.0), sound(from_s=1.0, seconds=2.0)), seconds=3.0),
    Odd("late_sound.mp4", Making(video(seconds=3.0), sound(from_s=1.0, seconds=2.0)), seconds=3.0),
    Odd("starts_early.ts", start_ts(CLOCK_END_S - 0.5), seconds=4.0),
    Odd("starts_late.ts", start_ts(1000.0), seconds=4.0),
    Odd("clock_wraps.ts", start_ts(CLOCK_END_S - 1.7), seconds=4.0),
    Odd("clock_ends_soon.ts", start_ts(90_000.0), seconds=4.0),
    Odd("cut.ts", replace(TS, patches=(cut(0.5),)), seconds=1.1),
    Odd("window.mp4", BACK, window_s=(0.5, 1.75), seconds=1.25),
    *(Odd(f"late_{name}", longer(one), window_s=(2.3, 4.3)) for name, one in SOUGHT.items()),
    *(Odd(f"late_{name}.ts", longer(TS, at), window_s=(2.3, 4.3)) for name, at in CLOCK_PARTS.items()),
    Odd("late_song.mp3", longer(MP3), wh=(0, 0), missing="picture", allow_missing=True, window_s=(2.3, 4.3)),
    Odd(
        "late_song.flac", longer(FLAC), wh=(0, 0), missing="picture", allow_missing=True, window_s=(2.3, 4.3)
    ),
    Odd("channels_change.ts", channels_change, seconds=4.0, audio_compared=False),
    Odd(
        "huge_flat.mp4",
        Making(video(size_wh=FULL_HD_4, frames_per_s=4, flat=True)),
        wh=(114, 64),
        short_side_px=64,
    ),
    Odd(
        "said_65535.mp4",
        replace(BACK, patches=(change(b"avc1", 24, ">HH", 65_535, 65_535, which=1),)),
        wh=(128, 72),
    ),
    Odd(
        "said_8192.mp4",
        replace(BACK, patches=(change(b"avc1", 24, ">HH", 8192, 8192, which=1),)),
        wh=(128, 72),
    ),
    Odd("été 映画 🎬.mp4", BACK),
    Odd("with  spaces .mp4", BACK),
    Odd("-i.mp4", BACK),
    Odd("a|b.mp4", BACK),
    Odd("file:c.mp4", BACK),
    Odd("take%03d.mp4", BACK),
    Odd("no_suffix", replace(BACK, form="mp4")),
    Odd("really_mkv.mp4", MKV),
)

PLAYLISTS = {
    "text": "just some words\n" * 300,
    "ffconcat": "ffconcat version 1.0\nfile 'usual.mp4'\n",
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nusual.ts\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><BaseURL>usual.mp4</BaseURL></Period></MPD>\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "cue": 'FILE "song.wav" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}

REFUSED = (
    Odd("empty.mp4", raw(b""), "empty"),
    Odd("missing.mp4", void, "missing"),
    Odd("folder.mp4", Path.mkdir, "not_a_file"),
    Odd("fifo.mp4", lambda path: os.mkfifo(path), "not_a_file"),
    Odd("socket.mp4", listens, "not_a_file"),
    Odd("link_to_fifo.mp4", link_to_fifo, "not_a_file"),
    Odd("link_to_device.mp4", lambda path: path.symlink_to("/dev/zero"), "not_a_file"),
    Odd("link_to_itself.mp4", lambda path: path.symlink_to(path.name), "unreadable"),
    Odd("locked.mp4", locked, "unreadable"),
    *(Odd(f"{name}.mp4", raw(text), "not_media") for name, text in PLAYLISTS.items()),
    Odd("gif.mp4", gif, "not_media"),
    Odd("png.mp4", lambda path: raw(encoded_image("png", "rgb24"))(path), "not_media"),
    Odd("jpeg.mp4", lambda path: raw(encoded_image("mjpeg", "yuvj420p"))(path), "not_media"),
    Odd("zip.mp4", zipped, "not_media"),
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
        "20_million_samples.mp4",
        replace(BACK, patches=(change(b"stsz", 4, ">II", 1, 20_000_000),)),
        "decode_failed",
    ),
    Odd(
        "really_8192.avi",
        Making(VideoTrack("mjpeg", (8192, 8192), "yuvj420p", 1, flat=True, seconds=1.0)),
        "too_large",
    ),
    Odd("strip.mp4", Making(video(size_wh=(8000, 64), seconds=0.2), sound(seconds=0.2)), "too_large"),
    Odd("wide_pixels_strip.mp4", Making(video(options={"x264-params": "sar=16/1"})), "too_large"),
    Odd("only_picture.mp4", Making(audio=()), "no_audio"),
    Odd("only_sound.mp4", Making(None), "no_video"),
    Odd("song_with_cover.mp3", Making(None, sound(codec="libmp3lame"), cover=True), "no_video"),
    Odd("png.mov", Making(VideoTrack("png", pix_fmt="rgb24")), "codec"),
    Odd("png.avi", Making(VideoTrack("png", pix_fmt="rgb24"), sound(codec="pcm_s16le")), "codec"),
    Odd("gif.nut", Making(VideoTrack("gif", pix_fmt="rgb8")), "codec"),
    Odd("flash_screen.flv", Making(VideoTrack("flashsv", pix_fmt="bgr24"), sound(rate_hz=44_100)), "codec"),
    Odd("zmbv.avi", Making(VideoTrack("zmbv", pix_fmt="bgr0"), sound(codec="pcm_s16le")), "codec"),
    Odd("dfpwm.wav", Making(None, sound(codec="dfpwm")), "codec", allow_missing=True),
    Odd(
        "rate.wav",
        replace(WAV, patches=(change(b"fmt ", 8, "<I", 1 << 31),)),
        "not_media",
        allow_missing=True,
    ),
    Odd(
        "rate_2_million.wav",
        replace(WAV, patches=(change(b"fmt ", 8, "<I", 2_000_000),)),
        "too_much",
        allow_missing=True,
    ),
    Odd(
        "channels.wav",
        replace(WAV, patches=(change(b"fmt ", 6, "<H", 1000),)),
        OF_1000_CHANNELS,
        allow_missing=True,
    ),
    Odd(
        "100_channels.wav",
        replace(WAV, patches=(change(b"fmt ", 6, "<H", 100),)),
        "too_much",
        allow_missing=True,
    ),
    Odd("sound_damaged.mp4", audio_damaged(0.3, 0.7, BACK), "decode_failed"),
    Odd("sound_damaged.avi", audio_damaged(0.3, 0.7, AVI), "decode_failed"),
    Odd("media_zeros.mp4", replace(BACK, patches=(fill_media(None),)), "decode_failed"),
    Odd("media_noise.mp4", replace(BACK, patches=(fill_media(NOISE),)), "decode_failed"),
    Odd("elsewhere.mp4", elsewhere, "truncated"),
    Odd(
        "damaged_header.wmv",
        replace(WMV, patches=(change(bytes.fromhex("9107dcb7"), 20, "<I", 0),)),
        "not_media",
    ),
    Odd("encrypted.mp4", Making(options=ENCRYPTION), "decode_failed"),
    Odd("no_fragments.mp4", replace(FRAGMENTS, patches=(cut(0.04),)), "truncated"),
    Odd("long_box.mp4", replace(BACK, patches=(change(b"stts", 4, ">I", 0x7FFFFFFF),)), "memory"),
    Odd(
        "rate_changes.ts",
        lambda path: join(path, AudioTrack(), AudioTrack(from_s=2.0, rate_hz=32_000)),
        "decode_failed",
    ),
    Odd("window_outside.mp4", BACK, "window_outside", window_s=(5.0, 7.0)),
)

ODD_FILES = READ + REFUSED
