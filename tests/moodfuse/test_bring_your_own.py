"""Features and a table of labels are enough: import, fuse and evaluate with no media and no network."""

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


def run(*arguments: str) -> str:
    """One command; its standard output."""
    result = CliRunner().invoke(group, list(arguments), catch_exceptions=False, prog_name="moodfuse")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with labels and two files of features, rows in other orders."""
    monkeypatch.chdir(tmp_path)
    with open("labels.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "label", "group"))
        writer.writerows(
            (name, LABELS[row % 3], f"song {row // 6}-{row % 3}") for row, name in enumerate(IDS)
        )
    rng = np.random.default_rng(0)
    for name, width in (("clip-vit", 6), ("wav2vec", 4)):
        embedding = 3 * rng.normal(size=(3, width))[np.arange(24) % 3] + rng.normal(size=(24, width))
        order = rng.permutation(24)
        np.savez(f"{name}.npz", id=np.array(IDS)[order], embedding=embedding[order])
    return tmp_path


def test_from_features_to_a_report(work: Path) -> None:
    """Two imported sources are fused at both levels and reported, thumbnails absent, with the commands that did it."""
    options = ("--cache", "work", "--holdout", "*")
    said = run(
        "cache",
        "import",
        *options,
        "--labels",
        "labels.csv",
        "--folds",
        "3",
        "--source",
        "clip-vit",
        "clip-vit.npz",
    )
    assert said == (
        "24 clips, embedding 6; 24 rows written to source clip-vit, holdout *\nnext: moodfuse fuse --cache work\n"
    )
    run("cache", "import", *options, "--source", "wav2vec", "wav2vec.npz")
    fused = run(
        "fuse", "--cache", "work", "--head", "softmax", "--head", "mean", "--repeats", "1", "--jobs", "1"
    )
    for name in ("softmax logits", "softmax embedding", "mean logits"):
        assert f"clip-vit+wav2vec {name}" in fused
    run("evaluate", "--cache", "work", "--draws", "50")
    report = work / "work" / "runs" / "run-1" / "report"
    found = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    assert found["clips"] == 24 and found["groups"] == 12 and len(found["results"]) == 9
    assert max(result["accuracy"] for result in found["results"]) > 0.8
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" not in page and "moodfuse cache import clip-vit.npz --cache work" in page


def test_export_and_import_as_commands(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An export comes in again unchanged; what is wrong is one line and exit code 2."""
    options = ("--cache", "work", "--source", "wav2vec")
    run(
        "cache", "import", *options, "--holdout", "*", "--labels", "labels.csv", "--folds", "3", "wav2vec.npz"
    )
    for suffix in ("npz", "csv", "parquet"):
        assert (
            run("cache", "export", *options, "--output", f"out.{suffix}")
            == f"24 clips, embedding 4: out.{suffix}\n"
        )
        again = run("cache", "import", *options, "--holdout", "*", f"out.{suffix}")
        assert "0 rows written" in again
    assert len(FeatureCache("work").commands) == 1, "what changed nothing is no part of the cache's history"
    for arguments, message in (
        (["export", *options, "--output", "out.csv"], "out.csv exists; name another --output"),
        (["import", *options, "--holdout", "", "out.csv"], "--holdout is empty; write '*'"),
        (["import", *options, "--holdout", "{x}", "out.csv"], "holdout '{x}' is not '*'"),
        (
            ["import", "--cache", "none", "--source", "s", "--holdout", "*", "out.csv"],
            "add --labels FILE.csv",
        ),
        (["import", *options, "out.csv"], "Missing option '--holdout'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["cache", *arguments])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and message in said and "Traceback" not in said
    assert not Path("none").exists()


def test_columns_of_a_table_from_pandas(work: Path) -> None:
    """For a table from pandas the index is ignored, a code for the label refused, and `--columns` selects columns."""
    rng = np.random.default_rng(0)
    with open("table.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("", "id", "target", "feat_0", "feat_1"))
        writer.writerows((row, name, row % 3, *rng.normal(size=2)) for row, name in enumerate(IDS))
    options = (
        "cache",
        "import",
        "--cache",
        "work",
        "--source",
        "mine",
        "--holdout",
        "*",
        "--labels",
        "labels.csv",
    )
    options += ("--folds", "3")
    refused = CliRunner().invoke(group, [*options, "table.csv"])
    assert refused.exit_code != 0 and "encode the label in all 24 clips, " in str(refused.exception)
    done = CliRunner().invoke(group, [*options, "--columns", "feat_0", "--columns", "feat_1", "table.csv"])
    assert done.stdout.startswith("24 clips, embedding 2; 24 rows written to source mine, holdout *\n")
    assert done.stderr.splitlines() == [
        "table.csv: columns of the embedding: 'feat_0', 'feat_1'",
        "table.csv: index columns passed over: ''",
        "table.csv: columns passed over: 'target'",
        "24 clips in 12 groups, 3 folds, seed 0: fear 8, joy 8, sad 8",
    ]
    assert run(*options, "--columns", "feat_*", "table.csv").startswith(
        "24 clips, embedding 2; 0 rows written"
    )
