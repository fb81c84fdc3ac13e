"""`moodfuse cache` on the command line: what is printed, and the exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moodfuse.cache.cli import cache_group
from moodfuse.cache.store import FeatureCache

COMMANDS = ("ls", "verify", "prune")


def call(*words: object) -> Result:
    """Run a command of the group."""
    return CliRunner().invoke(cache_group, [str(word) for word in words])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_needs_a_cache(name: str, tmp_path: Path) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0 and f"Example: moodfuse cache {name} --cache work" in result.output
    assert call(name).exit_code == 2
    assert "not a moodfuse cache" in str(call(name, "--cache", tmp_path).exception)


def test_the_keys_of_json_are_stable(tuned_cache: FeatureCache) -> None:
    first, second = (call("ls", "--cache", tuned_cache.path, "--format", "json").output for _ in range(2))
    assert first == second
    record = json.loads(first)
    keys = "schema cache bytes clips plan recipes media fits runs old_plans old_tables old_fits"
    assert list(record) == [*keys.split(), "set_aside", "temporaries", "unknown", "unreadable"]
    assert record["plan"] == {"folds": 3, "seed": 0, "sequence": 1, "clips": 18, "groups": 18, "repeats": 2}
    still = next(recipe for recipe in record["recipes"] if recipe["source"] == "still")
    assert (still["state"], still["depth"]) == ("in force", "frozen")
    block = {key: value for key, value in still["blocks"][0].items() if key != "bytes"}
    assert block == {
        "trained": "frozen",
        "names": [{"holdout": "*", "repeat": 0}],
        **{"rows": 18, "clips": 18, "parts": 2, "weights_bytes": 0, "recorded": True, "complete": True},
    }


@pytest.mark.parametrize("columns", ["40", "200"])
def test_tables_keep_every_column_in_a_narrow_terminal(
    tuned_cache: FeatureCache, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    headings = ["source", "recipe", "network", "depth", "state", "blocks", "complete", "parts", "size"]
    for words in ((), ("--long",)):
        output = call("ls", "--cache", tuned_cache.path, *words).output
        (heading,) = [line for line in output.splitlines() if "blocks complete" in line]
        assert heading.split() == headings and "…" not in output
        assert all(text in output for text in ("{} 1 of 1", "{k}", "{j,k}", "* 1 of 1"))


def test_odd_names_are_printed_on_one_line(tuned_cache: FeatureCache) -> None:
    (tuned_cache.path / "runs" / "[red]x\n\udcff").mkdir()
    (tuned_cache.path / "runs" / "[red]x\n\udcff" / "run.json").write_text("{")
    result = call("ls", "--cache", tuned_cache.path)
    assert result.exit_code == 0 and r"[red]x\n\udcff" in result.output
    assert call("ls", "--cache", tuned_cache.path, "--format", "json").exit_code == 0
    assert call("verify", "--cache", tuned_cache.path).exit_code == 1


def test_verify_exits_with_one_if_anything_was_bad(tuned_cache: FeatureCache) -> None:
    assert call("verify", "--cache", tuned_cache.path).exit_code == 0
    part = min((tuned_cache.path / "features" / "still").rglob("*.h5"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    for words in ((), ("--repair",)):
        result = call("verify", "--cache", tuned_cache.path, *words)
        assert result.exit_code == 1
        assert f"bad: {part.relative_to(tuned_cache.path)}: has no valid header" in result.output
    assert f"moodfuse extract DATA --cache {tuned_cache.path} --source still" in result.output
    assert "moodfuse extract clips --cache work" in result.output
    result = call("verify", "--cache", tuned_cache.path)
    assert result.exit_code == 0 and "none bad" in result.output
    assert "quarantined earlier: features/still" in result.output


def test_import_and_export_print_what_they_did(known: FeatureCache, tmp_path: Path) -> None:
    out, new = tmp_path / "out.csv", tmp_path / "again"
    result = call("export", "--cache", known.path, "--source", "other", "--output", out)
    assert result.exit_code == 0 and result.output == f"6 clips, embedding 2: {out}\n"
    words = ("--cache", new, "--source", "two", "--labels", out, "--folds", 2)
    result = call("import", *words, "--holdout", "*", out)
    assert result.exit_code == 0 and "columns of the embedding: 'e0', 'e1'" in result.stderr
    assert result.stdout.splitlines() == [
        "6 clips, embedding 2; 6 rows written to source two, holdout *",
        f"next: moodfuse fuse --cache {new}",
    ]
    assert f"import {out} --cache {new} --source two" in FeatureCache(new).commands[0]
