"""Intervals hold the truth as often as they say, end within their scale, and have a width where nothing varies."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluate.groups import draw_groups
from evaluate.uncertainty import (
    DIFFERENCE,
    METRICS,
    SIMULATED,
    bootstrap_intervals,
    bootstrap_metrics,
    few_groups_warning,
    interval,
)

Benchmark = dict[str, Any]


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    """The full simulations, to run them short."""
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))


@pytest.mark.parametrize(("groups", "clips"), [(52, 1), (36, 2), (131, 1)])
@pytest.mark.parametrize("truth", [0.6, 0.86])
def test_intervals_of_accuracy_cover(benchmark: Benchmark, groups: int, clips: int, truth: float) -> None:
    """92 to 98 % of the intervals of accuracy hold the truth, but for the noise of 300 data sets."""
    layout = benchmark["Layout"](groups, clips)
    accuracy, macro_f1 = benchmark["interval_rows"](layout, truth, sets=300, draws=500)
    assert 0.90 <= accuracy.figure <= 0.995 and macro_f1.figure > 0.9


def test_draws_count_whole_groups() -> None:
    """Each draw holds as many groups as there are, clips of one group equally often, and a seed repeats it."""
    groups = ["b", "a", "b", "c"]
    drawn = draw_groups(groups, draws=50, seed=3)
    weights = np.concatenate(list(drawn.weights()))
    assert (drawn.counts.sum(axis=1) == 3).all() and (weights[:, 0] == weights[:, 2]).all()
    np.testing.assert_array_equal(drawn.counts, draw_groups(groups, draws=50, seed=3).counts)
    values = np.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(drawn.means(values), weights @ values / weights.sum(axis=1, keepdims=True))


def test_draws_of_metrics_are_metrics_of_draws() -> None:
    """A draw's metrics are those of its clips, each as often as its group was drawn."""
    random = np.random.default_rng(0)
    labels, groups = random.integers(0, 3, 30), np.arange(30) // 2
    p = random.dirichlet(np.ones(3), 30)
    drawn = draw_groups(groups.tolist(), draws=5)
    found = bootstrap_metrics(labels, p, drawn)
    for row in range(5):
        rows = np.repeat(np.arange(30), drawn.counts[row, drawn.member])
        for name, metric in METRICS.items():
            exact = 1e-6 if name == "auc" else 1e-12  # areas of draws are summed in float32
            truth = float(metric(labels[rows], p[rows]))  # type: ignore[operator]
            assert found[name][row] == pytest.approx(truth, abs=exact)


def test_intervals_stay_on_their_scale() -> None:
    """Around the estimate, within 0 and 1 or -1 and 1, a loss above 0."""
    random = np.random.default_rng(1)
    for skill in (0.0, 0.5, 0.95):
        labels = random.integers(0, 3, 20)
        p = (1 - skill) * random.dirichlet(np.ones(3), 20) + skill * np.eye(3)[labels]
        found = bootstrap_intervals(labels, p, draw_groups(range(20), draws=200))
        assert all(0 <= ends.low <= ends.high <= 1 for name, ends in found.items() if name != "log_loss")
        assert 0 < found["log_loss"].low < found["log_loss"].high
    ends = interval(-0.9, random.normal(-0.9, 0.2, 200), 6, DIFFERENCE)
    assert -1 < ends.low < -0.9 < ends.high < 1


def test_equal_draws_give_an_interval_all_the_same() -> None:
    """All right, all wrong, or half right in every group: the width is that of so many groups that agree."""
    unseen = 1 - 0.025 ** (1 / 10)
    for estimate, wanted in (
        (1.0, (1 - unseen, 1.0)),
        (0.0, (0.0, unseen)),
        (0.5, (0.5 - unseen / 2, 0.5 + unseen / 2)),
    ):
        ends = interval(estimate, np.full(100, estimate), 10)
        assert (ends.low, ends.high) == pytest.approx(wanted)


def test_constant_losses_are_known_where_no_label_could_change_them() -> None:
    """Uniform probabilities lose the same on any clip; certain ones could lose 36 nats on an unseen one."""
    labels, drawn = np.arange(12) % 3, draw_groups(range(12), draws=50)
    flat = bootstrap_intervals(labels, np.full((12, 3), 1 / 3), drawn)["log_loss"]
    assert (flat.low, flat.high) == pytest.approx((np.log(3), np.log(3)))
    assert bootstrap_intervals(labels, np.eye(3)[labels], drawn)["log_loss"].high > 5


def test_undefined_intervals() -> None:
    """One group, or one draw, gives none."""
    assert np.isnan(interval(0.5, np.array([0.4, 0.6]), 1).low)
    assert np.isnan(interval(0.5, np.array([0.4]), 9).low)
    labels = np.array([0, 1, 0])
    found = bootstrap_intervals(labels, np.eye(2)[labels], draw_groups(["x"] * 3, draws=9))
    assert all(np.isnan(ends.high) for ends in found.values())


def test_few_groups_are_said_with_their_shortfall() -> None:
    """Below 30 groups the warning tells how often intervals held the truth; from 30 on there is none."""
    assert few_groups_warning(30) is None
    assert "no interval" in str(few_groups_warning(1))
    said = str(few_groups_warning(13))
    assert "only 13 groups" in said and "too narrow" in said and "simulations of 12 groups" in said
    assert f"{SIMULATED[12]['log_loss']:.0%}".replace("%", " %") in said


def test_the_table_of_few_groups_is_measured(benchmark: Benchmark) -> None:
    """Six groups again, short: within the noise of 200 data sets."""
    found = benchmark["few_groups_coverage"](6, sets=200, draws=200)
    for name, share in SIMULATED[6].items():
        assert found[name] == pytest.approx(share, abs=0.06)
