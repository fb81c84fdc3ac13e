"""An evaluation has every record that its run allows, compares the right results, and loads nothing that fits."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate import metrics
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.figures import accuracy_figure
from moodfuse.evaluate.report.page import detailed_results
from moodfuse.evaluate.report.text import latex_table

ROOT = Path(__file__).parents[2]
MakeRun = Callable[..., Run]


def test_an_evaluation_has_every_record(make_run: MakeRun) -> None:
    """Classes, calibration, repeats, complete clips, headline, tests and importance, where the run allows them."""
    found = evaluate_run(make_run(), draws=200)
    *others, softmax = found.scored
    assert all(len(item.per_class) == 3 and item.complete is not None for item in found.scored)
    assert all(item.calibration is None and item.repeated is None for item in others)
    assert softmax.calibration is not None and softmax.calibration.temperatures == (2.0, 2.0, 2.0)
    assert softmax.repeated is not None and softmax.repeated.repeats == 2
    assert found.headline is not None and found.headline.candidates == 4
    assert found.headline.result == found.best.result.name
    best = found.networks[0].result.name
    assert [(test.result, test.against, test.baseline) for test in found.paired] == [
        ("c3d+i3d mean logits", best, "best single source"),
        ("c3d+i3d softmax logits", best, "best single source"),
        ("c3d+i3d softmax logits", "c3d+i3d mean logits", "mean"),
    ]
    assert {(row.source, row.head) for row in found.importance} == {("c3d", "mean"), ("i3d", "mean")}
    assert any("corrected for the selection it is" in note for note in found.notes)
    plain = evaluate_run(replace(make_run(), missing=(), results=make_run().results[:1]), draws=50)
    assert plain.headline is None and plain.paired == plain.importance == ()
    assert plain.scored[0].complete is None


def test_heads_on_one_source_are_not_fusions(make_run: MakeRun) -> None:
    """They have their own section, may be the best single source, and are compared with their network."""
    run, random = make_run(), np.random.default_rng(3)
    y_true = np.eye(3)[[run.classes.index(label) for label in run.labels]]
    added = [
        Result(
            (source,), "softmax", "logits", (1 - skill) * random.dirichlet(np.ones(3), 36) + skill * y_true
        )
        for source, skill in (("c3d", 0.1), ("i3d", 0.8))
    ]
    found = evaluate_run(replace(run, results=(*run.results, *added)), draws=100)
    names = [[item.result.name for item in section] for section in found.sections]
    assert [len(section) for section in names] == [2, 2, 2] and names[1][0] == "i3d softmax logits"
    assert all(item.is_fusion for item in found.fusions)
    assert not any(item.is_fusion for item in found.single_heads)
    assert {(test.result, test.against, test.baseline) for test in found.paired} == {
        ("c3d+i3d mean logits", "i3d softmax logits", "best single source"),
        ("c3d+i3d softmax logits", "i3d softmax logits", "best single source"),
        ("c3d+i3d softmax logits", "c3d+i3d mean logits", "mean"),
        ("c3d softmax logits", "c3d network logits", "mean"),
        ("i3d softmax logits", "i3d network logits", "mean"),
    }
    scores = {item.result.name: item.score.accuracy for item in found.scored}
    assert {(item.head, item.source): item.alone for item in found.importance} == {
        (head, source): scores[f"{source} {row} logits"]
        for head, row in (("mean", "network"), ("softmax", "softmax"))
        for source in ("c3d", "i3d")
    }
    assert latex_table(found).count(r"\midrule") == 3
    detailed = {item.result.name for item in detailed_results(found)}
    assert detailed >= {"i3d softmax logits", "c3d+i3d mean logits"}
    marks = [line.get_marker() for line in accuracy_figure(found).axes[0].lines if line.get_marker() in "sDo"]
    assert marks == list("ssDDoo")


def test_ties_of_the_best_single_source_go_by_loss_then_by_name(make_run: MakeRun) -> None:
    """It may be a network's result or a head's."""
    run = make_run()
    network = run.results[0]
    sharper = network.probabilities**1.01 / (network.probabilities**1.01).sum(axis=1, keepdims=True)
    loss = [float(metrics.log_loss(np.arange(36) // 2 % 3, p)) for p in (network.probabilities, sharper)]
    rows = (network, replace(network, head="softmax", probabilities=sharper), run.results[2])
    (test, *_) = evaluate_run(replace(run, results=rows), draws=20).paired
    assert test.against == ("c3d softmax logits" if loss[1] < loss[0] else "c3d network logits")
    rows = (network, replace(network, head="a head"), run.results[2])
    assert evaluate_run(replace(run, results=rows), draws=20).paired[0].against == "c3d a head logits"


def test_notes_have_the_effective_number_of_unequal_groups(make_run: MakeRun) -> None:
    """For equal groups there is only their number."""
    unequal = replace(make_run(), groups=("big",) * 18 + tuple(map(str, range(18))))
    notes = " ".join(evaluate_run(unequal, draws=20).notes)
    assert "only 19 groups (effective number 4): in simulations" in notes
    assert "t intervals over 19 groups (effective number 4) from 20 bootstrap draws" in notes
    assert "effective" not in " ".join(evaluate_run(make_run(), draws=20).notes)


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
