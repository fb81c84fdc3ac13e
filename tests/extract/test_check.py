"""`check` lists what is ignored, what an option would keep, duplicates, and what `extract` would refuse."""

import shlex
import shutil
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.extract.dataset.check import check
from moodfuse.extract.pipeline import extract_features
from moodfuse.extract.progress import describe_statuses
from moodfuse.extract.settings import ExtractSettings
from moodfuse.synthetic_corpus import ClipSettings, make_clip


def test_audio_files_are_clips_under_missing_impute(media: Path, tmp_path: Path) -> None:
    """Without the option audio files are ignored, and the message names them and the option."""
    data = Path(shutil.copytree(media, tmp_path / "clips"))
    make_clip(data / "sad" / "song.mp4", settings=ClipSettings(2.0, 64, 48)).rename(data / "sad" / "song.M4A")
    (data / "sad" / "cover.jpg").touch()
    result = check(data, folds=2, decode=False)
    assert not result.refused and result.lines[0].startswith("10 clips")
    hint = "1 audio files: 'sad/song.M4A'; add --missing impute to use them as clips"
    assert f"ignored in {data}: {hint}" in result.lines
    assert f"ignored in {data}: 1 files without a media suffix: 'sad/cover.jpg'" in result.lines
    kept = check(data, folds=2, decode=False, impute=True)
    assert not kept.refused and "  sad: 6 clips, 6 groups" in kept.lines


def test_missing_impute_is_suggested_only_for_missing_streams() -> None:
    """Not for other refusals."""

    def lines(*reasons: str) -> list[str]:
        clips = [Clip(str(number), "", "sad") for number in range(len(reasons))]
        return describe_statuses(
            [ClipStatus(clip, "", "", "", False, why, "x") for clip, why in zip(clips, reasons, strict=True)]
        )

    assert lines("truncated", "no_audio", "no_video")[-1].startswith("2 of them have no audio or no video")
    assert lines("truncated") == ["refused 0: truncated: x", "1 refused: 1 truncated"]


def test_the_same_warning_is_listed_once_with_a_count() -> None:
    """With the first clips; other warnings have their own line."""
    details = ["3 packets or frames are damaged"] * 4 + ["only 20.0 s of 30.0 s could be decoded"]
    statuses = [
        ClipStatus(Clip(f"{number}.mp4", "", "sad"), "x", "x", "", True, "partial", detail)
        for number, detail in enumerate(details)
    ]
    assert describe_statuses(statuses) == [
        "WARNING 4 clips ('0.mp4', '1.mp4', '2.mp4', ...): 3 packets or frames are damaged",
        "WARNING 4.mp4: only 20.0 s of 30.0 s could be decoded",
    ]


def test_a_plan_that_cannot_work_is_refused_before_any_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` shows the counts; `extract` makes no cache."""
    for name in ("sad/1.mp4", "sad/2.mp4", "fear/1.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).write_text("not a video")
    monkeypatch.setattr("moodfuse.extract.dataset.ingest.hash_files", lambda clips: pytest.fail("read"))
    message = r"label 'fear' has 1 group\(s\), fewer than the 2 folds; add clips of 'fear', or drop it"
    with pytest.raises(InputError, match=message) as refused:
        check(tmp_path / "clips", folds=2)
    assert "  sad: 2 clips, 2 groups" in str(refused.value).splitlines()
    settings = ExtractSettings(tmp_path / "clips", tmp_path / "work", plan=PlanChoice(folds=2))
    with pytest.raises(InputError, match=message):
        extract_features(settings)
    assert not (tmp_path / "work").exists()


def test_duplicates_are_listed_with_a_remedy(tmp_path: Path) -> None:
    """Copies in other groups are listed; a pattern that groups them ends the warning."""
    for number in range(2):
        for label in ("sad", "excited"):
            (tmp_path / label).mkdir(exist_ok=True)
            settings = ClipSettings(4.0, 64, 48, seed=number)
            make_clip(tmp_path / label / f"{number}.mp4", mood=label, settings=settings)
    copy = tmp_path / "sad" / "copy-of-0.mp4"
    copy.write_bytes((tmp_path / "sad" / "0.mp4").read_bytes() + b"\0" * 8)
    text = "\n".join(check(tmp_path, folds=2).lines)
    assert "similar audio: sad/0.mp4 and sad/copy-of-0.mp4, from " in text and "--group-pattern" in text
    assert "similar audio" not in "\n".join(check(tmp_path, folds=2, decode=False).lines)
    grouped = "\n".join(check(tmp_path, folds=2, group_pattern=r"sad/(?:copy-of-)?(0)").lines)
    assert "1 similar pair is in one group already" in grouped
    assert "1 group holds more than one clip: '0' (2 clips)" in grouped


def test_groups_of_several_clips_are_named(tmp_path: Path) -> None:
    """The ten largest, with their numbers of clips, also where no fold plan is possible."""
    rows = [
        f"{label}-{group}-{clip}.mp4,{label},{label} {group}"
        for label in ("sad", "fear")
        for group in range(6)
        for clip in range(3 if (label, group) == ("sad", 5) else 2)
    ]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["path,label,group", *rows, "a.mp4,tension,"]))
    with pytest.raises(InputError, match="not read because no fold plan is possible") as refused:
        check(table, folds=2, decode=False)
    (line,) = [line for line in str(refused.value).splitlines() if "hold more than one clip" in line]
    assert line.startswith("  12 groups hold more than one clip: 'sad 5' (3 clips), 'fear 0' (2 clips), ")
    assert line.endswith("'sad 2' (2 clips), and 2 more")


def test_extract_and_check_warn_of_suspicious_labels_and_groups(tmp_path: Path) -> None:
    """Both print the warnings of an import, also where no fold plan is possible."""
    table = tmp_path / "clips.csv"
    table.write_text("path,label,group\na.mp4,sad,nan\nb.mp4,Sad,nan\nc.mp4,fear,\nd.mp4,fear,x\n")
    reported: list[str] = []
    settings = ExtractSettings(table, tmp_path / "work", ("onedmcnn",), jobs=1)
    with pytest.raises(InputError, match="label 'Sad' has 1 group"):
        extract_features(settings, report=reported.append)
    with pytest.raises(InputError, match="label 'Sad' has 1 group") as refused:
        check(table, decode=False)
    for lines in (reported, [line.strip() for line in str(refused.value).splitlines()]):
        alike, missing = [line for line in lines if line.startswith(("WARNING 2 labels", "WARNING groups"))]
        assert "'Sad' (1 clip) and 'sad' (1 clip)" in alike and "'nan' (2 clips)" in missing


def test_series_are_listed_with_a_pattern_that_groups_them(tmp_path: Path) -> None:
    """`check` and `extract` list a series with its label; with the pattern shown there is none."""
    data = tmp_path / "clips"
    for label, names in {"sad": ("x(1)", "x(2)", "x(5)", "a", "b"), "fear": ("c", "d", "e")}.items():
        (data / label).mkdir(parents=True)
        for name in names:
            settings = ClipSettings(1.0, 64, 48, seed=len(list(data.rglob("*.mp4"))))
            make_clip(data / label / f"{name}.mp4", mood="sad", settings=settings)
    lines = check(data, folds=2, decode=False).lines
    start = lines.index("  x: 3 clips, all sad")
    pattern = shlex.split(lines[start + 1])[-1]
    assert lines[start - 1].startswith("WARNING 1 series of numbered file names")
    reported: list[str] = []
    settings = ExtractSettings(
        data, tmp_path / "work", ("onedmcnn",), plan=PlanChoice(folds=2), jobs=1, dry_run=True
    )
    extract_features(settings, report=reported.append)
    assert set(lines[start - 1 : start + 2]) <= set(reported)
    grouped = check(data, folds=2, decode=False, group_pattern=pattern).lines
    assert "  sad: 5 clips, 3 groups" in grouped and not any("numbered" in line for line in grouped)


def test_folds_from_one_are_refused_before_a_clip_is_read(tmp_path: Path) -> None:
    """If folds count from 1, `extract` makes no cache, and `check` lists its findings before the error."""
    rows = [f"{row}.mp4,{'sad' if row % 2 else 'fear'},{row // 2 % 3 + 1}" for row in range(12)]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["path,label,fold", *rows]))
    with pytest.raises(
        InputError, match="counts from 1: found folds 1 to 3 in 12 clips; .* subtract 1 from each"
    ):
        extract_features(ExtractSettings(table, tmp_path / "work", ("onedmcnn",), jobs=1))
    assert not (tmp_path / "work").exists()
    with pytest.raises(InputError, match=r"(?s)12 clips in .*counts from 1: found folds 1 to 3"):
        check(table, decode=False)
