"""Intervals have the stated coverage, stay within their scale, and have a width where nothing varies."""

from typing import Any

import numpy as np
import pytest

from moodfuse.evaluate import score
from moodfuse.evaluate.intervals import (
    DIFFERENCE,
    MAX_LOSS,
    SIMULATED,
    SIMULATED_RARE,
    SIMULATED_WRONG,
    Scale,
    bootstrap_intervals,
    effective_groups,
    few_groups_warning,
    few_wrong_warning,
    format_group_count,
    interval,
    interval_warnings,
    rare_class_warning,
    resample_groups,
    t_interval,
)
from moodfuse.evaluate.metrics import METRICS

Simulations = dict[str, Any]


@pytest.mark.parametrize(("groups", "clips", "truth"), [(52, 1, 0.86), (36, 2, 0.6)])
def test_intervals_of_accuracy_cover(simulations: Simulations, groups: int, clips: int, truth: float) -> None:
    """92 to 98 % of the intervals of accuracy cover the true value, within the noise of 300 datasets."""
    layout = simulations["Layout"].equal(groups, clips)
    accuracy, macro_f1 = simulations["interval_rows"](layout, truth, sets=300, draws=500)
    assert 0.90 <= accuracy.figure <= 0.995 and macro_f1.figure > 0.9


def test_intervals_over_unequal_groups_cover(simulations: Simulations) -> None:
    """At least 90 % where one group holds a third of the clips, two a half, or sizes fall with the rank."""
    for name, sizes in simulations["UNEQUAL"].items():
        (accuracy,) = simulations["interval_rows"](
            simulations["Layout"](name, sizes), 0.6, sets=400, draws=300
        )
        assert accuracy.figure >= 0.9, name


def test_the_effective_number_of_groups_is_kishs() -> None:
    """It is the number of groups where they are equal, and 1 where one holds everything."""
    assert (
        effective_groups(np.arange(36) // 2) == 18 == resample_groups(np.arange(36) // 2, draws=1).effective
    )
    unequal = np.repeat(np.arange(4), (6, 2, 1, 1))
    assert effective_groups(unequal) == resample_groups(unequal, draws=1).effective == pytest.approx(100 / 42)
    assert effective_groups(["x"] * 5) == 1
    assert format_group_count(18, 18.0) == "18 groups" and format_group_count(1, 1.0) == "1 group"
    assert format_group_count(40, 6.05) == "40 groups (effective number 6)"


def test_draws_count_whole_groups() -> None:
    """Each draw holds as many groups as there are, and a seed repeats it."""
    groups = ["b", "a", "b", "c"]
    drawn = resample_groups(groups, draws=50, seed=3)
    weights = np.concatenate(list(drawn.weights()))
    assert (drawn.counts.sum(axis=1) == 3).all() and (weights[:, 0] == weights[:, 2]).all()
    np.testing.assert_array_equal(drawn.counts, resample_groups(groups, draws=50, seed=3).counts)
    values = np.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(drawn.means(values), weights @ values / weights.sum(axis=1, keepdims=True))


def test_intervals_stay_on_their_scale() -> None:
    """Intervals contain the estimate and lie within 0 and 1 or -1 and 1, those of a loss above 0."""
    random = np.random.default_rng(1)
    for skill in (0.0, 0.5, 0.95):
        labels = random.integers(0, 3, 20)
        p = (1 - skill) * random.dirichlet(np.ones(3), 20) + skill * np.eye(3)[labels]
        intervals = bootstrap_intervals(labels, p, resample_groups(range(20), draws=200))
        loss = intervals.pop("log_loss")
        assert 0 < loss.low < loss.high
        if not intervals["ece"].known:
            del intervals["ece"]
        assert all(0 <= ends.low <= ends.high <= 1 for ends in intervals.values())
    ends = interval(-0.9, random.normal(-0.9, 0.2, 200), 6, DIFFERENCE)
    assert -1 < ends.low < -0.9 < ends.high < 1


def test_the_interval_of_a_loss_is_limited_by_the_largest_loss() -> None:
    """With few groups, one of them certainly wrong, the upper end is at most 36 nats."""
    labels = np.array([0, 0, 1])
    p = np.array([[1 - 1e-9, 1e-9], [1 - 1e-9, 1e-9], [1.0, 0.0]])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        ends = bootstrap_intervals(labels, p, resample_groups(range(3), draws=200))["log_loss"]
        tiny = t_interval(1e-9, 0.5, 3, Scale(0.0, 30.0, logarithm=True))
    loss = float(METRICS["log_loss"](labels, p))
    assert 0 <= ends.low < loss < ends.high == pytest.approx(-np.log(np.finfo(float).eps))
    assert 0 <= tiny.low <= 1e-9 < tiny.high <= MAX_LOSS


def test_equal_draws_give_the_interval_of_agreeing_groups() -> None:
    """All correct, all wrong, or half correct in every group: the width is Clopper and Pearson's."""
    unseen = 1 - 0.025 ** (1 / 10)
    for estimate, wanted in (
        (1.0, (1 - unseen, 1.0)),
        (0.0, (0.0, unseen)),
        (0.5, (0.5 - unseen / 2, 0.5 + unseen / 2)),
    ):
        ends = interval(estimate, np.full(100, estimate), 10)
        assert (ends.low, ends.high) == pytest.approx(wanted)


def test_fewer_than_two_effective_groups_have_no_interval() -> None:
    """With one group that holds nearly all clips, or a single draw, it is undefined, with a note."""
    member = np.repeat(np.arange(100), (901, *[1] * 99))
    labels = np.arange(1000) % 2
    total = score(
        labels, np.eye(2)[np.where(np.arange(1000) % 3, labels, 1 - labels)], member.tolist(), draws=20
    )
    assert np.isnan(total.accuracy_ci95.low) and np.isnan(total.log_loss_ci95.high)
    assert total.notes == ("100 groups (effective number 1.2): no interval can be computed",)
    assert not t_interval(0.5, 0.1, 1.9).known and t_interval(0.5, 0.1, 2).known
    assert not interval(0.5, np.array([0.4]), 9).known


def test_few_groups_are_warned_about_with_their_coverage() -> None:
    """Below 30 groups the warning gives the simulated coverage; from 30 on there is none."""
    assert few_groups_warning(30, 30.0) is None
    assert "no interval" in str(few_groups_warning(1, 1.0))
    warning = str(few_groups_warning(13, 13.0))
    assert "only 13 groups:" in warning and "too narrow" in warning
    assert "simulations of 12 equal groups" in warning
    assert f"{SIMULATED[12]['log_loss']:.0%}".replace("%", " %") in warning
    unequal = str(few_groups_warning(40, 6.05))
    assert "only 40 groups (effective number 6):" in unequal and "of 6 equal groups" in unequal


def test_rare_classes_are_warned_about_by_their_groups() -> None:
    """Few groups count, not few clips; up to 14 are few where the other classes have many."""
    labels = np.repeat([0, 1, 2], (60, 60, 9))
    in_threes = np.concatenate([np.arange(120), 120 + np.arange(9) // 3])
    warning = str(rare_class_warning(labels, in_threes, ("a", "b", "rare")))
    assert warning.startswith("the class with the fewest groups, 'rare', has only 3 groups: in simulations")
    for name in ("macro_f1", "auc"):
        assert f"{SIMULATED_RARE[name]:.0%}".replace("%", " %") in warning
    assert "only 9 groups" in str(rare_class_warning(labels, np.arange(129), ("a", "b", "rare")))
    for sizes, is_warned in (((200, 15), False), ((200, 14), True), ((8, 8), False), ((7, 7), True)):
        classes = np.repeat([0, 2], sizes)
        warned = rare_class_warning(classes, np.arange(sum(sizes)), ("a", "absent", "b"))
        assert (warned is not None) == is_warned, sizes


def test_few_wrong_groups_are_warned_about() -> None:
    """Fewer than 15 groups and a tenth of all; two wrong clips of a group count once."""
    labels, member = np.zeros(100, dtype=int), np.arange(100) // 2
    for wrong, is_warned in ((8, True), (10, False)):
        p = np.eye(2)[(np.arange(100) < wrong).astype(int)]
        warning = few_wrong_warning(labels, p, member)
        assert (warning is not None) == is_warned
    many, p = np.zeros(400, dtype=int), np.eye(2)[(np.arange(400) < 15).astype(int)]
    assert few_wrong_warning(many, p, np.arange(400)) is None
    assert f"{SIMULATED_WRONG['log_loss']:.0%}".replace("%", " %") in str(
        few_wrong_warning(labels, np.eye(2)[labels], member)
    )


def test_the_error_of_a_calibrated_classifier_has_no_interval() -> None:
    """Its calibration error is all bias; that of an unsure classifier that is always right is not."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), 300)
    labels = (random.random((300, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    resamples = resample_groups(range(300), draws=50)
    assert not bootstrap_intervals(labels, p, resamples)["ece"].known
    assert bootstrap_intervals(p.argmax(axis=1), p, resamples)["ece"].known


def test_warnings_appear_where_simulations_show_them() -> None:
    """`score` has all of them for a rare class that is always right, and none for six large classes."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 40)
    p = random.dirichlet(np.ones(6), 240) / 2 + np.eye(6)[np.where(random.random(240) < 0.9, labels, 0)] / 2
    resamples = resample_groups(range(240), draws=2)
    assert interval_warnings(labels, p, resamples, tuple("abcdef")) == ()
    assert score(labels, p, draws=2).notes == ()
    rare = np.repeat(np.arange(6), (48, 48, 48, 48, 45, 3))
    first, second = score(rare, np.eye(6)[rare] * 0.99 + 0.01 / 6, draws=2).notes
    assert "fewest groups, '5', has only 3 groups" in first
    assert "log loss" in second
