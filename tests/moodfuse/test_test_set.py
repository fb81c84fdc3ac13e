"""A model is tested on clips that it was not trained on; near copies of training clips are reported."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.audits import ClipMarks
from moodfuse.cache.digests import clip_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Clip
from moodfuse.cli import main
from moodfuse.model.folder import TrainingClip
from moodfuse.model.model import Model
from moodfuse.test_set import read_clips, run_test, training_overlaps

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


def clip_of(path: str, label: str, **values: Any) -> Clip:
    return Clip(id=path, path=path, label=label, **values)


def test_training_clips_are_refused(trained: Any, models: Callable[..., Path]) -> None:
    """Clips of a training file or group are not scored; neither are labels that the model does not have."""
    model, training = Model.load(models(QUICK)), [status.clip for status in trained.cache.clips]
    clips = [
        *(clip_of(path, Path(path).parent.name) for path in trained.held),
        clip_of(training[0].path, training[0].label),
        clip_of(trained.held[0] + ".copy", "sad", group=training[2].group),
    ]
    lines: list[str] = []
    tested = run_test(model, clips, jobs=1, report=lines.append)
    assert tested.run.ids == trained.held and len(tested.refused) == 2
    assert "this very clip" in tested.refused[0] and "of the same group" in tested.refused[1]
    assert sum("refused" in line for line in lines) == 2
    with pytest.raises(InputError, match="none of the 1 clips"):
        run_test(model, clips[2:3], jobs=1, report=lines.append)
    with pytest.raises(InputError, match="label 'angry' is not one of the model's"):
        run_test(model, [clip_of(trained.held[0], "angry")], jobs=1, report=lines.append)


def test_the_most_specific_reason_is_given() -> None:
    """The clip before its file, the file before its group; files that cannot be read have no digest."""
    training = [TrainingClip("one", "g", clip_digest("a", 0.0, 5.0), "a", ClipMarks(*[np.zeros(0)] * 4))]
    clips = [
        clip_of("clip", "sad", end_s=5.0, group="g"),
        clip_of("window", "sad", end_s=9.0, group="g"),
        clip_of("group", "sad", group="g"),
        clip_of("new", "sad"),
        clip_of("unreadable", "sad"),
    ]
    files = {"clip": "a", "window": "a", "group": "b", "new": "b", "unreadable": ""}
    assert training_overlaps(clips, files, training) == {
        "clip": "the model was trained on this very clip, one",
        "window": "the model was trained on a window of this file, one",
        "group": "the model was trained on one, of the same group 'g'",
    }


def test_a_near_copy_is_scored_and_reported(
    trained: Any, models: Callable[..., Path], tmp_path: Path
) -> None:
    """A training clip with an empty box at the end has other bytes, and the same audio."""
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(Path(trained.cache.clips[0].clip.path).read_bytes() + b"\0\0\0\x08free")
    clips = [clip_of(str(copy), "sad"), clip_of(trained.held[0], Path(trained.held[0]).parent.name)]
    tested = run_test(Model.load(models(QUICK)), clips, jobs=1, report=str)
    assert len(tested.run.ids) == 2
    assert any(f"1 clips sound or look like training clips ({copy})" in note for note in tested.run.notes)


def test_the_report_of_a_test_set(trained: Any, models: Callable[..., Path], tmp_path: Path) -> None:
    """The command writes the same report as for a run, of the split `test` if there is one."""
    first, second = ((path, Path(path).parent.name) for path in trained.held)
    table = tmp_path / "test.csv"
    table.write_text("path,label,split\n{},{},test\n{},{},train\n".format(*first, *second))
    assert [clip.path for clip in read_clips(table, None, report=str)] == [first[0]]
    table.write_text(table.read_text().replace("test\n", "train\n"))
    output = ["--output", str(tmp_path / "report"), "--draws", "50"]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--model", str(models(QUICK)), str(table), *output])
    assert not stopped.value.code
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics["protocol"] == "test" and metrics["clips"] == 2 and len(metrics["results"]) == 1
    assert "a held-out test set" in (tmp_path / "report/report.html").read_text()


def test_the_labels_of_a_test_split_are_not_learned(trained: Any, extract_again: Callable[..., Any]) -> None:
    """With clips of the split `test` under wrong labels, no other network and no other features are made."""
    with trained.table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        is_held = int(row["fold"]) == trained.fewer.fold_count
        wrong = "sad" if row["label"] == "excited" else "excited"
        row |= {"fold": "", "split": "test", "label": wrong} if is_held else {"split": "train"}
    cache = extract_again(rows)
    assert tuple(status.digest for status in cache.clips) == trained.fewer.digests
    assert cache.plan.assignment == trained.cache.plan.assignment
    for folder in ("networks", "features", "fits"):
        before, after = (
            {path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file()}
            for root in (trained.cache.path, cache.path)
        )
        assert after == before
