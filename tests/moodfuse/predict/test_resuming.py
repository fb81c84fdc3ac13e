"""Output files that are resumed: no row is lost, written twice, or mixed with rows of another model or setting."""

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.predict import PredictSettings
from moodfuse.predict.outputs import Key, Output, csv_columns
from moodfuse.predict.resuming import open_output

FORMATS = ("jsonl", "csv", "parquet")
MODEL = "0" * 16
COLUMNS = csv_columns(("calm", "sad"), ("one",))


def row_of(file: str, confidence: float = 0.75, **values: Any) -> dict[str, Any]:
    row = {"file": file, "label": "sad", "confidence": confidence, "uncertain": confidence < 0.5}
    probabilities = {"calm": 1 - confidence, "sad": confidence}
    return {**row, "probabilities": probabilities, "sources": {}, "model": MODEL, **values}


def refusal_of(file: str) -> dict[str, Any]:
    return {"file": file, "error": "truncated", "detail": "it ends", "model": MODEL}


def opened(path: Path, *, model: str = MODEL, requested: Collection[str] = (), **options: Any) -> Output:
    settings = PredictSettings((), format=path.suffix[1:], output=path, **options)
    keys: frozenset[Key] = frozenset((name, 0.0, None) for name in requested)
    return open_output(settings, model=model, columns=COLUMNS, requested=keys)


def write(path: Path, *rows: dict[str, Any], **options: Any) -> None:
    output = opened(path, **options)
    for row in rows:
        output.write(row)
    output.close()


def names_in(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["file"] for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return [row["file"] for row in csv.DictReader(stream)]
    return list(pyarrow.parquet.read_table(path)["file"].to_pylist())


def journal_of(path: Path) -> Path:
    return path if path.suffix == ".jsonl" else path.with_name(f"{path.name}.journal")


@pytest.mark.parametrize("form", FORMATS)
def test_an_output_knows_what_it_has(form: str, tmp_path: Path) -> None:
    """Files and windows are told apart, refused files are known, and opening changes nothing."""
    path = tmp_path / f"out.{form}"
    write(path, row_of("a"), row_of("a", start_s=3.0, end_s=None), refusal_of("b"))
    before = path.read_bytes()
    output = opened(path)
    assert output.done == {("a", 0.0, None), ("a", 3.0, None), ("b", 0.0, None)}
    assert output.refused == {("b", 0.0, None)}
    output.close()
    assert names_in(path) == ["a", "a", "b"] and (form == "parquet" or path.read_bytes() == before)


@pytest.mark.parametrize("form", FORMATS)
def test_a_stopped_run_continues(form: str, tmp_path: Path) -> None:
    """Stopped within a row, it continues after the last complete one; a finished output takes more rows."""
    path = tmp_path / f"out.{form}"
    write(path, row_of("a\nb"))
    output = opened(path)
    output.put('{"file": "c"')
    del output
    assert form == "jsonl" or names_in(path) == ["a\nb"]
    output = opened(path)
    assert output.done == {("a\nb", 0.0, None)}
    output.write(row_of("c\rd"))
    output.close()
    assert names_in(path) == ["a\nb", "c\rd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "1" * 16}, "of another model .*, or choose another --output"),
        (
            {"threshold": 0.8},
            r"another --threshold than 0.8 \(at a confidence of 0.750 one is not uncertain\)",
        ),
        ({"threshold": 0.3}, r"than 0.3 \(at a confidence of 0.400 one is uncertain\); repeat that"),
        ({"timeline": True, "hop_s": 2.0}, r"with another --hop \(5 s, not 2 s\); repeat that, or choose"),
    ],
)
def test_rows_of_other_settings_are_never_mixed(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Another model, threshold or hop is an error, and the output stays as it is."""
    path = tmp_path / "out.jsonl"
    windows = [row_of("c", start_s=start_s, end_s=start_s + 30, windows=3) for start_s in (0.0, 5.0, 8.0)]
    write(path, row_of("a", 0.75), row_of("b", 0.4), refusal_of("d"), *windows, timeline=True)
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        opened(path, **options)
    assert path.read_bytes() == before
    assert opened(path, threshold=0.75).done


@pytest.mark.parametrize(
    "text",
    ["my notes\n", '{"important": "my only copy"}', '{"file": 3}\n', '{"file": "a", "windows": "x"}\n'],
)
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_another_program_is_left_as_it_is(form: str, text: str, tmp_path: Path) -> None:
    """A file that `predict` did not write is refused, and so is a device."""
    path = tmp_path / f"notes.{form}"
    path.write_text(text)
    with pytest.raises(InputError, match="choose another"):
        opened(path)
    assert path.read_text() == text
    device = PredictSettings((), format=form, output=Path("/dev/null"))
    with pytest.raises(InputError, match="not a regular file"):
        open_output(device, model=MODEL, columns=COLUMNS, requested=frozenset())


@pytest.mark.parametrize("form", FORMATS)
def test_refused_files_are_removed_to_try_them_again(form: str, tmp_path: Path) -> None:
    """Only refused rows of requested files go; all others stay the very bytes."""
    path, other = tmp_path / f"out.{form}", tmp_path / f"other.{form}"
    kept = [row_of("a\nb"), refusal_of("not requested"), row_of("c\rd")]
    write(path, refusal_of("x"), *kept, refusal_of("y"))
    output = opened(path, requested=("x", "y", "a\nb"), retry=True)
    assert output.done == {("a\nb", 0.0, None), ("not requested", 0.0, None), ("c\rd", 0.0, None)}
    output.close()
    write(other, *kept)
    assert journal_of(path).read_bytes() == journal_of(other).read_bytes()
    assert names_in(path) == names_in(other)


def test_an_incomplete_time_line_is_removed(tmp_path: Path) -> None:
    """One that has all of its windows stays; rows of whole files are not concerned."""
    path = tmp_path / "out.jsonl"
    windows = [row_of("a", start_s=5.0 * n, end_s=30 + 5.0 * n, windows=2) for n in range(2)]
    write(path, row_of("b"), *windows, {**windows[0], "file": "b"}, timeline=True)
    output = opened(path, requested=("a", "b"), timeline=True)
    assert output.done == {("a", 0.0, None)} and names_in(path) == ["b", "a", "a"]


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    """The second is refused while the first has the file open, even after the first has removed rows."""
    path = tmp_path / "out.jsonl"
    for _ in range(2):
        first = opened(path, requested=("a",), retry=True)
        with pytest.raises(InputError, match="in use by another run"):
            opened(path)
        first.write(refusal_of("a"))
        del first
    assert names_in(path) == ["a"]
