"""Export of a model: which result is selected, and what is refused before anything is fitted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moodfuse import export
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import DRAWS, resample_groups
from moodfuse.export import BEST, ExportSettings, check_planned, export_model, find_result, summarize
from moodfuse.extract.networks import NETWORKS
from moodfuse.fuse.settings import AblationSettings
from moodfuse.model.folder import ARRAYS, ModelCard, ModelSource

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"


def test_an_export_is_the_same_bytes_each_time(trained: Any, tmp_path: Path) -> None:
    """Of one run and one cache, the card and the arrays do not change."""
    first = export_model(trained.cache, trained.fewer, ExportSettings(QUICK, tmp_path / "first"))
    again = export_model(trained.cache, trained.fewer, ExportSettings(QUICK, tmp_path / "again"))
    assert first.digest == again.digest
    assert (tmp_path / "first" / ARRAYS).read_bytes() == (tmp_path / "again" / ARRAYS).read_bytes()


def test_a_run_of_an_older_version_is_not_exported(trained: Any, tmp_path: Path) -> None:
    """Its heads were fitted in another way, so the scores would not be those of the model."""
    older = replace(trained.fewer, class_weight="")
    with pytest.raises(InputError, match="was made by an older version.*run fuse again"):
        export_model(trained.cache, older, ExportSettings(QUICK, tmp_path / "model"))


def test_the_model_imputes_if_extract_did(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless told otherwise; other options of `extract` are named in MODEL.md."""
    reading = {"allow-partial": True, "deadline": 600.0, "group-pattern": "([a-z]+) -", "missing": "impute"}
    monkeypatch.setattr(type(trained.cache), "reading", reading)
    lines: list[str] = []
    settings = ExportSettings(QUICK, tmp_path / "a")
    assert export_model(trained.cache, trained.fewer, settings, echo=lines.append).impute
    assert "training clips with --allow-partial --deadline 600; pass the same options to predict" in lines[0]
    assert "training clips with --group-pattern '([a-z]+) -'; pass the same to evaluate --model" in lines[1]
    text = (tmp_path / "a" / "MODEL.md").read_text(encoding="utf-8")
    assert f"Note: {lines[0]}." in text and r"--group-pattern '\(\[a-z\]+\) -'; pass" in text
    refusing = ExportSettings(QUICK, tmp_path / "b", impute=False)
    assert not export_model(trained.cache, trained.fewer, refusing).impute


def test_windows_of_another_length_than_predict_reads_are_noted() -> None:
    """The note counts the clips whose window is not 30 s long, and gives the lengths."""
    ends = (None, 35.0, 15.0, 25.0)
    clips = [SimpleNamespace(clip=SimpleNamespace(start_s=5.0, end_s=end_s)) for end_s in ends]
    cache: Any = SimpleNamespace(clips=clips, reading={})
    (note,) = export._reading_notes(cache)
    assert note.startswith(
        "2 of 4 training clips are windows of 10 to 20 s, but predict reads the first 30 s"
    )


def result_of(name: str, accuracy: float) -> Result:
    """A result with about this probability of the true label for each of 30 clips."""
    sources, head, level = name.split()
    share = accuracy + 0.05 * np.sin(np.arange(30) + len(name))
    y_true = np.arange(30) % 2
    probabilities = np.where(np.eye(2)[y_true] > 0, share[:, None], 1 - share[:, None])
    return Result(tuple(sources.split("+")), head, level, probabilities)


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
    results = [result_of(name, value) for name, value in zip(sizes, (0.9, 0.895, 0.5, 0.9), strict=True)]
    labels = tuple(("calm", "sad")[number % 2] for number in range(30))
    names = tuple(map(str, range(30)))
    run = Run("run-1", "crossfit", ("calm", "sad"), names, labels, names, (0,) * 30, 1, 0, (), tuple(results))
    resamples, lines = resample_groups(names, draws=DRAWS, seed=0), list[str]()
    cache: Any = None
    best, why = export._select_best(cache, run, resamples, lines.append)
    assert best is results[1]
    assert "the smallest of 2 results (of 3)" in why and "a+b softmax logits" in why
    assert lines == ["1 of 4 results cannot be exported: it is not here"]
    run = replace(run, results=tuple(results[3:]))
    with pytest.raises(InputError, match="no result of run 'run-1' can be exported: it is not here"):
        export._select_best(cache, run, resamples, lines.append)


def test_a_result_is_found_by_its_name() -> None:
    """Words may be separated by slashes, sources are in any order; an unknown name lists the known ones."""
    results = [result_of(name, 0.7) for name in ("a+b softmax logits", "a mean logits")]
    assert find_result(results, "b+a/softmax/logits") is results[0]
    assert find_result(results, " a  mean logits ") is results[1]
    for name in ("a softmax logits", ""):
        with pytest.raises(UnknownNameError, match=f"unknown result '{name}'; known: a mean logits, "):
            find_result(results, name)


def test_what_cannot_be_exported_is_refused_before_the_fit(trained: Any, tmp_path: Path) -> None:
    """A folder that exists, a result that is not planned, and a leaky one."""
    ablation = AblationSettings(combine=("onedmcnn@brief",), heads=("softmax",), jobs=1)
    settings = ExportSettings("onedmcnn@brief softmax logits", tmp_path / "model")
    for name in (settings.result, BEST):
        check_planned(trained.cache, ablation, replace(settings, result=name))
    with pytest.raises(InputError, match="already exists; remove it, or name another folder with --model"):
        check_planned(trained.cache, ablation, replace(settings, folder=tmp_path))
    with pytest.raises(
        UnknownNameError, match="known: onedmcnn@brief network logits, onedmcnn@brief softmax "
    ):
        check_planned(trained.cache, ablation, replace(settings, result="onedmcnn@brief mean logits"))
    with pytest.raises(InputError, match="nothing was fused: a leaky run measures a leak"):
        check_planned(trained.cache, replace(ablation, protocol="leaky"), settings)


def test_features_of_an_earlier_network_are_not_exported(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model is written that this version could not run; the message names what to run."""
    monkeypatch.setitem(NETWORKS, "twodmcnn", replace(NETWORKS["twodmcnn"], version=99))
    ablation = AblationSettings(combine=("twodmcnn@brief",), heads=("softmax",), jobs=1)
    settings = ExportSettings(BEST, tmp_path / "model")
    with pytest.raises(InputError, match="this is version 99; run `moodfuse extract`"):
        check_planned(trained.cache, ablation, settings)
    with pytest.raises(InputError, match="this is version 99; run `moodfuse extract`"):
        export_model(trained.cache, trained.fewer, replace(settings, result=QUICK))
    assert not (tmp_path / "model").exists()


def test_the_summary_shows_names_as_they_are() -> None:
    """Heading, labels, counts, sources and notes are escaped in Markdown."""
    names = ("accuracy", "macro_f1", "auc", "log_loss", "ece")
    recipe: Any = SimpleNamespace(source="onedmcnn|x", modality="sound")
    label, shown = "![a](b)\n# <c>", r"\!\[a\]\(b\)\\n\# \<c\>"
    intervals = {f"{name}_ci95": [0.4, None] for name in names}
    card = ModelCard(
        name=label,
        run="run-1",
        protocol="crossfit",
        head="softmax",
        level="logits",
        classes=(label, "sad"),
        sources=(ModelSource(recipe, None, (), 0),),
        head_kind="linear",
        head_facts={},
        temperature=1.0,
        chosen=True,
        decoder="1",
        impute=False,
        training={"clips": 8, "groups": 8, "labels": {label: 4, "sad": 4}},
        expected={"clips": 8, "groups": 8, **dict.fromkeys(names, 0.5), **intervals},
        notes=(f"about {label}",),
    )
    text = summarize(card)
    assert text.startswith(f"# {shown}\n")
    assert f"- trained on 8 clips in 8 groups: {shown} 4, sad 4\n" in text
    assert f"\nNote: about {shown}.\n" in text and text.count(shown) == 4
    assert "| macro F1 | 0.500 | [0.400, –] |\n" in text
    assert r"- sources: onedmcnn\|x" in text
    assert "reads audio only: files without video are labelled, those without audio refused" in text
