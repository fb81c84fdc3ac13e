"""A run is compared with the published results of Zhou 2022 row by row."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate import score
from moodfuse.evaluate.cli import evaluate_command
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.published import (
    FUSION,
    NETWORKS,
    ComparedRow,
    Comparison,
    compare_with,
    comparison_csv,
    find_published,
)
from moodfuse.evaluate.report.terminal import print_comparison

CLASSES = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")
FOUR = ("c3d", "i3d", "onedmcnn", "twodmcnn")
PAIR = ("c3d", "twodmcnn")
PAPER_HEAD = ("softmax", "embedding")
Key = tuple[tuple[str, ...], str, str]


def under(recipe: str, networks: tuple[str, ...] = FOUR) -> tuple[str, ...]:
    """Sources of networks under a recipe."""
    return tuple(f"{name}@{recipe}" for name in networks)


def own(*sources: str) -> list[Key]:
    """Network rows of sources."""
    return [((source,), "network", "logits") for source in sources]


def make_run(results: list[Key], classes: tuple[str, ...] = CLASSES, clips: int = 30) -> Run:
    """Clips in turn of each class, and random probabilities for each result."""
    rng = np.random.default_rng(0)
    return Run(
        name="run-1",
        protocol="no-crossfit",
        classes=classes,
        ids=tuple(f"clip-{number}" for number in range(clips)),
        labels=tuple(classes[number % len(classes)] for number in range(clips)),
        groups=tuple(f"group-{number}" for number in range(clips)),
        folds=tuple(number % 3 for number in range(clips)),
        fold_count=3,
        seed=0,
        recipes=(),
        results=tuple(Result(*key, rng.dirichlet(np.ones(len(classes)), clips)) for key in results),
    )


def compared(results: list[Key], classes: tuple[str, ...] = CLASSES) -> Comparison:
    """A run of these results compared with the paper."""
    return compare_with(
        evaluate_run(make_run(results, classes), draws=50), find_published("zhou2022"), cache="work"
    )


def ours(comparison: Comparison, table: str) -> list[tuple[ComparedRow, Result]]:
    """Rows of a table with a result of ours."""
    return [(row, row.ours.result) for row in comparison.rows if row.table == table and row.ours]


def test_the_published_matrix_contradicts_its_table() -> None:
    """Its 503 clips have 419 on the diagonal: 0.833 and macro F1 0.835, not the stated 0.86 and 0.88; a note has it."""
    found = compared(own("c3d"))
    theirs = found.matrices[0]
    assert (theirs.who, theirs.clips, theirs.accuracy) == ("zhou2022", found.published.clips, 419 / 503)
    cells = np.array(found.published.matrix)
    y_true, y_pred = (
        np.repeat(np.repeat(np.arange(6), 6), cells.ravel()),
        np.repeat(np.tile(np.arange(6), 6), cells.ravel()),
    )
    computed = score(y_true, np.eye(6)[y_pred], classes=found.published.classes)
    assert (round(computed.accuracy, 3), round(computed.macro_f1, 3)) == (0.833, 0.835)
    text = "503 clips with 419 on the diagonal, gives accuracy 0.833, not the stated 0.86, and macro F1 0.835, not the"
    assert any(text in note for note in found.notes)


def test_networks_are_compared_with_their_optimizer() -> None:
    """A recipe that repeats an optimizer fills its row, old names too; other recipes have their own rows."""
    found = compared(
        own("c3d@zhou2022-adam", "twodmcnn@zhou2022", "twodmcnn@seed-sgd", "c3d", "i3d@mine", "clip-vit")
    )
    assert [(row.networks[0], row.optimizer, result.sources[0]) for row, result in ours(found, NETWORKS)] == [
        ("c3d", "adam", "c3d@zhou2022-adam"),
        ("twodmcnn", "sgd", "twodmcnn@zhou2022"),
        ("twodmcnn", "sgd", "twodmcnn@seed-sgd"),
        ("c3d", "", "c3d"),
        ("i3d", "", "i3d@mine"),
    ]
    rows = [row for row in found.rows if row.table == NETWORKS and row.published]
    assert len({(row.networks, row.optimizer) for row in rows}) == 8
    assert all(
        (row.published is None) == (row.optimizer == "") for row in found.rows if row.table == NETWORKS
    )


def test_fusions_are_not_selected_by_score() -> None:
    """A recipe with softmax on embeddings shows only that, even if others score more; another shows all it has."""
    heads = [("mean", "logits"), PAPER_HEAD, ("softmax", "logits")]
    pairs = {recipe: under(recipe, PAIR) if recipe else PAIR for recipe in ("", "zhou2022", "zhou2022-sgd")}
    found = compared([(pairs[recipe], *head) for recipe in reversed(pairs) for head in heads[recipe != "" :]])
    assert [(item.sources, item.head, item.level) for _, item in ours(found, FUSION)] == [
        (sources, *PAPER_HEAD) for sources in pairs.values()
    ]
    found = compared(
        [(pairs["zhou2022-sgd"], *heads[2]), (pairs["zhou2022-sgd"], *heads[0]), (PAIR, *PAPER_HEAD)]
    )
    assert [(item.sources, item.head) for _, item in ours(found, FUSION)] == [
        (PAIR, "softmax"),
        (pairs["zhou2022-sgd"], "softmax"),
        (pairs["zhou2022-sgd"], "mean"),
    ]


def test_mixed_recipes_are_left_out_with_a_note() -> None:
    """Networks under different recipes are compared with no published fusion."""
    found = compared(
        [(("c3d", "twodmcnn@zhou2022"), *PAPER_HEAD), (("c3d", "clip-vit@zhou2022"), *PAPER_HEAD)]
    )
    assert not ours(found, FUSION)
    assert any("mix recipes are left out: 1, such as c3d+twodmcnn@zhou2022" in note for note in found.notes)


def test_missing_rows_name_their_commands() -> None:
    """A recipe without any network is extracted whole, else by source; without missing rows there is no command."""
    fuse = "moodfuse fuse --cache work --combine zhou2022 --head softmax --level embedding"
    assert compared(own(*under("zhou2022-adam", FOUR[:3]), "c3d")).commands == (
        "moodfuse extract DATA --cache work --source twodmcnn@zhou2022-adam",
        "moodfuse extract DATA --cache work --recipe zhou2022-sgd",
        fuse,
    )
    networks = own(*under("zhou2022-adam"), *under("zhou2022-sgd"))
    assert compared(networks).commands == (fuse,)
    fusions = [(under("zhou2022-adam", item), *PAPER_HEAD) for item in find_published("zhou2022").fusions]
    full = compared(networks + fusions)
    assert full.commands == () and all(row.ours for row in full.rows) and len(full.rows) == 13


def test_our_matrices_have_the_published_class_axis() -> None:
    """There is one for each recipe, ignoring case; a run of other classes has a note instead."""
    head = [
        (FOUR, *PAPER_HEAD),
        (under("zhou2022"), "mean", "logits"),
        (under("zhou2022"), "softmax", "logits"),
    ]
    turned = ("Tension", "excited", "fear", "neutral", "relaxation", "sad")
    same, moved = compared(head), compared(head, turned)
    assert [matrix.how for matrix in same.matrices[1:]] == [
        "softmax/embedding, default",
        "mean/logits, zhou2022",
    ]
    counts = evaluate_run(make_run(head, turned), draws=1).scored[0].score.confusion_matrix
    assert moved.matrices[1].counts == tuple(map(tuple, np.roll(counts, (-1, -1), axis=(0, 1)).tolist()))
    assert moved.matrices[1].clips == 30
    other = compared(head, ("a", "b", "c", "d", "e", "f"))
    assert len(other.matrices) == 1 and any("other classes than zhou2022" in note for note in other.notes)


def test_the_csv_has_each_row_once() -> None:
    """It has every published row and every one of ours, with their numbers of clips."""
    head = [(FOUR, "softmax", "logits"), (FOUR, "mean", "logits"), *own("c3d", "i3d@zhou2022-sgd")]
    text = comparison_csv(compared(head))
    assert text.splitlines()[0] == (
        "table,optimizer,sources,who,protocol,recipe,head,level,clips,accuracy,low,high,macro_f1,auc"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    theirs = [row for row in rows if row["who"] == "zhou2022"]
    assert len(theirs) == 13 and {row["clips"] for row in theirs} == {"503"}
    mine = [row for row in rows if row["who"] == "ours"]
    assert {row["clips"] for row in mine} == {"30"} and all(row["low"] <= row["accuracy"] for row in mine)
    assert [(row["table"], row["optimizer"], row["recipe"], row["head"]) for row in mine] == [
        ("networks", "sgd", "zhou2022-sgd", "network"),
        ("networks", "", "default", "network"),
        ("fusion", "", "default", "softmax"),
        ("fusion", "", "default", "mean"),
    ]

    run = make_run(own("c3d"))
    lone = compare_with(evaluate_run(replace(run, groups=("one",) * 30), draws=5), find_published("zhou2022"))
    (mine,) = [row for row in csv.DictReader(io.StringIO(comparison_csv(lone))) if row["who"] == "ours"]
    assert mine["low"] == mine["high"] == "" and mine["accuracy"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_lose_no_number(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer than 100 columns, or the terminal if that is wider, and every interval is complete."""
    monkeypatch.setenv("COLUMNS", str(width))
    recipes = ("zhou2022-adam", "a-recipe-with-a-long-name")
    found = compared(
        [(under(recipe), "lightgbm", "embedding") for recipe in recipes] + own(*FOUR, *under("zhou2022-adam"))
    )
    print_comparison(found)
    shown = capsys.readouterr().out
    assert max(map(len, shown.partition("note: ")[0].splitlines())) <= max(100, width) and "…" not in shown
    assert shown.count("lightgbm/embedding") == 4
    for row in found.rows:
        if row.ours is not None:
            interval = row.ours.score.accuracy_ci95
            assert f"{row.ours.score.accuracy:.2f} [{interval.low:.2f}, {interval.high:.2f}]" in shown


def test_every_file_of_a_leaky_report_is_marked(tmp_path: Path) -> None:
    """Tables, page and figures, the comparison too, have LEAKY in their text or name."""
    cache = FeatureCache(tmp_path / "cache", create=True)
    run = replace(make_run([(FOUR, "softmax", "logits")]), name="leaky-1", protocol="leaky")
    write_run(cache, run)
    call = ["--cache", str(cache.path), "--compare", "zhou2022", "--draws", "20"]
    call += ["--output", str(tmp_path / "out")]
    done = CliRunner().invoke(evaluate_command, call, catch_exceptions=False)
    assert done.exit_code == 0 and "compared with LEAKY run leaky-1" in done.output
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > 8 and (tmp_path / "out" / "comparison-zhou2022-LEAKY.csv") in files
    assert all("LEAKY" in file.name or "LEAKY" in file.read_text(encoding="utf-8") for file in files)


def test_the_command_prints_and_writes_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--compare zhou2022` adds a CSV file and leaves metrics.json alone; `seed` is accepted with a notice."""
    monkeypatch.setattr("moodfuse.evaluate.report.draw_figures", lambda *_: iter(()))
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, make_run([(FOUR, *PAPER_HEAD), *own("c3d@zhou2022-sgd")]))
    plain, report = tmp_path / "plain", cache.path / "runs" / "run-1" / "report"
    common = ["--cache", str(cache.path), "--draws", "50"]
    for options in (["--output", str(plain)], ["--compare", "zhou2022"], ["--compare", "seed"]):
        done = CliRunner().invoke(evaluate_command, [*common, *options], catch_exceptions=False)
        assert done.exit_code == 0
        assert ("--compare seed is now called zhou2022" in done.stderr) == ("seed" in options)
    texts = ("zhou2022 on 503 clips, ours on 30", "zhou2022-sgd", "0.833", f"fuse --cache {cache.path}")
    assert all(text in done.output for text in (*texts, "comparison-zhou2022.csv"))
    assert (plain / "metrics.json").read_bytes() == (report / "metrics.json").read_bytes()
    added = {item.name for item in report.iterdir()} - {item.name for item in plain.iterdir()}
    assert added == {"comparison-zhou2022.csv"}


def test_an_unknown_comparison_lists_the_known() -> None:
    """It is refused before the cache is read."""
    with pytest.raises(UnknownNameError, match="unknown comparison 'other'; known: zhou2022"):
        CliRunner().invoke(
            evaluate_command, ["--cache", "nowhere", "--compare", "other"], catch_exceptions=False
        )
