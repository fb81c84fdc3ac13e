"""Rows and columns of a file beside the clips, and the rows that a source has."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bringing import IDS, Given, bring, write, write_labels
from moodfuse.cache.digests import digest_array
from moodfuse.cache.errors import InputError
from moodfuse.cache.maintenance.prune import PRUNED_PREFIX
from moodfuse.cache.planning import PlanChoice
from moodfuse.cache.records import Holdout
from moodfuse.cache.storage.parts import write_part
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.importing import ImportSettings, import_features

pytestmark = pytest.mark.usefixtures("unsynced")


def test_what_is_being_removed_decides_no_width(known: FeatureCache, tmp_path: Path) -> None:
    """A folder that a killed prune left is none of the source's networks."""
    owner = known.owner(known.recipe("other"), None)
    aside = owner.folder.with_name(f"{PRUNED_PREFIX}123")
    arrays = {
        "clip": digest_array(clip.digest for clip in known.clips),
        "embedding": np.ones((6, 5), dtype=np.float32),
    }
    write_part(aside, "a", arrays, owner.attributes)
    found = np.arange(12.0).reshape(6, 2)
    assert bring(known.path, source="other", **write(tmp_path, Given(IDS, found), ".npz")).written == 0


CLIPS = tuple(f"clip {number:02d}" for number in range(24))
MOODS = ("angry", "happy", "sad") * 8


def moods_file(folder: Path, columns: dict[str, Any], moods: tuple[str, ...] = MOODS) -> dict[str, Path]:
    """A table of features and the labels of its clips."""
    with (folder / "features.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", *columns), *zip(CLIPS, *columns.values(), strict=False)])
    return {"file": folder / "features.csv", "labels": write_labels(folder / "labels.csv", CLIPS, moods)}


NOISE = np.random.default_rng(0).normal(size=24).round(3).tolist()
CODES = [{"angry": 0, "happy": 1, "sad": 2}[mood] for mood in MOODS]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("target", CODES),
        ("y", [code + 1.0 for code in CODES]),
        ("label_sad", [int(code == 2) for code in CODES]),
        ("valence", [-1 if code != 1 else 1 for code in CODES]),
        ("label_mean", [(0.125, 0.5, -3.75)[code] for code in CODES]),
        ("folder", [10 * code + row % 2 for row, code in enumerate(CODES)]),
    ],
)
def test_a_column_that_determines_the_label_is_refused(
    tmp_path: Path, name: str, values: list[float]
) -> None:
    """A column that encodes the label, such as codes or means by label, is refused unless the user names it."""
    files = moods_file(tmp_path, {"x": NOISE, name: values})
    for columns in ((), ("*",)):
        with pytest.raises(
            InputError, match=rf"1 column\(s\) encode the label in all 24 clips, or .*: {name!r}; drop them"
        ):
            bring(tmp_path / "work", columns=columns, **files)
        assert not (tmp_path / "work").exists()
    assert bring(tmp_path / "work", columns=(f"x,{name}",), **files).embedding == 2
    assert bring(tmp_path / "work", source="two", columns=("x",), **files).embedding == 1


@pytest.mark.parametrize(
    "values",
    [
        [code if row else 1 for row, code in enumerate(CODES)],
        [1] * 24,
        [row + code / 10 for row, code in enumerate(CODES)],
        [code + row / 100 for row, code in enumerate(CODES)],
        [row % 4 for row in range(24)],
        NOISE[::-1],
    ],
    ids=["one clip otherwise", "constant", "all distinct", "apart and distinct", "few values", "noise"],
)
def test_columns_that_do_not_determine_the_label_are_features(tmp_path: Path, values: list[float]) -> None:
    """A column in which labels share a value, all clips have one value, or every clip has its own is a feature."""
    files = moods_file(tmp_path, {"x": NOISE, "value": values})
    assert bring(tmp_path / "work", **files).embedding == 2


def test_few_clips_prove_nothing_of_a_column(tmp_path: Path) -> None:
    """Nine clips, or clips of one label, are too few to refuse a column that encodes the label."""
    bring(tmp_path / "work", columns=("c,x",), **moods_file(tmp_path, {"c": CODES, "x": NOISE}))
    for labels in (MOODS[:9], ("sad",) * 12):
        new = tuple(f"new {len(labels)}-{number:02d}" for number in range(len(labels)))
        with (tmp_path / "new.csv").open("w", newline="") as stream:
            rows = ((name, MOODS.index(label), 0.5) for name, label in zip(new, labels, strict=True))
            csv.writer(stream).writerows([("id", "c", "x"), *rows])
        table = write_labels(tmp_path / "more.csv", (*CLIPS, *new), (*MOODS, *labels))
        assert bring(tmp_path / "work", file=tmp_path / "new.csv", labels=table).written == len(labels)


NUMBERED = ("1", "2", "9", "10") * 3


def numbered_file(
    folder: Path, labels: tuple[str, ...], **arrays: np.ndarray
) -> tuple[ImportSettings, list[str]]:
    """Logits of which column c is c, and the labels of the clips."""
    ids = CLIPS[: len(labels)]
    count = len(set(labels))
    logits = np.tile(np.arange(count, dtype=np.float32), (len(ids), 1))
    np.savez(folder / "zs.npz", id=np.array(ids), embedding=np.ones((len(ids), 2)), logits=logits, **arrays)
    table = write_labels(folder / "labels.csv", ids, labels)
    options = {"file": folder / "zs.npz", "labels": table, "plan": PlanChoice(2)}
    said: list[str] = []
    return ImportSettings(cache=folder / "work", source="zs", holdout=Holdout.frozen(), **options), said  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [NUMBERED, ("-1", "-2") * 3, ("1.5", "10.5", "9") * 2], ids=str)
def test_logits_without_classes_are_refused_where_labels_have_two_orders(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    """Logits without class names are refused if labels sort differently as numbers and as text."""
    wanted, said = numbered_file(tmp_path, labels)
    with pytest.raises(
        InputError,
        match=r"the labels sort differently as text \(.*\) and as numbers \(.*\); .*array 'classes'",
    ):
        import_features(wanted, say=said.append)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["i8", "u1", "U2", "S2", "f8"])
def test_classes_of_a_file_put_its_logits_in_order(tmp_path: Path, kind: str) -> None:
    """Class names in a file set the order of logits; as in scikit-learn they may be integers, text or floats."""
    labels = tuple(f"{label}.0" for label in NUMBERED) if kind == "f8" else NUMBERED
    wanted, said = numbered_file(tmp_path, labels, classes=np.array([1, 2, 9, 10]).astype(kind))
    import_features(wanted, say=said.append)
    cache = FeatureCache(tmp_path / "work")
    found = cache.block("zs", "*").logits
    order = [label.removesuffix(".0") for label in cache.classes]
    assert order == ["1", "10", "2", "9"]
    assert found is not None and found.tolist() == [[0, 3, 1, 2]] * 12
    named = ", ".join(f"{label}.0" if kind == "f8" else label for label in ("1", "2", "9", "10"))
    assert f"{wanted.file}: classes of the logits, as named in the file: {named}" in said


@pytest.mark.parametrize(("suffix", "kind"), [("", "f8"), (".0", "i8")])
def test_classes_match_labels_as_whole_numbers(tmp_path: Path, suffix: str, kind: str) -> None:
    """Classes 1.0, 2.0, ... are those of labels 1, 2, ..., and the other way round."""
    labels = tuple(f"{label}{suffix}" for label in NUMBERED)
    wanted, said = numbered_file(tmp_path, labels, classes=np.array([1, 2, 9, 10]).astype(kind))
    import_features(wanted, say=said.append)
    found = FeatureCache(tmp_path / "work").block("zs", "*").logits
    assert found is not None and found.tolist() == [[0, 3, 1, 2]] * 12


def test_the_order_of_unnamed_classes_is_said(tmp_path: Path) -> None:
    """Logits without class names are taken in sorted order if it is unambiguous, and a line lists the classes."""
    for labels, order in (
        (MOODS, "angry, happy, sad"),
        (("01", "10", "02") * 2, "01, 02, 10"),
        (("a", "10", "9") * 2, "10, 9, a"),
    ):
        wanted, said = numbered_file(tmp_path, labels)
        import_features(replace(wanted, cache=tmp_path / order.replace(", ", "-")), say=said.append)
        assert f"{wanted.file}: classes of the logits, not named, so in sorted order: {order}" in said


def test_an_import_warns_of_labels_and_groups(tmp_path: Path) -> None:
    """An import warns about labels and groups before it makes a plan, also if the plan is refused."""
    wanted, said = numbered_file(tmp_path, ("sad", "Sad", "fear") * 2)
    table = write_labels(
        tmp_path / "labels.csv",
        CLIPS[:6],
        ("sad", "Sad", "fear") * 2,
        group=["nan", "", "NaN", "a", "a", "b"],
    )
    with pytest.raises(InputError, match="fewer than the 6 folds"):
        import_features(replace(wanted, labels=table, plan=PlanChoice(6)), say=said.append)
    assert len(said) == 3 and all(line.startswith(f"WARNING {table}: ") for line in said)
    assert "'Sad' (2 clips) and 'sad' (2 clips)" in said[0] and "'NaN' (1 clip), 'nan' (1 clip)" in said[2]
