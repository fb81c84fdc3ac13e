"""`moodfuse fuse`: a run is written, the next command printed; a wrong `--export` ends it before any fit."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from moodfuse.cache.runs import read_run
from moodfuse.cache.store import FeatureCache
from moodfuse.cli import main
from moodfuse.export import BEST

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export", BEST, "--model", "."], ".: already exists"),
        (["--export", "c4d softmax logits"], "unknown result 'c4d softmax logits'; known: onedmcnn@brief"),
        (
            ["--export", QUICK, "--run", "fewer", "--jobs", "1"],
            "--jobs has no effect on fewer, which exists",
        ),
        (["--model", "x"], "--model belongs to --export; add --export best"),
        (["--missing", "impute"], "--missing belongs to --export; add --export best"),
        (["--force"], "--force belongs to --export; add --export best"),
    ],
)
def test_what_cannot_be_exported_fuses_nothing(
    arguments: list[str], message: str, trained: Any, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Exit code 2 and the reason, before stage two is called."""
    monkeypatch.setattr("moodfuse.fuse.ablation.run_ablation", lambda *_: pytest.fail("it was fused"))
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--cache", str(trained.cache.path), *arguments])
    assert stopped.value.code == 2 and message in " ".join(capfd.readouterr().err.split())


def test_a_run_is_written_and_the_next_command_printed(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a line per result; a note of all results stands once below them."""
    folder = shutil.copytree(trained.cache.path, tmp_path / "work")
    options = ["--head", "mean", "--jobs", "1", "--run", "mine"]
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--cache", str(folder), *options])
    output = capsys.readouterr().out
    assert not stopped.value.code and output.endswith(f"moodfuse evaluate --cache {folder} --run mine\n")
    results = read_run(FeatureCache(folder), "mine").results
    heads = [result.head for result in results]
    (note,) = set(results[0].notes).intersection(*(result.notes for result in results))
    assert output.count(note) == output.count(f"\nnote: {note}") == 1 and "notes" not in output
    assert heads == ["network", "network", "mean"] and "onedmcnn@brief+twodmcnn@brief mean logits" in output


def test_settings_of_heads_in_a_file_and_random_search_are_recorded(trained: Any, tmp_path: Path) -> None:
    """In the names of the heads and in the command; the command line overrides the file."""
    folder = shutil.copytree(trained.cache.path, tmp_path / "work")
    config = tmp_path / "options.toml"
    config.write_text("[fuse]\njobs = 1\n[heads]\nsoftmax = { C = 10 }\nlogistic = { C = 2 }\n")
    options = [
        "--run",
        "mine",
        "--combine",
        "twodmcnn@brief",
        "--level",
        "embedding",
        "--config",
        str(config),
    ]
    heads = ["--head", "softmax", "--head", "logistic:C=0.5", "--head", "lightgbm:reg_lambda=2"]
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--cache", str(folder), *options, *heads, "--search", "2"])
    run = read_run(FeatureCache(folder), "mine")
    expected = ["softmax:C=10,search=2", "logistic:C=0.5,search=2", "lightgbm:reg_lambda=2,search=2"]
    assert not stopped.value.code and [result.head for result in run.results[1:]] == expected
    assert " ".join(f"--head {head}" for head in expected) in run.commands[-1]
