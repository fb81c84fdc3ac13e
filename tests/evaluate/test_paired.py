"""The sign-flip test is exact, Shapley values add up, and inflation is measured on the same clips."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Run
from moodfuse.evaluate.intervals import resample_groups
from moodfuse.evaluate.paired import (
    Key,
    measure_inflation,
    paired_differences,
    sign_flip_p,
    source_importance,
)

MakeRun = Callable[..., Run]


def test_p_values_equal_the_count_of_all_flips() -> None:
    """They equal an enumeration of all signs, with ties and groups without a difference."""
    random = np.random.default_rng(0)
    for _ in range(60):
        sums = random.integers(-3, 4, random.integers(1, 11))
        flips = np.array(list(product((-1, 1), repeat=len(sums)))) @ np.abs(sums)
        assert sign_flip_p(sums) == pytest.approx((np.abs(flips) >= abs(sums.sum())).mean(), abs=1e-12)


def test_single_clips_give_mcnemars_exact_test() -> None:
    """20 against 7 clips, each its own group; with 5000 groups p stays above 0."""
    sums = np.array([1] * 20 + [-1] * 7 + [0] * 30)
    assert sign_flip_p(sums) == pytest.approx(binomtest(7, 27).pvalue, abs=1e-12)
    assert sign_flip_p(np.array([1] * 3000 + [-1] * 2000)) == pytest.approx(1e-12)


def test_differences_mirror_each_other() -> None:
    """Two results in either order have opposite differences; equal ones an interval with a width around 0."""
    labels = np.arange(60) % 2
    right = {"good": np.arange(60) < 55, "bad": np.arange(60) % 2 == 0}
    table = {name: np.eye(2)[np.where(correct, labels, 1 - labels)] for name, correct in right.items()}
    drawn = resample_groups(range(60), draws=200)
    better, worse, equal = paired_differences(
        labels,
        table,
        drawn,
        pairs=[("good", "bad", "mean"), ("bad", "good", "mean"), ("bad", "bad", "best single source")],
    )
    assert better.difference == -worse.difference == pytest.approx(55 / 60 - 0.5)
    assert better.interval.low == pytest.approx(-worse.interval.high)
    assert -0.2 < equal.interval.low < 0 < equal.interval.high < 0.2
    assert paired_differences(labels, table, drawn, pairs=[]) == ()


SOURCES = ("a", "b", "c", "d")
LABELS = np.arange(40) ** 2 % 3
FOLDS = np.arange(40) // 2 % 5
DRAWN = resample_groups(np.arange(40) // 2, draws=100)


def make_table(sources: tuple[str, ...] = SOURCES, head: str = "softmax") -> dict[Key, np.ndarray]:
    """Random probabilities of every network and of a head on every subset; `mean` has none on one source."""
    random = np.random.default_rng(len(sources))
    networks: list[Key] = [((name,), "network", "logits") for name in sources]
    sizes = range(1 + (head == "mean"), len(sources) + 1)
    heads: list[Key] = [(names, head, "logits") for size in sizes for names in combinations(sources, size)]
    return {key: random.dirichlet(np.ones(3), 40) for key in networks + heads}


def accuracy_of(table: dict[Key, np.ndarray], names: tuple[str, ...]) -> float:
    """Accuracy of softmax on a subset; of the empty one that of label 1, most common in any four folds."""
    if not names:
        return float((LABELS == 1).mean())
    return float((table[tuple(sorted(names)), "softmax", "logits"].argmax(axis=1) == LABELS).mean())


def test_shapley_values_are_means_over_all_orders() -> None:
    """They sum to all minus none; the drop is all minus all others; intervals contain them."""
    table = make_table()
    rows = source_importance(LABELS, FOLDS, table, DRAWN)
    whole = accuracy_of(table, SOURCES)
    assert sum(row.shapley for row in rows) == pytest.approx(whole - accuracy_of(table, ()), abs=1e-12)
    assert [row.shapley for row in rows] == sorted((row.shapley for row in rows), reverse=True)
    for row in rows:
        orders = [order[: order.index(row.source)] for order in permutations(SOURCES)]
        added = [accuracy_of(table, (*before, row.source)) - accuracy_of(table, before) for before in orders]
        assert row.shapley == pytest.approx(np.mean(added), abs=1e-12)
        assert row.shapley_ci95.low < row.shapley < row.shapley_ci95.high
        others = tuple(name for name in SOURCES if name != row.source)
        assert row.drop == pytest.approx(whole - accuracy_of(table, others), abs=1e-12)
        assert row.drop_ci95.low < row.drop < row.drop_ci95.high
        assert row.alone == accuracy_of(table, (row.source,))


def test_without_sources_the_prediction_is_the_most_common_label_of_the_other_folds() -> None:
    """Fold 0 is predicted as label 0, the first of a tie, and fold 1 as label 1: one clip of 4 is right."""
    labels, folds = np.array([1, 1, 0, 1]), np.array([0, 0, 1, 1])
    table: dict[Key, np.ndarray] = {
        (names, "softmax", "logits"): np.eye(2)[labels] for names in (("a",), ("b",), ("a", "b"))
    }
    rows = source_importance(labels, folds, table, resample_groups(range(4), draws=20))
    assert sum(row.shapley for row in rows) == pytest.approx(1 - 1 / 4)


def test_only_complete_sets_of_subsets_have_shapley_values() -> None:
    """A missing subset excludes the head, and sources that are never fused with each other are separate."""
    table = make_table()
    for missing in (("a", "c"), ("a",)):
        partial = {key: value for key, value in table.items() if key[0] != missing or key[1] == "network"}
        assert source_importance(LABELS, FOLDS, partial, DRAWN) == ()
    rows = source_importance(LABELS, FOLDS, {**table, **make_table(("a@x", "b@x"))}, DRAWN)
    assert len(rows) == 6 and sum(row.source.endswith("@x") for row in rows) == 2


def test_the_mean_of_one_source_is_its_network() -> None:
    """For any other head it is the head's own result, so the networks do not matter."""
    softmax, mean = make_table(("a", "b")), make_table(("a", "b"), "mean")
    wrong = {key: np.eye(3)[(LABELS + 1) % 3] for key in softmax if key[1] == "network"}
    assert source_importance(LABELS, FOLDS, softmax | wrong, DRAWN) == source_importance(
        LABELS, FOLDS, softmax, DRAWN
    )
    rows = source_importance(LABELS, FOLDS, mean | wrong, DRAWN)
    assert len(rows) == 2 and {row.alone for row in rows} == {0}
    no_networks = {key: value for key, value in mean.items() if key[1] != "network"}
    assert source_importance(LABELS, FOLDS, no_networks, DRAWN) == ()


def test_inflation_is_leaky_minus_honest_accuracy(make_run: MakeRun) -> None:
    """The mean is over fusions, and the order of clips does not matter."""
    run, leaky = make_run(name="clean"), make_run(1, skill=0.9, protocol="leaky", name="leak")
    inflation = measure_inflation(run, leaky, draws=200)
    assert (inflation.honest_run, inflation.leaky_run) == ("clean", "leak")
    assert [row.result for row in inflation.rows] == [result.name for result in run.results]
    for row in inflation.rows:
        assert row.points == pytest.approx(row.leaky - row.honest) and row.points > 0
        assert row.points_ci95.low < row.points < row.points_ci95.high
    assert inflation.mean_points == pytest.approx(np.mean([row.points for row in inflation.rows[2:]]))
    results = tuple(
        replace(result, probabilities=result.probabilities[::-1], unscaled=None, repeats=None)
        for result in leaky.results
    )
    turned = replace(
        leaky, ids=leaky.ids[::-1], labels=leaky.labels[::-1], digests=leaky.digests[::-1], results=results
    )
    assert measure_inflation(run, turned, draws=200) == inflation
    (row,) = measure_inflation(run, replace(leaky, results=leaky.results[:1]), draws=50).rows
    assert row.result == "c3d network logits"


def test_inflation_of_other_clips_classes_or_results_is_an_error(make_run: MakeRun) -> None:
    """The message has the difference and a remedy."""
    run, leaky = make_run(name="clean"), make_run(1, name="leak")
    changes: list[tuple[str, dict[str, Any]]] = [
        ("differ in classes, clips, labels or files; run fuse --protocol", {"classes": ("a", "b", "d")}),
        ("differ in .* such as 'a/00", {"ids": ("other", *leaky.ids[1:])}),
        ("differ in .* such as 'a/00", {"labels": ("b", *leaky.labels[1:])}),
        ("differ in .* such as 'a/00", {"digests": ("0f" * 32, *leaky.digests[1:])}),
        ("the recipe of c3d differs", {"recipes": (("c3d", "0" * 16),)}),
        ("share no result", {"results": ()}),
    ]
    for message, change in changes:
        with pytest.raises(InputError, match=message):
            measure_inflation(run, replace(leaky, **change))
