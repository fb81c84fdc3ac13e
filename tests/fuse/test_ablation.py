"""The ablation finds what is there, finds nothing where nothing is, and never lets a test row into a fit."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache.errors import InputError, UnknownNameError
from cache.runs import Run, read_run, write_run
from cache.store import FeatureCache
from fuse.ablation import (
    FEW_GROUPS,
    UNCALIBRATED,
    AblationSettings,
    accuracies,
    fit_head,
    load_features,
    run_ablation,
)
from fuse.cli import fuse_command
from fuse.combinations import SEED_COMBINATIONS, parse_combinations
from fuse.heads import HEADS

ROOT = Path(__file__).resolve().parents[2]
Builder = Callable[..., FeatureCache]
CHEAP = ("softmax", "mean")


@pytest.fixture(scope="module")
def run(cache: FeatureCache) -> Run:
    """Run all heads at both levels in one process."""
    return run_ablation(cache, AblationSettings(jobs=1))


def test_results_in_order_with_what_a_reader_must_know(cache: FeatureCache, run: Run) -> None:
    """Network rows come first; `mean` stands at logits alone; in-sample fits are marked; the record fits the plan."""
    assert [result.name for result in run.results[:2]] == ["c3d network logits", "i3d network logits"]
    assert [(item.head, item.level) for item in run.results[2:]] == [
        (head, level) for head in HEADS for level in HEADS[head].levels
    ]
    assert all((UNCALIBRATED in item.notes) == (item.head not in ("network", "mean")) for item in run.results)
    assert run.protocol == "no-crossfit" and run.classes == ("excited", "fear", "sad")
    assert run.ids == tuple(status.clip.id for status in cache.clips)
    assert run.folds == tuple(cache.plan.assignment[status.digest] for status in cache.clips)
    assert run.recipes == tuple((name, cache.recipe(name).digest16) for name in ("c3d", "i3d"))
    assert run.notes == ("logits of i3d: logistic regression on the embedding, cross-fitted",)


def test_informative_features_give_high_accuracy(run: Run) -> None:
    """Every head finds well separated classes out of fold."""
    found = dict(zip((result.name for result in run.results), accuracies(run), strict=True))
    assert min(found.values()) > 0.6, found
    assert found["c3d+i3d softmax logits"] > 0.85


def test_network_row_is_the_networks_own_softmax(cache: FeatureCache, run: Run) -> None:
    """Rows of fold k are the softmax of the logits of network {k}."""
    for fold in range(4):
        rows = np.array(run.folds) == fold
        logits = cache.block("c3d", {fold}).logits
        assert logits is not None
        powers = np.exp(logits[rows].astype(float))
        expected = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(run.results[0].probabilities[rows], expected, atol=1e-9)


def test_workers_change_no_bit(cache: FeatureCache, run: Run) -> None:
    """Two worker processes give the bits of one."""
    other = run_ablation(cache, AblationSettings(jobs=2))
    assert [item.name for item in other.results] == [item.name for item in run.results]
    for one, two in zip(run.results, other.results, strict=True):
        assert np.array_equal(one.probabilities, two.probabilities), one.name


def test_permuted_labels_give_chance(build: Builder, build_corpus: type) -> None:
    """Where labels are dealt to groups at random, accuracy stays near chance, whatever networks know."""
    found = []
    for seed in range(3):
        cache = build(build_corpus(seed=seed, permute=True, clips_per_group=2, groups_per_class=9, folds=3))
        found += accuracies(run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1)))
    assert abs(np.mean(found) - 1 / 3) < 0.1, found


def perturbed(cache: FeatureCache, fold: int) -> FeatureCache:
    """The cache with other labels and features for a fold's clips."""
    other = FeatureCache(cache.path)
    held = {digest for digest, at in cache.plan.assignment.items() if at == fold}
    turn = dict(zip(cache.classes, cache.classes[1:] + cache.classes[:1], strict=True))
    other.__dict__["clips"] = tuple(
        replace(status, clip=replace(status.clip, label=turn[status.clip.label])) if status.digest in held else status
        for status in cache.clips
    )
    rows = np.array([status.digest in held for status in cache.clips])[:, None]

    def block(source: str, holdout: object) -> object:
        original = cache.block(source, holdout)  # type: ignore[arg-type]
        logits = None if original.logits is None else np.where(rows, -7 * original.logits, original.logits)
        embedding = np.where(rows, 5 - 3 * original.embedding, original.embedding)
        return replace(original, embedding=embedding, logits=logits)

    other.block = block  # type: ignore[method-assign, assignment]
    return other


@pytest.mark.parametrize("fold", [1])
def test_test_rows_enter_no_fit(cache: FeatureCache, fold: int) -> None:
    """Other labels and features in fold k leave everything that was fitted for fold k bit-equal."""
    fitted = []
    for one in (cache, perturbed(cache, fold)):
        features = load_features(one, ("c3d", "i3d"), jobs=1)
        parts: list[np.ndarray] = []
        for level in ("logits", "embedding"):
            for sources in (("i3d",), ("c3d", "i3d")):
                design = features.design(one, sources, level, fold)  # type: ignore[arg-type]
                for head in ("softmax", "logistic"):
                    model = fit_head(design, head, 0)
                    parts += [model.coef_, model.intercept_, model.mean_, model.scale_, np.array([model.C_])]
                trees = fit_head(design, "lightgbm", 0).model_.booster_.model_to_string()
                parts += [np.array([trees]), design.x_train]
        fitted.append(parts)
    assert all(np.array_equal(one, two) for one, two in zip(*fitted, strict=True))


def test_few_groups_keep_defaults_and_say_so(build: Builder, build_corpus: type) -> None:
    """Two folds with two groups a class: nothing is chosen, nothing cross-fitted, and both are said."""
    cache = build(build_corpus(groups_per_class=2, folds=2, tuned={}, frozen={"c3d": 6, "i3d": 6}))
    found = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1))
    notes = {result.name: result.notes for result in found.results}
    assert notes["c3d network logits"] == notes["c3d+i3d mean logits"] == (FEW_GROUPS,)
    assert notes["c3d+i3d softmax embedding"] == (FEW_GROUPS,)
    assert notes["c3d+i3d softmax logits"] == (UNCALIBRATED,)
    assert "in sample" in found.notes[0]


def test_combinations() -> None:
    """`seed`, `all` and names are told apart; each combination is sorted and stands once."""
    four = ("c3d", "i3d", "onedmcnn", "twodmcnn")
    assert parse_combinations(["seed"], four) == SEED_COMBINATIONS
    assert len(parse_combinations(["all"], four)) == 11
    assert parse_combinations(["i3d+c3d", "c3d+i3d", "all"], four[:2]) == (("c3d", "i3d"),)
    assert parse_combinations(["all"], ("c3d",)) == (("c3d",),)
    with pytest.raises(InputError, match="--combine seed needs onedmcnn, twodmcnn as well; run extract"):
        parse_combinations(["seed"], four[:2])
    with pytest.raises(UnknownNameError, match="unknown source 'c4d'; known: c3d, i3d"):
        parse_combinations(["c3d+c4d"], four[:2])
    with pytest.raises(InputError, match="the cache holds no features"):
        parse_combinations(["all"], ())


def test_seed_combinations_of_each_whole_recipe() -> None:
    """`seed` gives five combinations for each recipe with all four networks; the members of each share that recipe."""
    four = ("c3d", "i3d", "onedmcnn", "twodmcnn")
    adam, sgd = (tuple(f"{name}@{recipe}" for name in four) for recipe in ("seed-adam", "seed-sgd"))
    assert parse_combinations(["seed"], adam)[2] == ("c3d@seed-adam", "twodmcnn@seed-adam")
    both = parse_combinations(["seed"], (*adam, *four))
    assert both[:5] == SEED_COMBINATIONS and len(both) == 10
    assert all(len({name.partition("@")[2] for name in item}) == 1 for item in both)
    assert parse_combinations(["seed"], (*four, *adam[:3], "clip-vit", "other@mine")) == SEED_COMBINATIONS
    assert len(parse_combinations(["seed"], (*adam, *sgd, four[0]))) == 10


def test_seed_names_what_the_nearest_recipe_lacks() -> None:
    """Where no recipe is whole, the error names what is missing of the one with the most networks."""
    with pytest.raises(InputError, match="needs twodmcnn@seed-adam as well; run extract .* --recipe seed-adam$"):
        parse_combinations(["seed"], ("c3d", "c3d@seed-adam", "i3d@seed-adam", "onedmcnn@seed-adam"))
    with pytest.raises(InputError, match="needs i3d, onedmcnn, twodmcnn as well; run extract for them$"):
        parse_combinations(["seed"], ("c3d", "c3d@seed-adam"))
    with pytest.raises(InputError, match="needs c3d, i3d, onedmcnn, twodmcnn as well"):
        parse_combinations(["seed"], ("clip-vit", "other@mine"))


def test_all_is_bounded() -> None:
    """`all` mixes recipes and takes eight sources; of nine it says how many combinations there are, and what to do."""
    assert ("c3d", "c3d@seed-adam") in parse_combinations(["all"], ("c3d", "c3d@seed-adam", "i3d"))
    names = [f"s{number}" for number in range(9)]
    assert len(parse_combinations(["all"], names[:8])) == 247
    with pytest.raises(InputError, match=r"9 sources have 502 combinations, more than 256; .* --combine s0\+s1"):
        parse_combinations(["all"], names)


def test_wrong_settings_are_refused() -> None:
    """Unknown heads and levels list the known."""
    with pytest.raises(UnknownNameError, match="unknown head 'svm'; known: lightgbm"):
        AblationSettings(heads=("svm",))
    with pytest.raises(UnknownNameError, match="unknown level 'pixels'"):
        AblationSettings(levels=("pixels",))
    with pytest.raises(InputError, match="--jobs is 0"):
        AblationSettings(jobs=0)


def test_taken_name_is_refused_before_any_fit(
    build: Builder, build_corpus: type, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """A run's name is checked first."""
    cache = build(build_corpus())
    write_run(cache, replace(run, name="mine"))
    monkeypatch.setattr("fuse.ablation.load_features", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(InputError, match="run 'mine' exists"):
        run_ablation(cache, AblationSettings(run="mine"))


def test_command_writes_a_run_and_names_the_next(build: Builder, build_corpus: type) -> None:
    """The command prints a line a result and the next command, and the run can be read back."""
    cache = build(build_corpus())
    call = ["--cache", str(cache.path), "--head", "mean", "--combine", "c3d+i3d", "--jobs", "1", "--run", "mine"]
    result = CliRunner().invoke(fuse_command, call, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith(f"moodfuse evaluate --cache {cache.path} --run mine")
    assert [item.head for item in read_run(cache, "mine").results] == ["network", "network", "mean"]
    assert "c3d+i3d mean logits" in result.stdout


@pytest.mark.parametrize("module", ["fuse", "fuse.cli", "fuse.design", "fuse.heads", "fuse.ablation", "fuse.logits"])
def test_import_is_light(module: str) -> None:
    """Importing loads neither torch nor what only a fit needs."""
    code = f"import sys, {module}; print(*sorted({{'torch', 'sklearn', 'lightgbm', 'joblib'}} & set(sys.modules)))"
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
