"""A run is compared with the published results of Zhou 2022 row by row."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate import score
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
from moodfuse.evaluate.report.text import print_comparison
from tests.evaluate.conftest import build_run

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


def make_run(keys: list[Key], classes: tuple[str, ...] = CLASSES) -> Run:
    """Random probabilities for each result."""
    rng = np.random.default_rng(0)
    results = tuple(Result(*key, rng.dirichlet(np.ones(len(classes)), 36)) for key in keys)
    return replace(build_run(classes=classes), results=results, missing=(), repeat_folds=())


def compared(keys: list[Key], classes: tuple[str, ...] = CLASSES) -> Comparison:
    """A run of these results compared with the paper."""
    evaluation = evaluate_run(make_run(keys, classes), draws=50)
    return compare_with(evaluation, find_published("zhou2022"), cache="work")


def ours(comparison: Comparison, table: str) -> list[tuple[ComparedRow, Result]]:
    """Rows of a table with a result of ours."""
    return [(row, row.ours.result) for row in comparison.rows if row.table == table and row.ours]


def test_the_published_matrix_contradicts_its_table() -> None:
    """Its 503 clips have 419 on the diagonal: 0.833 and macro F1 0.835, as a note says."""
    published = find_published("zhou2022")
    cells = np.repeat(np.arange(36), np.ravel(published.matrix))
    computed = score(cells // 6, np.eye(6)[cells % 6], draws=5)
    assert (computed.clips, round(computed.accuracy, 3), round(computed.macro_f1, 3)) == (503, 0.833, 0.835)
    assert published.fusions[published.matrix_of] == {"accuracy": 0.86, "macro_f1": 0.88, "auc": 0.99}
    text = "503 clips with 419 on the diagonal, gives accuracy 0.833, not the stated 0.86"
    assert any(text in note for note in compared(own("c3d")).notes)


def test_networks_are_compared_with_their_optimizer() -> None:
    """A recipe that repeats an optimizer fills its row, old names too; other recipes have their own rows."""
    sources = ("c3d@zhou2022-adam", "twodmcnn@zhou2022", "twodmcnn@seed-sgd", "c3d", "i3d@mine", "clip-vit")
    comparison = compared(own(*sources))
    assert [
        (row.networks, row.optimizer, result.sources[0]) for row, result in ours(comparison, NETWORKS)
    ] == [
        ("c3d", "adam", "c3d@zhou2022-adam"),
        ("twodmcnn", "sgd", "twodmcnn@zhou2022"),
        ("twodmcnn", "sgd", "twodmcnn@seed-sgd"),
        ("c3d", "", "c3d"),
        ("i3d", "", "i3d@mine"),
    ]
    rows = [row for row in comparison.rows if row.table == NETWORKS]
    assert len({(row.networks, row.optimizer) for row in rows if row.published}) == 8
    assert all((row.published is None) == (row.optimizer == "") for row in rows)


def test_fusions_are_not_selected_by_score() -> None:
    """A recipe with softmax on embeddings shows only that; another shows all it has."""
    adam, sgd = under("zhou2022-adam", PAIR), under("zhou2022-sgd", PAIR)
    keys = [(sgd, "softmax", "logits"), (sgd, "mean", "logits")]
    keys += [(sources, *head) for sources in (adam, PAIR) for head in (PAPER_HEAD, ("softmax", "logits"))]
    assert [(r.sources, r.head, r.level) for _, r in ours(compared(keys), FUSION)] == [
        (PAIR, *PAPER_HEAD),
        (adam, *PAPER_HEAD),
        (sgd, "softmax", "logits"),
        (sgd, "mean", "logits"),
    ]


def test_missing_rows_name_their_commands() -> None:
    """`extract` for the recipes with missing networks; without missing rows there is no command."""
    fuse = "moodfuse fuse --cache work --combine zhou2022 --head softmax --level embedding"
    assert compared(own(*under("zhou2022-adam"), "c3d")).commands == [
        "moodfuse extract DATA --cache work --recipe zhou2022-sgd",
        fuse,
    ]
    networks = own(*under("zhou2022-adam"), *under("zhou2022-sgd"))
    assert compared(networks).commands == [fuse]
    fusions = find_published("zhou2022").fusions
    full = compared(
        networks + [(under("zhou2022-adam", tuple(names.split("+"))), *PAPER_HEAD) for names in fusions]
    )
    assert full.commands == [] and all(row.ours for row in full.rows) and len(full.rows) == 13


def test_the_csv_has_each_row_once() -> None:
    """Every published row and every one of ours; unknown numbers are empty."""
    keys = [(FOUR, "softmax", "logits"), (FOUR, "mean", "logits"), *own("c3d", "i3d@zhou2022-sgd")]
    text = comparison_csv(compared(keys))
    assert text.splitlines()[0] == (
        "table,optimizer,sources,who,protocol,recipe,head,level,clips,accuracy,low,high,macro_f1,auc"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    theirs = [row for row in rows if row["who"] == "zhou2022"]
    assert len(theirs) == 13 and {row["clips"] for row in theirs} == {"503"}
    mine = [row for row in rows if row["who"] == "ours"]
    assert {row["clips"] for row in mine} == {"36"} and all(row["low"] <= row["accuracy"] for row in mine)
    assert [(row["table"], row["optimizer"], row["recipe"], row["head"]) for row in mine] == [
        ("networks", "sgd", "zhou2022-sgd", "network"),
        ("networks", "", "default", "network"),
        ("fusion", "", "default", "softmax"),
        ("fusion", "", "default", "mean"),
    ]
    alone = evaluate_run(replace(make_run(own("c3d")), groups=("one",) * 36), draws=5)
    text = comparison_csv(compare_with(alone, find_published("zhou2022")))
    (row,) = [row for row in csv.DictReader(io.StringIO(text)) if row["who"] == "ours"]
    assert row["low"] == row["high"] == "" and row["accuracy"]


def test_the_terminal_shows_every_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a narrow terminal, too, and with the names of the recipes."""
    monkeypatch.setenv("COLUMNS", "80")
    recipes = ("zhou2022-adam", "another-recipe")
    keys = [(under(recipe), "lightgbm", "embedding") for recipe in recipes]
    comparison = compared(keys + own(*FOUR, *under("zhou2022-adam")), ("a", "b", "c", "d", "e", "f"))
    print_comparison(comparison)
    shown = capsys.readouterr().out
    assert "zhou2022 on 503 clips, ours on 36" in shown and "…" not in shown
    assert "zhou2022 has other classes than this run" in shown
    assert shown.count("lightgbm/embedding") == 2 and all(recipe in shown for recipe in recipes)
    assert "c3d+i3d+onedmcnn+twodmcnn " in shown
    for row in comparison.rows:
        if row.ours is not None:
            total = row.ours.score
            assert f"{100 * total.accuracy:.1f} {total.accuracy_ci95.shown('.0f', scale=100)}" in shown


def test_an_unknown_comparison_lists_the_known() -> None:
    """The old name of a comparison is known, too."""
    with pytest.raises(UnknownNameError, match="unknown comparison 'other'; known: zhou2022"):
        find_published("other")
    assert find_published("seed").name == "zhou2022"
