"""Tables that fit a terminal, wrapped lines, progress bars, and lines of progress without a terminal."""

import io
import re
import sys
import time

import pytest

from moodfuse.cache import terminal
from moodfuse.cache.terminal import (
    Column,
    ProgressBar,
    fit_columns,
    fold,
    print_lines,
    print_table,
    report,
    set_quiet,
    track,
    wrap_text,
)

COLUMNS = (
    Column("source"),
    Column("recipe", drop=1),
    Column("network", drop=2),
    Column("accuracy [95 %]", number=True),
)
ROW = (
    "hf:facebook--dinov2-base@my-long-recipe+c3d",
    "0123456789abcdef",
    "hf:facebook--dinov2-base",
    "83.3 [65, 91]",
)


@pytest.mark.parametrize("width", [40, 60, 90, 200])
def test_a_table_fits_and_drops_columns_by_priority(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line is too long, cells that stay are not cut, and the columns that are left out are named."""
    monkeypatch.setattr(terminal, "terminal_width", lambda stream: width)
    print_table(COLUMNS, [[ROW]], title="sources")
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= width
    kept = fit_columns(COLUMNS, [ROW], width)
    assert "83.3 [65, 91]" in output and {0, 3} <= kept.keys()
    assert ("columns left out: " in output) == (len(kept) < 4)
    assert {40: (0, 3), 60: (0, 1, 3), 90: (0, 1, 2, 3), 200: (0, 1, 2, 3)}[width] == tuple(kept)
    text = re.sub(r"\s", "", output)
    assert all(part in text for part in ("hf:facebook--dinov2-b", "recipe"))


def test_without_a_terminal_or_with_wide_tables_are_printed_in_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every cell stands on one line."""
    for width, wide in ((None, False), (40, True)):
        monkeypatch.setattr(terminal, "terminal_width", lambda stream, width=width: width)
        print_table(COLUMNS, [[ROW]], wide=wide)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "83.3" in line]
        assert all(cell in line for cell in ROW)


def test_a_column_without_any_cell_and_a_table_without_rows_are_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such as notes of results that have none."""
    print_table((Column("a"), Column("notes")), [[("x", "")]])
    assert "notes" not in capsys.readouterr().out
    print_table((Column("a"),), [[]])
    assert capsys.readouterr().out == ""


def test_text_is_folded_after_spaces_and_plus_signs() -> None:
    """Longer words are cut; wide characters count twice; patterns in quotes stay whole."""
    assert fold("c3d+i3d softmax", 8) == ["c3d+i3d", "softmax"]
    assert fold("onedmcnn+c3d", 9) == ["onedmcnn+", "c3d"]
    assert fold("a '[ _]\\d+b'", 5, cut=False) == ["a", "'[ _]\\d+b'"]
    assert fold("abcdefgh", 3) == ["abc", "def", "gh"]
    assert fold("快乐快乐", 4) == ["快乐", "快乐"]


def test_lines_are_wrapped_at_spaces_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Further lines have a deeper indent; words longer than the terminal stay whole."""
    assert wrap_text("  one two three", 12) == "  one two\n    three"
    assert wrap_text("a " + "b" * 20, 10) == "a\n  " + "b" * 20
    monkeypatch.setattr(terminal, "terminal_width", lambda stream: None)
    print_lines(["word " * 30], wrap=True)
    assert capsys.readouterr().out.count("\n") == 1


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_shows_count_rate_remaining_time_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns, also with long names."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar("hf:facebook--dinov2-base@my-long-recipe: tuning (full)", total=4) as bar:
        bar.describe(note="epoch 12, loss 0.531")
        bar.advance()
        time.sleep(0.02)
        bar.advance()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    last = re.split("[\r\n]+", shown.strip())[-1]
    assert "epoch 12, loss 0.531" in last and "2/4" in last and len(last) <= 80
    assert re.search(r"[0-9.]+/s +[0-9-]+:[0-9-]+", last)


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_and_under_quiet_there_is_no_bar(
    quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines for the user are left out under --quiet too; what is tracked is the same."""
    stream = Terminal() if quiet else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_quiet(quiet)
    try:
        assert list(track(iter("ab"), total=2, what="Reading")) == ["a", "b"]
        report("48 clips")
    finally:
        set_quiet(False)
    assert stream.getvalue() == ("" if quiet else "48 clips\n")


def test_without_a_terminal_progress_is_a_line_about_every_30_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With count, note, rate and remaining time; not under --quiet, without a title, or at the end."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("rich.console.monotonic", lambda: now)  # the clock of rates
    with ProgressBar("Labelling", total=100) as bar, ProgressBar("", total=100) as untitled:
        for _ in range(100):
            bar.describe(note="song.mp4")
            for each in (bar, untitled):
                each.advance()
            now += 1.5
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "Labelling: 20 of 100, song.mp4, 1.5 s each, 0:02:00 remaining"


def test_progress_lines_are_left_out_under_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bars are."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(terminal, "LINE_PERIOD_S", 0.0)
    set_quiet(True)
    try:
        assert list(track(iter("abc"), total=3, what="Reading")) == ["a", "b", "c"]
    finally:
        set_quiet(False)
    assert stream.getvalue() == ""
