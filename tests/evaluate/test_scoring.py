"""Labels, probabilities and groups are matched by value; several plans have one interval."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from moodfuse.cache.errors import InputError
from moodfuse.evaluate import score
from moodfuse.evaluate.scoring import repeated_score

RANDOM = np.random.default_rng(0)
LABELS = np.arange(24) % 3
P = RANDOM.dirichlet(np.ones(3), 24)
WANTED = float((P.argmax(axis=1) == LABELS).mean())


class DataFrame:
    """The part of a pandas DataFrame that is used."""

    def __init__(self, values: np.ndarray, columns: list[Any]) -> None:
        self.values = values
        self.columns = columns

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.values, dtype=dtype)


VALUES: dict[str, list[Any]] = {
    "numbers from 1": [1, 2, 3],
    "numbers in their own order": [30, 10, 20],
    "whole floats": [1.0, 2.0, 5.0],
    "text": ["sad", "fear", "joy"],
    "text of digits": ["3", "1", "2"],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))
def test_labels_match_classes_by_value(values: list[Any]) -> None:
    """As with scikit-learn's `classes_`, in any container; as indices they would score differently."""
    labels = [values[index] for index in LABELS]
    for convert in (list, np.array, lambda given: np.array(given, dtype=object)):
        total = score(convert(labels), P, classes=convert(values), draws=5)
        assert total.accuracy == WANTED and len(set(total.classes)) == 3
        np.testing.assert_array_equal(total.confusion_matrix.sum(axis=1), [8, 8, 8])


def test_numbers_of_several_kinds_are_one_value() -> None:
    """1, numpy's 1, 1.0 and True are equal; bools alone are the classes False and True."""
    mixed = [1, np.int64(0), 1.0, np.float32(0), True, np.bool_(False)]
    p = np.eye(2)[[1, 0, 1, 0, 1, 0]]
    assert score(mixed, p, classes=np.array([0, 1], dtype=np.int16), draws=5).accuracy == 1
    assert score([True, False], np.eye(2)[::-1], draws=5).classes == ("False", "True")


def test_without_classes_whole_numbers_are_indices() -> None:
    """0 to C - 1, of any type and in any order, also more than nine, which would sort differently as text."""
    for labels in (LABELS, LABELS.astype(float), LABELS.astype(object), LABELS.tolist()):
        assert score(labels, P, draws=5).accuracy == WANTED
    many = np.arange(24) % 12
    total = score(many.astype(object), np.eye(12)[many], draws=5)
    assert total.accuracy == 1 and total.classes == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (LABELS + 1, None, r"label 3 is none of the classes 0, 1, 2; .* classes="),
        (["a", 1] * 12, None, "label 'a' is none of the classes 0, 1, 2"),
        (LABELS, [1, 1, 2], "classes are 1, 1, 2; expected 3 different ones"),
        (LABELS == 1, None, "classes are False, True; expected 3 different"),
        (["1", "2", "3"] * 8, [1, 2, 3], "label '1' is none of the classes 1, 2, 3"),
        (LABELS, ["a", "b", "c"], "label 0 is none of the classes 'a', 'b', 'c'"),
        ([0, 1, np.nan] * 8, None, "label nan is none of the classes 0, 1, 2"),
        (np.stack([LABELS, LABELS], axis=1), None, r"labels have shape \(24, 2\)"),
    ],
)
def test_labels_without_a_class_are_errors(labels: Any, classes: Any, message: str) -> None:
    """Each message has the value, the classes and a remedy."""
    with pytest.raises(InputError, match=message):
        score(labels, P, classes=classes)


def test_columns_follow_the_classes_by_name() -> None:
    """Columns of a DataFrame may be in any order; other names leave them as they are."""
    labels, turned = [["a", "b", "c"][index] for index in LABELS], P[:, [2, 0, 1]]
    assert score(labels, DataFrame(turned, ["c", "a", "b"]), draws=5).accuracy == WANTED
    assert score(LABELS, DataFrame(turned, [2, 0, 1]), draws=5).accuracy == WANTED
    assert score(labels, DataFrame(P, ["p_a", "p_b", "p_c"]), draws=5).accuracy == WANTED


def test_groups_of_any_value() -> None:
    """Numbers and pairs are groups; each clip must have one."""
    for groups in ([("artist", index // 2) for index in range(24)], np.arange(24) // 2):
        assert score(LABELS, P, groups, draws=5).groups == 12  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 groups for 24 clips"):
        score(LABELS, P, "abc")
    for missing in (None, float("nan"), np.datetime64("NaT")):
        with pytest.raises(InputError, match="group of clip 4 is missing; give each clip one"):
            score(LABELS, P, ["x"] * 4 + [missing] + ["y"] * 19)


def test_clips_of_one_group_carry_less_information() -> None:
    """An interval over groups of three equal clips is wider than one that takes each clip as a group."""
    labels = np.repeat(np.arange(20) % 2, 3)
    right = np.repeat(np.random.default_rng(0).random(20) < 0.7, 3)
    p = np.where((labels == right)[:, None], [0.2, 0.8], [0.8, 0.2])
    alone = score(labels, p).accuracy_ci95
    grouped = score(labels, p, np.repeat(np.arange(20), 3).astype(str)).accuracy_ci95
    assert grouped.high - grouped.low > 1.3 * (alone.high - alone.low)


def test_probabilities_that_are_no_distributions_are_errors() -> None:
    """A row that does not sum to 1, and a single class."""
    with pytest.raises(InputError, match="expected values >= 0 that sum to 1"):
        score(np.array([0, 1]), np.ones((2, 2)))
    with pytest.raises(InputError, match=r"have shape \(2, 1\); expected \(clips, classes\)"):
        score(np.array([0, 0]), np.ones((2, 1)))


def predict_class_0(right: np.ndarray) -> np.ndarray:
    """Probabilities [..., 2] of label 0, correct where `right`."""
    return np.stack([right, ~right], axis=-1).astype(float)


def test_the_interval_of_repeats_is_nadeau_and_bengios() -> None:
    """Three plans of four folds of five: variance (1/12 + 5/15) s^2, 11 degrees of freedom."""
    random = np.random.default_rng(0)
    right = random.random((3, 20)) < 0.6
    folds = np.stack([random.permutation(20) % 4 for _ in range(3)])
    repeated = repeated_score(np.zeros(20, dtype=int), predict_class_0(right), folds)
    means = np.array([right[plan][folds[plan] == fold].mean() for plan in range(3) for fold in range(4)])
    reach = t.ppf(0.975, 11) * np.sqrt((1 / 12 + 1 / 3) * means.var(ddof=1))
    assert (repeated.repeats, repeated.accuracy) == (3, pytest.approx(means.mean()))
    assert repeated.spread == pytest.approx(right.mean(axis=1).std(ddof=1))
    assert repeated.ci95.ends == pytest.approx((means.mean() - reach, means.mean() + reach))


def test_one_plan_has_no_spread_and_an_interval_within_the_scale() -> None:
    """A single plan of two folds has a wide interval, limited to 0 and 1; equal folds have none."""
    labels, folds = np.zeros(4, dtype=int), np.array([[0, 0, 1, 1]])
    repeated = repeated_score(labels, predict_class_0(np.array([[True, False, True, True]])), folds)
    assert repeated.repeats == 1 and np.isnan(repeated.spread) and repeated.ci95.ends == (0.0, 1.0)
    assert not repeated_score(labels, predict_class_0(np.array([[True] * 4])), folds).ci95.known
