"""An evaluation has every record that its run allows, and loads nothing that fits."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import TEST, calibration, class_scores, evaluate_run
from moodfuse.evaluate.rows import split_sections

ROOT = Path(__file__).parents[2]
MakeRun = Callable[..., Run]


def test_an_evaluation_has_every_record(make_run: MakeRun) -> None:
    """Classes, calibration, repeats, complete clips, headline, tests and importance."""
    evaluation = evaluate_run(make_run(), draws=200)
    *others, softmax = evaluation.scored
    assert all(len(scored.per_class) == 3 and scored.complete is not None for scored in evaluation.scored)
    assert all(scored.calibration is None and scored.repeated is None for scored in others)
    assert softmax.calibration is not None and softmax.calibration.temperatures == (2.0, 2.0, 2.0)
    assert softmax.repeated is not None and softmax.repeated.repeats == 2
    assert evaluation.headline is not None and evaluation.headline.candidates == 4
    assert evaluation.headline.result == evaluation.best.result.name
    best = split_sections(evaluation.ranked)[0][0].result.name
    assert [(test.result, test.against, test.baseline) for test in evaluation.paired] == [
        ("c3d+i3d mean logits", best, "best single source"),
        ("c3d+i3d softmax logits", best, "best single source"),
        ("c3d+i3d softmax logits", "c3d+i3d mean logits", "mean"),
    ]
    assert [(test.question, test.outcome) for test in evaluation.planned] == [
        ("Using a trained head instead of the mean", "accuracy"),
        ("Using a trained head instead of the mean", "log_loss"),
    ]
    assert {(row.source, row.head) for row in evaluation.importance} == {("c3d", "mean"), ("i3d", "mean")}
    plain = evaluate_run(replace(make_run(), missing=(), results=make_run().results[:1]), draws=50)
    assert plain.headline is None and plain.planned == plain.paired == plain.importance == ()
    assert plain.scored[0].complete is None


def test_heads_on_one_source_are_not_fusions(make_run: MakeRun) -> None:
    """They have their own section, may be the best single source, and are compared with their network."""
    run, random = make_run(), np.random.default_rng(3)
    y_true = np.eye(3)[[run.classes.index(label) for label in run.labels]]
    added = []
    for source, skill in (("c3d", 0.1), ("i3d", 0.8)):
        probabilities = (1 - skill) * random.dirichlet(np.ones(3), 36) + skill * y_true
        added.append(Result((source,), "softmax", "logits", probabilities))
    evaluation = evaluate_run(replace(run, results=(*run.results, *added)), draws=100)
    names = [[scored.result.name for scored in section] for section in split_sections(evaluation.ranked)]
    assert [len(section) for section in names] == [2, 2, 2] and names[1][0] == "i3d softmax logits"
    assert {(test.result, test.against, test.baseline) for test in evaluation.paired} == {
        ("c3d+i3d mean logits", "i3d softmax logits", "best single source"),
        ("c3d+i3d softmax logits", "i3d softmax logits", "best single source"),
        ("c3d+i3d softmax logits", "c3d+i3d mean logits", "mean"),
        ("c3d softmax logits", "c3d network logits", "mean"),
        ("i3d softmax logits", "i3d network logits", "mean"),
    }
    assert [rows[0].head for rows in evaluation.importance_by_head] == ["softmax", "mean"]


def test_notes_have_the_effective_number_of_unequal_groups(make_run: MakeRun) -> None:
    """For equal groups there is only their number."""
    unequal = replace(make_run(), groups=("big",) * 18 + tuple(map(str, range(18))))
    notes = " ".join(evaluate_run(unequal, draws=20).notes)
    assert "only 19 groups (effective number 4): in simulations" in notes
    assert "t intervals over 19 groups (effective number 4) from 20 bootstrap draws" in notes
    assert "effective" not in " ".join(evaluate_run(make_run(), draws=20).notes)


def test_notes_warn_of_series_of_one_label(make_run: MakeRun) -> None:
    """A series in one group, or in a test set, which no network has seen, is not a shortcut."""

    def warned(run: Run) -> bool:
        return any("series of numbered file names" in note for note in evaluate_run(run, draws=2).notes)

    run = make_run()
    rows = [row for row, label in enumerate(run.labels) if label == "a"][:4]
    ids = tuple(f"a/x({row}).mp4" if row in rows else name for row, name in enumerate(run.ids))
    groups = tuple("x" if row in rows else group for row, group in enumerate(run.groups))
    assert not warned(run) and warned(replace(run, ids=ids))
    assert not warned(replace(run, ids=ids, groups=groups))
    assert not warned(replace(run, ids=ids, protocol=TEST))


def test_notes_have_the_warnings_about_intervals_of_each_result(make_run: MakeRun) -> None:
    """A warning that is not about all results has their number."""
    run = make_run()
    labels = np.array([run.classes.index(label) for label in run.labels])
    right, wrong = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    first, second, *_ = run.results
    results = (replace(first, probabilities=right), replace(second, probabilities=wrong))
    notes = evaluate_run(replace(run, results=results), draws=20).notes
    assert any(note.startswith("only 18 groups: in simulations") for note in notes)
    assert any(note.startswith("1 of 2 results: fewer than 15 groups, and less") for note in notes)


def test_evaluating_fits_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    """Stage three, with a comparison, loads neither torch nor scikit-learn nor LightGBM nor stage two."""
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, replace(make_run(), results=make_run().results[2:3]))
    arguments = ["evaluate", "--cache", str(cache.path), "--draws", "50", "--compare", "zhou2022"]
    code = (
        "import sys\nfrom moodfuse.cli import group\n"
        f"group.main({arguments!r}, standalone_mode=False)\n"
        "heavy = ('torch', 'sklearn', 'lightgbm', 'moodfuse.fuse')\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "LOADED []" in done.stdout and "c3d+i3d" in done.stdout


def test_class_scores_equal_scikit_learn() -> None:
    """Precision, recall and F1 of each class; NaN where a class is never predicted, or never true."""
    labels, p = np.array([0, 0, 1, 1, 3]), np.eye(4)[[0, 1, 1, 1, 0]]
    wanted = sk.precision_recall_fscore_support(
        labels, p.argmax(axis=1), labels=range(4), zero_division=np.nan
    )
    for index, one in enumerate(class_scores(labels, p, tuple("abcd"))):
        numbers = (one.precision, one.recall, one.f1, one.clips)
        np.testing.assert_allclose(numbers, [column[index] for column in wanted], atol=1e-12)


def test_mean_probabilities_stand_beside_frequencies() -> None:
    """A bias towards a class shows for each class."""
    scores = class_scores(np.array([0, 0, 0, 1]), np.array([[0.6, 0.4]] * 4), ("a", "b"))
    assert [one.frequency for one in scores] == [0.75, 0.25]
    np.testing.assert_allclose([one.mean_probability for one in scores], [0.6, 0.4])


def test_calibration_shows_the_effect_of_scaling() -> None:
    """From overconfident to calibrated probabilities loss and error fall, to the error of a perfect model."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4) / 2, 2000)
    labels = (random.random((2000, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    result = Result(("c3d",), "softmax", "logits", p, unscaled=sharp, temperatures=(3, 3.0))
    scaling = calibration(labels, result, draws=300)
    assert scaling is not None and scaling.temperatures == (3.0, 3.0)
    assert scaling.log_loss_after < scaling.log_loss_before and scaling.ece_after < scaling.ece_before / 2
    assert scaling.ece_after < 1.2 * scaling.ece_if_perfect_high
    assert scaling.ece_if_perfect < scaling.ece_if_perfect_high
    assert scaling == calibration(labels, result, draws=300)
    assert scaling.confidence == pytest.approx(p.max(axis=1).mean())
