"""Export of a model: which result is selected, and what is refused before anything is fitted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moodfuse import export
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.runs import Result, Run, result_name
from moodfuse.evaluate.intervals import DRAWS, draw_groups
from moodfuse.export import BEST, ExportSettings, check_planned, export_model, find_result
from moodfuse.fuse.settings import AblationSettings
from moodfuse.model.folder import ARRAYS

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


def test_an_export_is_the_same_bytes_each_time(trained: Any, tmp_path: Path) -> None:
    """Of one run and one cache, the card and the arrays do not change."""
    first = export_model(trained.cache, trained.fewer, ExportSettings(QUICK, tmp_path / "first"))
    again = export_model(trained.cache, trained.fewer, ExportSettings(QUICK, tmp_path / "again"))
    assert first.card.digest == again.card.digest
    assert (tmp_path / "first" / ARRAYS).read_bytes() == (tmp_path / "again" / ARRAYS).read_bytes()


@pytest.mark.parametrize(
    ("missing", "impute", "expected"), [("impute", None, True), ("", None, False), ("impute", False, False)]
)
def test_the_model_imputes_if_extract_did(
    missing: str,
    impute: bool | None,
    expected: bool,
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if no training clip needed it, unless told otherwise; other options of `extract` are named in MODEL.md."""
    reading = {"allow-partial": True, "deadline": 600.0, "group-pattern": "([a-z]+) -"}
    if missing:
        reading["missing"] = missing
    monkeypatch.setattr(type(trained.cache), "reading", reading)
    lines: list[str] = []
    settings = ExportSettings(QUICK, tmp_path / "model", impute)
    done = export_model(trained.cache, trained.fewer, settings, echo=lines.append)
    assert done.card.impute is expected
    assert lines == [
        "extract read the training clips with --allow-partial --deadline 600; pass the same options to predict",
        "extract grouped the training clips with --group-pattern '([a-z]+) -'; pass the same to evaluate --model",
    ]
    text = (done.folder / "MODEL.md").read_text(encoding="utf-8")
    assert f"Note: {lines[0]}." in text and r"--group-pattern '\(\[a-z\]+\) -'; pass" in text
    monkeypatch.setattr(type(trained.cache), "reading", {})
    assert export.reading_notes(trained.cache) == ()


def test_windows_of_another_length_than_predict_reads_are_noted() -> None:
    """The note counts the clips whose window is not 30 s long, and gives the lengths."""

    def notes(*ends: float | None) -> tuple[str, ...]:
        clips = [SimpleNamespace(clip=SimpleNamespace(start_s=5.0, end_s=end)) for end in ends]
        return export.reading_notes(SimpleNamespace(clips=clips, reading={}))  # type: ignore[arg-type]

    assert notes(None, 35.0) == ()
    (note,) = notes(None, 35.0, 15.0, 25.0)
    assert note.startswith(
        "2 of 4 training clips are windows of 10 to 20 s, but predict reads the first 30 s of a file"
    )
    assert "1 of 1 training clips are windows of 60 s" in notes(65.0)[0]


def result_of(name: str, right: float) -> Result:
    """A result with about this probability of the true label for each of 30 clips."""
    sources, head, level = name.split()
    share = right + 0.05 * np.sin(np.arange(30) + len(name))
    truth = np.arange(30) % 2
    table = np.where(np.eye(2)[truth] > 0, share[:, None], 1 - share[:, None])
    return Result(tuple(sources.split("+")), head, level, table)


def run_of(*results: Result) -> Run:
    names = tuple(f"clip{number}" for number in range(30))
    labels = tuple(("calm", "sad")[number % 2] for number in range(30))
    return Run("run-1", "crossfit", ("calm", "sad"), names, labels, names, (0,) * 30, 1, 0, (), results)


def test_the_smallest_result_that_is_not_worse_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the most accurate, nor a smaller one that is clearly worse, nor one that cannot be exported."""
    sizes = {"a+b softmax logits": 30, "a softmax logits": 10, "b softmax logits": 5, "c softmax logits": 1}
    monkeypatch.setattr(export, "_network_bytes", lambda cache, scored: sizes[scored.name])
    monkeypatch.setattr(
        export, "why_not_exportable", lambda cache, scored: "it is not here" * (scored.sources == ("c",))
    )
    rights = dict(zip(sizes, (0.9, 0.895, 0.5, 0.9), strict=True))
    run, lines = run_of(*(result_of(name, right) for name, right in rights.items())), list[str]()
    drawn = draw_groups(run.groups, draws=DRAWS, seed=0)
    cache: Any = None
    chosen, why = export._select_best(cache, run, drawn, lines.append)
    assert chosen.name == "a softmax logits"
    assert "the smallest of 2 results (of 3)" in why and "a+b softmax logits" in why
    assert lines == ["1 of 4 results cannot be exported: it is not here"]
    sizes["a softmax logits"] = 30
    assert export._select_best(cache, run, drawn, lines.append)[0].sources == ("a",), (
        "of two, the fewer sources"
    )
    with pytest.raises(InputError, match="no result of run 'run-1' can be exported: it is not here"):
        export._select_best(cache, run_of(result_of("c softmax logits", 0.9)), drawn, lines.append)


def test_a_result_is_found_by_its_name() -> None:
    """Words may be separated by slashes, sources are in any order; for an unknown name the known ones are listed."""
    results = [result_of(name, 0.7) for name in ("a+b softmax logits", "a mean logits")]
    assert find_result(results, "b+a/softmax/logits") is results[0]
    assert find_result(results, " a  mean logits ") is results[1]
    for wanted in ("a softmax logits", "", "a+b"):
        with pytest.raises(
            UnknownNameError, match=f"unknown result '{wanted.replace('+', '.')}'; known: a mean logits, "
        ):
            find_result(results, wanted)
    assert results[0].name == result_name(("a", "b"), "softmax", "logits")


def test_what_cannot_be_exported_is_refused_before_the_fit(trained: Any, tmp_path: Path) -> None:
    """A folder that exists, a result that is not planned, and a leaky one."""
    ablation = AblationSettings(combine=("onedmcnn@brief",), heads=("softmax",), jobs=1)
    settings = ExportSettings("onedmcnn@brief softmax logits", tmp_path / "model")
    for wanted in (settings.result, BEST):
        check_planned(trained.cache, ablation, replace(settings, result=wanted))
    with pytest.raises(InputError, match="already exists; remove it, or name another folder with --model"):
        check_planned(trained.cache, ablation, replace(settings, folder=tmp_path))
    known = "known: onedmcnn@brief network logits, onedmcnn@brief softmax "
    for wanted in (QUICK, "onedmcnn@brief mean logits"):
        with pytest.raises(UnknownNameError, match=known):
            check_planned(trained.cache, ablation, replace(settings, result=wanted))
    leaky = replace(ablation, protocol="leaky")
    for wanted in (settings.result, BEST):
        with pytest.raises(InputError, match="nothing was fused: a leaky run measures a leak"):
            check_planned(trained.cache, leaky, replace(settings, result=wanted))
