"""Heads as arrays: the probabilities of the fitted heads, and a refusal for arrays that are no head."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.fuse.heads.arrays import head_arrays
from moodfuse.fuse.heads.exported import LinearArrays, MeanArrays, TreeArrays, head_from_arrays
from moodfuse.fuse.heads.registry import make_head


def data(classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(24 * classes) % classes
    return rng.normal(size=(len(y), 7)) + y[:, None] * 0.7, y


@pytest.mark.parametrize("name", ["softmax", "logistic", "lightgbm", "mean"])
@pytest.mark.parametrize("classes", [2, 3])
def test_arrays_say_what_the_head_says(name: str, classes: int) -> None:
    """Probabilities of unseen rows agree to 1e-12, also where a class of the axis had no training row."""
    x, y = data(classes)
    settings = {"classes": tuple(range(classes))} if name == "mean" else {}
    x = x[:, :6]
    model = make_head(name, **settings).fit(x, y)
    arrays = head_arrays(name, model, columns=6, classes=classes if name == "mean" else classes + 1)
    fresh = data(classes, seed=1)[0][:, :6]
    expected = model.predict_proba(fresh)
    found = np.stack([arrays.probabilities(row) for row in fresh])
    assert np.allclose(found[:, :classes], expected, rtol=0, atol=1e-12)
    assert (found[:, classes:] == 0).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_sum_to_the_very_bits_of_lightgbm(classes: int) -> None:
    """Raw scores equal LightGBM's own, bit for bit, at thresholds too."""
    x, y = data(classes)
    model = make_head("lightgbm", rounds=25, tune=False).fit(x, y)
    arrays = head_arrays("lightgbm", model, columns=7, classes=classes)
    assert isinstance(arrays, TreeArrays)
    edges = np.tile(x[:1], (len(arrays.threshold), 1))
    inner = arrays.feature >= 0
    edges[np.flatnonzero(inner), arrays.feature[inner]] = arrays.threshold[inner]
    rows = np.concatenate([data(classes, seed=2)[0], edges])
    own = model.model_.booster_.predict(rows, raw_score=True, num_iteration=25).reshape(len(rows), -1)
    assert np.array_equal(np.stack([arrays.raw_scores(row) for row in rows]), own)


def test_arrays_come_back_from_what_is_stored() -> None:
    """Kind, facts and arrays make an equal head."""
    x, y = data(3)
    for name in ("logistic", "lightgbm"):
        head = head_arrays(name, make_head(name).fit(x, y), columns=7, classes=3)
        again = head_from_arrays(head.kind, head.facts(), head.arrays())
        assert np.array_equal(again.probabilities(x[3]), head.probabilities(x[3]))


def trees() -> TreeArrays:
    x, y = data(3)
    head = head_arrays(
        "lightgbm", make_head("lightgbm", rounds=4, tune=False).fit(x, y), columns=7, classes=3
    )
    assert isinstance(head, TreeArrays)
    return head


def put(name: str, place: int, value: float) -> Callable[[TreeArrays], TreeArrays]:
    def harm(head: TreeArrays) -> TreeArrays:
        array = getattr(head, name).copy()
        array[place] = value
        return replace(head, **{name: array})

    return harm


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (put("feature", 0, 7), "column outside"),
        (put("feature", 0, -2), "column outside"),
        (put("left", 0, 0), "left child"),
        (put("left", 0, 10**6), "left child"),
        (put("right", 0, -1), "right child"),
        (put("threshold", 0, np.nan), "threshold holds NaN"),
        (put("value", -1, np.inf), "value holds NaN or infinity"),
        (put("roots", 1, 0), "roots"),
        (put("roots", -1, 10**6), "roots"),
        (put("classes", 0, 2), "rising places"),
        (lambda head: replace(head, roots=head.roots[:-1]), "trees for 3 classes"),
        (lambda head: replace(head, feature=head.feature.astype(np.int32)), "feature is int32"),
        (lambda head: replace(head, value=head.value[:-1]), "value is"),
    ],
)
def test_trees_that_are_none_are_refused(harm: Callable[[TreeArrays], TreeArrays], said: str) -> None:
    """A tree that would not end, reads no column, or adds no number is refused when it is made."""
    with pytest.raises(InputError, match=said):
        harm(trees())


def test_linear_heads_that_are_none_are_refused() -> None:
    """Shapes, ranges and finiteness are held."""
    x, y = data(3)
    head = head_arrays("softmax", make_head("softmax").fit(x, y), columns=7, classes=3)
    assert isinstance(head, LinearArrays)
    for change, said in (
        ({"scale": np.zeros(7)}, "not above 0"),
        ({"weights": head.weights[:, 1:]}, "weights is"),
        ({"mean": np.full(7, np.inf)}, "mean holds"),
        ({"link": "exp"}, "link"),
        ({"count": 2}, "rising places"),
    ):
        with pytest.raises(InputError, match=said):
            replace(head, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no whole number"):
        MeanArrays(7, 3)
    with pytest.raises(InputError, match="no head of kind"):
        head_from_arrays("pickle", {}, {})
