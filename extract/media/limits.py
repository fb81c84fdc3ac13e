"""What reading one clip may cost, which clips are accepted, and why a clip is refused.

The limits keep a bad file from exhausting the machine. They are not a sandbox: a service that accepts files
from the public should run in a container.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.cache.errors import InputError

COMPLETE = 0.95
"""A window is accepted if at least this share of its video and of its audio could be decoded."""
SLACK_S = 0.1  # tolerance of lengths in headers
MAX_PIXELS = 3840 * 2160
MAX_ASPECT = 20  # longer side of a frame over the shorter one
MAX_CODED_PIXELS = 4096 * 2304  # decoders round frame sides up to whole blocks
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64
MAX_FILE_BYTES = 256 << 30
MAX_PACKETS = 4_000_000  # up to the end of a window; several times the packets of ten hours
MAX_OPEN_FILES = 64
MAX_DEADLINE_S = 1e6
MAX_MEMORY_MB = 1 << 24

# The codecs of cameras, recorders, phones, broadcasts and web sites, by the names of FFmpeg's decoders.
# Formats of games, screen captures of one program, and still images are left out.
_VIDEO_CODECS = """
h264 hevc vvc av1 libdav1d vp8 libvpx vp9 libvpx-vp9 vp3 vp4 vp5 vp6 vp6a vp6f vp7 theora dirac cavs
mpeg1video mpeg2video mpegvideo mpeg4 msmpeg4 msmpeg4v1 msmpeg4v2 h261 h263 h263i h263p flv
wmv1 wmv2 wmv3 vc1 rv10 rv20 rv30 rv40 rv60 svq1 svq3 snow
cinepak indeo2 indeo3 indeo4 indeo5 msvideo1 rpza smc qtrle asv1 asv2
mjpeg mjpegb jpeg2000 dvvideo prores dnxhd cfhd
ffv1 ffvhuff huffyuv utvideo magicyuv lagarith rawvideo v210 v308 v408 v410 yuv4
"""
_AUDIO_CODECS = """
aac aac_fixed aac_latm libfdk_aac mp1 mp1float mp2 mp2float mp3 mp3float mp3adu mp3adufloat mp3on4 mp3on4float
ac3 ac3_fixed eac3 dca truehd mlp vorbis libvorbis opus libopus speex libspeex flac alac
wmav1 wmav2 wmapro wmalossless wmavoice cook sipr real_144 real_288 ralf atrac1 atrac3 atrac3al atrac3plus
atrac3plusal atrac9 amrnb amrwb libopencore_amrnb libopencore_amrwb gsm gsm_ms ilbc qcelp evrc
wavpack ape tta tak als shorten mpc7 mpc8 qdm2 qdmc imc on2avc nellymoser metasound twinvq mace3 mace6
g722 g723_1 g726 g726le g729 adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_swf adpcm_yamaha adpcm_adx dvaudio
s302m
pcm_alaw pcm_mulaw pcm_bluray pcm_dvd pcm_lxf pcm_s8 pcm_s8_planar pcm_u8
pcm_s16be pcm_s16be_planar pcm_s16le pcm_s16le_planar pcm_u16be pcm_u16le
pcm_s24be pcm_s24daud pcm_s24le pcm_s24le_planar pcm_u24be pcm_u24le
pcm_s32be pcm_s32le pcm_s32le_planar pcm_u32be pcm_u32le
pcm_f16le pcm_f24le pcm_f32be pcm_f32le pcm_f64be pcm_f64le
"""
VIDEO_CODECS, AUDIO_CODECS = frozenset(_VIDEO_CODECS.split()), frozenset(_AUDIO_CODECS.split())

REASONS: dict[str, str] = {
    "missing": "no such file; check the path",
    "not_a_file": "not a regular file; give a media file, not a folder, pipe or device",
    "unreadable": "the file cannot be read; check its permissions",
    "empty": "the file is empty; copy or download it again",
    "changed": "the file changed while it was read; run the command again once it is complete",
    "not_media": "not a video file that can be opened; convert it to MP4 (H.264 and AAC)",
    "no_video": "there is no video in the window; give a file with video, or a window that has some",
    "no_audio": "there is no audio in the window; give a file with audio, or a window that has some",
    "too_large": f"the frames have over 3840 x 2160 pixels, or sides of over {MAX_ASPECT} to 1; "
    "scale the video down",
    "too_much": "the file, or its part up to the end of the window, exceeds the limits; "
    "cut the clip out first",
    "codec": "the video or audio codec is not supported; convert the file to MP4 (H.264 and AAC)",
    "truncated": "the file ends before it should; "
    "copy or download it again, or give a window inside what is left",
    "decode_failed": "the video or audio cannot be decoded; convert the file again from its source",
    "window_outside": "the window is not inside the file; correct start_s and end_s",
    "timeout": "decoding took longer than its deadline; "
    "cut the clip out of the file first, or allow more time",
    "memory": "decoding took more memory than allowed; "
    "allow more, or use fewer jobs; a damaged file may ask for any amount",
}
"""Why a clip is refused, the same in every command: code -> the reason and what to do, separated by a
semicolon.
"""


class MediaError(InputError):
    """A clip is refused.

    Parameters
    ----------
    code : str
        A key of `REASONS`.
    path : Path or str
        The media file.
    detail : str
        More on the file, as a clause without a full stop.
    """

    def __init__(self, code: str, path: Path | str, detail: str = "") -> None:
        self.code, self.path, self.detail = code, Path(path), detail
        super().__init__(f"{path}: {self.sentence}")

    @property
    def sentence(self) -> str:
        """The reason, what to do, and the detail."""
        return REASONS[self.code] + (f" ({self.detail})" if self.detail else "")

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, Path, str]]:
        return type(self), (self.code, self.path, self.detail)


@dataclass(frozen=True)
class Limits:
    """What a worker may spend on one clip.

    Attributes
    ----------
    deadline_s : float
        Seconds for a clip.
    deadline_per_s : float
        Additional seconds for each second of the window.
    memory_mb : int
        Megabytes of address space in addition to those of the idle worker.
    """

    deadline_s: float = 60.0
    deadline_per_s: float = 2.0
    memory_mb: int = 2048

    def __post_init__(self) -> None:
        if not 0 < self.deadline_s <= MAX_DEADLINE_S:
            raise InputError(
                f"the deadline is {self.deadline_s} s; expected more than 0, at most {MAX_DEADLINE_S:.0f} s"
            )
        if not 64 <= self.memory_mb <= MAX_MEMORY_MB:
            raise InputError(f"{self.memory_mb} MB of memory for a clip; expected 64 to {MAX_MEMORY_MB}")

    def seconds_for(self, window_s: float) -> float:
        """Return the deadline of a window of `window_s` seconds."""
        return min(MAX_DEADLINE_S, self.deadline_s + self.deadline_per_s * max(0.0, window_s))


@dataclass(frozen=True)
class ReadingRules:
    """How a batch of clips is read.

    With `allow_partial`, clips of which less than 95 % can be decoded are accepted and marked. `max_failures`
    refused clips end the batch.
    """

    limits: Limits = field(default_factory=Limits)
    allow_partial: bool = False
    max_failures: int | None = None


def confine(limits: Limits) -> None:
    """Limit the address space and open files of this process, and disable core dumps, if the system can."""
    try:
        import resource
    except ImportError:  # Windows: the deadline that the parent enforces is the only limit
        return
    values = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: MAX_OPEN_FILES}
    if used := address_space_bytes():
        values[resource.RLIMIT_AS] = used + (limits.memory_mb << 20)
    for name, value in values.items():
        hard = resource.getrlimit(name)[1]
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (lowered, lowered))


def address_space_bytes() -> int:
    """Return the bytes of address space of this process; 0 where the system does not report them."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0
