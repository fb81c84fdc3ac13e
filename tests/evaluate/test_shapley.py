"""Shapley values are exact: they add up, are equal for equal sources, and are means over all orders."""

from itertools import combinations, permutations

import numpy as np
import pytest

from moodfuse.evaluate.intervals import draw_groups
from moodfuse.evaluate.shapley import Key, source_importance

SOURCES = ("a", "b", "c", "d")


def make_table(
    sources: tuple[str, ...] = SOURCES, head: str = "softmax", seed: int = 0
) -> dict[Key, np.ndarray]:
    """Random probabilities of every network and of a head on every subset, over 40 clips; `mean` has none on one source."""
    random = np.random.default_rng(seed)
    table: dict[Key, np.ndarray] = {
        ((name,), "network", "logits"): random.dirichlet(np.ones(3), 40) for name in sources
    }
    for size in range(1 + (head == "mean"), len(sources) + 1):
        for names in combinations(sources, size):
            table[names, head, "logits"] = random.dirichlet(np.ones(3), 40)
    return table


LABELS = np.arange(40) ** 2 % 3
GROUPS = (np.arange(40) // 2).tolist()


def accuracy_of(table: dict[Key, np.ndarray], names: frozenset[str]) -> float:
    """Accuracy of a subset; of the empty one, that of the most common label."""
    if not names:
        return float(np.bincount(LABELS).max() / len(LABELS))
    values = next(p for (sources, head, _), p in table.items() if set(sources) == names and head != "network")
    return float((values.argmax(axis=1) == LABELS).mean())


def test_values_sum_to_all_minus_none() -> None:
    """Of 2 to 5 sources, to 1e-12."""
    for count in (2, 3, 5):
        table = make_table(tuple("abcde"[:count]), seed=count)
        found = source_importance(LABELS, table, draw_groups(GROUPS, draws=50))
        whole = accuracy_of(table, frozenset("abcde"[:count])) - accuracy_of(table, frozenset())
        assert len(found) == count and sum(item.shapley for item in found) == pytest.approx(whole, abs=1e-12)


def test_values_are_means_over_all_orders() -> None:
    """They are means over the 24 orders, the drop is all minus all others, and intervals contain them."""
    table = make_table()
    for item in source_importance(LABELS, table, draw_groups(GROUPS, draws=200)):
        added = []
        for order in permutations(SOURCES):
            before = frozenset(order[: order.index(item.source)])
            added.append(accuracy_of(table, before | {item.source}) - accuracy_of(table, before))
        assert item.shapley == pytest.approx(np.mean(added), abs=1e-12)
        assert item.shapley_ci95.low < item.shapley < item.shapley_ci95.high
        whole = frozenset(SOURCES)
        assert item.drop == pytest.approx(
            accuracy_of(table, whole) - accuracy_of(table, whole - {item.source}), abs=1e-12
        )
        assert item.drop_ci95.low < item.drop < item.drop_ci95.high
        assert item.alone == accuracy_of(table, frozenset([item.source]))


def test_the_value_of_one_source_is_that_of_the_head_on_it() -> None:
    """The result of the head counts, not of the network; the mean of one source is its network."""
    table = make_table(("a", "b"))
    wrong = dict(table) | {((name,), "network", "logits"): np.eye(3)[(LABELS + 1) % 3] for name in "ab"}
    drawn = draw_groups(GROUPS, draws=20)
    assert source_importance(LABELS, wrong, drawn) == source_importance(LABELS, table, drawn)
    mean = wrong | {(("a", "b"), "mean", "logits"): np.eye(3)[LABELS]}
    assert {item.alone for item in source_importance(LABELS, mean, drawn) if item.head == "mean"} == {0}


def test_equal_sources_have_equal_values() -> None:
    """If all subsets give the same predictions, all values are equal and no source is needed."""
    table = dict.fromkeys(make_table(), np.eye(3)[LABELS])
    found = source_importance(LABELS, table, draw_groups(GROUPS, draws=20))
    assert len({round(item.shapley, 12) for item in found}) == 1 and all(item.drop == 0 for item in found)


def test_only_complete_sets_of_subsets_are_used() -> None:
    """A missing subset excludes the head, a network replaces a head only for `mean`, separate sets are separate."""
    table = make_table()
    for missing in (("a", "c"), ("a",)):
        partial = {key: value for key, value in table.items() if key[0] != missing or key[1] == "network"}
        assert source_importance(LABELS, partial, draw_groups(GROUPS, draws=5)) == ()
    no_networks = {key: value for key, value in table.items() if key[1] != "network"}
    assert source_importance(LABELS, no_networks, draw_groups(GROUPS, draws=5)) == source_importance(
        LABELS, table, draw_groups(GROUPS, draws=5)
    )
    mean = {key: value for key, value in make_table(head="mean").items() if key[0] != ("a",)}
    assert source_importance(LABELS, mean, draw_groups(GROUPS, draws=5)) == ()
    apart = {**table, **make_table(("a@x", "b@x")), **make_table(("a", "b"), head="mean")}
    found = source_importance(LABELS, apart, draw_groups(GROUPS, draws=5))
    assert [(item.head, item.source[-1]) for item in found].count(("softmax", "x")) == 2
    assert (
        sum(item.head == "softmax" for item in found) == 6 and sum(item.head == "mean" for item in found) == 2
    )
