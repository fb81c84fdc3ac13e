"""What `check` and `extract` say of a data set as a whole: what is left out, and what would be kept by an option."""

import shutil
from pathlib import Path

import av
import numpy as np

from moodfuse.extract.dataset.check import CheckSettings, check
from moodfuse.extract.failures import refusal_lines


def write_song(path: Path) -> None:
    """Two seconds of a tone as MP3."""
    with av.open(path, "w") as target:
        stream = target.add_stream("libmp3lame", rate=16_000, layout="mono")
        wave = (0.3 * np.sin(np.arange(32_256) * 0.09)).astype(np.float32).reshape(-1, 1, 1152)
        for number, samples in enumerate(wave):
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 1152 * number
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def test_songs_are_clips_that_missing_impute_keeps(media: Path, tmp_path: Path) -> None:
    """Without `--missing impute` audio files are ignored, and the message names them and the option."""
    data = Path(shutil.copytree(media, tmp_path / "clips"))
    write_song(data / "sad" / "song.MP3")
    (data / "sad" / "cover.jpg").touch()
    found = check(CheckSettings(data=data, folds=2, decode=False))
    assert not found.refused and found.lines[0].startswith("10 clips")
    hint = "1 audio files: 'sad/song.MP3'; add --missing impute to use them as clips"
    assert f"ignored in {data}: {hint}" in found.lines
    assert f"ignored in {data}: 1 files without a media suffix: 'sad/cover.jpg'" in found.lines
    kept = check(CheckSettings(data=data, folds=2, decode=False, impute=True))
    assert not kept.refused and "  sad: 6 clips, 6 groups" in kept.lines


def test_refusals_of_another_kind_have_no_hint() -> None:
    """`--missing impute` is suggested only for clips without audio or video, not for other refusals."""
    assert refusal_lines(["truncated", "no_audio", "no_video"])[1].startswith(
        "2 of them have no audio or no video"
    )
    assert refusal_lines(["truncated"]) == ["1 refused: 1 truncated"]
