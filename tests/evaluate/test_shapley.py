"""Shapley values are exact: they add up, equal sources share equally, and permutations give the same."""

from itertools import combinations, permutations

import numpy as np
import pytest

from moodfuse.evaluate.resampling import draw_groups
from moodfuse.evaluate.shapley import Key, source_worths

SOURCES = ("a", "b", "c", "d")


def make_table(
    sources: tuple[str, ...] = SOURCES, head: str = "softmax", seed: int = 0
) -> dict[Key, np.ndarray]:
    """Random probabilities of every network and of a head on every subset, over 40 clips; `mean` has no single rows."""
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


def worth_of(table: dict[Key, np.ndarray], names: frozenset[str]) -> float:
    """Accuracy of a subset; of none, that of the commonest label."""
    if not names:
        return float(np.bincount(LABELS).max() / len(LABELS))
    values = next(p for (sources, head, _), p in table.items() if set(sources) == names and head != "network")
    return float((values.argmax(axis=1) == LABELS).mean())


def test_values_sum_to_all_minus_none() -> None:
    """Of 2 to 5 sources, to 1e-12."""
    for count in (2, 3, 5):
        table = make_table(tuple("abcde"[:count]), seed=count)
        found = source_worths(LABELS, table, draw_groups(GROUPS, draws=50))
        whole = worth_of(table, frozenset("abcde"[:count])) - worth_of(table, frozenset())
        assert len(found) == count and sum(item.shapley for item in found) == pytest.approx(whole, abs=1e-12)


def test_values_are_means_over_all_orders() -> None:
    """Added one by one in each of the 24 orders; the drop is all minus all others; intervals lie around them."""
    table = make_table()
    for item in source_worths(LABELS, table, draw_groups(GROUPS, draws=200)):
        added = []
        for order in permutations(SOURCES):
            before = frozenset(order[: order.index(item.source)])
            added.append(worth_of(table, before | {item.source}) - worth_of(table, before))
        assert item.shapley == pytest.approx(np.mean(added), abs=1e-12)
        assert item.shapley_ci95.low < item.shapley < item.shapley_ci95.high
        whole = frozenset(SOURCES)
        assert item.drop == pytest.approx(
            worth_of(table, whole) - worth_of(table, whole - {item.source}), abs=1e-12
        )
        assert item.drop_ci95.low < item.drop < item.drop_ci95.high
        assert item.alone == worth_of(table, frozenset([item.source]))


def test_a_source_alone_is_worth_what_the_head_makes_of_it() -> None:
    """A head's own row of a source counts, whatever its network's row says; the mean of one source is the network."""
    table = make_table(("a", "b"))
    wrong = dict(table) | {((name,), "network", "logits"): np.eye(3)[(LABELS + 1) % 3] for name in "ab"}
    drawn = draw_groups(GROUPS, draws=20)
    assert source_worths(LABELS, wrong, drawn) == source_worths(LABELS, table, drawn)
    mean = wrong | {(("a", "b"), "mean", "logits"): np.eye(3)[LABELS]}
    assert {item.alone for item in source_worths(LABELS, mean, drawn) if item.head == "mean"} == {0}


def test_equal_sources_are_worth_the_same() -> None:
    """Where every subset says the same, all sources share alike and none is missed."""
    table = dict.fromkeys(make_table(), np.eye(3)[LABELS])
    found = source_worths(LABELS, table, draw_groups(GROUPS, draws=20))
    assert len({round(item.shapley, 12) for item in found}) == 1 and all(item.drop == 0 for item in found)


def test_only_complete_sets_are_taken() -> None:
    """A missing subset leaves a way out, a network's row stands in for `mean` alone; teams are taken apart."""
    table = make_table()
    for missing in (("a", "c"), ("a",)):
        partial = {key: value for key, value in table.items() if key[0] != missing or key[1] == "network"}
        assert source_worths(LABELS, partial, draw_groups(GROUPS, draws=5)) == ()
    no_networks = {key: value for key, value in table.items() if key[1] != "network"}
    assert source_worths(LABELS, no_networks, draw_groups(GROUPS, draws=5)) == source_worths(
        LABELS, table, draw_groups(GROUPS, draws=5)
    )
    mean = {key: value for key, value in make_table(head="mean").items() if key[0] != ("a",)}
    assert source_worths(LABELS, mean, draw_groups(GROUPS, draws=5)) == ()
    apart = {**table, **make_table(("a@x", "b@x")), **make_table(("a", "b"), head="mean")}
    found = source_worths(LABELS, apart, draw_groups(GROUPS, draws=5))
    assert [(item.head, item.source[-1]) for item in found].count(("softmax", "x")) == 2
    assert (
        sum(item.head == "softmax" for item in found) == 6 and sum(item.head == "mean" for item in found) == 2
    )
