"""Labelling many files: rows in their order in every format, what is there is skipped, and what was refused retried."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.failures import TooManyRefusedError
from moodfuse.extract.media.limits import Limits, ReadingRules
from moodfuse.model.model import Ask
from moodfuse.model.predictions import Prediction, Refusal, Timeline
from moodfuse.predict import batch as labelling
from moodfuse.predict.batch import REFUSED, Wish, label_all

Predict = Callable[..., int]
FORMATS = ("jsonl", "csv", "parquet")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_format_says_the_same(trained: Any, model: Path, predict: Predict, tmp_path: Path) -> None:
    """JSON lines, CSV and Parquet hold equal files, labels and probabilities, in the order asked; a bad file too."""
    bad = tmp_path / "bad\n\udcff.mp4"
    bad.write_text("no film")
    files = [trained.held[1], str(bad), trained.held[0]]
    for ending in ("jsonl", "csv", "parquet"):
        assert predict("--model", model, "--output", tmp_path / f"out.{ending}", *files) == 3
    rows = lines(tmp_path / "out.jsonl")
    assert [row["file"] for row in rows] == files and "error" in rows[1]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    names = [*files[:1], files[1].replace("\udcff", "\\udcff"), *files[2:]]
    parquet = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["file"] for row in table] == [row["file"] for row in parquet] == names
    assert table[1]["error"] == parquet[1]["error"] == rows[1]["error"]
    for row, cells, record in zip(rows, table, parquet, strict=True):
        for label, share in row.get("probabilities", {}).items():
            assert float(cells[f"probability:{label}"]) == share == record[f"probability:{label}"]
    assert not (tmp_path / "out.parquet.journal").exists()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_stopped_run_goes_on(
    ending: str, trained: Any, model: Path, predict: Predict, tmp_path: Path, capfd
) -> None:
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


def test_the_table_says_what_is_uncertain_and_why(trained: Any, model: Path, predict: Predict, capfd) -> None:
    """Under a threshold of 1 all is uncertain, under 0 nothing; --why names every source."""
    assert predict("--model", model, "--threshold", 1, "--why", trained.held[0]) == 0
    said = capfd.readouterr().out
    assert (
        " uncertain " in said and "onedmcnn@brief: by itself" in said and "twodmcnn@brief: by itself" in said
    )
    assert predict("--model", model, "--threshold", 0, trained.held[0]) == 0
    assert "uncertain" not in capfd.readouterr().out


class Talker:
    """A model that says one thing of every file but of those that it cannot read; of a time line, of every window."""

    classes, name = ("calm", "sad"), "made up"
    card = SimpleNamespace(digest="0" * 64, chosen=True, views={"sound", "picture"})
    fusion = SimpleNamespace(sources=[SimpleNamespace(source="one")])

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.asked: list[str] = []
        self.lost: tuple[int, ...] = (1,)
        self.code = "truncated"
        self.jobs = 0

    def load(self, folder: Path, *, device: str | None = None) -> "Talker":
        return self

    def label(self, asks: Sequence[Ask], *, jobs: int, rules: ReadingRules) -> Iterator[Prediction | Refusal]:
        self.jobs = jobs
        for ask in asks:
            self.asked.append(ask.file)
            if ask.file in self.bad:
                yield Refusal(ask.file, self.code, "the file ends too early")
            else:
                yield Prediction(ask.file, self.classes, np.array([0.25, 0.75]), 0.0, 30.0)

    def timeline(self, file: str, *, hop_s: float, limits: Limits) -> Timeline:
        self.asked.append(file)
        starts_s = hop_s * np.arange(3)
        rows = np.tile([0.25, 0.75], (3, 1))
        numbers = self.lost if file in self.bad else ()
        lost = tuple((number, Refusal(file, "truncated", "it ends")) for number in numbers)
        return Timeline(file, self.classes, starts_s, starts_s + 30, rows, lost, 40.0)


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Talker:
    found = Talker()
    monkeypatch.setattr(labelling, "Model", found)
    return found


def label(*files: str, say: Callable[[str], None] = lambda line: None, **wish: Any) -> int:
    return label_all(Path("model"), Wish(files, **wish), stream=io.StringIO(), say=say)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """File, error and start of every row of an output, in its order."""
    if path.suffix == ".jsonl":
        rows: list[dict[str, Any]] = lines(path)
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    else:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    return [{name: row.get(name) or None for name in ("file", "error")} for row in rows]


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_refused_is_tried_again_only_when_asked_to(
    form: str, talker: Talker, tmp_path: Path
) -> None:
    """Its rows go, new ones come at the end, and every other row stays, that of a refused file not asked for too."""
    output, said = tmp_path / f"out.{form}", []
    talker.bad = {"b", "c", "d\udcff"}
    wish: dict[str, Any] = {"format": form, "output": output}
    assert label("a", "b", "c", "d\udcff", "e", **wish) == REFUSED
    before, talker.asked = output.read_bytes(), []
    assert label("a", "b", "e", say=said.append, **wish) == REFUSED and not talker.asked
    assert "3 of 3 files are in" in said[0] and "1 of them refused (--retry" in said[0]
    assert output.read_bytes() == before
    talker.bad = {"c"}
    assert label("a", "d\udcff", "b", "e", retry=True, **wish) == 0 and talker.asked == ["d\udcff", "b"]
    refused = {"c": "truncated"}
    names = ["a", "c", "e", "d\udcff" if form == "jsonl" else "d\\udcff", "b"]
    assert rows_of(output) == [{"file": name, "error": refused.get(name)} for name in names]
    assert label("c", retry=True, **wish) == REFUSED
    assert [row["file"] for row in rows_of(output)] == [*(name for name in names if name != "c"), "c"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_time_line_is_done_whole_or_anew(form: str, talker: Talker, tmp_path: Path) -> None:
    """One that lacks windows is made again and none stands twice; one with a refused window under --retry alone."""
    output = tmp_path / f"out.{form}"
    wish: dict[str, Any] = {"format": form, "output": output, "timeline": True}
    talker.bad = {"b"}
    assert label("a", "b", **wish) == REFUSED
    if form == "parquet":
        table = pyarrow.parquet.read_table(output)
        assert table["windows"].to_pylist() == [3] * 6
        pyarrow.parquet.write_table(table.slice(0, 5), output)
    else:
        output.write_text("".join(output.read_text().splitlines(keepends=True)[:-1]))
    talker.asked = []
    assert label("a", "b", **wish) == REFUSED and talker.asked == ["b"]
    assert [row["file"] for row in rows_of(output)] == [*"aaabbb"]
    assert label("a", "b", **wish) == REFUSED and talker.asked == ["b"]
    talker.bad = set()
    assert label("b", "a", retry=True, **wish) == 0 and talker.asked == ["b", "b"]
    assert [row["file"] for row in rows_of(output)] == [*"aaabbb"] and not any(
        row["error"] for row in rows_of(output)
    )


def test_what_could_only_be_ignored_is_refused(talker: Talker, tmp_path: Path) -> None:
    """A window under --timeline, a page of what is done already, several videos for one page, --retry of nothing."""
    windows = tmp_path / "some.csv"
    windows.write_text("path,start_s\na.mp4,3\n")
    with pytest.raises(InputError, match="a time line is of a whole file"):
        label(str(windows), timeline=True)
    wish: dict[str, Any] = {"format": "jsonl", "output": tmp_path / "out.jsonl", "timeline": True}
    assert label("a", **wish) == 0
    with pytest.raises(InputError, match="a: nothing is drawn of what .*out.jsonl has already"):
        label("a", html=tmp_path / "a.html", **wish)
    with pytest.raises(InputError, match="--html and --plot are of one video; 2 files"):
        label("a", "b", plot=tmp_path / "a.png", timeline=True)
    with pytest.raises(InputError, match="--retry .*give --output FILE"):
        Wish(("a",), retry=True)


def test_a_time_line_counts_refused_files_not_windows(talker: Talker) -> None:
    """A file with a gap is labelled; one of which no window is counts once, and --max-failures ends with the second."""
    talker.bad = {"a", "b"}
    assert label("a", "b", timeline=True, rules=ReadingRules(max_failures=1)) == REFUSED
    talker.lost = (0, 1, 2)
    assert label("a", "c", timeline=True, rules=ReadingRules(max_failures=2)) == REFUSED
    with pytest.raises(TooManyRefusedError, match=r"2 refused: 2 truncated; .* They are a \(truncated\), b"):
        label("a", "b", "c", timeline=True, rules=ReadingRules(max_failures=2))


def test_no_more_processes_are_started_than_there_are_files(talker: Talker) -> None:
    """Each takes a second to start, and memory."""
    assert label("a", "b", jobs=100) == 0 and talker.jobs == 2
    assert label("a", "b", jobs=1) == 0 and talker.jobs == 1


def test_files_without_a_stream_are_counted_with_the_remedy(talker: Talker, tmp_path: Path) -> None:
    """Files without audio or without video are counted with the remedy; other refusals are not counted."""
    for name in ("a.mp4", "b.mp3"):
        (tmp_path / name).touch()
    talker.bad, said = {str(tmp_path / "b.mp3")}, list[str]()
    for code, lines in (("truncated", 1), ("no_video", 2)):
        talker.code, said = code, []
        wish = Wish((str(tmp_path),), format="jsonl")
        assert label_all(Path("model"), wish, stream=io.StringIO(), say=said.append) == REFUSED
        assert len(said) == lines
    assert said[1].startswith(
        "1 of them have no audio or no video stream: to label such files, export the model again"
    )
