"""Every head is a scikit-learn classifier, finds separated classes, and is deterministic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from moodfuse.cache.errors import InputError
from moodfuse.fuse import make_head
from moodfuse.fuse.heads import HEADS, add_settings
from moodfuse.fuse.heads.linear import fit_offsets
from moodfuse.fuse.inference import apply_link


def expected_failures(estimator: Any) -> dict[str, str]:
    """Checks of scikit-learn that a head does not pass, with the reason."""
    if "class_weight" not in estimator.get_params():
        return {}
    reason = "probabilities are corrected for class weights, and only 'balanced' is accepted"
    return {"check_class_weight_classifiers": reason}


@parametrize_with_checks(
    [make_head(name) for name in HEADS], expected_failed_checks=expected_failures, xfail_strict=True
)
def test_head_passes_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    """scikit-learn's own checks pass, but the one that expects uncorrected class weights."""
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
    """New rows are told apart, probabilities sum to 1, two fits are bit-equal, classes are sorted labels."""
    x, y = blobs()
    fresh, y_true = blobs(seed=1)
    names = np.array(["calm", "fear", "sad"])
    first, second = (make_head(name, random_state=3).fit(x, names[y]) for _ in range(2))
    probabilities = first.predict_proba(fresh)
    assert np.mean(first.predict(fresh) == names[y_true]) > 0.9
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert np.array_equal(probabilities, second.predict_proba(fresh))
    assert list(first.classes_) == ["calm", "fear", "sad"]


@pytest.mark.parametrize("name", ["softmax", "logistic"])
def test_default_c_where_a_class_has_two_groups(name: str) -> None:
    """With fewer than 3 groups in a class, or without tuning, C stays at its default; with 3 it is chosen."""
    x, y = blobs(rows=18)
    few = make_head(name).fit(x, y, groups=np.arange(18) // 9 * 3 + y)
    assert not few.tuned_ and few.C_ == few.C
    assert not make_head(name, tune=False).fit(x, y).tuned_
    chosen = make_head(name).fit(x, y, groups=np.arange(18) // 6 * 3 + y)
    assert chosen.tuned_ and {"C": chosen.C_} in chosen.grid
    with pytest.raises(InputError, match="for 18 rows; give one group per row"):
        make_head(name).fit(x, y, groups=["song"] * 3)


def test_settings_are_given_with_the_name() -> None:
    """A setting that is given is not chosen; wrong names and values are errors."""
    x, y = blobs()
    head = make_head("softmax:C=3").fit(x, y)
    assert head.C_ == 3.0 and head.tuned_ and head.grid == ({},)
    head = make_head("lightgbm:num_leaves=4,learning_rate=0.1")
    assert (head.num_leaves, head.learning_rate) == (4, 0.1)
    assert [set(candidate) for candidate in head.grid] == [{"n_estimators"}] * 5
    head = make_head("lightgbm:n_estimators=7").fit(x, y)
    assert head.model_.get_params()["num_leaves"] in (2, 4) and head.model_.n_estimators == 7
    for text, message in (
        ("lightgbm:leaves=4", "unknown setting of lightgbm 'leaves'; known: learning_rate, .* num_leaves"),
        ("mean:C=1", "unknown setting of mean 'C'; known: none"),
        ("mean:search=5", "unknown setting of mean 'search'; known: none"),
        ("softmax:C=-1", "C is '-1'; expected a number above 0"),
        ("lightgbm:num_leaves=2.5", "num_leaves is '2.5'; expected an integer above 1"),
        ("lightgbm:num_leaves=1", "num_leaves is '1'; expected an integer above 1"),
        (
            "lightgbm:num_leaves=2,num_leaves=4",
            "num_leaves is given twice; for several values, give a --head for each",
        ),
        ("softmax:search=0", "search is '0'; expected an integer above 0"),
        ("softmax:", None),
    ):
        if message is None:
            assert make_head(text).grid == make_head("softmax").grid
            continue
        with pytest.raises(InputError, match=message):
            make_head(text)


def test_random_settings_are_seeded_and_within_their_ranges() -> None:
    """As many as asked for, of every setting that is not given, the simplest first; one of them is chosen."""
    x, y = blobs()
    head = make_head("lightgbm:search=30,reg_lambda=2", random_state=1)
    assert head.grid == make_head("lightgbm:search=30,reg_lambda=2", random_state=1).grid
    assert head.grid != make_head("lightgbm:search=30,reg_lambda=2", random_state=2).grid
    leaves = [candidate["num_leaves"] for candidate in head.grid]
    assert len(leaves) == 30 and leaves == sorted(leaves) and set(leaves) > {2}
    for name, setting in HEADS["lightgbm"].settings.items():
        if name != "reg_lambda":
            values = {candidate[name] for candidate in head.grid}
            assert setting.low <= min(values) < max(values) <= setting.high
            assert {type(value) for value in values} == {setting.kind}
    assert not {"reg_lambda", "search"} & set(head.grid[0]) and head.reg_lambda == 2
    chosen = make_head("softmax:search=4").fit(x, y)
    assert {"C": chosen.C_} in chosen.grid


def test_trees_choose_their_leaves_by_the_inner_folds() -> None:
    """More leaves where columns interact; the candidates' probabilities are those of fits with them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    head = make_head("lightgbm")
    assert head.fit(x, y).model_.num_leaves > 2
    assert len(head.grid) == 10 and head.grid[0] == {"num_leaves": 2, "n_estimators": 5}
    tried = head.try_candidates(x[:300], y[:300], x[300:])
    for candidate, probabilities in zip(head.grid, tried, strict=True):
        alone = make_head("lightgbm", tune=False, **candidate).fit(x[:300], y[:300])
        assert np.array_equal(alone.predict_proba(x[300:]), probabilities)


def test_settings_are_added_to_a_head() -> None:
    """Those that it has stay."""
    assert add_settings("softmax", {}) == "softmax"
    assert add_settings("softmax", {"C": 10}) == "softmax:C=10"
    merged = add_settings("lightgbm:num_leaves=4", {"num_leaves": 8, "learning_rate": 0.05})
    assert merged == "lightgbm:num_leaves=4,learning_rate=0.05"


def test_mean_is_the_average_of_the_softmaxes() -> None:
    """`mean` averages the probabilities of each source's logits."""
    logits = np.log([[0.5, 0.25, 0.25, 0.1, 0.8, 0.1]])
    head = make_head("mean", classes=("a", "b", "c")).fit(np.repeat(logits, 2, axis=0), ["a", "b"])
    np.testing.assert_allclose(head.predict_proba(logits), [[0.3, 0.525, 0.175]])
    with pytest.raises(ValueError, match="5 columns are not a multiple of the 3 logits"):
        make_head("mean", classes=("a", "b", "c")).fit(np.zeros((2, 5)), ["a", "b"])


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize(("rows", "classes"), [(18, 2), (18, 3), (60, 2), (60, 3)])
def test_linear_heads_are_those_of_scikit_learn(rows: int, classes: int, class_weight: Any) -> None:
    """Wide or tall, softmax or one class against the rest: scikit-learn's solution at a small tolerance.

    With class weights, its scores plus offsets that make the mean probability of a class its frequency.
    """
    penalty = 1.0 if rows == 18 else 1000.0
    x, y = blobs(rows=rows, columns=30, classes=classes)
    x, y = (x + np.random.default_rng(2).normal(size=x.shape) * 4)[3:], np.where(y == 0, 1, y)[3:]
    y[: 2 * classes : 2] = 0  # some classes are rare
    fresh, _ = blobs(rows=rows, columns=30, classes=classes, seed=1)
    for name in ("softmax", "logistic"):
        head = make_head(name, tune=False, C=penalty, class_weight=class_weight).fit(x, y)
        scaled, fresh_scaled = (x - head.mean_) / head.scale_, (fresh - head.mean_) / head.scale_
        settings = {"C": penalty, "class_weight": class_weight, "tol": 1e-9, "max_iter": 10_000}
        if name == "softmax":
            model = LogisticRegression(**settings).fit(scaled, y)
            scores, fresh_scores = (model.predict_log_proba(rows) for rows in (scaled, fresh_scaled))
        else:
            parts = [LogisticRegression(**settings).fit(scaled, y == index) for index in range(classes)]
            scores, fresh_scores = (
                np.stack([part.decision_function(rows) for part in parts], axis=1)
                for rows in (scaled, fresh_scaled)
            )
        link = "softmax" if name == "softmax" else "logistic"
        offsets = fit_offsets(scores, y, link) if class_weight else 0.0
        expected = apply_link(fresh_scores + offsets, link)
        np.testing.assert_allclose(head.predict_proba(fresh), expected, atol=1e-3)
        if class_weight:
            mean = head.predict_proba(x).mean(axis=0)
            np.testing.assert_allclose(mean, np.bincount(y) / len(y), atol=1e-3)


def test_sources_of_any_width_have_the_same_variance() -> None:
    """Copies of a source's columns change nothing once its width is known; wrong widths are refused."""
    x, y = blobs(columns=6)
    copied = np.hstack([x[:, :3], *[x[:, 3:]] * 7])
    expected = make_head("softmax", tune=False, widths=(3, 3)).fit(x, y).predict_proba(x)
    head = make_head("softmax", tune=False, widths=(3, 21)).fit(copied, y)
    np.testing.assert_allclose(head.predict_proba(copied), expected, atol=1e-5)
    flat = make_head("softmax", tune=False).fit(copied, y)
    assert not np.allclose(flat.predict_proba(copied), expected, atol=1e-2)
    with pytest.raises(InputError, match="widths \\(3, 4\\) do not sum to the 6 columns"):
        make_head("softmax", widths=(3, 4)).fit(x, y)


def test_balanced_trees_are_corrected_for_the_class_frequencies() -> None:
    """The scores are those of balanced LightGBM plus offsets; the exported trees agree."""
    x, y = blobs(rows=60)
    x, y = x[y != 0], y[y != 0] - 1
    x, y = np.concatenate([x, x[y == 1]]), np.concatenate([y, y[y == 1]])
    for classes in (2, 3):
        if classes == 3:
            y = np.where(np.arange(len(y)) % 7 == 0, 2, y)
        head = make_head(
            "lightgbm", tune=False, n_estimators=9, num_leaves=classes, class_weight="balanced"
        ).fit(x, y)
        plain = LGBMClassifier(**head.settings(x.shape[1], {})).fit(x, y)
        scores = np.log(plain.predict_proba(x))
        expected = softmax(scores + fit_offsets(scores, y, "softmax"), axis=1)
        np.testing.assert_allclose(head.predict_proba(x), expected, atol=1e-12)
        np.testing.assert_allclose(expected.mean(axis=0), np.bincount(y) / len(y), atol=1e-3)
        exported = head.to_arrays(columns=x.shape[1], classes=classes)
        np.testing.assert_allclose([exported.probabilities(row) for row in x], expected, atol=1e-12)
    with pytest.raises(InputError, match="class_weight is 'rare'; expected None or 'balanced'"):
        make_head("softmax", class_weight="rare").fit(x, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["softmax", "logistic", "lightgbm"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_mean_probability_of_a_class_is_near_its_frequency(name: str, class_weight: Any) -> None:
    """On new rows of classes of unequal frequency, with and without class weights."""
    rng = np.random.default_rng(0)
    y, y_new = (np.repeat([0, 1, 2], [7 * rows, 2 * rows, rows]) for rows in (40, 400))
    means = rng.normal(size=(3, 8)) * 0.5
    x, x_new = (means[labels] + rng.normal(size=(len(labels), 8)) for labels in (y, y_new))
    head = make_head(name, class_weight=class_weight).fit(x, y)
    np.testing.assert_allclose(head.predict_proba(x_new).mean(axis=0), [0.7, 0.2, 0.1], atol=0.03)


@pytest.mark.parametrize(("far", "rows"), [(1e9, 90), (1e30, 5)])
def test_columns_may_lie_far_from_zero(far: float, rows: int) -> None:
    """A constant column of any size, as a mark for absent values, and one of large mean cost no digits."""
    x, y = blobs(rows=rows, columns=6, classes=2)
    expected = make_head("softmax", tune=False).fit(x, y).predict_proba(x)
    marked = np.column_stack([x, np.full(rows, far)])
    head = make_head("softmax", tune=False, C=10.0 * 7 / 6).fit(marked, y)  # C counts per column
    np.testing.assert_allclose(head.predict_proba(marked), expected, atol=1e-6)
    moved = x + np.array([0, 1e6, 0, 0, 0, 0])
    head = make_head("softmax", tune=False).fit(moved, y)
    np.testing.assert_allclose(head.predict_proba(moved), expected, atol=1e-6)


def test_rounding_errors_are_not_standardised() -> None:
    """A column that training rows hold constant but for float32 rounding counts as constant for new rows."""
    x, y = blobs(rows=30, columns=6)
    x = np.column_stack([x, np.full(30, 0.1)]).astype(np.float32)
    x[::2, 6] = np.nextafter(x[0, 6], np.float32(1))
    head = make_head("softmax", tune=False).fit(x, y)
    fresh = x.copy()
    fresh[:, 6] = 0.5
    np.testing.assert_allclose(head.predict_proba(fresh), head.predict_proba(x), atol=0.05)
