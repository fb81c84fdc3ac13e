"""The ablation finds what is there, finds nothing where nothing is, and never lets a test row into a fit."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moodfuse.cache.errors import InputError, MissingBlockError, UnknownNameError
from moodfuse.cache.runs import FEW_GROUPS, UNCALIBRATED, Run, read_run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import run_ablation
from moodfuse.fuse.cli import fuse_command
from moodfuse.fuse.heads import HEADS
from moodfuse.fuse.heads.exported import softmax
from moodfuse.fuse.run_record import accuracies
from moodfuse.fuse.settings import AblationSettings, planned_results

ROOT = Path(__file__).resolve().parents[2]
Builder = Callable[..., FeatureCache]
CHEAP = ("softmax", "mean")


@pytest.fixture(scope="module")
def run(cache: FeatureCache) -> Run:
    """Run all heads at both levels in one process."""
    return run_ablation(cache, AblationSettings(jobs=1, keep=False))


def test_results_in_order_with_what_a_reader_must_know(cache: FeatureCache, run: Run) -> None:
    """Networks come first; `mean` is at logits of two sources; in-sample fits are marked; all was planned."""
    assert [item.name for item in planned_results(cache, AblationSettings())] == [
        item.name for item in run.results
    ]
    assert [result.name for result in run.results[:2]] == ["c3d network logits", "i3d network logits"]
    assert [(item.sources, item.head, item.level) for item in run.results[2:]] == [
        (sources, head, level)
        for sources in (("c3d",), ("i3d",), ("c3d", "i3d"))
        for head in HEADS
        for level in HEADS[head].levels
        if head != "mean" or len(sources) > 1
    ]
    assert {item.sources for item in run.results if not item.notes} == {("i3d",)}
    assert all(item.notes in ((), (UNCALIBRATED,)) for item in run.results)
    assert all(set(item.temperatures) == {1.0} for item in run.results if item.notes)
    assert run.protocol == "no-crossfit" and run.classes == ("excited", "fear", "sad")
    assert run.ids == tuple(status.clip.id for status in cache.clips)
    assert run.folds == tuple(cache.plan.assignment[status.digest] for status in cache.clips)
    assert run.recipes == tuple((name, cache.recipe(name).digest16) for name in ("c3d", "i3d"))
    assert run.notes[0].startswith("no-crossfit (no networks") and run.notes[1:] == (
        "logits of i3d: logistic regression on the embedding, cross-fitted",
    )


def test_informative_features_give_high_accuracy(cache: FeatureCache, run: Run) -> None:
    """Every head finds well separated classes out of fold; trees over rows in sample less well.

    A network's rows of fold k are the softmax of the logits of network {k}.
    """
    found = dict(zip((result.name for result in run.results), accuracies(run), strict=True))
    out_of_sample = {result.name for result in run.results if not result.notes}
    for name, accuracy in found.items():
        assert accuracy > (0.7 if "lightgbm" not in name else 0.5 if name in out_of_sample else 0.4), found
    assert found["c3d+i3d softmax logits"] > 0.85
    for fold in range(4):
        rows, logits = np.array(run.folds) == fold, cache.block("c3d", {fold}).logits
        assert logits is not None
        expected = softmax(logits[rows].astype(float))
        np.testing.assert_allclose(run.results[0].probabilities[rows], expected, atol=1e-9)


def test_workers_change_no_bit(cache: FeatureCache, run: Run) -> None:
    """Two worker processes give the bits of one."""
    other = run_ablation(cache, AblationSettings(jobs=2, keep=False))
    assert [item.name for item in other.results] == [item.name for item in run.results]
    for one, two in zip(run.results, other.results, strict=True):
        assert np.array_equal(one.probabilities, two.probabilities), one.name


def test_permuted_labels_give_chance(build: Builder) -> None:
    """Where labels are dealt to groups at random, accuracy stays near chance, whatever networks know."""
    found = []
    for seed in range(3):
        cache = build(seed=seed, permute=True, clips_per_group=2, groups_per_class=9, folds=3)
        found += accuracies(run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1)))
    assert abs(np.mean(found) - 1 / 3) < 0.1, found


def test_pair_networks_calibrate_every_result(crossfitted: FeatureCache) -> None:
    """With pair networks the protocol is crossfit, and every result chose settings and temperature.

    A network's test rows are the softmax of the mean over j of the logits of networks {j,k}, never of one
    alone.
    """
    found = run_ablation(crossfitted, AblationSettings(jobs=1, keep=False))
    assert found.protocol == "crossfit" and found.missing.count(("picture",)) == 2
    assert not [item.name for item in found.results if item.notes or len(set(item.temperatures)) == 1]
    for item in found.results:
        assert item.unscaled is not None
        assert np.array_equal(item.unscaled.argmax(axis=1), item.probabilities.argmax(axis=1))
    assert np.mean(accuracies(found)) > 0.7
    assert any("2 clips have no audio or no video" in note for note in found.notes)
    present = np.array([not status.missing for status in crossfitted.clips])
    for fold in range(4):
        rows = (np.array(found.folds) == fold) & present
        logits = [crossfitted.block("c3d", {fold, other}).logits for other in range(4) if other != fold]
        expected = softmax(np.mean(logits, axis=0, dtype=np.float64)[rows])
        np.testing.assert_allclose(found.results[0].unscaled[rows], expected, atol=1e-6)


def test_leaky_protocol_is_inflated_and_marked(build: Builder) -> None:
    """On labels without signal, networks that saw all and folds of clips score far above chance: LEAKY."""
    cache = build(permute=True, pairs=True, clips_per_group=2, groups_per_class=9, folds=3)
    correct = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1))
    leaky = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1, protocol="leaky"))
    assert leaky.protocol == "leaky" and leaky.name == "leaky-1" and correct.protocol == "crossfit"
    assert all("LEAKY" in item.notes for item in leaky.results)
    assert np.mean(accuracies(leaky)) > np.mean(accuracies(correct)) + 0.3
    named = run_ablation(cache, AblationSettings(run="mine", heads=("mean",), protocol="leaky", jobs=1))
    assert named.name == "leaky-mine"
    assert len(set(zip(leaky.groups, leaky.folds, strict=True))) > len(set(leaky.groups))


def test_protocols_without_their_networks_name_the_command(cache: FeatureCache) -> None:
    """Asked for by name, a protocol without its networks is refused with the command that makes them."""
    with pytest.raises(MissingBlockError, match=r"c3d \{0,1\}: no network .* --source c3d --crossfit"):
        run_ablation(cache, AblationSettings(protocol="crossfit", jobs=1))
    with pytest.raises(MissingBlockError, match=r"c3d \{\}: no network .* --source c3d --leaky"):
        run_ablation(cache, AblationSettings(protocol="leaky", jobs=1))
    with pytest.raises(
        UnknownNameError, match="unknown protocol 'nested'; known: crossfit, leaky, no-crossfit"
    ):
        AblationSettings(protocol="nested")


def test_frozen_sources_are_repeated(build: Builder, run: Run) -> None:
    """Under five fold plans by default; the first is the run's own."""
    settings = AblationSettings(heads=("softmax",), levels=("logits",), jobs=1)
    found = run_ablation(build(tuned={}, frozen={"i3d": 6}), settings)
    assert len(found.repeat_folds) == 4 and found.results[0].repeats is not None
    assert found.results[0].repeats.shape == (4, 24, 3) and len({found.folds, *found.repeat_folds}) == 5
    assert not run.repeat_folds


def test_few_groups_keep_defaults(build: Builder) -> None:
    """Two folds with two groups per class: nothing is chosen, nothing cross-fitted, and both are noted."""
    cache = build(groups_per_class=2, folds=2, tuned={}, frozen={"c3d": 6, "i3d": 6})
    found = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1))
    notes = {result.name: result.notes for result in found.results}
    assert notes["c3d network logits"] == notes["c3d+i3d mean logits"] == (FEW_GROUPS,)
    assert notes["c3d+i3d softmax embedding"] == notes["c3d+i3d softmax logits"] == (FEW_GROUPS,)
    assert "in sample" in found.notes[0]


def test_taken_name_is_refused_before_any_fit(
    build: Builder, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """A run's name is checked first."""
    cache = build()
    write_run(cache, replace(run, name="mine"))
    monkeypatch.setattr("moodfuse.fuse.ablation.read_inputs", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(InputError, match="run 'mine' exists"):
        run_ablation(cache, AblationSettings(run="mine"))


def test_command_writes_a_run_and_names_the_next(build: Builder) -> None:
    """The command prints a line per result and the next command, and the run can be read back."""
    cache = build()
    options = ["--head", "mean", "--combine", "c3d+i3d", "--jobs", "1", "--run", "mine"]
    call = ["--cache", str(cache.path), *options]
    result = CliRunner().invoke(fuse_command, call, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith(f"moodfuse evaluate --cache {cache.path} --run mine")
    assert [item.head for item in read_run(cache, "mine").results] == ["network", "network", "mean"]
    assert "c3d+i3d mean logits" in result.stdout


def test_import_is_light() -> None:
    """Importing loads neither torch nor what only a fit needs, and a model at work loads no ablation."""
    heavy = {"torch", "sklearn", "lightgbm", "joblib", "scipy"}
    ablation = {f"moodfuse.fuse.{name}" for name in ("ablation", "design", "leak_guard", "tuning", "workers")}
    for module, others in (("ablation", heavy), ("cli", heavy), ("inference", heavy | ablation)):
        code = f"import sys, moodfuse.fuse, moodfuse.fuse.{module}; print(*({others} & set(sys.modules)))"
        call = [sys.executable, "-c", code]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "", module
