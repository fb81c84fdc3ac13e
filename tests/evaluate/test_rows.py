"""Tables and the ablation figure show the rows of a paper, or those of the sources and heads asked for."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Result
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.rows import (
    SHORT_TABLE,
    axis_limits,
    choose_rows,
    group_by_sources,
    list_heads,
    split_sections,
)
from tests.evaluate.conftest import build_run

HEADS = [(head, level) for head in ("softmax", "lightgbm") for level in ("embedding", "logits")]


def ablation(sources: tuple[str, ...]) -> Evaluation:
    """Networks, the mean, and two heads at both levels, of every combination; one triple is the best."""
    random, run = np.random.default_rng(0), build_run()
    y_true = np.eye(3)[[run.classes.index(label) for label in run.labels]]
    results = []
    for size in range(1, len(sources) + 1):
        for names in combinations(sources, size):
            for head in [("network" if size == 1 else "mean", "logits"), *HEADS]:
                skill = 0.9 if size == 3 and head == ("lightgbm", "logits") else 0.3
                noise = random.dirichlet(np.ones(3), 36)
                results.append(Result(names, *head, (1 - skill) * noise + skill * y_true))
    return evaluate_run(replace(run, results=tuple(results)), draws=5)


@pytest.fixture(scope="module")
def four() -> Evaluation:
    return ablation(("a", "b", "c", "d"))


def test_a_paper_has_single_sources_pairs_all_sources_and_the_best(four: Evaluation) -> None:
    """The table has them under the head of the planned tests, the figure under every head; or all."""
    table, figure = choose_rows(four)
    names = {scored.result.name for scored in table}
    assert len(table) == 4 + 4 + 6 + 1 + 1 and four.best in table and len(four.best.result.sources) == 3
    assert {"a network logits", "a softmax embedding", "a+b softmax embedding"} <= names
    assert {len(scored.result.sources) for scored in figure if scored is not four.best} == {1, 2, 4}
    assert {scored.result.head for scored in figure} == {"network", "mean", "softmax", "lightgbm"}
    assert [scored.rank for scored in table] == sorted(scored.rank for scored in table)
    assert choose_rows(four, all_rows=True) == (four.ranked, figure)
    assert four.table_rows == four.figure_rows == four.ranked


def test_many_pairs_are_left_out_and_a_small_run_is_shown_whole() -> None:
    """Five sources have ten pairs; two sources have fifteen results at most."""
    sizes = [
        len(scored.result.sources) for scored in choose_rows(ablation(("a", "b", "c", "d", "e"))).table_rows
    ]
    assert {size: sizes.count(size) for size in set(sizes)} == {1: 10, 3: 1, 5: 1}
    small = ablation(("a", "b"))
    assert len(small.ranked) <= SHORT_TABLE and choose_rows(small) == (small.ranked, small.ranked)


def test_rows_of_some_sources_and_heads(four: Evaluation) -> None:
    """Sources may be in any order; an unknown name lists the known ones."""
    table, figure = choose_rows(four, ["a", "b+a"], ["softmax"])
    assert table == figure
    assert {scored.result.name for scored in table} == {
        f"{sources} softmax {level}" for sources in ("a", "a+b") for level in ("embedding", "logits")
    }
    assert {scored.result.sources for scored in choose_rows(four, ["c+d"]).table_rows} == {("c", "d")}
    level = choose_rows(four, ["a+b"], ["softmax"], ["logits"]).table_rows
    assert [scored.result.name for scored in level] == ["a+b softmax logits"]
    for only, heads, known in ((["x"], [], "a, a\\+b, "), ([], ["x"], "lightgbm|mean")):
        with pytest.raises(InputError, match=f"run one has no result of 'x'; it has: {known}"):
            choose_rows(four, only, heads)
    with pytest.raises(InputError, match="no result of these sources, heads and levels"):
        choose_rows(four, ["a+b"], ["network"])


def test_order_in_tables_and_the_figure(four: Evaluation) -> None:
    """Sections of a table are ranked; the figure has single sources first, and heads in one order."""
    sections = split_sections(four.table_rows)
    assert [{one.is_network for one in section} for section in sections] == [{True}, {False}, {False}]
    assert [{one.is_fusion for one in section} for section in sections] == [{False}, {False}, {True}]
    groups = group_by_sources(four.figure_rows)
    assert len(groups) == 15 and [len(group[0].result.sources) for group in groups[:5]] == [1, 1, 1, 1, 2]
    assert [one.result.head for one in groups[0]] == ["network", "softmax", "softmax", "lightgbm", "lightgbm"]
    assert list_heads(four.figure_rows)[:3] == [
        ("network", "logits"),
        ("mean", "logits"),
        ("softmax", "embedding"),
    ]
    low, high = axis_limits(four)
    assert all(low <= one.score.accuracy <= high for one in four.figure_rows)
    assert (10 * low).is_integer() and low <= four.majority[1]
