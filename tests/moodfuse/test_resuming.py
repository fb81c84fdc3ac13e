"""An output that is gone on with: never rows of two models, thresholds or hops, and never a row lost."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.predict.resuming import Target, open_output

FORMATS = ("jsonl", "csv", "parquet")
MODEL = "0" * 16


def target_of(path: Path, **values: Any) -> Target:
    return Target(path, path.suffix[1:], MODEL, ("calm", "sad"), ("one",), **values)


def row_of(file: str, confidence: float = 0.75, *, threshold: float = 0.5, **values: Any) -> dict[str, Any]:
    """A row as `moodfuse.outputs.row_of` makes it."""
    shares = {"calm": 1 - confidence, "sad": confidence}
    row = {"file": file, "label": "sad", "confidence": confidence, "uncertain": confidence < threshold}
    return {**row, "probabilities": shares, "sources": {}, "model": MODEL, **values}


def refusal_of(file: str) -> dict[str, Any]:
    return {"file": file, "error": "truncated", "detail": "it ends", "model": MODEL}


def write(target: Target, *rows: dict[str, Any]) -> None:
    writer = open_output(target).writer
    for row in rows:
        writer.write(row)
    writer.close()


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_is_done_and_what_was_refused_is_said(form: str, tmp_path: Path) -> None:
    """Files and windows are told apart; nothing is changed by looking."""
    target = target_of(tmp_path / f"out.{form}")
    write(target, row_of("a"), row_of("a", start_s=3.0, end_s=None), refusal_of("b"))
    before = target.path.read_bytes()
    found = open_output(target)
    assert found.done == {("a", 0.0, None), ("a", 3.0, None), ("b", 0.0, None)}
    assert found.refused == {("b", 0.0, None)}
    assert target.path.read_bytes() == before


@pytest.mark.parametrize("form", FORMATS)
def test_rows_that_this_run_would_not_write_are_never_added_to(form: str, tmp_path: Path) -> None:
    """Another model, threshold or hop is an error that says what to do, and leaves the output as it is."""
    target = target_of(tmp_path / f"out.{form}", hop_s=5.0)
    windows = [row_of("c", start_s=start_s, end_s=start_s + 30, windows=3) for start_s in (0.0, 5.0, 8.0)]
    write(target, row_of("a", 0.75), row_of("b", 0.4), refusal_of("d"), *windows)
    before = target.path.read_bytes()
    for change, said in (
        ({"model": "1" * 16}, "of another model .*; choose another --output"),
        (
            {"threshold": 0.8},
            r"judged by another --threshold than 0.8 \(one of confidence 0.750 is not uncertain\); give",
        ),
        (
            {"threshold": 0.3},
            r"than 0.3 \(one of confidence 0.400 is uncertain\); give the threshold of before",
        ),
        ({"hop_s": 2.0}, r"of another --hop \(5 s, not 2 s\); give the hop of before"),
    ):
        with pytest.raises(InputError, match=said):
            open_output(replace(target, **change))
        assert target.path.read_bytes() == before
    for change in ({"threshold": 0.75}, {"hop_s": None}):
        assert open_output(replace(target, **change)).done


@pytest.mark.parametrize("text", ["my notes\n", '{"important": "my only copy"}', "a,b,c"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_someone_else_is_left_as_it_is(form: str, text: str, tmp_path: Path) -> None:
    """What `predict` never wrote is refused; so is what is no file."""
    target = target_of(tmp_path / f"notes.{form}")
    target.path.write_text(text)
    with pytest.raises(InputError, match="choose another"):
        open_output(target)
    assert target.path.read_text() == text
    with pytest.raises(InputError, match="is no regular file"):
        open_output(replace(target, path=Path("/dev/null")))


def test_odd_names_and_damaged_rows(tmp_path: Path) -> None:
    """A carriage return in a name is kept; a short row in the middle, and a number that is none, are refused."""
    target, names = target_of(tmp_path / "out.csv"), ["re\rturn", 'quo"te', "line\nend", "plain"]
    write(target, *map(row_of, names[:2]))
    before = target.path.read_bytes()
    write(target, *map(row_of, names[2:]))
    assert target.path.read_bytes().startswith(before)
    with target.path.open(newline="", encoding="utf-8") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == names
    whole = target.path.read_bytes()
    for old, new in ((b",missing,", b",missing,,,"), (b"plain,,", b"plain,soon,")):
        target.path.write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match="choose another --output"):
            open_output(target)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_tried_again_is_taken_out(form: str, tmp_path: Path) -> None:
    """Only refused rows of what is asked for go; what stays are the very bytes, also of names with line ends."""
    target = target_of(tmp_path / f"out.{form}")
    kept = [row_of("a\nb"), refusal_of("not asked"), row_of("c\rd")]
    write(target, refusal_of("x"), *kept, refusal_of("y"))
    asked = frozenset((name, 0.0, None) for name in ("x", "y", "a\nb"))
    found = open_output(replace(target, asked=asked, retry=True))
    assert found.done == {("a\nb", 0.0, None), ("not asked", 0.0, None), ("c\rd", 0.0, None)}
    found.writer.close()
    other = replace(target, path=tmp_path / f"other.{form}")
    write(other, *kept)
    if form == "parquet":
        assert pyarrow.parquet.read_table(target.path).equals(pyarrow.parquet.read_table(other.path))
    else:
        assert target.path.read_bytes() == other.path.read_bytes()


def test_a_finished_parquet_takes_more(tmp_path: Path) -> None:
    """Stopped after a further row, it goes on from its journal; the rows of before are safe until it ends."""
    target = target_of(tmp_path / "out.parquet")
    write(target, row_of("a"))
    before = target.path.read_bytes()
    opened = open_output(target)
    opened.writer.write(row_of("b"))
    assert target.path.read_bytes() == before
    del opened
    write(target, row_of("c"))
    assert pyarrow.parquet.read_table(target.path)["file"].to_pylist() == ["a", "b", "c"]
    assert not target.path.with_name("out.parquet.journal").exists()


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    """The second is refused while the first has the file open, also where the first has taken rows out of it."""
    target = target_of(tmp_path / "out.jsonl", asked=frozenset({("a", 0.0, None)}), retry=True)
    for _ in range(2):
        first = open_output(target)
        with pytest.raises(InputError, match="another run writes"):
            open_output(target)
        first.writer.write(refusal_of("a"))
        del first
    assert [json.loads(line)["file"] for line in target.path.read_text().splitlines()] == ["a"]
