"""Heads as arrays: the probabilities of the fitted heads; arrays that do not make a head are refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.fuse.heads import HEADS, make_head
from moodfuse.fuse.heads.exported import LinearArrays, MeanArrays, TreeArrays, head_from_arrays


def data(classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes of 24 rows each in 6 columns."""
    y = np.arange(24 * classes) % classes
    return np.random.default_rng(seed).normal(size=(len(y), 6)) + y[:, None] * 0.7, y


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_arrays_give_the_probabilities_of_the_head(name: str, classes: int) -> None:
    """To 1e-12, also where a class had no training row, and as stored: by kind, facts and arrays."""
    x, y = data(classes)
    settings = {"classes": tuple(range(classes))} if name == "mean" else {}
    model = make_head(name, **settings).fit(x, y)
    exported = model.to_arrays(columns=6, classes=classes if name == "mean" else classes + 1)
    again = head_from_arrays(exported.kind, exported.facts(), exported.arrays())
    fresh = data(classes, seed=1)[0]
    found = np.stack([again.probabilities(row) for row in fresh])
    assert np.allclose(found[:, :classes], model.predict_proba(fresh), rtol=0, atol=1e-12)
    assert (found[:, classes:] == 0).all()
    assert np.array_equal(exported.probabilities(fresh[3]), found[3])


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_sum_to_the_very_bits_of_lightgbm(classes: int) -> None:
    """Raw scores equal LightGBM's own, bit for bit, at thresholds too; trees of more splits are refused."""
    x, y = data(classes)
    model = make_head("lightgbm", rounds=25, tune=False).fit(x, y)
    arrays = model.to_arrays(columns=6, classes=classes)
    splits = np.flatnonzero(arrays.feature >= 0)
    edges = np.tile(x[:1], (len(splits), 1))
    edges[np.arange(len(splits)), arrays.feature[splits]] = arrays.threshold[splits]
    rows = np.concatenate([data(classes, seed=2)[0], edges])
    own = model.model_.booster_.predict(rows, raw_score=True, num_iteration=25).reshape(len(rows), -1)
    assert np.array_equal(np.stack([arrays.raw_scores(row) for row in rows]), own)
    assert model.to_text().startswith("tree")
    with pytest.raises(InputError, match="only trees of one split"):
        make_head("lightgbm", leaves=4, tune=False).fit(x, y).to_arrays(columns=6, classes=classes)


def test_trees_without_a_split_are_their_leaf() -> None:
    """As LightGBM makes them where no column parts the rows."""
    model = make_head("lightgbm", rounds=2, tune=False).fit(np.ones((12, 1)), np.arange(12) % 3)
    arrays = model.to_arrays(columns=1, classes=3)
    assert (arrays.feature == -1).all()
    np.testing.assert_allclose(arrays.probabilities(np.ones(1)), [1 / 3] * 3)


def trees() -> TreeArrays:
    """A small head of trees."""
    x, y = data(3)
    arrays: TreeArrays = make_head("lightgbm", rounds=4, tune=False).fit(x, y).to_arrays(columns=6, classes=3)
    return arrays


def put(name: str, place: int, value: float) -> Callable[[TreeArrays], TreeArrays]:
    """Changes one value of an array."""

    def change(head: TreeArrays) -> TreeArrays:
        array = getattr(head, name).copy()
        array[place] = value
        return replace(head, **{name: array})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("feature", 0, 6), "column outside"),
        (put("feature", 0, -2), "column outside"),
        (put("left", 0, 0), "left child"),
        (put("left", 0, 10**6), "left child"),
        (put("right", 0, -1), "right child"),
        (put("threshold", 0, np.nan), "threshold holds NaN"),
        (put("value", -1, np.inf), "value holds NaN or infinity"),
        (put("roots", 1, -1), "root is outside"),
        (put("roots", -1, 10**6), "root is outside"),
        (put("classes", 0, 2), "rising indices"),
        (lambda head: replace(head, roots=head.roots[:-1]), "trees for 3 classes"),
        (lambda head: replace(head, feature=head.feature.astype(np.int32)), "feature is int32"),
        (lambda head: replace(head, value=head.value[:-1]), "value is"),
    ],
)
def test_trees_that_do_not_fit_together_are_refused(
    change: Callable[[TreeArrays], TreeArrays], message: str
) -> None:
    """A tree of another form, of a column that is not there, or with a value that is no number."""
    with pytest.raises(InputError, match=message):
        change(trees())


def test_linear_heads_that_do_not_fit_together_are_refused() -> None:
    """Shapes, ranges and finiteness are checked."""
    x, y = data(3)
    head: LinearArrays = make_head("softmax").fit(x, y).to_arrays(columns=6, classes=3)
    for change, message in (
        ({"scale": np.zeros(6)}, "not above 0"),
        ({"weights": head.weights[:, 1:]}, "weights is"),
        ({"mean": np.full(6, np.inf)}, "mean holds"),
        ({"link": "exp"}, "link"),
        ({"count": 2}, "rising indices"),
    ):
        with pytest.raises(InputError, match=message):
            replace(head, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a multiple"):
        MeanArrays(7, 3)
    with pytest.raises(InputError, match="no head of kind"):
        head_from_arrays("pickle", {}, {})
