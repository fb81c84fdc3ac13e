"""The files of a report: the published form, equal bytes, and LEAKY with every number of a leaky run."""

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Run, read_run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.published import compare_with, find_published
from moodfuse.evaluate.report import metrics_csv, metrics_values, predictions_csv, write_report

MakeRun = Callable[..., Run]
METRICS = ("accuracy", "macro_f1", "auc", "log_loss", "ece")
RESULT_KEYS = {"sources", "head", "level", "per_fold", "per_class", "calibration", "repeated", "complete"}
RESULT_KEYS |= {"series_accuracy", "confusion_matrix", "notes", "settings"} | {
    f"{name}{end}" for name in METRICS for end in ("", "_ci95")
}


def test_a_run_gives_the_same_files_twice(make_run: MakeRun, tmp_path: Path) -> None:
    """Read from a cache, a leaky run gives every file of a report with the same bytes, and each is marked."""
    cache = FeatureCache(tmp_path / "work", create=True)
    run = make_run(protocol="leaky", name="leaky-1")
    write_run(cache, replace(run, results=run.results[3:]))
    contents = []
    for name in ("first", "second"):
        evaluation = evaluate_run(read_run(cache), draws=50)
        comparison = compare_with(evaluation, find_published("zhou2022"))
        write_report(evaluation, tmp_path / name, comparison=comparison)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    names = {"metrics.json", "metrics.csv", "report.md", "table.tex", "report.html"}
    names |= {"comparison-zhou2022-LEAKY.csv", "predictions-LEAKY.csv", "table_classes.tex"}
    names |= {f"ablation-LEAKY.{suffix}" for suffix in ("pdf", "png", "svg")}
    assert names < set(contents[0])
    assert all("LEAKY" in name or b"LEAKY" in content for name, content in contents[0].items())


def test_metrics_json_has_the_published_form(make_run: MakeRun) -> None:
    """It has every key of the schema, and matrices that sum to the clips."""
    values = json.loads(json.dumps(metrics_values(evaluate_run(make_run(), draws=200)), allow_nan=False))
    keys = "schema run classes clips groups folds protocol results headline planned paired shapley missing "
    keys += "commands versions recipes seed draws notes modalities"
    assert set(values) == set(keys.split())
    assert values["modalities"] == []  # the run does not know what its sources read
    assert (values["schema"], values["clips"], values["groups"], values["folds"]) == (2, 36, 18, 3)
    assert values["missing"] == {"sound": 1} and values["versions"] == {"numpy": "2.4.6"}
    assert any("corrected for the selection it is" in note for note in values["notes"])
    assert len(values["planned"]) == 2 and all(test["sentence"] for test in values["planned"])
    assert {test["verdict"] for test in values["planned"]} <= {"better", "worse", "not significant"}
    keys = {tuple(pair) for pair in values["paired"]}
    assert keys == {("result", "against", "baseline", "difference", "interval")}
    assert [result["settings"] for result in values["results"]] == [[]] * 3 + [[{}, {"C": 0.1}, {"C": 1.0}]]
    for result in values["results"]:
        assert set(result) == RESULT_KEYS and result["complete"]["clips"] == 35
        assert sum(map(sum, result["confusion_matrix"])) == 36
        assert sum(fold["clips"] for fold in result["per_fold"]) == 36


def test_inflation_keeps_its_keys_in_metrics_json(make_run: MakeRun) -> None:
    """They are those of the first schema."""
    evaluation = evaluate_run(
        make_run(), draws=50, leaky=make_run(1, protocol="leaky", skill=0.9, name="leak")
    )
    values: dict = metrics_values(evaluation)["inflation"]  # type: ignore[assignment]
    assert list(values) == ["honest_run", "leaky_run", "rows", "mean_points", "mean_points_ci95"]
    assert (values["honest_run"], values["leaky_run"]) == ("one", "leak")
    assert {tuple(row) for row in values["rows"]} == {("result", "honest", "leaky", "points", "points_ci95")}


def test_only_the_best_result_is_corrected(make_run: MakeRun) -> None:
    """metrics.csv has the corrected accuracy in one row, and repeats where there are any."""
    evaluation = evaluate_run(make_run(), draws=200)
    rows = list(csv.DictReader(io.StringIO(metrics_csv(evaluation))))
    corrected = [f"{row['sources']} {row['head']} {row['level']}" for row in rows if row["corrected"]]
    assert evaluation.headline is not None and corrected == [evaluation.headline.result]
    assert [row["repeats"] for row in rows] == ["", "", "", "2"]
    loss = evaluation.scored[-1].rank.log_loss
    assert float(rows[-1]["repeated_log_loss"]) == pytest.approx(loss) and loss != float(rows[-1]["log_loss"])
    assert all(row["auc_ci95_low"] <= row["auc"] <= row["auc_ci95_high"] for row in rows)


def test_predictions_csv_has_every_probability(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row per result and clip, with six digits; of a large run only the results shown in detail."""
    run = make_run()
    evaluation = evaluate_run(run, draws=20)
    rows = list(csv.DictReader(io.StringIO(predictions_csv(evaluation))))
    assert list(rows[0]) == ["id", "group", "fold", "label", "result", "predicted", "a", "b", "c"]
    for result in run.results:
        own = [row for row in rows if row["result"] == result.name]
        assert tuple(row["id"] for row in own) == run.ids and tuple(row["label"] for row in own) == run.labels
        assert tuple(int(row["fold"]) for row in own) == run.folds
        values = np.array([[float(row[name]) for name in run.classes] for row in own])
        np.testing.assert_allclose(values, result.probabilities, rtol=1e-5)
        assert [row["predicted"] for row in own] == [run.classes[index] for index in values.argmax(axis=1)]
    monkeypatch.setattr("moodfuse.evaluate.report.PREDICTION_ROWS", 100)
    monkeypatch.setattr("moodfuse.evaluate.report.page.PANEL_LIMIT", 2)
    shown = {row["result"] for row in csv.DictReader(io.StringIO(predictions_csv(evaluation)))}
    assert evaluation.best.result.name in shown and len(shown) == 2


def test_a_data_frame_has_the_rows_of_predictions_csv(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every digit of the probabilities; without pandas the error says what to install."""
    pandas = SimpleNamespace(DataFrame=lambda rows, columns: (columns, rows))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    run = make_run()
    columns, rows = run.to_dataframe()
    header, *written = csv.reader(io.StringIO(predictions_csv(evaluate_run(run, draws=20))))
    assert columns == header
    assert [[*map(str, row[:6]), *(f"{value:.6g}" for value in row[6:])] for row in rows] == written
    assert rows[-1][6:] == run.results[-1].probabilities[-1].tolist()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="to_dataframe needs pandas; run: pip install pandas"):
        run.to_dataframe()


def test_a_leaky_run_is_marked_in_every_row(make_run: MakeRun) -> None:
    """The mark is with every result in JSON and CSV."""
    evaluation = evaluate_run(make_run(protocol="leaky"), draws=20)
    values = metrics_values(evaluation)
    assert values["leaky"] is True and str(values["notes"][0]).startswith("LEAKY")  # type: ignore[index]
    assert all(result["notes"][0] == "LEAKY" for result in values["results"])  # type: ignore[attr-defined]
    rows = list(csv.DictReader(io.StringIO(metrics_csv(evaluation))))
    assert len(rows) == 4 and all(row["protocol"] == "LEAKY" and "LEAKY" in row["notes"] for row in rows)
