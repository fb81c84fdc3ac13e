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
from moodfuse.cache.folds import can_cross_fit
from moodfuse.cache.runs import FEW_GROUPS, UNCALIBRATED, Run, read_run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse import make_head
from moodfuse.fuse.ablation import AblationSettings, accuracies, planned_rows, run_ablation
from moodfuse.fuse.cli import fuse_command
from moodfuse.fuse.combinations import SEED_COMBINATIONS, parse_combinations
from moodfuse.fuse.heads.registry import HEADS
from moodfuse.fuse.protocols import choose_protocol

ROOT = Path(__file__).resolve().parents[2]
Builder = Callable[..., FeatureCache]
CHEAP = ("softmax", "mean")


@pytest.fixture(scope="module")
def run(cache: FeatureCache) -> Run:
    """Run all heads at both levels in one process."""
    return run_ablation(cache, AblationSettings(jobs=1, keep=False))


def test_results_in_order_with_what_a_reader_must_know(cache: FeatureCache, run: Run) -> None:
    """Network rows come first; `mean` stands at logits, of two sources; in-sample fits are marked."""
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


def test_what_is_planned_is_what_comes(cache: FeatureCache, run: Run) -> None:
    """The results are known by name before anything is fitted."""
    assert [row.name for row in planned_rows(cache, AblationSettings())] == [
        item.name for item in run.results
    ]


def test_informative_features_give_high_accuracy(run: Run) -> None:
    """Every head finds well separated classes out of fold; trees over rows in sample less well."""
    found = dict(zip((result.name for result in run.results), accuracies(run), strict=True))
    honest = {result.name for result in run.results if not result.notes}
    for name, accuracy in found.items():
        assert accuracy > (0.7 if "lightgbm" not in name else 0.5 if name in honest else 0.4), found
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
    other = run_ablation(cache, AblationSettings(jobs=2, keep=False))
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


def test_pair_networks_calibrate_every_result(crossfitted: FeatureCache) -> None:
    """With pair networks the protocol is crossfit by itself; every result chose its settings, and its temperature."""
    found = run_ablation(crossfitted, AblationSettings(jobs=1, keep=False))
    assert found.protocol == "crossfit" and found.missing.count(("picture",)) == 2
    assert all(not item.notes and len(set(item.temperatures)) > 1 for item in found.results), [
        item.name for item in found.results if item.notes
    ]
    for item in found.results:
        assert item.unscaled is not None
        assert np.array_equal(item.unscaled.argmax(axis=1), item.probabilities.argmax(axis=1))
    assert np.mean(accuracies(found)) > 0.7
    assert any("2 clips lack sound or picture" in note for note in found.notes)


def test_network_row_under_crossfit_is_the_mean_of_pair_networks(crossfitted: FeatureCache) -> None:
    """A test row's logits are the mean over j of networks {j,k}, never one network alone."""
    found = run_ablation(crossfitted, AblationSettings(heads=("mean",), jobs=1, keep=False))
    assert found.results[0].unscaled is not None
    present = np.array([not status.missing for status in crossfitted.clips])
    for fold in range(4):
        rows = (np.array(found.folds) == fold) & present
        logits = [crossfitted.block("c3d", {fold, other}).logits for other in range(4) if other != fold]
        powers = np.exp(np.mean(logits, axis=0, dtype=np.float64)[rows])
        np.testing.assert_allclose(
            found.results[0].unscaled[rows], powers / powers.sum(1, keepdims=True), atol=1e-6
        )


def test_leaky_protocol_is_inflated_and_says_so(build: Builder, build_corpus: type) -> None:
    """On labels without any signal, networks that saw all and folds of clips score far above chance, marked LEAKY."""
    cache = build(build_corpus(permute=True, pairs=True, clips_per_group=2, groups_per_class=9, folds=3))
    honest = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1))
    leaky = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1, protocol="leaky"))
    assert leaky.protocol == "leaky" and leaky.name == "leaky-1" and honest.protocol == "crossfit"
    assert all("LEAKY" in item.notes for item in leaky.results)
    assert np.mean(accuracies(leaky)) > np.mean(accuracies(honest)) + 0.3
    assert (
        run_ablation(cache, AblationSettings(run="mine", heads=("mean",), protocol="leaky")).name
        == "leaky-mine"
    )
    assert len(set(zip(leaky.groups, leaky.folds, strict=True))) > len(set(leaky.groups)), (
        "folds of clips part groups"
    )


def test_protocols_that_lack_networks_say_what_to_run(cache: FeatureCache) -> None:
    """Asked for by name, a protocol without its networks is refused with the command that makes them."""
    with pytest.raises(MissingBlockError, match=r"c3d \{0,1\}: no network .* --source c3d --crossfit"):
        run_ablation(cache, AblationSettings(protocol="crossfit", jobs=1))
    with pytest.raises(MissingBlockError, match=r"c3d \{\}: no network .* --source c3d --leaky"):
        run_ablation(cache, AblationSettings(protocol="leaky", jobs=1))
    with pytest.raises(
        UnknownNameError, match="unknown protocol 'honest'; known: crossfit, leaky, no-crossfit"
    ):
        AblationSettings(protocol="honest")


def test_repeats(build: Builder, build_corpus: type, run: Run) -> None:
    """Frozen sources are repeated by default; tuned ones under the plans that they have networks for."""
    frozen = build(build_corpus(tuned={}, frozen={"i3d": 6}))
    found = run_ablation(frozen, AblationSettings(heads=("softmax",), levels=("logits",), jobs=1))
    assert len(found.repeat_folds) == 4 and found.results[0].repeats is not None
    assert found.results[0].repeats.shape == (4, 24, 3) and len({found.folds, *found.repeat_folds}) == 5
    tuned = build(build_corpus(repeats=2))
    assert len(run_ablation(tuned, AblationSettings(heads=("mean",), jobs=1)).repeat_folds) == 1
    with pytest.raises(
        InputError, match=r"--repeats is 3, but there are 2 fold plan\(s\): c3d have networks under 2"
    ):
        run_ablation(tuned, AblationSettings(heads=("mean",), repeats=3))
    assert not run.repeat_folds


def test_few_groups_keep_defaults_and_say_so(build: Builder, build_corpus: type) -> None:
    """Two folds with two groups a class: nothing is chosen, nothing cross-fitted, and both are said."""
    cache = build(build_corpus(groups_per_class=2, folds=2, tuned={}, frozen={"c3d": 6, "i3d": 6}))
    found = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1))
    notes = {result.name: result.notes for result in found.results}
    assert notes["c3d network logits"] == notes["c3d+i3d mean logits"] == (FEW_GROUPS,)
    assert notes["c3d+i3d softmax embedding"] == (FEW_GROUPS,)
    assert notes["c3d+i3d softmax logits"] == (FEW_GROUPS,)
    assert "in sample" in found.notes[0]


def test_groups_of_two_labels_are_cross_fitted(build: Builder, build_corpus: type) -> None:
    """Artists with songs of two emotions: no artist spans folds, the guard lets all pass, everything is calibrated."""
    cache = build(build_corpus(mixed=True, pairs=True, folds=3))
    found = run_ablation(cache, AblationSettings(heads=CHEAP, jobs=1))
    assert found.protocol == "crossfit" and not any(item.notes for item in found.results)
    assert len(set(found.groups)) == 12 == len(set(zip(found.groups, found.folds, strict=True)))
    assert len(set(zip(found.groups, found.labels, strict=True))) == 24
    assert np.mean(accuracies(found)) > 0.6


def test_combinations() -> None:
    """`seed`, `all` and names are told apart; each combination is sorted and stands once."""
    four = ("c3d", "i3d", "onedmcnn", "twodmcnn")
    assert parse_combinations(["seed"], four) == SEED_COMBINATIONS
    assert len(parse_combinations(["all"], four)) == 15
    pair = (("c3d", "i3d"), ("c3d",), ("i3d",))
    assert parse_combinations(["i3d+c3d", "c3d+i3d", "all"], four[:2]) == pair
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
    with pytest.raises(
        InputError, match="needs twodmcnn@seed-adam as well; run extract .* --recipe seed-adam$"
    ):
        parse_combinations(["seed"], ("c3d", "c3d@seed-adam", "i3d@seed-adam", "onedmcnn@seed-adam"))
    with pytest.raises(InputError, match="needs i3d, onedmcnn, twodmcnn as well; run extract for them$"):
        parse_combinations(["seed"], ("c3d", "c3d@seed-adam"))
    with pytest.raises(InputError, match="needs c3d, i3d, onedmcnn, twodmcnn as well"):
        parse_combinations(["seed"], ("clip-vit", "other@mine"))


def test_all_is_bounded() -> None:
    """`all` mixes recipes and takes eight sources; of nine it says how many combinations there are, and what to do."""
    assert ("c3d", "c3d@seed-adam") in parse_combinations(["all"], ("c3d", "c3d@seed-adam", "i3d"))
    names = [f"s{number}" for number in range(9)]
    assert len(parse_combinations(["all"], names[:8])) == 255
    with pytest.raises(
        InputError, match=r"9 sources have 511 combinations, more than 256; .* --combine s0\+s1"
    ):
        parse_combinations(["all"], names)


def test_wrong_settings_are_refused() -> None:
    """Unknown heads and levels list the known."""
    with pytest.raises(UnknownNameError, match="unknown head 'svm'; known: lightgbm"):
        AblationSettings(heads=("svm",))
    with pytest.raises(UnknownNameError, match="unknown level 'pixels'"):
        AblationSettings(levels=("pixels",))
    with pytest.raises(InputError, match="--jobs is 0 "):
        AblationSettings(jobs=0)


def test_taken_name_is_refused_before_any_fit(
    build: Builder, build_corpus: type, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """A run's name is checked first."""
    cache = build(build_corpus())
    write_run(cache, replace(run, name="mine"))
    monkeypatch.setattr("moodfuse.fuse.ablation.load_features", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(InputError, match="run 'mine' exists"):
        run_ablation(cache, AblationSettings(run="mine"))


def test_command_writes_a_run_and_names_the_next(build: Builder, build_corpus: type) -> None:
    """The command prints a line a result and the next command, and the run can be read back."""
    cache = build(build_corpus())
    call = [
        "--cache",
        str(cache.path),
        "--head",
        "mean",
        "--combine",
        "c3d+i3d",
        "--jobs",
        "1",
        "--run",
        "mine",
    ]
    result = CliRunner().invoke(fuse_command, call, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith(f"moodfuse evaluate --cache {cache.path} --run mine")
    assert [item.head for item in read_run(cache, "mine").results] == ["network", "network", "mean"]
    assert "c3d+i3d mean logits" in result.stdout


def test_import_is_light() -> None:
    """Importing loads neither torch nor what only a fit needs."""
    modules = (
        "moodfuse.fuse, moodfuse.fuse.cli, moodfuse.fuse.design, moodfuse.fuse.heads, moodfuse.fuse.ablation"
    )
    code = f"import sys, {modules}; print(*sorted({{'torch', 'sklearn', 'lightgbm', 'joblib'}} & set(sys.modules)))"
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_only_views_that_are_read_can_stop_a_run(build: Builder, build_corpus: type) -> None:
    """Clips without sound hinder no source that reads pictures: cross-fitting stays on, for derived logits too."""
    cache = build(build_corpus(tuned={}, frozen={"c3d": 6, "i3d": 6}))
    mute = tuple(
        replace(item, missing="sound") if item.clip.label == "fear" else item for item in cache.clips
    )
    assert not can_cross_fit(cache.plan, mute) and can_cross_fit(cache.plan, mute, ("picture",))
    cache.__dict__["clips"] = tuple(mute)
    assert choose_protocol(cache, ("c3d", "i3d"), None) == "crossfit"
    found = run_ablation(cache, AblationSettings(heads=("mean",), repeats=1, jobs=1))
    assert found.protocol == "crossfit" and found.notes[0].endswith("cross-fitted")
    blind = tuple(
        replace(item, missing="picture") if item.clip.label == "fear" else item for item in cache.clips
    )
    cache.__dict__["clips"] = tuple(blind)
    assert choose_protocol(cache, ("c3d", "i3d"), "crossfit") == "no-crossfit"


def test_a_class_that_is_never_seen_in_a_view_is_refused_or_scored_last(
    build: Builder, build_corpus: type
) -> None:
    """Where all clips of a class lack what the sources read, a plan is refused; scores keep one column a class."""
    from moodfuse.cache.folds import check_views
    from moodfuse.fuse.cross_fitting import centred_scores

    cache = build(build_corpus(lacking=3))
    lacking = tuple(
        replace(item, missing="picture") if item.clip.label == "fear" else item for item in cache.clips
    )
    assert not can_cross_fit(cache.plan, lacking) and can_cross_fit(cache.plan, cache.clips)
    with pytest.raises(
        InputError, match="'fear' has no clip with video outside fold 0, .* sources that read video"
    ):
        check_views(cache.plan, lacking)
    check_views(cache.plan, cache.clips)
    check_views(cache.plan, lacking, ("sound",))
    x = np.random.default_rng(0).normal(size=(12, 3))
    head = make_head("softmax").fit(x, np.arange(12) % 2 * 2)
    scores = centred_scores(head, x, 3)
    assert scores.shape == (12, 3) and (scores[:, 1] <= scores[:, [0, 2]].min(axis=1)).all()
