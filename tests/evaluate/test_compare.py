"""Tests of evaluate.compare: a run beside the seed's published figures."""

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.cli import evaluate_command
from moodfuse.evaluate.compare import (
    FUSION,
    NETWORKS,
    ComparedRow,
    Comparison,
    compare,
    comparison_table,
    find_published,
)
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.report.terminal import print_comparison

ROOT = Path(__file__).parents[2]
CLASSES = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")
FOUR = ("c3d", "i3d", "onedmcnn", "twodmcnn")
PAIR = ("c3d", "twodmcnn")
SEED_WAY = ("softmax", "embedding")
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
    """A run of these results beside the seed's figures."""
    return compare(evaluate_run(make_run(results, classes), draws=50), find_published("seed"), cache="work")


def ours(comparison: Comparison, table: str) -> list[tuple[ComparedRow, Result]]:
    """Rows of a table that have a result of ours."""
    return [(row, row.ours.result) for row in comparison.rows if row.table == table and row.ours]


def test_the_published_matrix_contradicts_its_table() -> None:
    """Its 503 clips have 419 on the diagonal: 0.833 and macro F1 0.835, said beside the stated 0.86 and 0.88."""
    seed, found = find_published("seed"), compared(own("c3d"))
    theirs = found.matrices[0]
    assert (theirs.who, theirs.clips, theirs.diagonal) == ("seed", seed.clips, 419) and seed.clips == 503
    assert theirs.accuracy == 419 / 503 and round(theirs.macro_f1, 3) == 0.835
    said = "503 clips with 419 on the diagonal, gives accuracy 0.833, not the stated 0.86, and macro F1 0.835, not the"
    assert any(said in note for note in found.notes)


def test_networks_stand_beside_their_optimizer() -> None:
    """Only a recipe that repeats an optimizer fills its row; another recipe of the network has a row of its own."""
    found = compared(
        own("c3d@seed-adam", "twodmcnn@seed", "twodmcnn@seed-sgd", "c3d", "i3d@mine", "clip-vit")
    )
    assert [(row.networks[0], row.optimizer, result.sources[0]) for row, result in ours(found, NETWORKS)] == [
        ("c3d", "adam", "c3d@seed-adam"),
        ("twodmcnn", "sgd", "twodmcnn@seed-sgd"),
        ("twodmcnn", "sgd", "twodmcnn@seed"),
        ("c3d", "", "c3d"),
        ("i3d", "", "i3d@mine"),
    ]
    rows = [row for row in found.rows if row.table == NETWORKS and row.published]
    assert len({(row.networks, row.optimizer) for row in rows}) == 8
    assert all(
        (row.published is None) == (row.optimizer == "") for row in found.rows if row.table == NETWORKS
    )


def test_fusions_are_not_picked_by_score() -> None:
    """A recipe with softmax on embeddings shows that alone, whatever scores more; another one shows all it has."""
    ways = [("mean", "logits"), SEED_WAY, ("softmax", "logits")]
    pairs = {"": PAIR, "seed": under("seed", PAIR), "seed-sgd": under("seed-sgd", PAIR)}
    found = compared(
        [(pairs[recipe], *way) for recipe in ("seed-sgd", "seed", "") for way in ways[recipe != "" :]]
    )
    assert [(item.sources, item.head, item.level) for _, item in ours(found, FUSION)] == [
        (pairs[recipe], *SEED_WAY) for recipe in ("", "seed", "seed-sgd")
    ]
    found = compared([(pairs["seed-sgd"], *ways[2]), (pairs["seed-sgd"], *ways[0]), (PAIR, *SEED_WAY)])
    assert [(item.sources, item.head) for _, item in ours(found, FUSION)] == [
        (PAIR, "softmax"),
        (pairs["seed-sgd"], "softmax"),
        (pairs["seed-sgd"], "mean"),
    ]


def test_mixed_recipes_are_left_out_and_said() -> None:
    """Networks under different recipes stand beside no published fusion, and a note counts them."""
    found = compared([(("c3d", "twodmcnn@seed"), *SEED_WAY), (("c3d", "clip-vit@seed"), *SEED_WAY)])
    assert not ours(found, FUSION)
    assert any("mix recipes are left out: 1, such as c3d+twodmcnn@seed" in note for note in found.notes)


def test_missing_rows_name_their_commands() -> None:
    """A recipe that is missing whole is extracted whole, else by source; nothing is said where nothing is missing."""
    fuse = "moodfuse fuse --cache work --combine seed --head softmax --level embedding"
    assert compared(own(*under("seed-adam", FOUR[:3]), "c3d")).commands == (
        "moodfuse extract DATA --cache work --source twodmcnn@seed-adam",
        "moodfuse extract DATA --cache work --recipe seed-sgd",
        fuse,
    )
    networks = own(*under("seed-adam"), *under("seed-sgd"))
    assert compared(networks).commands == (fuse,)
    fusions = [(under("seed-adam", item), *SEED_WAY) for item in find_published("seed").fusions]
    full = compared(networks + fusions)
    assert full.commands == () and all(row.ours for row in full.rows) and len(full.rows) == 13


def test_our_matrices_stand_beside_theirs_where_the_classes_agree() -> None:
    """One for each recipe, on the published class axis, capitals aside; other classes are said and have none."""
    way = [(FOUR, *SEED_WAY), (under("seed"), "mean", "logits"), (under("seed"), "softmax", "logits")]
    turned = ("Tension", "excited", "fear", "neutral", "relaxation", "sad")
    same, moved = compared(way), compared(way, turned)
    assert [matrix.how for matrix in same.matrices[1:]] == ["softmax/embedding, default", "mean/logits, seed"]
    counts = evaluate_run(make_run(way, turned), draws=1).scored[0].score.confusion_matrix
    assert moved.matrices[1].counts == tuple(map(tuple, np.roll(counts, (-1, -1), axis=(0, 1)).tolist()))
    assert moved.matrices[1].clips == 30
    other = compared(way, ("a", "b", "c", "d", "e", "f"))
    assert len(other.matrices) == 1 and any("other classes than seed" in note for note in other.notes)


def test_table_holds_each_side_once() -> None:
    """The CSV has every published row once and every one of ours, with the number of clips that each stands on."""
    way = [(FOUR, "softmax", "logits"), (FOUR, "mean", "logits"), *own("c3d", "i3d@seed-sgd")]
    text = comparison_table(compared(way))
    assert text.splitlines()[0] == (
        "table,optimizer,sources,who,protocol,recipe,head,level,clips,accuracy,low,high,macro_f1,auc"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    theirs = [row for row in rows if row["who"] == "seed"]
    assert len(theirs) == 13 and {row["clips"] for row in theirs} == {"503"}
    mine = [row for row in rows if row["who"] == "ours"]
    assert {row["clips"] for row in mine} == {"30"} and all(row["low"] <= row["accuracy"] for row in mine)
    assert [(row["table"], row["optimizer"], row["recipe"], row["head"]) for row in mine] == [
        ("networks", "sgd", "seed-sgd", "network"),
        ("networks", "", "default", "network"),
        ("fusion", "", "default", "softmax"),
        ("fusion", "", "default", "mean"),
    ]


def test_undefined_numbers_are_empty_in_the_table() -> None:
    """A run of one group has no interval, and its cells are empty."""
    run = make_run(own("c3d"))
    lone = compare(evaluate_run(replace(run, groups=("one",) * 30), draws=5), find_published("seed"))
    (mine,) = [row for row in csv.DictReader(io.StringIO(comparison_table(lone))) if row["who"] == "ours"]
    assert mine["low"] == mine["high"] == "" and mine["accuracy"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_lose_no_number(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of a table passes 100 columns, or the terminal if that is wider, and every interval is whole."""
    monkeypatch.setenv("COLUMNS", str(width))
    recipes = ("seed-adam", "a-recipe-with-a-long-name")
    found = compared(
        [(under(recipe), "lightgbm", "embedding") for recipe in recipes] + own(*FOUR, *under("seed-adam"))
    )
    print_comparison(found)
    shown = capsys.readouterr().out
    assert max(map(len, shown.partition("note: ")[0].splitlines())) <= max(100, width) and "…" not in shown
    assert shown.count("lightgbm/embedding") == 4
    for row in found.rows:
        if row.ours is not None:
            interval = row.ours.score.accuracy_ci95
            assert f"{row.ours.score.accuracy:.2f} [{interval.low:.2f}, {interval.high:.2f}]" in shown


def test_leaky_runs_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that measures a leak says so above the comparison."""
    run = replace(make_run(own("c3d")), protocol="leaky")
    print_comparison(compare(evaluate_run(run, draws=5), find_published("seed")))
    assert "LEAKY run run-1" in capsys.readouterr().out


def test_every_text_file_of_a_leaky_report_says_so(tmp_path: Path) -> None:
    """Tables, page, papers and figures of a leaky run, the comparison too, hold LEAKY in their text or name."""
    cache = FeatureCache(tmp_path / "cache", create=True)
    run = replace(
        make_run([(FOUR, "softmax", "logits"), *own("c3d", "i3d")]), name="leaky-1", protocol="leaky"
    )
    write_run(cache, run)
    call = [
        "--cache",
        str(cache.path),
        "--compare",
        "seed",
        "--draws",
        "20",
        "--output",
        str(tmp_path / "out"),
    ]
    assert CliRunner().invoke(evaluate_command, call, catch_exceptions=False).exit_code == 0
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > 8 and (tmp_path / "out" / "comparison-seed-LEAKY.csv") in files
    assert all("LEAKY" in file.name or "LEAKY" in file.read_text(encoding="utf-8") for file in files)


def test_command_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--compare seed` prints both sides and writes the CSV beside the report, whose metrics.json it leaves alone."""
    monkeypatch.setattr("moodfuse.evaluate.report.plots.draw_figures", lambda *_: iter(()))
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, make_run([(FOUR, *SEED_WAY), *own("c3d@seed-sgd")]))
    plain, report = tmp_path / "plain", cache.path / "runs" / "run-1" / "report"
    for options in (["--output", str(plain)], ["--compare", "seed"]):
        done = CliRunner().invoke(
            evaluate_command, ["--cache", str(cache.path), *options], catch_exceptions=False
        )
        assert done.exit_code == 0
    for text in (
        "seed on 503 clips, ours on 30",
        "seed-sgd",
        "0.833",
        "not a contest",
        f"fuse --cache {cache.path}",
        "comparison-seed.csv",
    ):
        assert text in done.output
    assert (plain / "metrics.json").read_bytes() == (report / "metrics.json").read_bytes()
    assert {item.name for item in report.iterdir()} - {item.name for item in plain.iterdir()} == {
        "comparison-seed.csv"
    }


def test_unknown_comparison_lists_the_known() -> None:
    """An unknown name is refused before the cache is read."""
    with pytest.raises(UnknownNameError, match="unknown comparison 'other'; known: seed"):
        CliRunner().invoke(
            evaluate_command, ["--cache", "nowhere", "--compare", "other"], catch_exceptions=False
        )


def test_comparing_loads_nothing_that_fits() -> None:
    """The modules of the comparison load neither torch nor scikit-learn nor LightGBM."""
    code = "import sys, moodfuse.evaluate.report.terminal; print(*sorted({'torch', 'sklearn', 'lightgbm', 'moodfuse.fuse'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""
