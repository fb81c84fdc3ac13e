"""Imported features that saw labels fuse like networks of one's own: by holdout, cross-fitted, and never leaky."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import LeakError, MissingBlockError
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.importing import ImportSettings, import_features
from moodfuse.fuse.ablation import AblationSettings, run_ablation
from moodfuse.fuse.design import Ingredients, assemble
from moodfuse.fuse.notes import run_notes
from moodfuse.fuse.protocols import choose_protocol, has_networks
from moodfuse.fuse.repeats import FoldPlans, fold_plans

FOLDS = 3
CLASSES = ("fear", "joy")
IDS = tuple(f"{number:02d}" for number in range(24))
LABELS = tuple(CLASSES[number % 2] for number in range(24))
FOLD_OF = tuple(number // 2 % FOLDS for number in range(24))


def bring(folder: Path, holdout: Holdout, *, logits: bool) -> None:
    """Import features of a network that memorised the clips outside its holdout."""
    rng = np.random.default_rng(sum(1 << fold for fold in holdout.folds or ()))
    truth = np.array([CLASSES.index(label) for label in LABELS])
    seen = np.array([not holdout.covers(fold) for fold in FOLD_OF])
    embedding = rng.normal(size=(24, 4)) + 2.0 * np.eye(2, 4)[truth] * (1 + 2 * seen[:, None])
    arrays = {"embedding": embedding} | ({"logits": embedding[:, :2]} if logits else {})
    np.savez(folder / "features.npz", id=np.array(IDS), **arrays)
    rows = zip(IDS, LABELS, FOLD_OF, strict=True)
    text = "".join(f"{name},{label},{fold}\n" for name, label, fold in rows)
    (folder / "labels.csv").write_text(f"id,label,fold\n{text}")
    settings = ImportSettings(
        folder / "work", folder / "features.npz", "mine", holdout, labels=folder / "labels.csv"
    )
    import_features(settings)


@pytest.fixture(params=[True, False], ids=["logits", "embedding alone"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., FeatureCache]:
    """Imports under some holdouts."""

    def made(*holdouts: Holdout) -> FeatureCache:
        for holdout in holdouts:
            bring(tmp_path, holdout, logits=request.param)
        return FeatureCache(tmp_path / "work")

    return made


QUICK = AblationSettings(heads=("softmax", "mean"), jobs=1)


def test_singles_and_pairs_are_cross_fitted(make: Callable[..., FeatureCache]) -> None:
    """With ``{k}`` and every pair the protocol is crossfit, and no result is in sample or uncalibrated."""
    cache = make(*single_holdouts(FOLDS), *pair_holdouts(FOLDS))
    assert has_networks(cache, "mine", cache.plan, pairs=True)
    assert choose_protocol(cache, ("mine",), None) == "crossfit"
    assert fold_plans(cache, ("mine",), "crossfit", None).plans == (cache.plan,)
    run = run_ablation(cache, QUICK)
    assert run.protocol == "crossfit" and not any("uncalibrated" in result.notes for result in run.results)
    assert not any("no-crossfit" in note or "in sample" in note for note in run.notes)
    assert [result.level for result in run.results if result.head == "softmax"] == ["logits", "embedding"]


def test_singles_alone_are_not(make: Callable[..., FeatureCache]) -> None:
    """Without pairs training rows are in sample, and the run says so."""
    cache = make(*single_holdouts(FOLDS))
    assert not has_networks(cache, "mine", cache.plan, pairs=True)
    run = run_ablation(cache, QUICK)
    assert run.protocol == "no-crossfit" and "no networks of pair holdouts" in run.notes[0]
    assert all("uncalibrated" in result.notes for result in run.results if result.head == "softmax")
    (derived,) = list(
        run_notes(cache, "no-crossfit", ("mine",), ("mine",), plans=FoldPlans((cache.plan,), 1))
    )[1:]
    assert derived.endswith("in sample, for its embedding is")
    with pytest.raises(MissingBlockError, match=r"cache import --cache .* --source mine --holdout '\{0,1\}'"):
        run_ablation(cache, AblationSettings(protocol="crossfit", jobs=1))


def test_an_import_that_saw_a_fold_is_not_tested_on_it(make: Callable[..., FeatureCache]) -> None:
    """Features of holdout ``{0}`` used for fold 1 are refused, and so are those that saw all."""
    cache = make(Holdout.of(0), Holdout.of("{}"))
    for holdout in ("{0}", "{}"):
        block = cache.block("mine", holdout)
        assert len(block.seen) == (16 if holdout == "{0}" else 24)
        with pytest.raises(LeakError, match="cannot be used to test fold 1"):
            assemble(cache.plan, cache.clips, Ingredients([block], "embedding"), test_fold=1)
    with pytest.raises(MissingBlockError, match=r"--holdout '\{1\}'"):
        run_ablation(cache, QUICK)
    leaky = run_ablation(cache, AblationSettings(heads=("mean",), protocol="leaky", jobs=1))
    assert all("LEAKY" in result.notes for result in leaky.results)
