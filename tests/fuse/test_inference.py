"""Heads as arrays give the probabilities of the fitted heads; arrays that do not fit together are errors."""

from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.fuse.heads import HEADS, make_head
from moodfuse.fuse.inference import TreeArrays, apply_temperature, head_from_arrays


def data(classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes of 24 rows each in 6 columns."""
    y = np.arange(24 * classes) % classes
    return np.random.default_rng(seed).normal(size=(len(y), 6)) + y[:, None] * 0.7, y


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_arrays_give_the_probabilities_of_the_head(name: str, classes: int) -> None:
    """To 1e-12, also where a class had no training row, and as stored: by kind, facts and arrays."""
    x, y = data(classes)
    settings = {"classes": tuple(range(classes))} if name == "mean" else {"tune": False}
    model = make_head(name, **settings).fit(x, y)
    exported = model.to_arrays(columns=6, classes=classes if name == "mean" else classes + 1)
    again = head_from_arrays(exported.kind, exported.facts(), exported.arrays())
    fresh = data(classes, seed=1)[0]
    probabilities = np.stack([again.probabilities(row) for row in fresh])
    assert np.allclose(probabilities[:, :classes], model.predict_proba(fresh), rtol=0, atol=1e-12)
    assert (probabilities[:, classes:] == 0).all()
    assert np.array_equal(exported.probabilities(fresh[3]), probabilities[3])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("leaves", [2, 8])
def test_trees_sum_to_the_bits_of_lightgbm(classes: int, leaves: int) -> None:
    """Raw scores equal LightGBM's own, bit for bit, at thresholds too."""
    x, y = data(classes)
    model = make_head("lightgbm", n_estimators=25, num_leaves=leaves, tune=False).fit(x, y)
    arrays = model.to_arrays(columns=6, classes=classes)
    splits = np.flatnonzero(arrays.feature >= 0)
    edges = np.tile(x[:1], (len(splits), 1))
    edges[np.arange(len(splits)), arrays.feature[splits]] = arrays.threshold[splits]
    rows = np.concatenate([data(classes, seed=2)[0], edges])
    own = model.model_.booster_.predict(rows, raw_score=True, num_iteration=25).reshape(len(rows), -1)
    assert np.array_equal(np.stack([arrays.raw_scores(row) for row in rows]), own)
    assert model.to_text().startswith("tree")
    assert (len(splits) > len(arrays.roots)) == (leaves > 2)


def test_trees_may_be_listed_one_by_one() -> None:
    """A tree's leaves after its root, as older models have them, or all roots first."""
    children = {"left": np.array([1, -1, -1]), "right": np.array([2, -1, -1])}
    one = {"feature": np.array([0, -1, -1]), "threshold": np.zeros(3), "value": np.array([0.0, -1.0, 2.0])}
    two = {name: np.tile(array, 2) for name, array in one.items()}
    shifted = {name: np.where(array < 0, -1, array + 3) for name, array in children.items()}
    pairs = {name: np.concatenate([children[name], shifted[name]]) for name in children}
    head = TreeArrays(**two, **pairs, roots=np.array([0, 3]), classes=np.arange(2), columns=1, count=2)
    assert [head.raw_scores(np.array([value]))[0] for value in (-1.0, 0.0, 1.0)] == [-2.0, -2.0, 4.0]


def test_trees_without_a_split_are_their_leaf() -> None:
    """As LightGBM makes them where no column separates the rows."""
    model = make_head("lightgbm", n_estimators=2, tune=False).fit(np.ones((12, 1)), np.arange(12) % 3)
    arrays = model.to_arrays(columns=1, classes=3)
    assert (arrays.feature == -1).all()
    np.testing.assert_allclose(arrays.probabilities(np.ones(1)), [1 / 3] * 3)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("feature", 0, 6, "not binary trees"),
        ("left", 0, 0, "not binary trees"),
        ("right", 1, 10**6, "not binary trees"),
        ("roots", -1, 10**6, "not binary trees"),
        ("classes", 0, 3, "not binary trees"),
        ("threshold", 0, np.nan, "threshold holds NaN"),
    ],
)
def test_trees_that_do_not_fit_together(name: str, index: int, value: float, message: str) -> None:
    """A tree of another form, of a column that does not exist, or with a value that is not finite."""
    x, y = data(3)
    head = make_head("lightgbm", n_estimators=4, tune=False).fit(x, y).to_arrays(columns=6, classes=3)
    array = getattr(head, name).copy()
    array[index] = value
    with pytest.raises(InputError, match=message):
        replace(head, **{name: array})


def test_linear_heads_that_do_not_fit_together() -> None:
    """Shapes, ranges and finiteness are checked."""
    x, y = data(3)
    head = make_head("softmax", tune=False).fit(x, y).to_arrays(columns=6, classes=3)
    for change, message in (
        ({"weights": head.weights[:, 1:]}, "weights is"),
        ({"mean": np.full(6, np.inf)}, "mean holds"),
        ({"link": "exp"}, "link"),
        ({"count": 2}, "classes .* of 2"),
    ):
        with pytest.raises(InputError, match=message):
            replace(head, **change)
    with pytest.raises(InputError, match="unknown kind of head 'pickle'"):
        head_from_arrays("pickle", {}, {})


def test_a_temperature_keeps_the_order_and_the_sum() -> None:
    """Zeros are harmless, temperature 1 changes no bit, and each row may have its own."""
    probabilities = np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]])
    for temperature in (0.05, 2.0, 20.0):
        scaled = apply_temperature(probabilities, temperature)
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
        assert np.array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
        rows = apply_temperature(probabilities, np.array([temperature, 1.0]))
        assert np.array_equal(rows, [scaled[0], probabilities[1]])
