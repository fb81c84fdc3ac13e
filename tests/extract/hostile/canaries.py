"""Files and names that refer to others, in a folder with secrets that could be read.

A secret is a clip of real media, so that following a canary would succeed. A canary gives the features of
what it holds itself, or is refused.
"""

import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostile.seeds import make_seed

SECRETS = frozenset({"secret.mp4", "secret.mkv", "secret.ts", "secret.txt", "secret.m3u8", "secret-1.png"})
"""Files that no canary may open."""
READ, TEXT, NAME = frozenset({"features"}), frozenset({"not_media"}), frozenset({"missing"})
EITHER = READ | {"not_media", "decode_failed", "truncated", "no_audio", "no_video"}


@dataclass(frozen=True)
class Place:
    """Where canaries are made, the clips to make them of, and the port at which a server would give the secrets."""

    folder: Path
    clips: Path
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clip(self, name: str) -> bytes:
        """The bytes of a good clip."""
        return (self.clips / name).read_bytes()


@dataclass(frozen=True)
class Canary:
    """What is asked for, what may come of it, and what is made of it first."""

    name: str
    expected: frozenset[str]
    make: Callable[[Place, Path], object] = lambda place, path: None


def text(name: str, content: str) -> Canary:
    """A file of text; `{address}`, `{folder}` and `{port}` are filled in."""

    def make(place: Place, path: Path) -> None:
        known = {"{address}": place.address, "{folder}": str(place.folder), "{port}": str(place.port)}
        path.write_text(
            re.sub("|".join(map(re.escape, known)), lambda match: known[match[0]], content) + "\n" * 64
        )

    return Canary(name, TEXT, make)


def named(name: str) -> Canary:
    """A good clip under an odd name."""
    return Canary(name, READ, lambda place, path: path.write_bytes(place.clip("mp4.mp4")))


def alias(place: Place, path: Path) -> None:
    """A QuickTime file whose tracks lie in another file, by an alias record (`alis`) with its path."""
    secret = str(place.folder / "secret.mp4").encode()
    records = (
        struct.pack(">HH", 2, len(secret))
        + secret
        + b"\0" * (len(secret) % 2)
        + struct.pack(">HH", 0xFFFF, 0)
    )
    head = bytes(10) + b"\x01/" + bytes(26) + bytes(12) + b"\x0asecret.mp4".ljust(64, b"\0") + bytes(16)
    path.write_bytes(
        _with_reference(
            place.clip("late.mp4"), b"alis", head + struct.pack(">HH", 1, 1) + bytes(16) + records
        )
    )


def address(place: Place, path: Path) -> None:
    """A QuickTime file whose tracks lie in another file, by its address (`url `)."""
    path.write_bytes(
        _with_reference(place.clip("late.mp4"), b"url ", f"file://{place.folder}/secret.mp4\0".encode())
    )


def _with_reference(data: bytes, kind: bytes, record: bytes) -> bytes:
    """The file with other data references; its index stands at the end, so that no place in the media moves."""
    found = bytearray(data)
    old = b"\0\0\0\x0curl \0\0\0\x01"
    entry = struct.pack(">I4sI", 12 + len(record), kind, 0) + record
    while (at := found.find(old)) >= 0:
        for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
            size = found.rindex(box, 0, at) - 4
            found[size : size + 4] = struct.pack(
                ">I", struct.unpack_from(">I", found, size)[0] + len(entry) - len(old)
            )
        found[at : at + len(old)] = entry
    return bytes(found)


def reference_movie(place: Place, path: Path) -> None:
    """A QuickTime file that only names another (`rmra`)."""
    link = f"file://{place.folder}/secret.mp4\0".encode()
    body = _box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(link)) + link)
    path.write_bytes(_box(b"ftyp", b"qt  \0\0\0\0qt  ") + _box(b"moov", _box(b"rmra", _box(b"rmda", body))))


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def linked_segment(place: Place, path: Path) -> None:
    """A Matroska file that names the file of its next segment."""
    data = place.clip("mkv.mkv")
    at = data.index(b"\x15\x49\xa9\x66") + 4
    width = 8 - data[at].bit_length() + 1
    size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    more = (
        b"\x3e\xb9\x23\x90" + bytes(range(16)) + b"\x3e\x83\xbb\x8asecret.mkv" + b"\x3c\x83\xab\x8asecret.mkv"
    )
    info = (1 << 56 | size + len(more)).to_bytes(8, "big") + more
    segment = data.index(b"\x18\x53\x80\x67") + 4
    path.write_bytes(
        data[:segment] + b"\x01" + b"\xff" * 7 + data[segment + 8 : at] + info + data[at + width :]
    )


def _link(target: str) -> Callable[[Place, Path], None]:
    return lambda place, path: path.symlink_to(place.folder / target)


_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n"
_END = "\n#EXT-X-ENDLIST"
_DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="0" bandwidth="1000"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
_SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 33\n"
_CONCAT = "ffconcat version 1.0\nfile "

CANARIES: dict[str, Canary] = {
    "ffconcat": text("list.ffconcat", f"{_CONCAT}'secret.mp4'"),
    "ffconcat as mp4": text("list.mp4", f"{_CONCAT}secret.mp4"),
    "ffconcat whole path": text("whole.mp4", f"{_CONCAT}'{{folder}}/secret.mp4'"),
    "ffconcat to a host": text("host.mp4", f"{_CONCAT}'{{address}}/secret.mp4'"),
    "hls": text("list.m3u8", f"{_HLS}secret.ts{_END}"),
    "hls as mp4": text("hls.mp4", f"{_HLS}secret.ts{_END}"),
    "hls to a host": text("host.m3u8", f"{_HLS}{{address}}/secret.ts{_END}"),
    "hls of lists": text("lists.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nsecret.m3u8"),
    "hls with a key": text(
        "key.m3u8",
        f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="secret.txt"\n#EXT-X-MAP:URI="secret.mp4"\n{_HLS}secret.ts',
    ),
    "dash": text("list.mpd", _DASH.format("secret.mp4")),
    "dash as mp4": text("dash.mp4", _DASH.format("secret.mp4")),
    "dash to a host": text("host.mpd", _DASH.format("{address}/secret.mp4")),
    "sdp": text("session.sdp", _SDP),
    "sdp as mp4": text("sdp.mp4", _SDP),
    "rtsp in a file": text("rtsp.mp4", "rtsptextRTSP/1.0\nrtsp://127.0.0.1:{port}/secret.mp4"),
    "cue": text("album.cue", 'FILE "secret.mp4" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00'),
    "m3u": text("list.m3u", "secret.mp4"),
    "pls": text("list.pls", "[playlist]\nFile1=secret.mp4\nNumberOfEntries=1\nVersion=2"),
    "asx": text("list.asx", '<asx version="3.0"><entry><ref href="{address}/secret.mp4"/></entry></asx>'),
    "asf reference": text("list.asf", "[Reference]\nRef1={address}/secret.mp4?MSWMExt=.asf"),
    "xspf": text(
        "list.xspf",
        '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track><location>'
        "secret.mp4</location></track></trackList></playlist>",
    ),
    "smil": text("show.smil", '<smil><body><video src="secret.mp4"/></body></smil>'),
    "imf": text(
        "list.xml",
        '<?xml version="1.0"?><CompositionPlaylist><Asset>secret.mp4</Asset></CompositionPlaylist>',
    ),
    "avisynth": text("script.avs", 'DirectShowSource("secret.mp4")'),
    "filters": text("graph.mp4", "movie=secret.mp4"),
    "vobsub": text(
        "subtitles.idx", "# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\nid: en, index: 0"
    ),
    "alias": Canary("alias.mov", EITHER, alias),
    "address": Canary("address.mov", EITHER, address),
    "reference movie": Canary("reference.mov", EITHER, reference_movie),
    "linked segment": Canary("linked.mkv", EITHER, linked_segment),
    "link": Canary("link.mp4", READ, _link("secret.mp4")),
    "link to text": Canary("text.mp4", TEXT, _link("secret.txt")),
    "link to nothing": Canary("nothing.mp4", NAME, _link("nowhere")),
    "hard link": Canary("hard.mp4", READ, lambda place, path: path.hardlink_to(place.folder / "secret.mp4")),
    "fifo": Canary("fifo.mp4", frozenset({"not_a_file"}), lambda place, path: os.mkfifo(path)),
    "begins with a dash": named("-i.mp4"),
    "begins with file:": named("file:clip.mp4"),
    "holds |": named("concat:secret.mp4|secret.mp4"),
    "holds a pattern": named("take %03d.mp4"),
    "looks like subfile": named("subfile,,start,0,end,99,,:secret.mp4"),
    "looks like data": named("data:video,mp4"),
    "holds a line break": named("one\nother.mp4"),
    "no text": named(os.fsdecode(b"\xff\xfe.mp4")),
    "image pattern": Canary("secret-%d.png", NAME),
    "concat:": Canary("concat:secret.ts|secret.ts", NAME),
    "subfile:": Canary("subfile,,start,1,end,0,,:secret.mp4", NAME),
    "data:": Canary("data:video/mp4;base64,AAAA", NAME),
    "cache:": Canary("cache:secret.mp4", NAME),
    "async:": Canary("async:file:secret.mp4", NAME),
    "file:": Canary("file:secret.mp4", NAME),
    "pipe:": Canary("pipe:0", NAME),
    "fd:": Canary("fd:0", NAME),
    "http": Canary("http://127.0.0.1:{port}/secret.mp4", NAME),
    "gopher": Canary("gopher://127.0.0.1:{port}/secret.mp4", NAME),
    "rtsp": Canary("rtsp://127.0.0.1:{port}/secret.mp4", NAME),
    "rtmp": Canary("rtmp://127.0.0.1:{port}/secret", NAME),
    "tcp": Canary("tcp://127.0.0.1:{port}", NAME),
    "udp": Canary("udp://127.0.0.1:{port}", NAME),
    "unix": Canary("unix:secret.sock", NAME),
}
"""Name -> canary."""


def make_canaries(folder: Path, port: int) -> dict[str, str]:
    """Make every canary and the secrets; name -> what is asked for, relative to the folder.

    Parameters
    ----------
    folder : Path
    port : int
        Of a server of this machine that gives what is in the folder.
    """
    place = Place(folder, folder / "clips", port)
    make_clips(place.clips)
    make_secrets(place)
    asked = {name: canary.name.replace("{port}", str(port)) for name, canary in CANARIES.items()}
    for name, canary in CANARIES.items():
        canary.make(place, folder / asked[name])
    return asked


def make_clips(folder: Path) -> None:
    """Write the good clips that canaries and secrets are made of."""
    folder.mkdir()
    make_seed(folder, "mp4", late_index=True).rename(folder / "late.mp4")
    for name in ("mp4", "mkv", "ts"):
        make_seed(folder, name)


def make_secrets(place: Place) -> None:
    """Write the secrets, which no canary may open, to the folder of the canaries."""
    for source, name in (("mp4.mp4", "secret.mp4"), ("mkv.mkv", "secret.mkv"), ("ts.ts", "secret.ts")):
        shutil.copy(place.clips / source, place.folder / name)
    (place.folder / "secret.txt").write_text("0123456789abcdef")
    (place.folder / "secret.m3u8").write_text(f"{_HLS}secret.ts{_END}\n")
    for number in range(3):
        (place.folder / f"secret-{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
