"""Files and names that refer to others are read as files, or refused: no other file is read, and no host
contacted.

The folder holds good clips that each of them would lead to, so one that is followed would be decoded.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.limits import MediaError
from moodfuse.extract.media.pool import DecodeRequest, decode_many
from odd_media import AudioTrack, Making, VideoTrack

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="0" bandwidth="1000"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 33\n"
TEXTS = {
    "list.ffconcat": "ffconcat version 1.0\nfile 'secret.mp4'",
    "list.mp4": "ffconcat version 1.0\nfile secret.mp4",
    "host.mp4": "ffconcat version 1.0\nfile '{address}/secret.mp4'",
    "list.m3u8": HLS.format("secret.ts"),
    "host.m3u8": HLS.format("{address}/secret.ts"),
    "list.mpd": DASH.format("secret.mp4"),
    "host.mpd": DASH.format("{address}/secret.mp4"),
    "session.sdp": SDP,
    "rtsp.mp4": "rtsptextRTSP/1.0\nrtsp://127.0.0.1:{port}/secret.mp4",
    "album.cue": 'FILE "secret.mp4" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00',
    "list.m3u": "secret.mp4",
    "show.svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="secret.mp4"/></svg>',
}
NAMES = (
    "concat:secret.ts|secret.ts",
    "subfile,,start,1,end,0,,:secret.mp4",
    "data:video/mp4;base64,AAAA",
    "cache:secret.mp4",
    "file:secret.mp4",
    "pipe:0",
    "fd:0",
    "http://127.0.0.1:{port}/secret.mp4",
    "tcp://127.0.0.1:{port}",
    "secret-%d.png",
)
"""Names that FFmpeg would read as addresses; no such file exists."""
ODD_NAMES = ("-i.mp4", "file:clip.mp4", "concat:secret.mp4|secret.mp4", "take %03d.mp4", "one\nother.mp4")
BYTES = os.fsdecode(b"\xff\xfe.mp4")


@pytest.fixture(scope="module")
def server_requests() -> list[str]:
    """The requests to a server that would serve the folder."""
    return []


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, server_requests: list[str]) -> Iterator[int]:
    """The port of the server; the folder is the current one."""
    folder = tmp_path_factory.mktemp("canaries")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *values: object) -> None:
            server_requests.append(str(values))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = Path.cwd()
    os.chdir(folder)
    Making(VideoTrack(size_wh=(64, 48), seconds=1.0), (AudioTrack(seconds=1.0),))(folder / "secret.mp4")
    Making(VideoTrack(size_wh=(64, 48), seconds=1.0), (AudioTrack(seconds=1.0),), "mpegts")(
        folder / "secret.ts"
    )
    for name in (*ODD_NAMES, BYTES):
        Making(VideoTrack(seconds=1.0), (AudioTrack(seconds=1.0),))(folder / "own.mp4")
        shutil.move(folder / "own.mp4", folder / name)
    for name, text in TEXTS.items():
        address = f"http://127.0.0.1:{server.server_port}"
        content = text.replace("{address}", address).replace("{port}", str(server.server_port))
        (folder / name).write_text(content + "\n" * 64)
    yield server.server_port
    os.chdir(before)
    server.shutdown()
    server.server_close()


def test_what_refers_to_other_files_is_refused(port: int, server_requests: list[str]) -> None:
    names = [name.replace("{port}", str(port)) for name in NAMES]
    requests = [DecodeRequest(Path(name)) for name in (*TEXTS, *names)]
    results = decode_many(requests, jobs=1)
    codes = {str(request.path): result.code for request, result in results if isinstance(result, MediaError)}
    expected = dict.fromkeys(TEXTS, "not_media") | {str(Path(name)): "missing" for name in names}
    assert codes == expected and server_requests == []


@pytest.mark.parametrize("name", [*ODD_NAMES, BYTES])
def test_a_good_clip_is_read_under_any_name(name: str, port: int) -> None:
    clip = read_clip(name)
    assert isinstance(clip, DecodedClip) and clip.frames.shape == (32, 72, 96, 3)
    np.testing.assert_array_equal(clip.frames, read_clip(ODD_NAMES[0]).frames)


@pytest.mark.parametrize(
    "name", ["list.ffconcat", "list.m3u8", "concat:secret.ts|secret.ts", "file:secret.mp4"]
)
def test_without_the_whitelists_ffmpeg_follows_them(name: str, port: int) -> None:
    options = {"protocol_whitelist": "concat,file", "safe": "0", "allowed_extensions": "ALL"}
    with av.open(name, options=options) as media:
        assert sum(1 for _ in media.demux()) > 10
