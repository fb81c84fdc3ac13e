"""Labels, probabilities and groups are taken as they are meant, or refused with what to do."""

from typing import Any

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.evaluate import score

RANDOM = np.random.default_rng(0)
TRUTH = np.arange(24) % 3
P = RANDOM.dirichlet(np.ones(3), 24)
WANTED = float((P.argmax(axis=1) == TRUTH).mean())


class Series:
    """As much of a pandas Series as is used."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def to_numpy(self) -> np.ndarray:
        return self.values

    def __iter__(self) -> Any:
        raise AssertionError("rows may be labelled in any order; take the array")

    __array__ = None


class DataFrame(Series):
    """As much of a pandas DataFrame as is used."""

    def __init__(self, values: Any, columns: Any) -> None:
        super().__init__(values)
        self.columns = columns


class NotAvailable:
    """As pandas' NA: comparing it tells nothing, and asking whether it is true is an error."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


VALUES: dict[str, list[Any]] = {
    "numbers from 1": [1, 2, 3],
    "numbers in their own order": [30, 10, 20],
    "whole floats": [1.0, 2.0, 5.0],
    "text": ["sad", "fear", "joy"],
    "text of digits": ["3", "1", "2"],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))
@pytest.mark.parametrize("kind", ["list", "array", "object", "series"])
def test_labels_match_classes_by_value(values: list[Any], kind: str) -> None:
    """As scikit-learn's `classes_` means them, whatever holds them; index meaning would score otherwise."""
    labels = [values[index] for index in TRUTH]
    made = {
        "list": list,
        "array": np.array,
        "object": lambda item: np.array(item, dtype=object),
        "series": Series,
    }
    found = score(made[kind](labels), P, classes=made[kind](values), draws=5)
    assert found.accuracy == WANTED and len(set(found.classes)) == 3
    np.testing.assert_array_equal(found.confusion_matrix.sum(axis=1), [8, 8, 8])


def test_numbers_of_several_kinds_are_one_value() -> None:
    """1, numpy's 1, 1.0 and True are equal; the text "1" is another class, and says so."""
    mixed = [1, np.int64(0), 1.0, np.float32(0), True, np.bool_(False)]
    p = np.eye(2)[[1, 0, 1, 0, 1, 0]]
    assert score(mixed, p, classes=np.array([0, 1], dtype=np.int16), draws=5).accuracy == 1
    assert score(mixed, p, classes=[False, True], draws=5).classes == ("False", "True")
    with pytest.raises(InputError, match="label '1' is none of the classes 0, 1"):
        score(["1", "0"], np.eye(2), classes=[0, 1])
    with pytest.raises(
        InputError, match=r"classes text \('1', '2'\), so 1 may be a class or a place .* both as text"
    ):
        score([1, 2], np.eye(2), classes=["1", "2"])


def test_without_classes_whole_numbers_are_indices() -> None:
    """0 to C - 1, of any type and in any order, also more than nine as objects, which sort otherwise as text."""
    for labels in (TRUTH, TRUTH.astype(np.uint8), TRUTH.astype(float), TRUTH.astype(object), TRUTH.tolist()):
        assert score(labels, P, draws=5).accuracy == WANTED
    many = np.arange(24) % 12
    found = score(many.astype(object), np.eye(12)[many], draws=5)
    assert found.accuracy == 1 and found.classes == tuple(map(str, range(12)))
    assert score(TRUTH, P, classes=["a", "b", "c"], draws=5).classes == ("a", "b", "c")


def test_bools_are_two_classes() -> None:
    """False is the first column, True the second; three columns are refused."""
    said = TRUTH == 1
    assert score(said, np.eye(2)[said.astype(int)], draws=5).accuracy == 1
    assert score(said, np.eye(2)[said.astype(int)], classes=["no", "yes"], draws=5).accuracy == 1
    with pytest.raises(InputError, match="classes are False, True; expected 3 different"):
        score(said, P)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (TRUTH + 1, None, r"labels go from 1 to 3; expected indices 0 to 2 .* such as classes=\[1, 2, 3\]"),
        (TRUTH + 0.5, None, r"labels such as 0.5 are neither class names nor indices; give classes="),
        (["a", 1] * 12, None, "labels such as 'a' are neither class names nor indices"),
        (TRUTH, ["a", "b"], "classes are a, b; expected 3 different ones"),
        (TRUTH, [1, 1, 2], "classes are 1, 1, 2; expected 3 different ones"),
        (TRUTH, [1, 2, 3], "label 0 is none of the classes 1, 2, 3"),
        (
            TRUTH + 1,
            ["a", "b", "c"],
            "label 3 is neither one of the classes a, b, c nor a place among them, 0 to 2",
        ),
        ([0, 1, np.nan] * 8, None, "label of clip 2 is nan; give each clip one"),
        (["a", None, "c"] * 8, None, "label of clip 1 is None"),
        (np.stack([TRUTH, TRUTH], axis=1), None, r"labels have shape \(24, 2\)"),
    ],
)
def test_labels_that_fit_no_class_are_refused(labels: Any, classes: Any, message: str) -> None:
    """Each with what was found and what to give."""
    with pytest.raises(InputError, match=message):
        score(labels, P, classes=classes)


def test_columns_follow_the_classes_by_name() -> None:
    """A DataFrame may have its columns in any order; names that are no classes change nothing, half of them do."""
    turned = [2, 0, 1]
    for values in VALUES.values():
        frame = DataFrame(P[:, turned], [values[index] for index in turned])
        assert (
            score(Series([values[index] for index in TRUTH]), frame, classes=values, draws=5).accuracy
            == WANTED
        )
    names = ["a", "b", "c"]
    labels = [names[index] for index in TRUTH]
    assert score(labels, DataFrame(P[:, turned], ["c", "a", "b"]), draws=5).accuracy == WANTED
    assert score(TRUTH, DataFrame(P, range(3)), draws=5).accuracy == WANTED
    assert score(labels, DataFrame(P, ["p_a", "p_b", "p_c"]), draws=5).accuracy == WANTED
    with pytest.raises(InputError, match="column 'a' is called like a class, column 'B' is not"):
        score(labels, DataFrame(P, ["a", "B", "c"]))


@pytest.mark.parametrize("missing", [None, float("nan"), np.datetime64("NaT"), NotAvailable()])
def test_missing_groups_are_refused(missing: object) -> None:
    """The first row without a group is named: taken for one group, such rows would be no group at all."""
    groups = ["x"] * 4 + [missing] + ["y"] * 18 + [missing]
    with pytest.raises(InputError, match="group of clip 4 is .*; give each clip one"):
        score(TRUTH, P, groups)


def test_groups_of_any_value() -> None:
    """Numbers, pairs and a Series are groups; their number must fit."""
    pairs = [("artist", index // 2) for index in range(24)]
    for groups in (pairs, np.arange(24) // 2, Series(np.arange(24) // 2)):
        assert score(TRUTH, P, groups, draws=5).groups == 12  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 groups for 24 clips"):
        score(TRUTH, P, "abc")
