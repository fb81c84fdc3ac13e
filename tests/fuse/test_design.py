"""Design matrices: rows, columns, hidden labels, inner folds, and imputed features."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from moodfuse.cache.errors import LeakError
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.design import HIDDEN, DesignInputs, assemble
from moodfuse.fuse.heads.inner_folds import split_inner_folds
from moodfuse.fuse.inference import LEVELS
from moodfuse.fuse.leak_guard import make_clip_rows

FOLDS = range(4)


def test_rows_columns_and_labels(cache: FeatureCache) -> None:
    """Rows are the plan's clips in order, columns the sources in order, and test labels are hidden."""
    rows = make_clip_rows(cache.plan, cache.clips)
    assert rows.digests == tuple(status.digest for status in cache.clips)
    folds = np.array([cache.plan.assignment[digest] for digest in rows.digests])
    labels = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
    for fold, level in product(FOLDS, LEVELS):
        block = cache.block("c3d", {fold})
        design = assemble(DesignInputs(rows, [block, replace(block, source="other")], level, fold))
        values = getattr(block, level)
        assert np.array_equal(design.x, np.concatenate([values, values], axis=1))
        assert np.array_equal(design.test, folds == fold) and design.classes == cache.classes
        assert np.array_equal(design.y, np.where(folds == fold, HIDDEN, labels))
        assert np.array_equal(design.x_train, design.x[folds != fold])


@pytest.mark.parametrize("fold", FOLDS)
def test_inner_folds_of_tuned_embeddings_come_from_pair_networks(
    crossfitted: FeatureCache, fold: int
) -> None:
    """Inner fold j is the embedding of network {j,k}, fitted on folds it saw; a wrong pair is a leak."""
    cache, rows = crossfitted, make_clip_rows(crossfitted.plan, crossfitted.clips)
    pairs = {other: [cache.block("c3d", {fold, other})] for other in FOLDS if other != fold}
    inputs = DesignInputs(rows, [cache.block("c3d", {fold})], "embedding", fold, pairs)
    design = assemble(inputs)
    assert not design.out_of_sample and len(design.inner) == 3
    present = np.array([not status.missing for status in cache.clips])
    for other, inner in zip(sorted(pairs), design.inner, strict=True):
        np.testing.assert_array_equal(inner.held_out, rows.folds == other)
        np.testing.assert_array_equal(inner.fit, (rows.folds != other) & (rows.folds != fold))
        np.testing.assert_array_equal(inner.x[present], pairs[other][0].embedding[present])
    other, wrong = sorted(pairs)[:2]
    with pytest.raises(LeakError, match=rf"cannot be used to test fold {other}"):
        assemble(replace(inputs, pairs={other: pairs[wrong]}))
    assert not assemble(replace(inputs, pairs={})).inner


def test_absent_rows_are_the_mean_of_training_rows(crossfitted: FeatureCache) -> None:
    """A clip without the modality of a source gets the mean over the training rows with it."""
    block, rows = crossfitted.block("i3d", "*"), make_clip_rows(crossfitted.plan, crossfitted.clips)
    absent = np.array([bool(status.missing) for status in crossfitted.clips])
    assert absent.sum() == 2 == len(block.absent) and not block.embedding[absent].any()
    for fold in FOLDS:
        design = assemble(DesignInputs(rows, [block], "embedding", fold))
        for matrix, fit in [(design.x, ~design.test), *((inner.x, inner.fit) for inner in design.inner)]:
            mean = block.embedding[fit & ~absent].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(matrix[absent], np.stack([mean, mean]))


def test_inner_folds_keep_groups_together() -> None:
    """No group is in two inner folds, and every inner training side holds every class."""
    y = np.arange(36) % 3
    for groups in (np.arange(36) // 4, np.arange(36) // 6 * 3 + y):
        folds = split_inner_folds(y, groups, seed=0)
        assert folds is not None and set(folds) == {0, 1, 2}
        assert all(len(set(folds[groups == group])) == 1 for group in groups)
        assert all(set(y[folds != fold]) == {0, 1, 2} for fold in folds)
        assert not np.array_equal(split_inner_folds(y, groups, seed=1), folds)
    assert split_inner_folds(y, np.zeros(len(y)), seed=0) is None
