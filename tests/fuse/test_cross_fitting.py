"""Fitted logits and imported features: by holdout, cross-fitted, and never leaky."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import LeakError, MissingBlockError
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.records import Block, Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.importing import ImportSettings, import_features
from moodfuse.fuse.ablation import run_ablation
from moodfuse.fuse.cross_fitting import (
    fit_logits,
    fit_to_keep,
    list_logits_to_fit,
    make_fitted_block,
    select_logits,
)
from moodfuse.fuse.design import DesignInputs, assemble
from moodfuse.fuse.heads import HeadSettings
from moodfuse.fuse.leak_guard import ClipRows, CrossFitted, make_clip_rows
from moodfuse.fuse.run_inputs import choose_plans, choose_protocol, read_inputs
from moodfuse.fuse.settings import AblationSettings

CLASSES = ("fear", "joy")
IDS = tuple(f"{number:02d}" for number in range(24))
LABELS = tuple(CLASSES[number % 2] for number in range(24))
FOLDS = 3
FOLD_OF = tuple(number // 2 % FOLDS for number in range(24))
QUICK = AblationSettings(heads=("softmax", "mean"), jobs=1)


def fitted_block(block: Block, holdout: Holdout, rows: ClipRows) -> Block:
    """A block with the logits of one fit, as it is cached and read again."""
    return make_fitted_block(block, holdout, fit_to_keep(block, holdout, rows, HeadSettings()), rows)


def test_fitted_logits_are_cross_fitted(cache: FeatureCache) -> None:
    """A training row's logits are from a fit that left out its fold too, a test row's from all of those."""
    block, rows = cache.block("i3d", "*"), make_clip_rows(cache.plan, cache.clips)
    to_fit = list_logits_to_fit({("i3d", block.holdout): block}, 4, cross_fit=True)
    assert [holdout for _, holdout in to_fit] == list(pair_holdouts(4))
    fits = {holdout: fitted_block(block, holdout, rows) for _, holdout in to_fit}
    for fold in range(4):
        features = select_logits(fits, rows, test_fold=fold)
        assert isinstance(features, CrossFitted)
        design = assemble(DesignInputs(rows, [features], "logits", fold))
        assert design.out_of_sample and len(design.inner) == 3
        mean = np.mean(
            [fits[Holdout.of({fold, other})].logits for other in range(4) if other != fold], axis=0
        )
        np.testing.assert_allclose(design.x[design.test], mean[design.test], atol=1e-6)
        for row, digest in enumerate(rows.digests):
            assert all(
                digest not in features.blocks[network].training_clips for network in features.rows[row]
            )
            assert len(features.rows[row]) == (3 if design.test[row] else 1)
    single = fitted_block(block, Holdout.of(0), rows)
    assert single.training_clips == {digest for digest, fold in cache.plan.assignment.items() if fold != 0}
    assert not assemble(DesignInputs(rows, [single], "logits", 0)).out_of_sample
    assert select_logits({Holdout.of(0): single}, rows, test_fold=0) is single


def test_an_embedding_that_saw_the_holdout_cannot_be_fitted(cache: FeatureCache) -> None:
    """Logits of a holdout are not fitted on a network that saw one of its folds."""
    rows = make_clip_rows(cache.plan, cache.clips)
    with pytest.raises(LeakError, match=r"c3d: the block of holdout \{0\} cannot be used to test fold 1"):
        fit_logits(cache.block("c3d", {0}), Holdout.of({0, 1}), rows, HeadSettings())
    block = fitted_block(cache.block("i3d", "*"), Holdout.of("{}"), rows)
    with pytest.raises(LeakError, match=r"holdout \{\} cannot be used to test fold 1"):
        assemble(DesignInputs(rows, [block], "logits", 1))


def write_import(folder: Path, holdout: Holdout, *, logits: bool) -> None:
    """Import features of a network that memorised the clips outside its holdout."""
    rng = np.random.default_rng(sum(1 << fold for fold in holdout.folds or ()))
    y_true = np.array([CLASSES.index(label) for label in LABELS])
    seen = np.array([not holdout.covers(fold) for fold in FOLD_OF])
    embedding = rng.normal(size=(24, 4)) + 2.0 * np.eye(2, 4)[y_true] * (1 + 2 * seen[:, None])
    arrays = {"embedding": embedding} | ({"logits": embedding[:, :2]} if logits else {})
    features, labels = folder / "features.npz", folder / "labels.csv"
    np.savez(features, id=np.array(IDS), **arrays)
    rows = zip(IDS, LABELS, FOLD_OF, strict=True)
    labels.write_text("id,label,fold\n" + "".join(f"{name},{label},{fold}\n" for name, label, fold in rows))
    import_features(ImportSettings(folder / "work", features, "mine", holdout, labels=labels))


@pytest.fixture(params=[True, False], ids=["logits", "embedding alone"])
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., FeatureCache]:
    """Caches of imports under given holdouts."""

    def make(*holdouts: Holdout) -> FeatureCache:
        for holdout in holdouts:
            write_import(tmp_path, holdout, logits=request.param)
        return FeatureCache(tmp_path / "work")

    return make


def test_imported_singles_and_pairs_are_cross_fitted(imported: Callable[..., FeatureCache]) -> None:
    """With ``{k}`` and every pair the protocol is crossfit, and no result is in sample or uncalibrated."""
    cache = imported(*single_holdouts(FOLDS), *pair_holdouts(FOLDS))
    assert choose_protocol(cache, ("mine",), None) == "crossfit"
    assert choose_plans(read_inputs(cache, ("mine",)), None)[0] == (cache.plan,)
    run = run_ablation(cache, QUICK)
    assert run.protocol == "crossfit" and not any("uncalibrated" in result.notes for result in run.results)
    assert not any("no-crossfit" in note or "in sample" in note for note in run.notes)


def test_imported_singles_alone_are_in_sample(imported: Callable[..., FeatureCache]) -> None:
    """Without pairs training rows are in sample, and the run's notes name it."""
    cache = imported(*single_holdouts(FOLDS))
    run = run_ablation(cache, QUICK)
    assert run.protocol == "no-crossfit" and "no networks of pair holdouts" in run.notes[0]
    assert all("uncalibrated" in result.notes for result in run.results if result.head == "softmax")
    assert all(note.endswith("because its embedding is") for note in run.notes[1:])
    with pytest.raises(MissingBlockError, match=r"cache import --cache .* --source mine --holdout '\{0,1\}'"):
        run_ablation(cache, AblationSettings(protocol="crossfit", jobs=1))


def test_an_import_that_saw_a_fold_is_not_tested_on_it(imported: Callable[..., FeatureCache]) -> None:
    """Features of holdout ``{0}`` cannot be used for fold 1, and neither can those that saw all."""
    cache = imported(Holdout.of(0), Holdout.of("{}"))
    rows = make_clip_rows(cache.plan, cache.clips)
    for holdout in ("{0}", "{}"):
        block = cache.block("mine", holdout)
        assert len(block.training_clips) == (16 if holdout == "{0}" else 24)
        with pytest.raises(LeakError, match="cannot be used to test fold 1"):
            assemble(DesignInputs(rows, [block], "embedding", 1))
    with pytest.raises(MissingBlockError, match=r"--holdout '\{1\}'"):
        run_ablation(cache, QUICK)
    leaky = run_ablation(cache, AblationSettings(heads=("mean",), protocol="leaky", jobs=1))
    assert all("LEAKY" in result.notes for result in leaky.results)
