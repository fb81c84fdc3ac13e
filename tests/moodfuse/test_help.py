"""The help of every command in a terminal of 80 columns."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from moodfuse.cli import COMMANDS, group

ROOT = Path(__file__).parents[2]


def list_commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, those of groups included."""
    for name in COMMANDS:
        yield (name,)
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.commands)


@pytest.mark.parametrize("words", list(list_commands()), ids=" ".join)
def test_help_fits_80_columns_and_has_one_example(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line is longer or has a cut sentence, paragraphs have one indent, and the example is a command that
    can be copied. The README names the command."""
    monkeypatch.setenv("COLUMNS", "80")
    group.main([*words, "--help"], prog_name="moodfuse", standalone_mode=False)
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert [line for line in lines[1:] if len(line) > 80 or line.endswith("...")] == []
    options = {"--verbose", "--quiet", *(() if words[0] in ("cache", "weights") else ("--config",))}
    assert options <= set(output.replace(",", " ").split())
    text = lines[2 : lines.index("Options:")]
    (start,) = (number for number, line in enumerate(text) if line.startswith("  Example:"))
    example = text[start:]
    assert f"moodfuse {' '.join(words)}" in " ".join(example[:2])
    assert all(re.match(r"  \S", line) for line in text[:start] if line)
    continued = [
        line for line, before in zip(example[2:], example[1:], strict=False) if before.endswith("\\")
    ]
    others = set(example[1:]) - {"", *continued}
    assert all(line.startswith("    moodfuse ") for line in others)
    assert f"moodfuse {words[0]}" in (ROOT / "README.md").read_text(encoding="utf-8")
