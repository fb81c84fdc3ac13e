"""`moodfuse predict`: rows in their order, in every format, and an output that a stopped run goes on with."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from cache.errors import InputError
from moodfuse.cli import main
from moodfuse.inputs import expand
from moodfuse.model.model import Ask
from moodfuse.resuming import Target, open_output

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


@pytest.fixture
def model(models: Callable[..., Path]) -> Path:
    return models(QUICK)


def predict(*arguments: object) -> int:
    """Run the command; returns its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    return int(stopped.value.code or 0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_format_says_the_same(trained: Any, model: Path, tmp_path: Path) -> None:
    """JSON lines, CSV and Parquet hold equal files, labels and probabilities, in the order asked; a bad file too."""
    bad = tmp_path / "bad\n\udcff.mp4"
    bad.write_text("no film")
    files = [trained.held[1], str(bad), trained.held[0]]
    for ending in ("jsonl", "csv", "parquet"):
        assert predict("--model", model, "--output", tmp_path / f"out.{ending}", *files) == 3
    rows = lines(tmp_path / "out.jsonl")
    assert [row["file"] for row in rows] == files and "error" in rows[1]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        table = list(csv.DictReader(stream))
    assert [row["file"] for row in table] == files and table[1]["error"] == rows[1]["error"]
    parquet = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, cells, record in zip(rows, table, parquet, strict=True):
        for label, share in row.get("probabilities", {}).items():
            assert float(cells[f"probability:{label}"]) == share == record[f"probability:{label}"]
    assert not (tmp_path / "out.parquet.journal").exists()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_stopped_run_goes_on(ending: str, trained: Any, model: Path, tmp_path: Path, capfd) -> None:
    """What is there is kept, a half line is cut off, the rest is added, and a further run adds nothing."""
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    files = [*trained.held, str(tmp_path / "none.mp4")]
    assert predict("--model", model, "--output", whole, *files) == 3
    assert predict("--model", model, "--output", output, files[0]) == 0
    if ending != "parquet":
        data = whole.read_bytes()
        output.write_bytes(output.read_bytes() + data[len(output.read_bytes()) :][:60])
    assert predict("--model", model, "--output", output, *files) == 3
    assert "1 of 3 files are in" in capfd.readouterr().err
    if ending == "parquet":
        assert pyarrow.parquet.read_table(output).equals(pyarrow.parquet.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()
    before = output.read_bytes()
    assert predict("--model", model, "--output", output, *files) == 3
    assert output.read_bytes() == before


def test_rows_of_two_models_are_never_mixed(
    trained: Any, model: Path, models: Callable[..., Path], tmp_path: Path
) -> None:
    """An output of another model, and a file that is none of predict's, are refused and left as they are."""
    output = tmp_path / "out.jsonl"
    assert predict("--model", model, "--output", output, trained.held[0]) == 0
    before = output.read_bytes()
    assert predict("--model", models("twodmcnn@brief network logits"), "--output", output, trained.held[1]) == 2
    assert output.read_bytes() == before
    for text in ("my notes\n", '{"important": "my only copy"}', "a,b,c"):
        for name in ("notes.jsonl", "notes.csv"):
            (tmp_path / name).write_text(text)
            assert predict("--model", model, "--output", tmp_path / name, trained.held[1]) == 2
            assert (tmp_path / name).read_text() == text
    assert predict("--model", model, "--format", "jsonl", "--output", "/dev/null", trained.held[1]) == 2


def test_odd_names_and_damaged_rows_survive_a_resume(model: Path, tmp_path: Path) -> None:
    """A carriage return in a name is kept; a short row in the middle, and a number that is none, are refused."""
    output, names = tmp_path / "out.csv", [str(tmp_path / name) for name in ("re\rturn", 'quo"te', "plain")]
    assert predict("--model", model, "--output", output, *names[:2]) == 3
    before = output.read_bytes()
    assert predict("--model", model, "--output", output, *names) == 3
    assert output.read_bytes().startswith(before)
    with output.open(newline="", encoding="utf-8") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == names
    for old, new in ((b",missing,", b",missing,,,"), (b"plain,,", b"plain,soon,")):
        output.with_name("harmed.csv").write_bytes(output.read_bytes().replace(old, new))
        assert predict("--model", model, "--output", output.with_name("harmed.csv"), *names) == 2


def test_a_finished_parquet_takes_more(
    trained: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a further row, it goes on from its journal."""
    output = tmp_path / "out.parquet"
    assert predict("--model", model, "--output", output, trained.held[0]) == 0
    target = Target(output, "parquet", pyarrow.parquet.read_table(output).to_pylist()[0]["model"], ("a", "b"), ())
    opened = open_output(target)
    opened.writer.write({"file": "other", "error": "x", "model": target.model})
    del opened
    assert predict("--model", model, "--output", output, trained.held[0], "other") == 3
    assert [row["file"] for row in pyarrow.parquet.read_table(output).to_pylist()] == [trained.held[0], "other"]


def test_two_runs_do_not_share_an_output(model: Path, tmp_path: Path) -> None:
    """The second is refused while the first has the file open."""
    target = Target(tmp_path / "out.jsonl", "jsonl", "m", ("a", "b"), ())
    first = open_output(target)
    with pytest.raises(InputError, match="another run writes"):
        open_output(target)
    assert first.writer is not None


def test_the_table_says_what_is_uncertain_and_why(trained: Any, model: Path, capfd) -> None:
    """Under a threshold of 1 all is uncertain, under 0 nothing; --why names every source."""
    assert predict("--model", model, "--threshold", 1, "--why", trained.held[0]) == 0
    said = capfd.readouterr().out
    assert " uncertain " in said and "onedmcnn@brief: by itself" in said and "twodmcnn@brief: by itself" in said
    assert predict("--model", model, "--threshold", 0, trained.held[0]) == 0
    assert "uncertain" not in capfd.readouterr().out


def test_inputs_are_files_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder gives its media files by name at any depth; lists give paths beside them, with windows in a CSV."""
    for name in ("b/2.mp4", "b/1.MKV", "b/notes.pdf", "b/.hidden.mp4", "b/c/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "some.txt").write_bytes(b"b/2.mp4\r\n\n/abs.mp4\n")
    (tmp_path / "some.csv").write_text("path,start_s,end_s\nb/2.mp4,3,\nb/1.MKV,,9.5\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    found = [Ask(str(Path(ask.file)), ask.start_s, ask.end_s) for ask in expand(["x.mp4", "b", "some.txt", "some.csv"])]
    assert found == [
        *(Ask(name) for name in ("x.mp4", "b/1.MKV", "b/2.mp4", "b/c/0.wav", "b/2.mp4", "/abs.mp4")),
        Ask("b/2.mp4", 3.0),
        Ask("b/1.MKV", 0.0, 9.5),
    ]
    (tmp_path / "bad.csv").write_text("path,start_s\nb/2.mp4,soon\n")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("bad.csv", "line 2: start_s is 'soon'"),
        ("empty", "holds no media"),
        ("none.txt", "cannot be"),
    ):
        with pytest.raises(InputError, match=said):
            list(expand([name]))


def test_wrong_usage_is_said_before_anything_is_loaded(model: Path, tmp_path: Path, capfd) -> None:
    """No model, two models, a format without a file, or several videos for one page: exit code 2 and the remedy."""
    for arguments, said in (
        (["x.mp4"], "give one of --model DIR and --cache DIR"),
        (["--model", model, "--cache", "w", "x.mp4"], "give one of --model DIR and --cache DIR"),
        (["--model", model, "--format", "parquet", "x.mp4"], "give --output"),
        (["--model", model, "--output", tmp_path / "x.doc", "x.mp4"], "give --format"),
        (["--model", model, "--html", "x.html", "x.mp4", "y.mp4"], "are of one video"),
        (["--model", tmp_path / "none", "x.mp4"], "no such folder"),
        (["--model", model, "--timeline", "--hop", "0", "x.mp4"], "--hop is 0"),
    ):
        assert predict(*arguments) == 2
        assert said in capfd.readouterr().err
