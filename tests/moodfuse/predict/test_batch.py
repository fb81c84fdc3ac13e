"""Labelling many files: what is labelled, in which order, and what an output has already."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.media.limits import Limits, ReadingRules
from moodfuse.extract.progress import TooManyRefusedError
from moodfuse.model.predictions import LabelRequest, ModelId, Prediction, Refusal, Timeline
from moodfuse.predict import PredictSettings, batch
from moodfuse.predict.batch import REFUSED, expand, label_all

Predict = Callable[..., int]


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    return list(pyarrow.parquet.read_table(path).to_pylist())


# With a model


def test_all_formats_agree_and_an_output_takes_more_files(
    trained: Any, model: Path, predict: Predict, tmp_path: Path, capfd
) -> None:
    """JSON lines, CSV and Parquet have the same rows in the requested order, written in one run or two."""
    bad = tmp_path / "bad\n\udcff.mp4"
    bad.write_text("not a video")
    files = [trained.held[1], str(bad), trained.held[0]]
    assert predict("--model", model, "--output", tmp_path / "out.jsonl", *files) == 3
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["file"] for row in rows] == files
    names = [files[0], files[1].replace("\udcff", "\\udcff"), files[2]]
    lines = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    for form, journal in (("csv", lines[:1]), ("parquet", lines)):
        output = tmp_path / f"out.{form}"
        output.with_name(f"{output.name}.journal").write_text("".join(journal))
        assert predict("--model", model, "--output", output, *files) == 3
        assert f"{len(journal)} of 3 files are in" in capfd.readouterr().err
        cells = read_rows(output)
        assert [row["file"] for row in cells] == names and cells[1]["error"] == rows[1]["error"]["code"]
        for row, cell in zip(rows, cells, strict=True):
            for label, value in row.get("probabilities", {}).items():
                assert float(cell[f"probability:{label}"]) == value


# With a stand-in


class FakeModel:
    """Predicts the same for every file, and every window, except for the files that it cannot read."""

    classes, name = ("calm", "sad"), "fake"
    id = ModelId("fake", "0" * 16)
    card = SimpleNamespace(chosen=True, modalities={"sound", "picture"})
    fusion = SimpleNamespace(sources=[SimpleNamespace(source="one")])

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.labelled: list[str] = []
        self.lost: tuple[int, ...] = (1,)
        self.code = "truncated"

    def load(self, folder: Path, *, device: str | None = None) -> "FakeModel":
        return self

    def label(
        self, requests: Sequence[LabelRequest], *, jobs: int, rules: ReadingRules
    ) -> Iterator[Prediction | Refusal]:
        for request in requests:
            self.labelled.append(request.file)
            if request.file in self.bad:
                yield Refusal(request.file, self.code, "the file ends too early", model=self.id)
            else:
                yield Prediction(request.file, self.classes, np.array([0.25, 0.75]), 0.0, 30.0, model=self.id)

    def timeline(self, file: str, *, hop_s: float, limits: Limits) -> Timeline:
        self.labelled.append(file)
        starts_s = hop_s * np.arange(3)
        rows = np.tile([0.25, 0.75], (3, 1))
        numbers = self.lost if file in self.bad else ()
        lost = tuple((number, Refusal(file, "truncated", "it ends")) for number in numbers)
        return Timeline(file, self.classes, starts_s, starts_s + 30, rows, lost, 40.0, model=self.id)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    model = FakeModel()
    monkeypatch.setattr(batch, "Model", model)
    return model


def label(*files: str, echo: Callable[[str], object] = str, **options: Any) -> int:
    settings = PredictSettings(files, **options)
    return label_all(Path("model"), settings, stream=io.StringIO(), echo=echo)


def test_what_an_output_has_is_not_labelled_again(fake: FakeModel, tmp_path: Path) -> None:
    """Refused files are tried again with --retry."""
    lines: list[str] = []
    options: dict[str, Any] = {"format": "csv", "output": tmp_path / "out.csv", "echo": lines.append}
    fake.bad = {"b", "c"}
    assert label("a", "b", "c", **options) == REFUSED
    fake.labelled = []
    assert label("a", "b", **options) == REFUSED and not fake.labelled
    assert "2 of 2 files are in" in lines[-1] and "1 of them refused (--retry" in lines[-1]
    fake.bad = {"c"}
    assert label("a", "b", retry=True, **options) == 0 and fake.labelled == ["b"]
    rows = read_rows(tmp_path / "out.csv")
    assert [(row["file"], row["error"]) for row in rows] == [("a", ""), ("c", "truncated"), ("b", "")]


def test_a_time_line_counts_refused_files_not_windows(fake: FakeModel) -> None:
    """A file with a gap is labelled; one without any window counts once for --max-failures."""
    fake.bad = {"a", "b"}
    assert label("a", "b", timeline=True, rules=ReadingRules(max_failures=1)) == REFUSED
    fake.lost = (0, 1, 2)
    with pytest.raises(TooManyRefusedError, match="2 refused: 2 truncated"):
        label("a", "b", "c", timeline=True, rules=ReadingRules(max_failures=2))


def test_a_request_without_effect_is_an_error(fake: FakeModel, tmp_path: Path) -> None:
    """A window with --timeline, and a page of a file that is done."""
    windows = tmp_path / "windows.csv"
    windows.write_text("path,start_s\na.mp4,3\n")
    with pytest.raises(InputError, match="a timeline covers a whole file"):
        label(str(windows), timeline=True)
    options: dict[str, Any] = {"format": "jsonl", "output": tmp_path / "out.jsonl", "timeline": True}
    assert label("a", **options) == 0
    with pytest.raises(InputError, match=r"a: already in .*out.jsonl, so nothing would be drawn"):
        label("a", html=tmp_path / "a.html", **options)


def test_the_remedy_for_files_without_audio_or_video_is_named(fake: FakeModel) -> None:
    lines: list[str] = []
    fake.bad, fake.code = {"b"}, "no_video"
    assert label("a", "b", format="jsonl", echo=lines.append) == REFUSED
    assert lines[1].startswith("1 refused: 1 no_video; each file is listed")
    assert "of them have no audio or no video stream: to label such files, export the model again" in lines[2]


def test_lines_for_the_user(fake: FakeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One at the start, and how many files were written; with --verbose also each refused file."""
    caplog.set_level("INFO", logger="moodfuse")
    lines: list[str] = []
    output = tmp_path / "out.jsonl"
    assert label("a", format="jsonl", echo=lines.append) == 0
    assert lines == ["1 file to label with model; output: standard output"]
    fake.bad, lines[:] = {"b"}, []
    assert label("a", "b", format="jsonl", output=output, echo=lines.append) == REFUSED
    assert lines[:2] == [
        f"2 files to label with model; output: {output}",
        f"2 files (1 refused) written to {output}",
    ]
    assert caplog.messages == ["refused b: truncated: the file ends too early"]
    fake.bad = set()
    assert label("c", format="jsonl", output=output, echo=lines.append) == 0
    assert label("c", format="jsonl", output=output, echo=lines.append) == 0
    assert lines[-3] == f"1 file written to {output}" and lines[-1] == f"1 of 1 file is in {output} already"


# Inputs


def test_inputs_are_files_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder gives its media files by name at any depth; lists give paths and windows."""
    for name in ("b/2.mp4", "b/1.MKV", "b/notes.pdf", "b/.hidden.mp4", "b/c/0.wav", "end.mp4 "):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_bytes(b"b/2.mp4\r\n\n/abs.mp4\nend.mp4 \n")
    (tmp_path / "windows.csv").write_text("path;start_s;end_s\nb/2.mp4;3;\nend.mp4 ;;60\n", "utf-8-sig")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    requests = expand(["x.mp4", "b", "list.txt", "windows.csv"], echo=lines.append)
    assert [replace(request, file=str(Path(request.file))) for request in requests] == [
        *map(LabelRequest, ("x.mp4", "b/1.MKV", "b/2.mp4", "b/c/0.wav", "b/2.mp4", "/abs.mp4", "end.mp4 ")),
        LabelRequest("b/2.mp4", 3.0),
        LabelRequest("end.mp4 ", 0.0, 60.0),
    ]
    assert [line.split(":")[0] for line in lines[:-1]] == ["ignored in b", "ignored in b"]
    assert lines[-1].startswith("WARNING 1 of 9 windows are longer than 30 s (up to 60 s)")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("bad.csv", b"path,start_s\nb/2.mp4,soon\n", "line 2: start_s is 'soon'"),
        ("utf16.txt", "b/2.mp4\n".encode("utf-16"), "is UTF-16, .*; save the file as UTF-8"),
        ("empty.txt", b"\n \n", "the list is empty; expected a path in each line"),
        ("none.txt", None, "expected a regular file"),
        ("", None, r"no media files; expected names that end in .*\.mp4"),
    ],
)
def test_an_input_that_cannot_be_used_is_an_error(
    name: str, data: bytes | None, message: str, tmp_path: Path
) -> None:
    """The error names the list, the line and the reason."""
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        expand([str(tmp_path / name)], echo=str)
