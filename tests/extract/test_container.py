"""What is refused as a file is opened, before a picture is made of it, and where its sound gets lost."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from extract.media import container, sound
from extract.media.container import MediaError, open_media
from extract.media.decode import read_clip
from extract.media.pictures import picture_of
from moodfuse.corpus import ClipSettings, make_clip


def test_a_file_that_goes_before_it_is_opened_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at it and its opening it may vanish."""
    path = tmp_path / "gone.mp4"
    path.write_bytes(b"film")
    check = container._check_regular

    def vanish(found: Path) -> None:
        check(found)
        found.unlink()

    monkeypatch.setattr(container, "_check_regular", vanish)
    with pytest.raises(MediaError, match="no such file"):
        open_media(path)


def test_a_picture_that_grows_into_a_strip_is_refused() -> None:
    """Pixels of another shape count for every picture, not for the first alone, before one is made of it."""
    opened: Any = SimpleNamespace(path=Path("grows.mp4"), pixel_aspect=50.0)
    with pytest.raises(MediaError, match="192000 x 2160"):
        picture_of(SimpleNamespace(width=3840, height=2160), opened)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_sound_that_the_resampler_loses_is_refused(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory it gives less, or nothing, and no error: never a clip with silence in place of sound."""
    path = make_clip(tmp_path / "a.mp4", settings=ClipSettings(1.0, 64, 48))
    whole = sound._resample

    def lost(samples: np.ndarray, rate_hz: int) -> np.ndarray:
        found = whole(samples, rate_hz)
        return found[: int(share * len(found))]

    monkeypatch.setattr(sound, "_resample", lost)
    with pytest.raises(MediaError, match="more memory than allowed"):
        read_clip(path)


def test_tags_in_another_encoding_do_not_matter(tmp_path: Path) -> None:
    """A title in Latin-1, as old programs write it, is no reason to refuse the file."""
    path = make_clip(tmp_path / "a.mp4", settings=ClipSettings(1.0, 64, 48))
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        target.metadata["title"] = "Caf? noir"
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    data = (tmp_path / "b.mkv").read_bytes()
    assert data.count(b"Caf? noir") == 1
    (tmp_path / "b.mkv").write_bytes(data.replace(b"Caf? noir", b"Caf\xe9 noir"))
    clip = read_clip(tmp_path / "b.mkv")
    assert clip.frames.shape == (32, 48, 64, 3) and clip.facts.audio_codec == "aac"
