"""A model is tested on clips that it was not trained on; near copies of training clips are reported."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.digests import clip_digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Clip
from moodfuse.cli import main
from moodfuse.export import ExportSettings, export_model
from moodfuse.model.folder import ARRAYS, TRAINING, TrainingClip, read_card
from moodfuse.model.model import Model
from moodfuse.test_set import SeenClips, held_out, run_test

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"
TREES = "onedmcnn@brief+twodmcnn@brief lightgbm embedding"


def clip_of(path: str, label: str, **values: Any) -> Clip:
    return Clip(id=path, path=path, label=label, **values)


def test_training_clips_are_refused(trained: Any, models: Callable[..., Path]) -> None:
    """A training file, another window of one, and a clip of a training group are not scored."""
    seen = [status.clip for status in trained.cache.clips]
    clips = [
        *(clip_of(path, Path(path).parent.name) for path in trained.held),
        clip_of(seen[0].path, seen[0].label),
        Clip(id="window", path=seen[1].path, label=seen[1].label, start_s=0.5),
        Clip(id="group", path=trained.held[0] + ".copy", label="sad", group=seen[2].group),
    ]
    lines: list[str] = []
    found = run_test(Model.load(models(QUICK)), clips, jobs=1, report=lines.append)
    assert found.run.ids == trained.held and len(found.refused) == 3
    assert "this very clip" in found.refused[0] and "a window of this file" in found.refused[1]
    assert "of the same group" in found.refused[2]
    assert sum("refused" in line for line in lines) == 3
    with pytest.raises(InputError, match="none of the 1 clips"):
        run_test(Model.load(models(QUICK)), clips[2:3], jobs=1, report=lines.append)
    with pytest.raises(InputError, match="label 'angry' is none of the model's"):
        run_test(Model.load(models(QUICK)), [clip_of(trained.held[0], "angry")], jobs=1, report=lines.append)


def test_the_most_specific_reason_is_given() -> None:
    """The clip before its file, the file before its group; of several training clips the first."""
    nothing = np.zeros(0)
    sha = ["a" * 64, "b" * 64]
    training = [
        TrainingClip(
            name, group, clip_digest(sha[file], 0.0, end_s), sha[file], nothing, nothing, nothing, nothing
        )
        for name, group, file, end_s in (("one", "g", 0, 5.0), ("two", "g", 0, 9.0), ("three", "h", 1, None))
    ]
    seen = SeenClips(training)
    fresh = clip_of("clip", "sad")
    assert seen.reason(clip_of("clip", "sad", end_s=9.0), sha[0]).endswith("this very clip, two")
    assert seen.reason(clip_of("clip", "sad", group="h"), sha[0]).endswith("a window of this file, one")
    assert seen.reason(clip_of("clip", "sad", group="g"), "c" * 64).endswith("on one, of the same group 'g'")
    assert not seen.reason(fresh, "c" * 64) and not seen.reason(fresh, "")


def test_a_near_copy_is_scored_and_reported(
    trained: Any, models: Callable[..., Path], tmp_path: Path
) -> None:
    """A training clip in another container has other bytes, and the same audio."""
    import av

    copy = tmp_path / "copy.mkv"
    with av.open(trained.cache.clips[0].clip.path) as source, av.open(copy, "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    clips = [clip_of(str(copy), "sad"), *(clip_of(path, Path(path).parent.name) for path in trained.held)]
    found = run_test(Model.load(models(QUICK)), clips, jobs=1, report=lambda line: None)
    assert len(found.run.ids) == 3 and {item.first for item in found.similar} == {f"test {copy}"}
    assert any("sound or look like training clips" in note for note in found.run.notes)


def test_the_split_test_is_scored_where_there_is_one() -> None:
    """Of a data set with a test split only its clips are used; without one all are."""
    clips = [Clip("a", "a", "sad"), Clip("b", "b", "sad", split="test")]
    assert held_out(clips) == clips[1:] and held_out(clips[:1]) == clips[:1]


def test_the_report_of_a_test_set(trained: Any, models: Callable[..., Path], tmp_path: Path) -> None:
    """The command writes the same report as for a run."""
    table = tmp_path / "test.csv"
    table.write_text("path,label\n" + "".join(f"{path},{Path(path).parent.name}\n" for path in trained.held))
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--model", str(models(QUICK)), str(table), "--output", str(tmp_path / "report")])
    assert not stopped.value.code
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics["protocol"] == "test" and metrics["clips"] == 2 and len(metrics["results"]) == 1
    assert "a held-out test set" in (tmp_path / "report/report.html").read_text()


def test_the_labels_of_a_test_split_change_no_bit(
    trained: Any, models: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    """With clips of the split `test` under wrong labels, everything learned is as without them."""
    with trained.table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    labels = sorted({row["label"] for row in rows})
    for row in rows:
        held = int(row["fold"]) == trained.fewer.fold_count
        wrong = labels[1 - labels.index(row["label"])]
        row |= {"fold": "", "split": "test", "label": wrong} if held else {"split": "train"}
    cache, run = train(rows)
    assert run.digests == trained.fewer.digests
    for name in (QUICK, TREES):
        export_model(cache, run, ExportSettings(name, tmp_path / name, impute=False))
        without, added = read_card(models(name)), read_card(tmp_path / name)
        assert {ARRAYS, TRAINING} < {*without.files}
        assert {**without.files, "MODEL.md": None} == {**added.files, "MODEL.md": None}
        assert without.head_facts == added.head_facts
        assert (without.temperature, without.chosen) == (added.temperature, added.chosen)
