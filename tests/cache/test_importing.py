"""Import: each clip gets its own row, with logits of its own classes; anything else is refused and nothing is written."""

import csv
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bringing import IDS, LABELS, Given, bring, listing, refuse, write, write_labels
from moodfuse.cache.blocks import write_rows
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.maintenance.prune import PRUNED_PREFIX
from moodfuse.cache.recipe import Recipe, import_recipe
from moodfuse.cache.records import Holdout
from moodfuse.cache.storage.parts import write_part
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import export_features
from moodfuse.cache.transfer.importing import ImportSettings, import_features

pytestmark = pytest.mark.usefixtures("unsynced")

VALUES = np.arange(12.0).reshape(6, 2)
FOLDS = [0, 0, 1, 1, 0, 1]


def test_stored_rows_are_not_overwritten(known: FeatureCache, tmp_path: Path) -> None:
    before = listing(known.path)
    files = write(tmp_path, Given(IDS[3:], VALUES[3:]), ".csv")
    assert bring(known.path, source="other", **files).written == 0
    assert listing(known.path) == before
    other = VALUES.copy()
    other[5, 1] = -11
    for given_, cause in (
        (Given(IDS, other), r"has other values of 1 clips \(first: 'clip 5'\); nothing is overwritten"),
        (Given(IDS, np.hstack([VALUES, VALUES])), r"has embedding \[N, 4\], but .* has embedding \[N, 2\]"),
        (Given(IDS, VALUES, VALUES), "has embedding .*, logits .*, but source 'other' has embedding"),
    ):
        with pytest.raises(InputError, match=cause):
            bring(known.path, source="other", **write(tmp_path, given_, ".npz"))
    with pytest.raises(InputError, match=r"imported with holdout \*, and this is \{1\}"):
        bring(known.path, source="other", holdout="{1}", **write(tmp_path, Given(IDS, VALUES), ".npz"))
    assert listing(known.path) == before


def test_a_folder_that_a_killed_prune_left_decides_no_width(known: FeatureCache, tmp_path: Path) -> None:
    owner = known.owner(known.recipe("other"), None)
    digests = np.array([status.digest for status in known.clips], dtype="S64")
    arrays = {"clip": digests, "embedding": np.ones((6, 5), dtype=np.float32)}
    write_part(owner.folder.with_name(f"{PRUNED_PREFIX}123"), "a", arrays, owner.attributes)
    assert bring(known.path, source="other", **write(tmp_path, Given(IDS, VALUES), ".npz")).written == 0


def test_after_a_full_disk_the_same_command_completes_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=FOLDS)
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    move = os.replace
    for refused in range(8):  # marker, clips, plan, view, recipe, what was seen, rows, selection
        left = [refused]

        def full(source: str, target: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            move(source, target)

        work = tmp_path / f"work-{refused}"
        monkeypatch.setattr("os.replace", full)
        with pytest.raises(CacheError, match="the disk is full: free space"):
            bring(work, holdout="{1}", labels=labels, **files)
        monkeypatch.setattr("os.replace", move)
        assert bring(work, holdout="{1}", labels=labels, **files).clips == 6
        block = FeatureCache(work).block("mine", {1})
        assert block.embedding.tolist() == VALUES.tolist() and not list(work.rglob(".tmp-*"))


def test_two_copies_of_a_file_share_one_row(small_cache: Callable[..., FeatureCache], tmp_path: Path) -> None:
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses.append(replace(statuses[0], clip=replace(statuses[0].clip, id="copy")))
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    ids = [status.clip.id for status in statuses]
    rows = np.arange(38.0).reshape(19, 2)
    with pytest.raises(InputError, match="rows of '000' and 'copy' differ, but both are one clip"):
        bring(cache.path, **write(tmp_path, Given(ids, rows), ".npz"))
    rows[18] = rows[0]
    for source, count in (("both", 19), ("one", 18)):
        done = bring(cache.path, source=source, **write(tmp_path, Given(ids[:count], rows[:count]), ".npz"))
        block = FeatureCache(cache.path).block(source, "*")
        assert done.written == 18 and block.embedding.tolist() == rows.tolist() and list(block.ids) == ids
    assert bring(cache.path, source="one", **write(tmp_path, Given(ids, rows), ".npz")).written == 0


def test_source_names_are_plain_and_not_those_of_extract(known: FeatureCache, tmp_path: Path) -> None:
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    for name in ("", "a/b", "../a", "-a", "a b", "a" * 65, "torchvision:s3d", "c3d@mine"):
        refuse(tmp_path, "is not plain", source=name, **files)
    recipe = Recipe("c3d", "c3d", 1, "random", "{}", "frozen", None, embedding_tuned=False)
    known.write_recipe(recipe)
    known.select([recipe])
    with pytest.raises(InputError, match="'c3d' was made by extract"):
        bring(known.path, source="c3d", **files)


def test_a_holdout_must_be_possible_and_decides_what_was_seen(tmp_path: Path) -> None:
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=FOLDS)
    plain = write_labels(tmp_path / "labels.csv", IDS)
    for table, holdout, cause in (
        (plain, "{1}", r"--holdout \{1\}: this command assigns clips to folds"),
        (labels, "{2}", "has the folds 0..1, not 2"),
        (labels, "{0,1}", "names every fold"),
        (labels, "{-1}", "not -1"),
    ):
        with pytest.raises(InputError, match=cause):
            bring(tmp_path / "new", holdout=holdout, labels=table, **files)
        assert not (tmp_path / "new").exists()
    done = bring(tmp_path / "work", holdout="{1}", labels=labels, **files)
    assert done.missing_holdouts == (Holdout.of(0),)
    block = FeatureCache(tmp_path / "work").block("mine", {1})
    assert block.holdout == Holdout.of(1) and block.embedding_tuned
    assert block.seen == {block.digests[row] for row in (0, 1, 4)}
    with pytest.raises(CacheError, match=r"cache import --cache .* --source mine --holdout '\{0\}' FILE"):
        FeatureCache(tmp_path / "work").block("mine", {0})
    assert bring(tmp_path / "work", holdout="0", **files).missing_holdouts == ()
    with pytest.raises(InputError, match=r"imported with holdout folds, and this is \*"):
        bring(tmp_path / "work", **files)
    with pytest.raises(InputError, match="name one, such as --holdout"):
        export_features(FeatureCache(tmp_path / "work"), "mine", None, tmp_path / "out.npz")
    export_features(FeatureCache(tmp_path / "work"), "mine", Holdout.of(0), tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["fold"].tolist() == FOLDS


def test_rows_of_test_clips_are_dropped_with_a_line(tmp_path: Path) -> None:
    split = ["train"] * 6 + ["test"]
    labels = write_labels(tmp_path / "labels.csv", (*IDS, "t"), (*LABELS, "a"), split=split)
    lines: list[str] = []
    files = write(tmp_path, Given((*IDS, "t"), np.ones((7, 2))), ".csv")
    wanted = ImportSettings(
        tmp_path / "work", source="mine", holdout=Holdout.frozen(), labels=labels, plan=PlanChoice(2), **files
    )
    assert import_features(wanted, report=lines.append).clips == 6
    assert "1 rows dropped" in lines[-1] and len(FeatureCache(tmp_path / "work").block("mine", "*").ids) == 6


# Logits and their classes


@pytest.mark.parametrize(
    ("ids", "labels", "names"),
    [(IDS, ("c", "b") * 3, "b, c"), ((*IDS, "x", "y"), (*LABELS, "c", "c"), "a, b, c")],
    ids=["renamed", "one more"],
)
def test_logits_of_other_classes_are_refused_by_name(
    known: FeatureCache, tmp_path: Path, ids: tuple[str, ...], labels: tuple[str, ...], names: str
) -> None:
    logits, embedding = np.array([[2.0, -1.0]] * len(ids)), np.ones((len(ids), 2))
    bring(known.path, source="zs", **write(tmp_path, Given(IDS, embedding[:6], logits[:6]), ".npz"))
    changed = write_labels(tmp_path / "changed.csv", ids, labels)
    bring(known.path, source="two", labels=changed, **write(tmp_path, Given(ids, embedding), ".npz"))
    wide = np.ones((len(ids), len(set(labels))))
    with pytest.raises(InputError, match=r"are of b, c, but those of .* are of a, b|'zs' has .*logits"):
        bring(known.path, source="zs", **write(tmp_path, Given(ids, embedding, wide), ".npz"))
    cache = FeatureCache(known.path, create=True)
    owner = cache.owner(cache.recipe("zs"), None)
    arrays = {"embedding": embedding.astype(np.float32), "logits": logits.astype(np.float32)}
    write_rows(owner, [status.digest for status in cache.clips], arrays)  # by a writer without classes
    cause = rf"zs \*: its logits are of a, b, but the labels are {names}; import .*cache prune .* --source zs"
    with pytest.raises(InputError, match=cause):
        cache.block("zs", "*")
    with pytest.raises(InputError, match=cause):
        export_features(cache, "zs", None, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_stored_logits_are_put_in_class_order_or_taken_by_width(known: FeatureCache) -> None:
    cache = FeatureCache(known.path, create=True)
    clips = [status.digest for status in cache.clips]

    def add(source: str, rows: slice, width: int = 2, classes: tuple[str, ...] = ()) -> None:
        recipe = import_recipe(source, sees_labels=False)
        cache.write_recipe(recipe)
        logits = np.array([[2.0, -1.0, 0.0][:width]] * 6, dtype=np.float32)[rows]
        arrays = {"embedding": logits, "logits": logits}
        write_rows(cache.owner(recipe, None), clips[rows], arrays, classes=classes)
        cache.select([recipe])

    add("unnamed", slice(0, 6))
    assert cache.block("unnamed", "*").logits.tolist() == [[2.0, -1.0]] * 6  # type: ignore[union-attr]
    add("wide", slice(0, 6), width=3)
    with pytest.raises(InputError, match=r"wide \*: its logits are of 3 classes, but the labels are a, b"):
        cache.block("wide", "*")
    add("turned", slice(0, 4), classes=("b", "a"))
    add("turned", slice(4, 6))
    assert cache.block("turned", "*").logits.tolist() == [[-1.0, 2.0]] * 6  # type: ignore[union-attr]
    add("mixed", slice(0, 4), classes=("b", "a"))
    add("mixed", slice(4, 6), classes=("a", "b"))
    with pytest.raises(InputError, match="classes of their logits in different orders"):
        cache.block("mixed", "*")


CLIPS = tuple(f"clip {number:02d}" for number in range(24))
MOODS = ("angry", "happy", "sad") * 8
NUMBERED = ("1", "2", "9", "10") * 3


def import_logits(folder: Path, labels: tuple[str, ...], **arrays: np.ndarray) -> tuple[Any, list[str]]:
    """Import logits in which column c is c; gives the logits in the cache and the reported lines."""
    ids, count = CLIPS[: len(labels)], len(set(labels))
    logits = np.tile(np.arange(count, dtype=np.float32), (len(ids), 1))
    np.savez(folder / "zs.npz", id=np.array(ids), embedding=np.ones((len(ids), 2)), logits=logits, **arrays)
    table = write_labels(folder / "labels.csv", ids, labels)
    wanted = ImportSettings(
        folder / "work", folder / "zs.npz", "zs", Holdout.frozen(), labels=table, plan=PlanChoice(2)
    )
    lines: list[str] = []
    import_features(wanted, report=lines.append)
    return FeatureCache(folder / "work").block("zs", "*").logits, lines


def test_logits_have_the_columns_of_the_labels(known: FeatureCache, tmp_path: Path) -> None:
    given_ = Given(IDS, np.zeros((6, 2)), np.zeros((6, 3)))
    refuse(tmp_path, "logits have 3 columns; expected 2, .* a, b", **write(tmp_path, given_, ".npz"))


@pytest.mark.parametrize("labels", [NUMBERED, ("-1", "-2") * 3, ("1.5", "10.5", "9") * 2], ids=str)
def test_logits_without_classes_are_refused_where_labels_have_two_orders(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    cause = r"the labels sort differently as text \(.*\) and as numbers \(.*\); .*array 'classes'"
    with pytest.raises(InputError, match=cause):
        import_logits(tmp_path, labels)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("i8", ""), ("u1", ""), ("U2", ""), ("S2", ""), ("f8", ".0"), ("f8", ""), ("i8", ".0")],
)
def test_classes_of_a_file_decide_the_order_of_its_logits(tmp_path: Path, kind: str, suffix: str) -> None:
    labels = tuple(f"{label}{suffix}" for label in NUMBERED)
    logits, lines = import_logits(tmp_path, labels, classes=np.array([1, 2, 9, 10]).astype(kind))
    assert logits.tolist() == [[0, 3, 1, 2]] * 12  # columns of 1, 10, 2 and 9
    named = ", ".join(f"{label}.0" if kind == "f8" else label for label in ("1", "2", "9", "10"))
    assert f"{tmp_path / 'zs.npz'}: classes of the logits, as named in the file: {named}" in lines


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (MOODS, "angry, happy, sad"),
        (("01", "10", "02") * 2, "01, 02, 10"),
        (("a", "10", "9") * 2, "10, 9, a"),
    ],
)
def test_the_order_of_unnamed_classes_is_reported(
    tmp_path: Path, labels: tuple[str, ...], order: str
) -> None:
    _, lines = import_logits(tmp_path, labels)
    file = tmp_path / "zs.npz"
    assert f"{file}: classes of the logits, not named, so in sorted order: {order}" in lines


# Columns that encode the label


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
        ("label_sad", [int(code == 2) for code in CODES]),
        ("valence", [-1 if code != 1 else 1 for code in CODES]),
        ("label_mean", [(0.125, 0.5, -3.75)[code] for code in CODES]),
        ("folder", [10 * code + row % 2 for row, code in enumerate(CODES)]),
    ],
)
def test_a_column_that_determines_the_label_is_refused_unless_named(
    tmp_path: Path, name: str, values: list[float]
) -> None:
    files = moods_file(tmp_path, {"x": NOISE, name: values})
    for columns in ((), ("*",)):
        cause = rf"1 column\(s\) encode the label in all 24 clips, or .*: {name!r}; remove them"
        with pytest.raises(InputError, match=cause):
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
        [row % 4 for row in range(24)],
        NOISE[::-1],
    ],
    ids=["one clip otherwise", "constant", "all distinct", "few values", "noise"],
)
def test_columns_that_do_not_determine_the_label_are_features(tmp_path: Path, values: list[float]) -> None:
    assert bring(tmp_path / "work", **moods_file(tmp_path, {"x": NOISE, "value": values})).embedding == 2


def test_few_clips_or_one_label_are_no_evidence_against_a_column(tmp_path: Path) -> None:
    bring(tmp_path / "work", columns=("c,x",), **moods_file(tmp_path, {"c": CODES, "x": NOISE}))
    for labels in (MOODS[:9], ("sad",) * 12):
        new = tuple(f"new {len(labels)}-{number:02d}" for number in range(len(labels)))
        with (tmp_path / "new.csv").open("w", newline="") as stream:
            rows = ((name, MOODS.index(label), 0.5) for name, label in zip(new, labels, strict=True))
            csv.writer(stream).writerows([("id", "c", "x"), *rows])
        table = write_labels(tmp_path / "more.csv", (*CLIPS, *new), (*MOODS, *labels))
        assert bring(tmp_path / "work", file=tmp_path / "new.csv", labels=table).written == len(labels)
