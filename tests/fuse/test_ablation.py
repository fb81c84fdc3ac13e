"""The ablation finds signal, finds none in permuted labels, and repeats no fit that is cached."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import InputError, MissingBlockError
from moodfuse.cache.fits import CachedFit
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.runs import FEW_GROUPS, UNCALIBRATED, Run, read_run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import accuracies, run_ablation
from moodfuse.fuse.design import DesignMatrix
from moodfuse.fuse.fitting import predict_fold
from moodfuse.fuse.heads import HEADS, HeadSettings
from moodfuse.fuse.inference import softmax
from moodfuse.fuse.settings import AblationSettings, list_planned_results

ROOT = Path(__file__).resolve().parents[2]
Builder = Callable[..., FeatureCache]
CHEAP = AblationSettings(heads=("softmax", "mean"), combine=("c3d+i3d",), repeats=1, jobs=1)


@pytest.fixture(scope="module")
def run(cache: FeatureCache) -> Run:
    """A run of all heads at both levels in one process."""
    return run_ablation(cache, AblationSettings(jobs=1, keep=False))


def test_results_in_order_with_notes(cache: FeatureCache, run: Run) -> None:
    """Networks come first; `mean` is at logits of two sources; fits in sample are marked; all was planned."""
    planned = list_planned_results(cache, AblationSettings())
    assert [result.name for result in run.results] == [result.name for result in planned]
    assert [(result.sources, result.head, result.level) for result in run.results] == [
        (("c3d",), "network", "logits"),
        (("i3d",), "network", "logits"),
        *(
            (sources, head, level)
            for sources in (("c3d",), ("i3d",), ("c3d", "i3d"))
            for head in HEADS
            for level in HEADS[head].levels
            if head != "mean" or len(sources) > 1
        ),
    ]
    assert {result.sources for result in run.results if not result.notes} == {("i3d",)}
    marked = [result for result in run.results if result.notes]
    assert all(result.notes == (UNCALIBRATED,) and set(result.temperatures) == {1.0} for result in marked)
    assert run.protocol == "no-crossfit" and run.classes == ("excited", "fear", "sad")
    assert run.folds == tuple(cache.plan.assignment[status.digest] for status in cache.clips)
    assert run.recipes == tuple((name, cache.recipe(name).digest16) for name in ("c3d", "i3d"))
    assert run.modalities == (("c3d", "picture"), ("i3d", "picture"))
    assert run.notes[0].startswith("no-crossfit (no networks") and run.notes[1:] == (
        "logits of i3d: logistic regression on the embedding, cross-fitted",
    )


def test_class_weights_are_recorded_and_are_other_fits(build: Builder) -> None:
    """Cached fits without class weights are not used for balanced ones."""
    cache = build(groups_per_class=5, tuned={}, frozen={"c3d": 10, "i3d": 12})
    cache.__dict__["clips"] = cache.clips[:-2]  # classes of unequal size
    settings = replace(CHEAP, levels=("embedding",), heads=("softmax",))
    plain, balanced = (
        run_ablation(cache, replace(settings, class_weight=weight)) for weight in (None, "balanced")
    )
    assert (plain.class_weight, balanced.class_weight) == ("none", "balanced")
    assert "balanced class weights" in balanced.notes[0] and "balanced" not in "".join(plain.notes)
    fused = [run.results[-1].probabilities for run in (plain, balanced)]
    assert not np.allclose(*fused)


def test_a_head_with_settings_is_a_result_of_its_own(cache: FeatureCache) -> None:
    """Under its full name, with the setting in every fold."""
    heads = ("softmax", "softmax:C=2")
    settings = replace(CHEAP, levels=("embedding",), combine=("i3d",), heads=heads)
    run = run_ablation(cache, settings)
    assert [result.name for result in run.results[1:]] == [
        "i3d softmax embedding",
        "i3d softmax:C=2 embedding",
    ]
    assert not np.allclose(run.results[1].probabilities, run.results[2].probabilities)


def test_informative_features_give_high_accuracy(cache: FeatureCache, run: Run) -> None:
    """Every head finds well separated classes out of fold; trees over rows in sample less well.

    A network's rows of fold k are the softmax of the logits of network {k}.
    """
    for result, accuracy in zip(run.results, accuracies(run), strict=True):
        assert accuracy > (0.4 if result.head == "lightgbm" else 0.7), result.name
    for fold in range(4):
        rows, logits = np.array(run.folds) == fold, cache.block("c3d", {fold}).logits
        assert logits is not None
        expected = softmax(logits[rows].astype(float))
        np.testing.assert_allclose(run.results[0].probabilities[rows], expected, atol=1e-9)


def test_workers_change_no_bit(cache: FeatureCache, run: Run) -> None:
    """Two worker processes give the bits of one."""
    expected = {result.name: result.probabilities for result in run.results}
    for result in run_ablation(cache, replace(CHEAP, jobs=2, keep=False)).results:
        assert np.array_equal(result.probabilities, expected[result.name]), result.name


def test_permuted_labels_give_chance_and_a_leak_is_marked(build: Builder) -> None:
    """Accuracy on permuted labels is near chance; networks that saw all, and folds of clips, score far above.

    The leaky run and all its results are marked.
    """
    correct = []
    for seed in range(3):
        cache = build(seed=seed, permute=True, pairs=not seed, clips_per_group=2, groups_per_class=9, folds=3)
        correct += accuracies(run_ablation(cache, CHEAP))
        if seed == 0:
            leaky = run_ablation(cache, replace(CHEAP, protocol="leaky"))
            named = run_ablation(cache, replace(CHEAP, run="mine", protocol="leaky"))
    assert abs(np.mean(correct) - 1 / 3) < 0.1, correct
    assert leaky.protocol == "leaky" and leaky.name == "leaky-1" and named.name == "leaky-mine"
    assert all("LEAKY" in result.notes for result in leaky.results)
    assert np.mean(accuracies(leaky)) > np.mean(correct) + 0.3
    assert len(set(zip(leaky.groups, leaky.folds, strict=True))) > len(set(leaky.groups))


def test_pair_networks_calibrate_every_result(crossfitted: FeatureCache) -> None:
    """With pair networks the protocol is crossfit, and every result chose settings and temperature.

    A network's test rows are the softmax of the mean over j of the logits of networks {j,k}.
    """
    settings = replace(CHEAP, heads=("softmax", "lightgbm", "mean"), keep=False)
    crossfit = run_ablation(crossfitted, settings)
    assert crossfit.protocol == "crossfit" and crossfit.missing.count(("picture",)) == 2
    for result in crossfit.results:
        assert not result.notes and len(set(result.temperatures)) > 1 and result.unscaled is not None
        assert np.array_equal(result.unscaled.argmax(axis=1), result.probabilities.argmax(axis=1))
        names = {"softmax": ["C"], "lightgbm": ["num_leaves"]}.get(result.head, [])
        assert all(set(names) <= set(chosen) for chosen in result.settings)
        assert len(result.settings) == (4 if names else 0)
    assert np.mean(accuracies(crossfit)) > 0.7
    assert any("2 clips have no audio or no video" in note for note in crossfit.notes)
    present = np.array([not status.missing for status in crossfitted.clips])
    for fold in range(4):
        rows = (np.array(crossfit.folds) == fold) & present
        logits = [crossfitted.block("c3d", {fold, other}).logits for other in range(4) if other != fold]
        expected = softmax(np.mean(logits, axis=0, dtype=np.float64)[rows])
        np.testing.assert_allclose(crossfit.results[0].unscaled[rows], expected, atol=1e-6)


def test_a_protocol_without_its_networks_names_the_command(cache: FeatureCache) -> None:
    """The error names the option of `extract` that makes them."""
    with pytest.raises(MissingBlockError, match=r"c3d \{0,1\}: no network .* --source c3d --crossfit"):
        run_ablation(cache, replace(CHEAP, protocol="crossfit"))
    with pytest.raises(MissingBlockError, match=r"c3d \{\}: no network .* --source c3d --leaky"):
        run_ablation(cache, replace(CHEAP, protocol="leaky"))


def test_frozen_sources_are_repeated(build: Builder) -> None:
    """Under five fold plans by default; the first is the run's own."""
    cache = build(groups_per_class=4, tuned={}, frozen={"i3d": 6})
    settings = AblationSettings(heads=("softmax",), levels=("embedding",), jobs=1)
    repeated = run_ablation(cache, settings)
    assert repeated.results[1].repeats is not None and repeated.results[1].repeats.shape == (4, 12, 3)
    assert len({repeated.folds, *repeated.repeat_folds}) == 5
    write_run(cache, repeated)
    with pytest.raises(InputError, match=f"run '{repeated.name}' exists"):
        run_ablation(cache, replace(settings, run=repeated.name))


def test_few_groups_keep_defaults(build: Builder) -> None:
    """Two folds with two groups per class: nothing is chosen, nothing cross-fitted, and both are noted."""
    cache = build(groups_per_class=2, folds=2, tuned={}, frozen={"c3d": 6, "i3d": 6})
    few = run_ablation(cache, CHEAP)
    assert {result.notes for result in few.results} == {(FEW_GROUPS,)}
    assert "in sample" in few.notes[0]


def test_import_is_light() -> None:
    """Importing loads neither torch nor the libraries of fits, and a model at work loads no ablation."""
    heavy = {"torch", "sklearn", "lightgbm", "joblib", "scipy"}
    ablation = {f"moodfuse.fuse.{name}" for name in ("ablation", "design", "leak_guard", "fitting")}
    for module, others in (("fuse_command", heavy), ("fuse.inference", heavy | ablation)):
        code = f"import sys, moodfuse.fuse, moodfuse.{module}; print(*({others} & set(sys.modules)))"
        assert run_python(code) == "", module


def run_python(*arguments: str) -> str:
    """Output of Python code in a process of its own."""
    call = [sys.executable, "-c", *arguments]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Cached fits


@pytest.fixture(scope="module")
def first(build: Builder) -> tuple[Path, Run]:
    """A cache of two frozen sources with all fits of `CHEAP`, and the run that made them."""
    cache = build(tuned={}, frozen={"c3d": 6, "i3d": 8})
    return cache.path, run_ablation(cache, CHEAP)


@pytest.fixture
def cached(first: tuple[Path, Run], tmp_path: Path) -> FeatureCache:
    """A copy of that cache."""
    return FeatureCache(shutil.copytree(first[0], tmp_path / "cache"))


def assert_refits(cache: FeatureCache, **settings: Any) -> None:
    """Check that a run reads features, which fits begin with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("moodfuse.fuse.ablation.read_blocks")
        with pytest.raises(NameError, match="read_blocks"):
            run_ablation(cache, replace(CHEAP, **settings))


def assert_equal(one: Run, other: Run) -> None:
    """Check that two runs have the same bits and notes."""
    assert one.notes == other.notes
    for first, second in zip(one.results, other.results, strict=True):
        assert (first.name, first.notes) == (second.name, second.notes)
        assert first.temperatures == second.temperatures
        assert np.array_equal(first.probabilities, second.probabilities)


def test_a_repeated_run_fits_nothing(
    first: tuple[Path, Run], cached: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It equals the first one bit for bit, unless cached fits are not to be used."""
    assert_refits(cached, keep=False)
    monkeypatch.delattr("moodfuse.fuse.ablation.read_blocks")
    assert_equal(run_ablation(cached, CHEAP), first[1])


def fitted_heads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The heads that are fitted from now on."""
    fitted: list[str] = []
    monkeypatch.setattr(
        "moodfuse.fuse.fitting.predict_fold",
        lambda design, head, settings: fitted.append(head) or predict_fold(design, head, settings),
    )
    return fitted


def test_a_further_head_fits_only_its_own(cached: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached rows and logits are not fitted again."""
    fitted = fitted_heads(monkeypatch)
    monkeypatch.setattr(
        "moodfuse.fuse.cross_fitting.fit_to_keep", lambda *_: pytest.fail("logits were fitted")
    )
    run_ablation(cached, replace(CHEAP, heads=("softmax", "logistic", "mean")))
    assert set(fitted) == {"logistic"} and len(fitted) == 8


def relabelled(cache: FeatureCache) -> None:
    """Two clips swap their labels."""
    one, other, *rest = cache.statuses
    assert one.clip.label != other.clip.label
    labels = other.clip.label, one.clip.label
    swapped = [
        replace(status, clip=replace(status.clip, label=label))
        for status, label in zip((one, other), labels, strict=True)
    ]
    write_clips(cache, [*swapped, *rest])


def write_clips(cache: FeatureCache, statuses: Sequence[ClipStatus]) -> None:
    """Write the plan with another table of clips."""
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)


def replanned(cache: FeatureCache) -> None:
    """The folds have other numbers."""
    folds = {digest: (fold + 1) % 4 for digest, fold in cache.plan.assignment.items()}
    cache.write_plan(replace(cache.plan, assignment=folds), cache.statuses)


def remade(cache: FeatureCache) -> None:
    """A source has another recipe."""
    recipe = replace(cache.recipe("i3d"), seed=5)
    block = cache.block("i3d", "*")
    cache.write_recipe(recipe)
    cache.write_block_part(recipe, None, list(block.digests), {"embedding": block.embedding + 1})
    cache.select([recipe])


def regrouped(cache: FeatureCache) -> None:
    """A clip is in another group."""
    write_clips(cache, [replace(cache.statuses[0], group="other"), *cache.statuses[1:]])


@pytest.mark.parametrize("change", [relabelled, replanned, remade, regrouped])
def test_a_change_of_the_data_is_fitted_again(
    cached: FeatureCache, change: Callable[[FeatureCache], None]
) -> None:
    """No cached fit is used after a change of a label, fold, recipe or group."""
    change(cached)
    assert_refits(FeatureCache(cached.path))


def test_a_change_of_the_code_is_fitted_again(cached: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cached fit is used after a change of the rules, of a library, or of the head."""
    with monkeypatch.context() as patch:
        patch.setattr("moodfuse.fuse.ablation.RULES", 99)
        assert_refits(cached)
    with monkeypatch.context() as patch:
        patch.setattr("moodfuse.fuse.ablation.read_library_versions", lambda: (("numpy", "0"),))
        assert_refits(cached)
    monkeypatch.setitem(HEADS, "softmax", replace(HEADS["softmax"], version=99))
    assert_refits(cached)


def test_a_damaged_part_is_fitted_again(first: tuple[Path, Run], cached: FeatureCache) -> None:
    """It is quarantined, and the run is the same."""
    for file in (cached.path / "fits").rglob("*.h5"):
        file.write_bytes(file.read_bytes()[:-1])
    assert_equal(run_ablation(cached, CHEAP), first[1])
    assert list((cached.path / "fits").rglob("*.bad")) and list((cached.path / "fits").rglob("*.h5"))


def test_a_repeated_command_imports_no_library_of_fits(cached: FeatureCache) -> None:
    """Neither scikit-learn nor LightGBM nor joblib."""
    code = (
        "import sys; from moodfuse.fuse_command import fuse_command;"
        "fuse_command(sys.argv[1:], standalone_mode=False);"
        "print(*sorted({'sklearn', 'lightgbm', 'scipy', 'joblib', 'torch'} & set(sys.modules)))"
    )
    options = ["--combine", "c3d+i3d", "--head", "softmax", "--head", "mean", "--repeats", "1", "--jobs", "1"]
    output = run_python(code, "--cache", str(cached.path), *options)
    assert output.splitlines()[-1].startswith("next: moodfuse evaluate")


def test_an_interrupted_run_keeps_what_was_finished(
    first: tuple[Path, Run], cached: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fits before Ctrl-C are cached, and the next run continues from them."""
    shutil.rmtree(cached.path / "fits")
    fitted: list[str] = []

    def fit(design: DesignMatrix, head: str, settings: HeadSettings) -> CachedFit:
        if len(fitted) == 5:
            raise KeyboardInterrupt
        fitted.append(head)
        return predict_fold(design, head, settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("moodfuse.fuse.fitting.predict_fold", fit)
        run_ablation(cached, CHEAP)
    further = fitted_heads(monkeypatch)
    assert_equal(run_ablation(FeatureCache(cached.path), CHEAP), first[1])
    assert len(further) == 4 * 5 - 5


def test_series_of_file_names_are_also_held_out_whole(build: Builder) -> None:
    """Clips of a series share a fold of the extra plan, whose probabilities are stored and cached."""
    cache = build(groups_per_class=8, tuned={}, frozen={"i3d": 12})
    series = [status.clip.id for status in cache.clips if status.clip.label == "sad"][:3]
    cache.__dict__["clips"] = tuple(
        replace(status, clip=replace(status.clip, id=f"film ({series.index(status.clip.id)}).mp4"))
        if status.clip.id in series
        else status
        for status in cache.clips
    )
    settings = replace(CHEAP, levels=("embedding",), heads=("softmax",), combine=("i3d",), keep=True)
    run = run_ablation(cache, settings)
    in_series = [row for row, clip_id in enumerate(run.ids) if clip_id.startswith("film")]
    assert len({run.series_folds[row] for row in in_series}) == 1 < len({run.folds[row] for row in in_series})
    for result in run.results:
        assert result.series is not None and not np.allclose(result.series, result.probabilities)
    write_run(cache, run)
    assert read_run(cache).results[1].series.tolist() == run.results[1].series.tolist()  # type: ignore[union-attr]
    again = run_ablation(cache, settings)
    assert np.array_equal(again.results[1].series, run.results[1].series)  # type: ignore[arg-type]


def test_a_tuned_source_has_no_plan_of_series(build: Builder, run: Run) -> None:
    """Its networks belong to the plan that they were tuned for; without a series there is no plan either."""
    assert run.series_folds == () and all(result.series is None for result in run.results)
    frozen = build(groups_per_class=5, tuned={}, frozen={"i3d": 12})
    settings = replace(CHEAP, levels=("embedding",), heads=("softmax",), combine=("i3d",))
    assert run_ablation(frozen, settings).series_folds == ()
