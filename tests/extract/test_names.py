"""Clip names of any kind go through all three stages, and the same bytes twice are one group or an error."""

import json
import os
import shutil
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.planning import PlanChoice
from moodfuse.cache.runs import read_run, write_run
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.report import metrics_json
from moodfuse.evaluate.report.text import latex_table, markdown_report
from moodfuse.fuse.ablation import AblationSettings, run_ablation

NAMES = (
    "with space.mp4",
    "quo'te\".mp4",
    "new\nline.mp4",
    os.fsdecode(b"bytes\xff\xfe.mp4"),
    "x" * 251 + ".mp4",
)


def rename(data: Path) -> None:
    """Give the five clips of each label the odd names, the same under both labels."""
    for label in ("excited", "sad"):
        for file, name in zip(sorted((data / label).iterdir()), NAMES, strict=True):
            file.rename(data / label / name)


def test_odd_names_go_through_all_stages(runner, tmp_path: Path) -> None:
    """Spaces, quotes, a line end, stray bytes, 255 bytes, equal stems: each name comes back as it is on disk."""
    rename(runner.data)
    done = runner(plan=PlanChoice(folds=2), depths={"twodmcnn": "frozen"})
    assert not done.refused
    expected = sorted(f"{label}/{name}" for label in ("excited", "sad") for name in NAMES)
    cache = runner.open()
    assert list(cache.block("twodmcnn", "*").ids) == expected
    assert all(Path(status.clip.path).is_file() for status in cache.clips)
    run = run_ablation(
        cache, AblationSettings(combine=("twodmcnn",), heads=("softmax",), levels=("embedding",), jobs=1)
    )
    write_run(cache, run)
    assert list(read_run(cache).ids) == expected
    found = evaluate_run(read_run(cache), draws=20)
    json.loads(metrics_json(found).encode("utf-8"))
    assert markdown_report(found).encode("utf-8") and latex_table(found).encode("utf-8")
    again = runner(plan=PlanChoice(folds=2), depths={"twodmcnn": "frozen"})
    assert again.embedded == 0


def test_the_same_bytes_under_one_label_are_one_group(extracted, tmp_path: Path) -> None:
    """Both names are said, no fold parts them, both have the one clip's features, and all stages take them."""
    runner = extracted
    shutil.copy(runner.data / "sad" / "0.mp4", runner.data / "sad" / "copy.mp4")
    runner(plan=PlanChoice(folds=2), depths={"twodmcnn": "frozen"})
    cache = runner.open()
    block = cache.block("twodmcnn", "*")
    rows = {name: row.tolist() for name, row in zip(block.ids, block.embedding, strict=True)}
    assert len(rows) == 11 and rows["sad/copy.mp4"] == rows["sad/0.mp4"] != rows["sad/2.mp4"]
    run = run_ablation(cache, AblationSettings(combine=("twodmcnn",), heads=("softmax", "mean"), jobs=1))
    write_run(cache, run)
    assert len(read_run(cache).ids) == 11
    assert metrics_json(evaluate_run(read_run(cache), draws=20))
    assert any("the same file 2 times, so one group: sad/0.mp4, sad/copy.mp4" in line for line in runner.said)
    groups = {status.clip.id: status.group for status in runner.open().clips}
    assert groups["sad/0.mp4"] == groups["sad/copy.mp4"] and len(groups) == 11


def test_the_same_bytes_under_two_labels_are_an_error_that_names_both(extracted) -> None:
    """One content cannot carry two labels."""
    runner = extracted
    shutil.copy(runner.data / "sad" / "0.mp4", runner.data / "excited" / "copy.mp4")
    with pytest.raises(
        InputError, match=r"excited/copy.mp4 is labelled 'excited' and sad/0.mp4 'sad'.*same file twice"
    ):
        runner(plan=PlanChoice(folds=2), depths={"twodmcnn": "frozen"})
