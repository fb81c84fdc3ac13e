"""Metrics equal scikit-learn's, intervals cover what they say, reports are the same bytes every time."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Result, Run, read_run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate import metrics, score
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.report.markdown_latex import latex_table, markdown_report
from moodfuse.evaluate.report.page import detailed_results
from moodfuse.evaluate.report.plots import accuracy_figure
from moodfuse.evaluate.report.terminal import print_table
from moodfuse.evaluate.report.writing import metrics_table, metrics_values, write_report
from moodfuse.evaluate.scoring import class_scores

ROOT = Path(__file__).parents[2]
TABLE_3 = [
    [72, 3, 7, 0, 5, 0],
    [4, 68, 6, 3, 0, 0],
    [2, 3, 69, 3, 4, 0],
    [2, 1, 3, 85, 7, 1],
    [3, 1, 8, 7, 63, 3],
    [2, 1, 1, 1, 3, 62],
]
"""Confusion matrix of Zhou Ping 2022, Table 3: 503 clips."""


def cases(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random labels and probabilities: ties, absent classes, small and larger sets."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        classes, clips = int(rng.integers(2, 7)), int(rng.integers(6, 60))
        labels = rng.integers(0, classes - (number % 3 == 0 and classes > 2), clips)
        labels[0] = (labels[1] + 1) % max(labels.max(), 1)
        p = rng.dirichlet(np.ones(classes), clips)
        if number % 2:
            p = (np.round(p * 5) + 0.1) / (np.round(p * 5) + 0.1).sum(axis=1, keepdims=True)
        found.append((labels, p))
    return found


def test_metrics_equal_scikit_learn() -> None:
    """Accuracy, macro F1, one-vs-rest AUC and log loss on 60 random cases, absent classes too, to 1e-12."""
    for labels, p in cases(60):
        top = p.argmax(axis=1)
        assert float(metrics.accuracy(labels, p)) == pytest.approx(sk.accuracy_score(labels, top), abs=1e-12)
        assert float(metrics.macro_f1(labels, p)) == pytest.approx(
            sk.f1_score(labels, top, average="macro", zero_division=0), abs=1e-12
        )
        present = [k for k in range(p.shape[1]) if 0 < (labels == k).sum() < len(labels)]
        areas = [sk.roc_auc_score(labels == k, p[:, k]) for k in present]
        assert float(metrics.auc(labels, p)) == pytest.approx(np.mean(areas), abs=1e-12)
        loss = sk.log_loss(labels, p, labels=list(range(p.shape[1])))
        assert float(metrics.log_loss(labels, p)) == pytest.approx(loss, abs=1e-12)


def test_weights_are_repetitions() -> None:
    """A clip of weight 2 counts as two clips."""
    for labels, p in cases(20):
        counts = np.random.default_rng(1).integers(0, 3, len(labels))
        counts[:2] = 1
        rows = np.repeat(np.arange(len(labels)), counts)
        for metric in (metrics.accuracy, metrics.macro_f1, metrics.auc, metrics.log_loss):
            weighted = metric(labels, p, counts[None, :].astype(float))
            assert float(np.ravel(weighted)[0]) == pytest.approx(
                float(metric(labels[rows], p[rows])), abs=1e-12, nan_ok=True
            )


def test_perfect_probabilities_score_one() -> None:
    """Perfect is 1, and the interval says that 24 groups do not prove it."""
    labels = np.arange(24) % 4
    perfect = score(labels, np.eye(4)[labels], classes=("a", "b", "c", "d"))
    assert perfect.accuracy == perfect.macro_f1 == perfect.auc == 1.0
    assert (perfect.accuracy_ci95.low, perfect.accuracy_ci95.high) == (pytest.approx(0.025 ** (1 / 24)), 1.0)


def test_table_3_of_the_seed() -> None:
    """The seed's own confusion matrix gives 0.833 and macro F1 0.835, not its stated 0.86."""
    cells = np.array(TABLE_3)
    truth = np.repeat(np.repeat(np.arange(6), 6), cells.ravel())
    said = np.repeat(np.tile(np.arange(6), 6), cells.ravel())
    found = score(truth, np.eye(6)[said], classes=tuple("abcdef"))
    assert (round(found.accuracy, 3), round(found.macro_f1, 3)) == (0.833, 0.835)
    np.testing.assert_array_equal(found.confusion_matrix, cells)


def test_clips_of_one_group_carry_less_than_clips_alone() -> None:
    """An interval over groups of three equal clips is wider than one that takes clips for groups."""
    labels = np.repeat(np.arange(20) % 2, 3)
    right = np.repeat(np.random.default_rng(0).random(20) < 0.7, 3)
    p = np.where((labels == right)[:, None], [0.2, 0.8], [0.8, 0.2])
    alone = score(labels, p, classes=("a", "b")).accuracy_ci95
    grouped = score(labels, p, np.repeat(np.arange(20), 3).astype(str), classes=("a", "b")).accuracy_ci95
    assert grouped.high - grouped.low > 1.3 * (alone.high - alone.low)


def test_bad_probabilities_are_refused() -> None:
    """Rows that do not sum to 1 are no probabilities."""
    with pytest.raises(InputError):
        score(np.array([0, 1]), np.ones((2, 2)), classes=("a", "b"))


def make_run(seed: int = 0, *, protocol: str = "crossfit", skill: float = 0.4) -> Run:
    """Two networks, their mean and a softmax, over 36 clips in 18 groups; one clip has no sound, folds are repeated."""
    rng = np.random.default_rng(seed)
    labels = np.arange(36) // 2 % 3
    truth = skill * np.eye(3)[labels]
    several = (1 - skill) * rng.dirichlet(np.ones(3), (6, 36)) + truth
    sharp = several[3] ** 2 / (several[3] ** 2).sum(axis=1, keepdims=True)
    folds = np.arange(36) // 2 // 3 % 3
    return Run(
        name="one" if protocol != "leaky" else "leak",
        protocol=protocol,
        classes=("a", "b", "c"),
        ids=tuple(f"{row:02d}" for row in range(36)),
        labels=tuple("abc"[k] for k in labels),
        groups=tuple(str(row // 2) for row in range(36)),
        folds=tuple(folds.tolist()),
        fold_count=3,
        seed=0,
        recipes=(("c3d", "0" * 16),),
        missing=(("sound",), *[()] * 35),
        repeat_folds=(tuple(((folds + np.arange(36) // 18) % 3).tolist()),),
        versions=(("numpy", "2.4.6"),),
        commands=("moodfuse fuse",),
        results=(
            Result(("c3d",), "network", "logits", several[0]),
            Result(("i3d",), "network", "logits", several[1][:, [0, 2, 1]]),
            Result(("c3d", "i3d"), "mean", "logits", several[2]),
            Result(
                ("c3d", "i3d"),
                "softmax",
                "logits",
                several[3],
                ("uncalibrated",),
                unscaled=sharp,
                temperatures=(2.0, 2.0, 2.0),
                repeats=several[4:5],
            ),
        ),
    )


def test_metrics_json_has_the_published_form_and_equal_bytes(tmp_path: Path) -> None:
    """A run read back gives every key of the schema, matrices that sum to the clips, and the same files twice."""
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, make_run())
    files = []
    for name in ("first", "second"):
        write_report(evaluate_run(read_run(cache), draws=200), tmp_path / name)
        files.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert files[0] == files[1] and {"metrics.json", "metrics.csv"} < set(files[0])
    assert any(name.endswith(".svg") for name in files[0]) and any(name.endswith(".png") for name in files[0])
    found = json.loads(files[0]["metrics.json"])
    assert {"schema", "run", "classes", "clips", "groups", "folds", "protocol", "results"} <= set(found)
    assert (found["schema"], found["clips"], found["groups"], found["folds"]) == (1, 36, 18, 3)
    keys = {
        "sources",
        "head",
        "level",
        "accuracy",
        "accuracy_ci95",
        "macro_f1",
        "macro_f1_ci95",
        "auc",
        "auc_ci95",
        "log_loss",
        "ece",
        "ece_ci95",
        "per_fold",
        "per_class",
        "calibration",
        "repeated",
        "complete",
        "confusion_matrix",
    }
    added = {"headline", "paired", "shapley", "missing", "commands", "versions", "recipes", "seed", "draws"}
    assert added <= set(found) and not {"inflation", "audit", "leaky"} & set(found)
    assert found["missing"] == {"sound": 1} and found["versions"] == {"numpy": "2.4.6"}
    for result in found["results"]:
        assert keys <= set(result)
        assert result["complete"]["clips"] == 35
        assert sum(map(sum, result["confusion_matrix"])) == 36
        assert sum(fold["clips"] for fold in result["per_fold"]) == 36


def test_an_evaluation_fills_every_record() -> None:
    """Classes, calibration, repeats, complete clips, headline, tests and worth; where the run has what it takes."""
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
    assert {(worth.source, worth.head) for worth in found.worth} == {
        (source, "mean") for source in ("c3d", "i3d")
    }
    assert any("corrected for the choice it is" in note for note in found.notes)
    plain = evaluate_run(replace(make_run(), missing=(), results=make_run().results[:1]), draws=50)
    assert plain.headline is None and plain.paired == plain.worth == () and plain.scored[0].complete is None


def test_per_class_scores_equal_scikit_learn() -> None:
    """Precision, recall and F1 of each class; NaN where a class is never said, or never true."""
    labels, p = np.array([0, 0, 1, 1, 3]), np.eye(4)[[0, 1, 1, 1, 0]]
    found = class_scores(labels, p, tuple("abcd"))
    wanted = sk.precision_recall_fscore_support(
        labels, p.argmax(axis=1), labels=range(4), zero_division=np.nan
    )
    for index, item in enumerate(found):
        numbers = (item.precision, item.recall, item.f1, item.clips)
        np.testing.assert_allclose(numbers, [column[index] for column in wanted], atol=1e-12)


def test_leaky_runs_are_marked_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """At the top and in every result of metrics.json, in every row of metrics.csv and of the table."""
    found = evaluate_run(make_run(protocol="leaky"), draws=50)
    values = metrics_values(found)
    assert values["leaky"] is True and str(values["notes"][0]).startswith("LEAKY")  # type: ignore[index]
    assert all(result["notes"][0] == "LEAKY" for result in values["results"])  # type: ignore[attr-defined]
    rows = list(csv.DictReader(io.StringIO(metrics_table(found))))
    assert len(rows) == 4 and all(row["protocol"] == "LEAKY" and "LEAKY" in row["notes"] for row in rows)
    print_table(found)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("LEAKY: ") and "LEAKY run leak" in shown[1]
    assert all("LEAKY" in line for line in shown if "network    logits" in line or " softmax  " in line)


def test_table_says_it_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line is the corrected headline; tests, worth and inflation follow, and no name is cut."""
    print_table(evaluate_run(make_run(), draws=200, leaky=make_run(1, protocol="leaky", skill=0.9)))
    shown = capsys.readouterr().out
    assert shown.startswith("Taking the best of 4 results is right for ")
    for text in (
        "% of new clips (95 % interval ",
        "ECE",
        "these clips cannot tell",
        "Shapley value",
        "LEAKY",
    ):
        assert text in shown
    assert "mean of the fusions: +" in shown and "u: uncalibrated" in shown


def test_only_the_best_result_is_corrected() -> None:
    """metrics.csv holds the corrected accuracy in one row, and repeats where there are any."""
    found = evaluate_run(make_run(), draws=200)
    rows = list(csv.DictReader(io.StringIO(metrics_table(found))))
    corrected = [f"{row['sources']} {row['head']} {row['level']}" for row in rows if row["corrected"]]
    assert found.headline is not None and corrected == [found.headline.result]
    assert [row["repeats"] for row in rows] == ["", "", "", "2"]
    assert all(row["ece_ci95_low"] <= row["ece"] <= row["ece_ci95_high"] for row in rows)


def with_single_heads() -> Run:
    """The same run, with a softmax on each source alone; that of `i3d` is the best result of one source."""
    run, random = make_run(), np.random.default_rng(3)
    truth = np.eye(3)[[run.classes.index(label) for label in run.labels]]
    added = [
        Result((source,), "softmax", "logits", (1 - skill) * random.dirichlet(np.ones(3), 36) + skill * truth)
        for source, skill in (("c3d", 0.1), ("i3d", 0.8))
    ]
    return replace(run, results=(*run.results, *added))


def test_heads_on_one_source_are_singles_and_no_fusions(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand between networks and fusions, may be the best single source, and are compared with their network."""
    found = evaluate_run(with_single_heads(), draws=100)
    names = [[item.result.name for item in part] for part in found.sections]
    assert [len(part) for part in names] == [2, 2, 2] and names[1][0] == "i3d softmax logits"
    assert all(item.is_fusion for item in found.fusions) and not any(
        item.is_fusion for item in found.single_heads
    )
    assert {(test.result, test.against, test.baseline) for test in found.paired} == {
        ("c3d+i3d mean logits", "i3d softmax logits", "best single source"),
        ("c3d+i3d softmax logits", "i3d softmax logits", "best single source"),
        ("c3d+i3d softmax logits", "c3d+i3d mean logits", "mean"),
        ("c3d softmax logits", "c3d network logits", "mean"),
        ("i3d softmax logits", "i3d network logits", "mean"),
    }
    alone = {(item.head, item.source): item.alone for item in found.worth}
    scores = {item.result.name: item.score.accuracy for item in found.scored}
    assert alone == {
        (head, source): scores[f"{source} {row} logits"]
        for head, row in (("mean", "network"), ("softmax", "softmax"))
        for source in ("c3d", "i3d")
    }
    print_table(found)
    shown = capsys.readouterr().out
    rows = re.findall(r"^ *(c3d\+i3d|c3d|i3d) +(network|mean|softmax) +logits", shown, re.MULTILINE)
    assert rows == [tuple(name.split()[:2]) for part in names for name in part]
    assert latex_table(found).count(r"\midrule") == 3
    assert {item.result.name for item in detailed_results(found)} >= {
        "i3d softmax logits",
        "c3d+i3d mean logits",
    }
    marks = [line.get_marker() for line in accuracy_figure(found).axes[0].lines if line.get_marker() in "sDo"]
    assert marks == list("ssDDoo")


def test_equal_singles_are_told_apart_by_loss_then_by_name() -> None:
    """The best single source is that of the least log loss among equals, whether a network's row or a head's."""
    run = make_run()
    network = run.results[0]
    sharper = network.probabilities**1.01 / (network.probabilities**1.01).sum(axis=1, keepdims=True)
    loss = [float(metrics.log_loss(np.arange(36) // 2 % 3, p)) for p in (network.probabilities, sharper)]
    rows = (network, replace(network, head="softmax", probabilities=sharper), run.results[2])
    (test, *_) = evaluate_run(replace(run, results=rows), draws=20).paired
    assert test.against == ("c3d softmax logits" if loss[1] < loss[0] else "c3d network logits")
    rows = (network, replace(network, head="a head"), run.results[2])
    assert evaluate_run(replace(run, results=rows), draws=20).paired[0].against == "c3d a head logits"


def test_unequal_groups_are_said_to_count_as_fewer() -> None:
    """The notes of a run name its groups and how many equal ones they count as; equal groups are just counted."""
    unequal = replace(make_run(), groups=("big",) * 18 + tuple(map(str, range(18))))
    notes = " ".join(evaluate_run(unequal, draws=20).notes)
    assert "only 19 groups, which count as about 4 equal ones: the 95 % interval" in notes
    assert (
        "t intervals over 19 groups, which count as about 4 equal ones; they come from 20 bootstrap draws"
        in notes
    )
    assert "count as" not in " ".join(evaluate_run(make_run(), draws=20).notes)


def test_undefined_numbers_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of one group has no interval, its JSON no NaN, and no bracket on the terminal or on paper holds one."""
    found = evaluate_run(replace(make_run(), groups=("one",) * 36), draws=20)
    text = json.dumps(metrics_values(found), allow_nan=False)
    assert json.loads(text)["headline"]["corrected"] is None
    print_table(found)
    shown = capsys.readouterr().out + markdown_report(found) + latex_table(found) + text
    assert "nan" not in shown.lower() and "[–]" in shown and "no interval: one group" in shown


def test_a_run_name_that_exists_is_refused(tmp_path: Path) -> None:
    """A second run of one name is an error that lists what is taken."""
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, make_run())
    with pytest.raises(InputError, match="run 'one' exists.*choose another"):
        write_run(cache, make_run())
    with pytest.raises(InputError, match="has no run 'two'; it has: one"):
        read_run(cache, "two")


def test_evaluating_fits_nothing(tmp_path: Path) -> None:
    """Stage three loads neither torch nor scikit-learn nor LightGBM."""
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, make_run())
    code = (
        "import sys\nfrom moodfuse.cli import group\n"
        f"group.main(['evaluate', '--cache', {str(cache.path)!r}, '--draws', '50'], standalone_mode=False)\n"
        "print('LOADED', [name for name in ('torch', 'sklearn', 'lightgbm') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "LOADED []" in done.stdout and "c3d+i3d" in done.stdout
