"""Every head is a scikit-learn classifier, finds what is there, and is deterministic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.fuse import make_head
from moodfuse.fuse.heads import span
from moodfuse.fuse.heads.registry import HEADS, head_spec
from moodfuse.fuse.heads.span import span_of
from moodfuse.fuse.inner_folds import inner_split


@parametrize_with_checks([make_head(name) for name in HEADS])
def test_head_passes_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    """scikit-learn's own checks pass, every one of them."""
    check(estimator)


def blobs(
    *, rows: int = 48, columns: int = 24, classes: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Well separated classes; 24 columns are also 8 sources of 3 logits for `mean`."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    return np.tile(np.eye(classes) * 4, columns // classes)[y] + rng.normal(size=(rows, columns)), y


@pytest.mark.parametrize("name", HEADS)
def test_head_finds_separated_classes(name: str) -> None:
    """Fresh rows of well separated classes are told apart, and each row of probabilities sums to 1."""
    x, y = blobs()
    fresh, truth = blobs(seed=1)
    chances = make_head(name).fit(x, y).predict_proba(fresh)
    assert np.mean(chances.argmax(axis=1) == truth) > 0.9
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)


@pytest.mark.parametrize("name", HEADS)
def test_head_is_deterministic_and_keeps_label_names(name: str) -> None:
    """Two fits give the same bits, and classes are the sorted labels."""
    x, y = blobs()
    names = np.array(["sad", "fear", "calm"])[y]
    first, second = (make_head(name, random_state=3).fit(x, names).predict_proba(x) for _ in range(2))
    assert np.array_equal(first, second)
    assert list(make_head(name).fit(x, names).classes_) == ["calm", "fear", "sad"]


@pytest.mark.parametrize("name", ["softmax", "logistic"])
def test_default_c_where_a_class_has_two_groups(name: str) -> None:
    """With fewer than 3 groups in a class, or without tuning, C stays at its default; with 3 it is chosen."""
    x, y = blobs(rows=18)
    few = make_head(name).fit(x, y, groups=np.arange(18) // 9 * 3 + y)
    assert not few.tuned_ and few.C_ == few.C
    assert not make_head(name, tune=False).fit(x, y).tuned_
    chosen = make_head(name).fit(x, y, groups=np.arange(18) // 6 * 3 + y)
    assert chosen.tuned_ and chosen.C_ in chosen.grid


def test_inner_folds_keep_groups_together() -> None:
    """No group lies in two inner folds, and every inner training side holds every class."""
    y = np.repeat(np.arange(12) % 3, 2)
    groups = np.repeat(np.arange(12), 2)
    folds = inner_split(y, groups, seed=0)
    assert folds is not None
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert all(set(y[folds != fold]) == {0, 1, 2} for fold in folds)


def test_inner_folds_follow_the_names_of_groups() -> None:
    """Whatever type they have; a caller cannot change what the next one gets."""
    y = np.repeat(np.arange(12) % 3, 2)
    names = [f"song {number}" for number in np.repeat(np.arange(12), 2)]
    expected = inner_split(y, names, seed=0)
    assert expected is not None and not expected.flags.writeable
    for kind in ("U10", "S10", object):
        assert np.array_equal(inner_split(y, np.array(names, dtype=kind), seed=0), expected)
    assert not np.array_equal(inner_split(y, names, seed=1), expected)
    assert np.array_equal(inner_split(y, names, seed=0), expected)
    unnamed = np.where(np.arange(24) < 2, np.nan, np.repeat(np.arange(12.0), 2))
    assert len(set(inner_split(y, unnamed, seed=0)[:2])) == 1
    assert inner_split(y, np.array([b"\xff" * (1 + number // 2) for number in range(24)]), seed=0) is not None
    with pytest.raises(InputError, match=r"groups of shape \(24, 1\) for 24 rows; give one group a row"):
        inner_split(y, np.array(names)[:, None], seed=0)


@pytest.mark.parametrize("classes", [2, 3])
def test_wide_fit_equals_the_plain_one(classes: int) -> None:
    """Fitting in the rows' span gives the coefficients of scikit-learn's own fit on all columns."""
    x, y = blobs(rows=12, columns=30, classes=classes)
    head = make_head("softmax", tune=False, C=1.0).fit(x, y)
    plain = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-8).fit(
        (x - head.mean_) / head.scale_, y
    )
    fresh, _ = blobs(rows=12, columns=30, classes=classes, seed=1)
    expected = plain.predict_proba((fresh - head.mean_) / head.scale_)
    np.testing.assert_allclose(head.predict_proba(fresh), expected, atol=1e-4)


def test_a_group_of_several_labels_stays_in_one_inner_fold() -> None:
    """Rows of two classes in one group are split together, and every class is left on each side."""
    y = np.arange(36) % 3
    groups = np.arange(36) // 4
    folds = inner_split(y, groups, seed=0)
    assert folds is not None and set(folds) == {0, 1, 2}
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    assert all(set(y[folds != fold]) == {0, 1, 2} for fold in range(3))
    x, y = blobs(rows=12)
    assert not make_head("softmax").fit(x, y, groups=["song"] * 12).tuned_
    with pytest.raises(InputError, match="3 groups for 12 rows"):
        make_head("softmax").fit(x, y, groups=["song"] * 3)


def test_mean_is_the_average_of_the_softmaxes() -> None:
    """`mean` averages the probabilities of each source's logits."""
    logits = np.log([[0.5, 0.25, 0.25, 0.1, 0.8, 0.1]])
    head = make_head("mean", classes=("a", "b", "c")).fit(np.repeat(logits, 2, axis=0), ["a", "b"])
    np.testing.assert_allclose(head.predict_proba(logits), [[0.3, 0.525, 0.175]])
    with pytest.raises(ValueError, match="5 columns are no whole number of sources"):
        make_head("mean", classes=("a", "b", "c")).fit(np.zeros((2, 5)), ["a", "b"])


def test_unknown_head_lists_the_known() -> None:
    """An unknown head is refused with the known names."""
    with pytest.raises(
        UnknownNameError, match="unknown head 'svm'; known: lightgbm, logistic, mean, softmax"
    ):
        make_head("svm")


def test_table_names_agree() -> None:
    """Each entry of the table stands under its own name."""
    assert all(head_spec(name).name == name for name in HEADS)


@pytest.mark.parametrize("rows", [30, 90])
@pytest.mark.parametrize("penalty", [1.0, 1000.0])
def test_linear_heads_are_those_of_scikit_learn(rows: int, penalty: float) -> None:
    """Wide or tall, one softmax or one class against the rest: what scikit-learn finds where it goes on to the end."""
    x, y = blobs(rows=rows, columns=60)
    x = x + np.random.default_rng(2).normal(size=x.shape) * 4
    fresh, _ = blobs(rows=rows, columns=60, seed=1)
    for name in ("softmax", "logistic"):
        head = make_head(name, tune=False, C=penalty).fit(x, y)
        model: Any = LogisticRegression(C=penalty, class_weight="balanced", tol=1e-9, max_iter=10_000)
        model = OneVsRestClassifier(model) if name == "logistic" else model
        plain = model.fit((x - head.mean_) / head.scale_, y)
        expected = plain.predict_proba((fresh - head.mean_) / head.scale_)
        np.testing.assert_allclose(head.predict_proba(fresh), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["softmax", "logistic"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_many_rows_are_fitted_piece_by_piece(
    name: str, classes: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy of them is made along their axes, and the head is the same but for rounding."""
    x, y = blobs(rows=90, columns=6, classes=classes)
    x = (x * [1, 10, 0.1, 1, 1, 1] + [30, 30, 30, 0, 1e4, 30]).astype(kind)
    groups = np.arange(90) // 2
    whole = make_head(name).fit(x, y, groups=groups)
    span._spans.clear()
    for name_of_limit, value in (("_FEW", 0), ("_PIECE", 50), ("_LARGEST", 0)):
        monkeypatch.setattr(span, name_of_limit, value)
    pieced = make_head(name).fit(x, y, groups=groups)
    assert isinstance(span_of(x).rows, span.FarRows)
    assert pieced.C_ == whole.C_
    np.testing.assert_allclose(pieced.predict_proba(x), whole.predict_proba(x), atol=1e-5)
    rows = span_of(x).rows
    np.testing.assert_allclose(rows @ np.eye(6), (rows.T @ np.eye(90)).T, atol=1e-9)
    assert rows.T.T is rows


@pytest.mark.parametrize("far", [1e9, 1e30])
def test_rows_taken_piece_by_piece_may_lie_far_from_zero(far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant column of any size, such as a mark for what is absent, and one with a large mean cost no digits."""
    x, y = blobs(rows=90, columns=6)
    span._spans.clear()
    for name_of_limit, value in (("_FEW", 0), ("_PIECE", 50), ("_LARGEST", 0)):
        monkeypatch.setattr(span, name_of_limit, value)
    expected = make_head("softmax", tune=False).fit(x, y).predict_proba(x)
    marked = np.column_stack([x, np.full(90, far)])
    found = (
        make_head("softmax", tune=False, C=10.0 * 7 / 6).fit(marked, y).predict_proba(marked)
    )  # C is a column's
    np.testing.assert_allclose(found, expected, atol=1e-6)
    moved = x + np.array([0, 1e6, 0, 0, 0, 0])
    found = make_head("softmax", tune=False).fit(moved, y).predict_proba(moved)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_span_of_rows_is_found_once_and_is_theirs() -> None:
    """Equal rows share one span, others do not; its axes give the standardised rows back."""
    for rows in (12, 40):
        x, _ = blobs(rows=rows)
        span = span_of(x)
        assert span_of(x.copy()) is span and span_of(x + 1) is not span
        back = span.in_columns(span.rows)
        np.testing.assert_allclose(back, (x - span.mean) / span.scale, atol=1e-9)
        np.testing.assert_allclose((span.rows**2).sum(axis=0), span.lengths)
