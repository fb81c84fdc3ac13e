"""Finished fits are found again as long as nothing changed that they depend on, and never after."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.runs import Run
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import run_ablation
from moodfuse.fuse.heads import HEADS
from moodfuse.fuse.settings import AblationSettings
from moodfuse.fuse.tuning import predict_fold

ROOT = Path(__file__).resolve().parents[2]
Builder = Callable[..., FeatureCache]
QUICK = AblationSettings(heads=("softmax", "mean"), combine=("c3d+i3d",), repeats=1, jobs=1)


class Refitted(Exception):
    """A fit was made."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, build_in: Builder) -> tuple[Path, Run]:
    """A cache of two frozen sources whose fits of `QUICK` are all kept, and the run that made them."""
    folder = tmp_path_factory.mktemp("kept") / "cache"
    cache = build_in(folder, tuned={}, frozen={"c3d": 6, "i3d": 8})
    return cache.path, run_ablation(cache, QUICK)


@pytest.fixture
def kept(first: tuple[Path, Run], tmp_path: Path) -> FeatureCache:
    """The same cache, which a test may change."""
    return FeatureCache(shutil.copytree(first[0], tmp_path / "cache"))


@pytest.fixture
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading features, which a fit begins with, raises `Refitted`."""

    def refuse(*_: object, **__: object) -> None:
        raise Refitted

    monkeypatch.setattr("moodfuse.fuse.ablation.read_blocks", refuse)


def equal(one: Run, other: Run) -> bool:
    """Whether two runs hold the same bits."""
    return len(one.results) == len(other.results) and all(
        first.name == second.name
        and first.temperatures == second.temperatures
        and first.notes == second.notes
        and np.array_equal(first.probabilities, second.probabilities)
        and np.array_equal(first.unscaled, second.unscaled)  # type: ignore[arg-type]
        for first, second in zip(one.results, other.results, strict=True)
    )


def test_a_repeated_run_fits_nothing(first: tuple[Path, Run], kept: FeatureCache, no_fits: None) -> None:
    """Bit for bit the run without any kept fit, notes included."""
    again, fresh = run_ablation(kept, QUICK), first[1]
    with pytest.raises(Refitted):
        run_ablation(kept, replace(QUICK, keep=False))
    assert equal(again, fresh) and again.notes == fresh.notes


def watch_fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The heads that are fitted from now on; logits may not be fitted again."""
    fitted: list[str] = []
    monkeypatch.setattr(
        "moodfuse.fuse.ablation.fit_to_keep", lambda *_: pytest.fail("logits were fitted again")
    )
    monkeypatch.setattr(
        "moodfuse.fuse.tuning.predict_fold",
        lambda design, head, seed: fitted.append(head) or predict_fold(design, head, seed),
    )
    return fitted


def test_a_further_head_fits_only_its_own(kept: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and logits that are kept are not fitted again."""
    fitted = watch_fits(monkeypatch)
    run_ablation(kept, replace(QUICK, heads=("softmax", "logistic", "mean")))
    assert set(fitted) == {"logistic"} and len(fitted) == 8


def relabelled(cache: FeatureCache) -> None:
    """Two clips swap their labels."""
    statuses = list(cache.statuses)
    one, other = statuses[0], next(item for item in statuses if item.clip.label != statuses[0].clip.label)
    changed = [
        replace(item, clip=replace(item.clip, label=other.clip.label if item is one else one.clip.label))
        if item in (one, other)
        else item
        for item in statuses
    ]
    cache.write_plan(replace(cache.plan, records=(table_name(changed),)), changed)


def replanned(cache: FeatureCache) -> None:
    """Two groups swap their folds."""
    folds = dict(cache.plan.assignment)
    one = next(iter(folds))
    label = {status.digest: status.clip.label for status in cache.clips}
    other = next(item for item in folds if folds[item] != folds[one] and label[item] == label[one])
    folds[one], folds[other] = folds[other], folds[one]
    cache.write_plan(replace(cache.plan, assignment=folds), cache.statuses)


def remade(cache: FeatureCache) -> None:
    """A source under another recipe."""
    recipe = replace(cache.recipe("i3d"), seed=5)
    block = cache.block("i3d", "*")
    cache.write_recipe(recipe)
    cache.write_block_part(recipe, None, list(block.digests), {"embedding": block.embedding + 1})
    cache.select([recipe])


def regrouped(cache: FeatureCache) -> None:
    """A clip in another group."""
    statuses = [replace(cache.statuses[0], group="other"), *cache.statuses[1:]]
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)


@pytest.mark.parametrize("change", [relabelled, replanned, remade, regrouped])
def test_a_change_of_the_data_is_fitted_again(
    kept: FeatureCache, no_fits: None, change: Callable[[FeatureCache], None]
) -> None:
    """Another label, plan, recipe or group finds nothing that is kept."""
    run_ablation(kept, QUICK)
    change(FeatureCache(kept.path))
    with pytest.raises(Refitted):
        run_ablation(FeatureCache(kept.path), QUICK)


def test_a_change_of_the_code_is_fitted_again(kept: FeatureCache, no_fits: None) -> None:
    """So do other rules, other libraries, and another version of the head."""
    changes: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
        lambda patch: patch.setattr("moodfuse.fuse.ablation.RULES", 99),
        lambda patch: patch.setattr("moodfuse.fuse.ablation.library_versions", lambda: (("numpy", "0"),)),
        lambda patch: patch.setitem(HEADS, "softmax", replace(HEADS["softmax"], version=99)),
    )
    for change in changes:
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            with pytest.raises(Refitted):
                run_ablation(kept, QUICK)
    run_ablation(kept, QUICK)


def test_a_damaged_part_is_fitted_again(first: tuple[Path, Run], kept: FeatureCache) -> None:
    """It is set aside, and the run is the same."""
    for file in (kept.path / "fits").rglob("*.h5"):
        file.write_bytes(file.read_bytes()[:-1])
    again = run_ablation(kept, QUICK)
    assert equal(first[1], again) and list((kept.path / "fits").rglob("*.bad"))
    assert list((kept.path / "fits").rglob("*.h5"))


def test_clips_in_memory_count(kept: FeatureCache, no_fits: None, replace_clips: Callable[..., None]) -> None:
    """The key depends on the clips that are fitted on, not on what the plan's records hold."""
    statuses = list(kept.clips)
    replace_clips(kept, [replace(statuses[0], missing="picture"), *statuses[1:]])
    with pytest.raises(Refitted):
        run_ablation(kept, QUICK)


def test_a_repeated_command_imports_no_library_of_fits(kept: FeatureCache) -> None:
    """Neither scikit-learn nor LightGBM nor what runs workers."""
    code = (
        "import sys; from click.testing import CliRunner; from moodfuse.fuse.cli import fuse_command;"
        "done = CliRunner().invoke(fuse_command, sys.argv[1:], catch_exceptions=False);"
        "assert not done.exit_code;"
        "print(*sorted({'sklearn', 'lightgbm', 'scipy', 'joblib', 'torch'} & set(sys.modules)))"
    )
    options = ["--cache", str(kept.path), "--combine", "c3d+i3d", "--head", "softmax", "--head", "mean"]
    call = [sys.executable, "-c", code, *options, "--repeats", "1", "--jobs", "1"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_run_keeps_what_was_finished(build: Builder) -> None:
    """Ctrl-C stops it at once; what was finished is there, and the next run goes on from it."""
    cache = build(tuned={}, frozen={"c3d": 40, "i3d": 40})
    code = (
        "import json, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "import moodfuse.fuse.ablation as ablation, moodfuse.fuse.tuning as tuning\n"
        "from moodfuse.cache.store import FeatureCache\n"
        "real, done = tuning.predict_fold, []\n"
        "def slow(design, head, seed):\n"
        "    if len(done) == 5:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    done.append(head)\n"
        "    return real(design, head, seed)\n"
        "tuning.predict_fold = slow\n"
        "settings = ablation.AblationSettings(heads=('softmax', 'mean'), combine=('c3d+i3d',), repeats=1,"
        " jobs=1)\n"
        "ablation.run_ablation(FeatureCache(sys.argv[1]), settings)\n"
    )
    call = [sys.executable, "-c", code, str(cache.path)]
    with subprocess.Popen(
        call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(timeout=10) != 0
        assert time.monotonic() - start < 5
    assert list((cache.path / "fits").rglob("*.h5"))
    with pytest.MonkeyPatch.context() as patch:
        fitted = watch_fits(patch)
        run_ablation(FeatureCache(cache.path), QUICK)
    everything = 4 * (2 + 2 + 1)
    assert 0 < len(fitted) < everything
