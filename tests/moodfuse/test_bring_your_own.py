"""Features and a table of labels are enough: import, fuse and evaluate without media or a network."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moodfuse.cache.store import FeatureCache
from moodfuse.cli import group, main

LABELS = ("fear", "joy", "sad")
IDS = tuple(f'{LABELS[number % 3]}/a "clip", no. {number}\nof 24' for number in range(24))
PLAN = ("--labels", "labels.csv", "--folds", "3")


def run(*arguments: str) -> str:
    """Run a command and return its standard output."""
    result = CliRunner().invoke(group, list(arguments), catch_exceptions=False, prog_name="moodfuse")
    assert result.exit_code == 0, result.output
    return result.stdout


def import_features(source: str, *arguments: str) -> str:
    return run("cache", "import", "--cache", "work", "--source", source, "--holdout", "*", *arguments)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with labels and two files of features, their rows in different orders."""
    monkeypatch.chdir(tmp_path)
    with open("labels.csv", "w", newline="", encoding="utf-8") as stream:
        rows = ((name, LABELS[row % 3], f"song {row // 6}-{row % 3}") for row, name in enumerate(IDS))
        csv.writer(stream).writerows([("id", "label", "group"), *rows])
    rng = np.random.default_rng(0)
    for name, width in (("clip-vit", 6), ("wav2vec", 4)):
        embedding = 3 * rng.normal(size=(3, width))[np.arange(24) % 3] + rng.normal(size=(24, width))
        order = rng.permutation(24)
        np.savez(f"{name}.npz", id=np.array(IDS)[order], embedding=embedding[order])
    return tmp_path


def test_from_features_to_a_report(work: Path) -> None:
    """Two imported sources are fused at both levels and reported, with the commands used."""
    output = import_features("clip-vit", *PLAN, "clip-vit.npz")
    written = "24 rows written to source clip-vit, holdout *\nnext: moodfuse fuse --cache work\n"
    assert output == f"24 clips, embedding 6; {written}"
    import_features("wav2vec", "wav2vec.npz")
    heads = ("--head", "softmax", "--head", "mean")
    output = run("fuse", "--cache", "work", *heads, "--repeats", "1", "--jobs", "1")
    for name in ("softmax logits", "softmax embedding", "mean logits"):
        assert f"clip-vit+wav2vec {name}" in output
    run("evaluate", "--cache", "work", "--draws", "50")
    report = work / "work" / "runs" / "run-1" / "report"
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["clips"] == 24 and metrics["groups"] == 12 and len(metrics["results"]) == 9
    assert max(result["accuracy"] for result in metrics["results"]) > 0.8
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" not in page and "moodfuse cache import clip-vit.npz --cache work" in page


def test_wrong_options_are_one_line_and_exit_code_2(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An import that changes nothing is not in the history of commands."""
    import_features("wav2vec", *PLAN, "wav2vec.npz")
    options = ("--cache", "work", "--source", "wav2vec")
    run("cache", "export", *options, "--output", "out.csv")
    assert "0 rows written" in import_features("wav2vec", "out.csv")
    assert len(FeatureCache("work").commands) == 1
    for arguments, message in (
        (["export", *options, "--output", "out.csv"], "out.csv exists; name another --output"),
        (["import", *options, "--holdout", "", "out.csv"], "--holdout is empty; write '*'"),
        (["import", *options, "--holdout", "{x}", "out.csv"], "holdout '{x}' is not '*'"),
        (["import", "--cache", "no", "--source", "s", "--holdout", "*", "out.csv"], "add --labels FILE.csv"),
        (["import", *options, "out.csv"], "Missing option '--holdout'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["cache", *arguments])
        output = capsys.readouterr().err
        assert stopped.value.code == 2 and message in output and "Traceback" not in output
    assert not Path("no").exists()


def test_columns_of_a_table_are_selected(work: Path) -> None:
    """Each `--columns` adds to the embedding."""
    rng = np.random.default_rng(0)
    with open("table.csv", "w", newline="", encoding="utf-8") as stream:
        rows = ((row, name, row % 3, *rng.normal(size=2)) for row, name in enumerate(IDS))
        csv.writer(stream).writerows([("", "id", "target", "feat_0", "feat_1"), *rows])
    for columns, count in ((("feat_0", "feat_1"), 24), (("feat_*",), 0)):
        output = import_features("mine", *PLAN, *(f"--columns={name}" for name in columns), "table.csv")
        assert output.startswith(f"24 clips, embedding 2; {count} rows written")
