"""The best result has the lowest log loss; its accuracy is corrected; simpler results are nearly as good."""

from typing import Any

import numpy as np
import pytest

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import resample_groups
from moodfuse.evaluate.selection import (
    class_frequency_loss,
    estimate_best,
    find_results_within_one_error,
    rank_result,
    select_and_test,
)

CLIPS = 60
LABELS = np.random.default_rng(0).integers(0, 3, CLIPS)


def result_of(name: str, probabilities: Any, *, repeats: Any = None) -> Result:
    """A result, named by its sources."""
    return Result(
        tuple(name.split("+")), "softmax", "logits", np.asarray(probabilities, float), repeats=repeats
    )


def test_equal_results_are_corrected_to_their_accuracy(simulations: dict[str, Any]) -> None:
    """Of 60 equally good results the best looks far too good; the corrected accuracy is unbiased."""
    layout = simulations["Layout"].equal(52, 1)
    off, naive, held = simulations["selection_rows"](layout, np.full(60, 0.6), "equal", sets=150, draws=150)
    assert abs(off.figure) < 0.02 and naive.figure > 0.05 and held.figure > 0.9


def test_a_clear_winner_keeps_its_score() -> None:
    """If every draw selects one result, the corrected accuracy is its own, with as wide an interval."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    best = np.where(random.random(200) < 0.9, labels, (labels + 1) % 3)
    results = [result_of("z", 0.9 * np.eye(3)[best] + 0.1 / 3), result_of("a", np.full((200, 3), 1 / 3))]
    headline = estimate_best(labels, results, resample_groups(range(200), draws=500))
    name = "z softmax logits"
    assert headline.result == name and headline.candidates == 2 and headline.picks == ((name, 1.0),)
    assert headline.accuracy == (best == labels).mean() == pytest.approx(headline.corrected, abs=0.005)
    width = headline.accuracy_ci95.high - headline.accuracy_ci95.low
    assert headline.corrected_ci95.high - headline.corrected_ci95.low == pytest.approx(width, rel=0.1)


def test_each_draw_selects_on_its_groups_and_scores_on_the_others() -> None:
    """The selection of each draw, with ties by accuracy, and its score are those computed by hand."""
    random = np.random.default_rng(1)
    right, loss = (random.random((12, 4)) < 0.5).astype(float), random.integers(0, 2, (12, 4)).astype(float)
    drawn = resample_groups(np.arange(12) // 2, draws=40)
    selection = select_and_test(right, loss, drawn)
    scores, ties = [], 0
    for counts, pick in zip(drawn.counts, selection.picks, strict=True):
        weights = counts[drawn.member].astype(float)
        order = sorted(range(4), key=lambda index: ((weights @ loss)[index], -(weights @ right)[index]))
        assert order[0] == pick
        ties += (weights @ loss)[order[0]] == (weights @ loss)[order[1]]
        scores.append(right[weights == 0, pick].mean())
    assert ties and selection.corrected == pytest.approx(np.mean(scores), abs=1e-12)


def test_the_least_log_loss_over_all_fold_plans_is_the_best() -> None:
    """Not the most accurate, nor the best of the first plan; ties go to accuracy, fewer sources, the name."""
    labels, drawn = np.array([0, 0, 1, 1]), resample_groups(range(4), draws=20)

    def of(name: str, *plans: list[float]) -> Result:
        """A result by the probabilities of the true labels under each fold plan."""
        first, *repeats = [
            np.where(np.eye(2)[labels] > 0, np.array(plan)[:, None], 1 - np.array(plan)[:, None])
            for plan in plans
        ]
        return result_of(name, first, repeats=np.array(repeats) if repeats else None)

    def ranked(*results: Result) -> list[str]:
        ordered = sorted(results, key=lambda result: rank_result(labels, result))
        assert estimate_best(labels, results, drawn).result == ordered[0].name
        return ["+".join(result.sources) for result in ordered]

    accurate, unsure = of("a", [0.51] * 4), of("b", [0.9, 0.9, 0.9, 0.49])
    assert ranked(accurate, unsure) == ["b", "a"]
    lucky, steady = of("a", [0.9] * 4, [0.2] * 4), of("b", [0.7] * 4, [0.7] * 4)
    assert ranked(lucky, steady) == ["b", "a"]
    assert rank_result(labels, steady).log_loss == pytest.approx(-np.log(0.7))
    assert rank_result(labels, lucky).error_rate == 0.5
    assert ranked(of("a", [0.9, 0.4, 0.6, 0.6]), of("b", [0.6] * 4)) == ["b", "a"]
    tied = [of(name, [0.6] * 4) for name in ("b", "a+c", "a")]
    assert ranked(*tied) == ["a", "b", "a+c"]
    assert estimate_best(labels, tied, drawn).picks == (("a softmax logits", 1.0),)


def test_one_group_has_no_correction() -> None:
    """No group is left to score on, and only the best itself is as good as the best."""
    labels, results = np.array([0, 1]), [result_of("a", np.eye(2)), result_of("b", np.eye(2)[::-1])]
    drawn = resample_groups(["one", "one"], draws=5)
    headline = estimate_best(labels, results, drawn)
    assert headline.result == "a softmax logits" and np.isnan(headline.corrected)
    assert not headline.corrected_ci95.known
    near, error = find_results_within_one_error(labels, results, drawn)
    assert near == results[:1] and np.isnan(error)


def table_of(right: float, *, seed: int = 0) -> np.ndarray:
    """Probabilities [60, 3] whose mean for the true class is about `right`."""
    share = np.clip(right + 0.1 * np.random.default_rng(seed).standard_normal(CLIPS), 0.01, 0.98)
    table = np.repeat((1 - share[:, None]) / 2, 3, axis=1)
    table[np.arange(CLIPS), LABELS] = share
    return table


def test_results_within_one_standard_error_are_near() -> None:
    """The error is that of the best result's mean loss, by groups; a result just beyond it is left out."""
    groups = np.arange(CLIPS) // 2
    best = table_of(0.8)
    losses = -np.log(best[np.arange(CLIPS), LABELS])
    by_group = losses.reshape(-1, 2).mean(axis=1)
    expected = by_group.std(ddof=1) / np.sqrt(len(by_group))

    def worse(factor: float, name: str) -> Result:
        """A result whose mean loss is `factor` standard errors above the best."""
        table = best * np.exp(-factor * expected)
        other = (LABELS + 1) % 3
        table[np.arange(CLIPS), other] += 1 - table.sum(axis=1)
        return result_of(name, table)

    results = [worse(1.01, "far"), worse(0.99, "near"), result_of("best", best), result_of("a+copy", best)]
    near, error = find_results_within_one_error(LABELS, results, resample_groups(groups, draws=5))
    assert error == pytest.approx(expected)
    assert [result.sources[-1] for result in near] == ["best", "copy", "near"]


def test_class_frequencies_are_of_the_other_folds() -> None:
    """Each class counts one clip more, so one that is only in the tested fold has a probability."""
    labels, folds = np.array([0, 0, 1, 0]), (0, 0, 1, 1)
    names = tuple("abcd")
    run = Run("one", "crossfit", ("x", "y"), names, tuple("xxyx"), names, folds, 2, 0, (), ())
    expected = -np.log([2 / 4, 2 / 4, 1 / 4, 3 / 4]).mean()
    assert class_frequency_loss(labels, run) == pytest.approx(expected)
