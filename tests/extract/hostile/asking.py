"""A script that decodes a list of names: `asking.py safe|unsafe JSON`; prints what came of it.

`unsafe` opens them as FFmpeg would by itself, to show that a trace sees what is followed.
"""

import hashlib
import json
import sys
from pathlib import Path

import av

from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.pool import DecodeRequest, decode_many


def mark(clip: DecodedClip) -> str:
    """A digest of what was decoded."""
    return hashlib.sha256(clip.frames.tobytes() + clip.waveform.tobytes()).hexdigest()[:16]


def safely(names: list[str]) -> dict[str, str]:
    """The code of each refusal, or the mark of what was decoded."""
    found = {}
    for request, result in decode_many([DecodeRequest(Path(name)) for name in names], jobs=2):
        found[str(request.path)] = result.code if isinstance(result, MediaError) else mark(result)
    return found


def unsafely(names: list[str]) -> dict[str, str]:
    """How many packets each gives, or the error."""
    options = {
        "protocol_whitelist": "concat,crypto,data,file,http,rtp,subfile,tcp,udp",
        "safe": "0",
        "enable_drefs": "1",
        "use_absolute_path": "1",
        "allowed_extensions": "ALL",
    }
    found = {}
    for name in names:
        try:
            with av.open(name, options=options, timeout=1.0) as media:
                found[name] = str(sum(1 for _ in media.demux()))
        except (av.error.FFmpegError, OSError) as error:
            found[name] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps({"safe": safely, "unsafe": unsafely}[sys.argv[1]](json.loads(sys.argv[2]))))
