"""Export of a model: which result is selected, and what is refused before anything is fitted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moodfuse import export
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.recipe import import_recipe
from moodfuse.cache.runs import Result, Run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.intervals import resample_groups
from moodfuse.evaluate.report.text import summarize as summarize_report
from moodfuse.export import (
    BEST,
    SIMPLEST,
    ExportSettings,
    check_planned,
    export_model,
    find_result,
    select_result,
)
from moodfuse.extract.networks import NETWORKS
from moodfuse.fuse.ablation import run_ablation
from moodfuse.fuse.settings import AblationSettings
from moodfuse.model.folder import ARRAYS, ModelCard, ModelSource
from moodfuse.model.summary import summarize
from tests.fuse.conftest import Corpus, make_cache

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
    assert "training clips with `--allow-partial --deadline 600`; pass the same options to " in lines[0]
    assert "clips with `--group-pattern '([a-z]+) -'`; pass the same to `evaluate --model`" in lines[1]
    text = (tmp_path / "a" / "MODEL.md").read_text(encoding="utf-8")
    assert f"Note: {lines[0]}." in text and f"Note: {lines[1]}." in text
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


def result_of(name: str, right: float) -> Result:
    """A result with about this probability of the true label for each of 30 clips."""
    sources, head, level = name.split()
    share = label_probability(right)
    y_true = np.arange(30) % 2
    probabilities = np.where(np.eye(2)[y_true] > 0, share[:, None], 1 - share[:, None])
    return Result(tuple(sources.split("+")), head, level, probabilities)


def label_probability(right: float) -> np.ndarray:
    """Probability of the true label of each of 30 clips, about `right`."""
    return right + 0.05 * np.sin(np.arange(30))


def loss_of(right: float) -> str:
    """Log loss of such a result, as notes show it."""
    return f"{-np.log(label_probability(right)).mean():.3f}"


SIZES = {"a+b softmax logits": 30, "a softmax logits": 10, "b softmax logits": 5, "c softmax logits": 1}


@pytest.fixture
def select(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[str]]]:
    """Select among results by their probability of the true label; networks have `SIZES`, `c` is missing."""
    monkeypatch.setattr(export, "_network_bytes", lambda cache, scored: SIZES[scored.name])
    monkeypatch.setattr(
        export, "why_not_exportable", lambda cache, scored: "it is missing" * (scored.sources == ("c",))
    )

    def run_selection(name: str, *right: float, force: bool = False) -> tuple[str, list[str]]:
        results = tuple(result_of(*pair) for pair in zip(SIZES, right, strict=False))
        labels = tuple(("calm", "sad")[number % 2] for number in range(30))
        ids = tuple(map(str, range(30)))
        run = Run("run-1", "crossfit", ("calm", "sad"), ids, labels, ids, (0,) * 30, 1, 0, (), results)
        settings = ExportSettings(name, Path("model"), force=force)
        cache: Any = None
        result, notes = select_result(cache, run, settings, resample_groups(ids, draws=5))
        return result.name, notes

    return run_selection


def test_the_best_that_can_be_exported_is_selected(select: Callable[..., tuple[str, list[str]]]) -> None:
    """If the best of all cannot be, a note has the cause."""
    name, notes = select(BEST, 0.9, 0.895, 0.5)
    assert name == "a+b softmax logits"
    assert notes == [f"selected as the best of 3 results, by cross-validated log loss ({loss_of(0.9)})"]
    name, (why, selected) = select(BEST, 0.8, 0.895, 0.5, 0.9)
    assert name == "a softmax logits"
    assert why.startswith(f"the best result, c softmax logits with a log loss of {loss_of(0.9)}, cannot be")
    assert why.endswith(": it is missing")
    assert selected.startswith("selected as the best of 3 results that can be exported, by")


def test_the_simplest_is_within_one_standard_error_of_the_best(
    select: Callable[..., tuple[str, list[str]]],
) -> None:
    """The standard error of the best is 0.007, so 0.895 is within it, and 0.88 is not."""
    name, notes = select(SIMPLEST, 0.9, 0.895, 0.88)
    assert name == "a softmax logits" and "the smallest of 2 results" in notes[-1]
    assert f"a+b softmax logits ({loss_of(0.9)}); its own is {loss_of(0.895)}" in notes[-1]
    assert select(SIMPLEST, 0.9, 0.88, 0.895)[0] == "b softmax logits"
    assert select(SIMPLEST, 0.9, 0.88, 0.88)[0] == "a+b softmax logits"


@pytest.mark.parametrize("name", [BEST, SIMPLEST, "a softmax logits"])
def test_a_result_no_better_than_class_frequencies_is_refused(
    name: str, select: Callable[..., tuple[str, list[str]]]
) -> None:
    """The message has both losses; with `force` it is a note."""
    with pytest.raises(
        InputError,
        match=f"a softmax logits, {loss_of(0.492)}, is not below that of the class frequencies, 0.693: it is",
    ):
        select(name, 0.4, 0.492, 0.4)
    selected, notes = select(name, 0.4, 0.492, 0.4, force=True)
    assert selected == "a softmax logits" and notes[-1].endswith("0.693; it was exported with --force")


def test_the_simplest_is_better_than_class_frequencies(
    select: Callable[..., tuple[str, list[str]]],
) -> None:
    """A smaller result within one standard error of the best is left out if guessing is as good."""
    assert select(SIMPLEST, 0.51, 0.5, 0.4)[0] == "a+b softmax logits"


def test_a_run_without_an_exportable_result_is_refused(trained: Any, tmp_path: Path) -> None:
    """The message has the cause."""
    run = replace(trained.fewer, protocol="leaky")
    with pytest.raises(InputError, match="no result of run 'fewer' can be exported: a leaky run measures"):
        export_model(trained.cache, run, ExportSettings(BEST, tmp_path / "model"))


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "few clips": ({"groups_per_class": 3, "folds": 3, "tuned": {}}, {}),
    "many clips": ({"groups_per_class": 60, "tuned": {}}, {"repeats": 1}),
    "frozen, two sources": ({"frozen": {"i3d": 12, "c3d": 6}, "tuned": {}}, {"repeats": 2}),
    "tuned": ({"frozen": {}, "tuned": {"c3d": 10, "i3d": 8}, "pairs": True}, {}),
    "tuned and frozen": ({"pairs": True}, {}),
    "without cross-fitting": ({"pairs": True}, {"protocol": "no-crossfit"}),
    "repeated": ({"pairs": True, "repeats": 2}, {}),
    "without video": ({"pairs": True, "without_video": 2}, {}),
    "balanced, in groups": ({"clips_per_group": 2, "pairs": True}, {"class_weight": "balanced"}),
    "random labels": ({"permute": True, "tuned": {}}, {"repeats": 2}),
    "imported": ({"frozen": {"i3d": 4, "own": 12}, "tuned": {}}, {"combine": ("i3d+own",)}),
    "not for export": ({"frozen": {"i3d": 4}}, {}),
}
"""Corpora and ablations by what they are."""
NOT_EXPORTABLE = {
    "imported": ("own", "own was imported"),
    "not for export": ("c3d", "run extract again --for-export --source c3d"),
}
"""A source that cannot be exported, and the note's cause."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_a_report_is_exported(kind: str, tmp_path: Path) -> None:
    """For runs of all kinds, and if it cannot be exported, the next best that can, with the cause."""
    corpus, ablation = KINDS[kind]
    cache = make_cache(tmp_path / "cache", Corpus(**corpus))
    if kind == "imported":
        import_source(cache, "own")
    run = run_ablation(cache, AblationSettings(heads=("softmax", "mean"), jobs=1, **ablation))
    settings = ExportSettings(BEST, tmp_path / "model", force=True)
    result, notes = select_result(cache, run, settings, resample_groups(run.groups, draws=5))
    ranked = [scored.result for scored in evaluate_run(run, draws=20).ranked]
    if kind not in NOT_EXPORTABLE:
        assert result is ranked[0]
        return
    source, cause = NOT_EXPORTABLE[kind]
    assert result is next(one for one in ranked if source not in one.sources) is not ranked[0]
    assert ranked[0].name in notes[0] and cause in notes[0]


def import_source(cache: FeatureCache, source: str) -> None:
    """Replace a frozen source by imported features of the same values."""
    block = cache.block(source, "*")
    recipe = import_recipe(source, sees_labels=False)
    cache.write_recipe(recipe)
    digests = [status.digest for status in cache.clips]
    cache.write_block_part(recipe, None, digests, {"embedding": block.embedding})
    cache.select([recipe])


def test_table_report_and_model_name_the_same_result(trained: Any, tmp_path: Path) -> None:
    """The first row, the summary, and the heading of MODEL.md."""
    evaluation = evaluate_run(trained.fewer, draws=20)
    name = evaluation.best.result.name
    assert f"The best result on these clips is {name}: " in " ".join(summarize_report(evaluation).context)
    settings = ExportSettings(BEST, tmp_path / "model", force=True)
    card = export_model(trained.cache, trained.fewer, settings)
    assert card.name == f"{name} of fewer" and card.expected["best"]
    text = (tmp_path / "model" / "MODEL.md").read_text(encoding="utf-8")
    assert (
        f"Note: selected as the best of {len(evaluation.scored)} results, by cross-validated log loss" in text
    )


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
    for name in (settings.result, BEST, SIMPLEST):
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
    """Heading, labels and counts are escaped in Markdown, as are notes but for the code in them."""
    names = ("accuracy", "macro_f1", "auc", "log_loss", "ece")
    recipe: Any = SimpleNamespace(source="onedmcnn|x", modality="sound")
    label, shown = "![a](b)\n# <c> (d*)", r"![a]\(b)\\n# \<c\> (d\*)"
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
        notes=(f"about {label}", "with `--group-pattern '^(a_|b*)\\d'`, an ` and <b>"),
    )
    text = summarize(card)
    assert text.startswith(f"# {shown}\n")
    assert f"- trained on 8 clips in 8 groups: {shown} 4, sad 4\n" in text
    assert f"\nNote: about {shown}.\n" in text and text.count(shown) == 4
    assert "| macro F1 | 0.500 | [0.400, –] |\n" in text
    assert r"Note: with `--group-pattern '^(a_|b*)\d'`, an ` and <b>`." in text
    assert "- sources: `onedmcnn|x`\n- head: `softmax` on logits\n" in text
    assert "reads audio only: files without video are labelled, those without audio refused" in text
