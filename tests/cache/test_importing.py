"""Import: each clip gets its own row, with logits of its classes; after an error nothing is written."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bringing import IDS, LABELS, Given, bring, listing, refuse, write, write_csv, write_labels
from moodfuse.cache.blocks import write_rows
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.recipe import Recipe, import_recipe
from moodfuse.cache.records import Holdout
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
    for given, cause in (
        (Given(IDS, other), r"has other values of 1 clips \(first: 'clip 5'\); nothing is overwritten"),
        (Given(IDS, np.hstack([VALUES, VALUES])), r"has embedding \[N, 4\], but .* has embedding \[N, 2\]"),
        (Given(IDS, VALUES, VALUES), "has embedding .*, logits .*, but source 'other' has embedding"),
    ):
        with pytest.raises(InputError, match=cause):
            bring(known.path, source="other", **write(tmp_path, given, ".npz"))
    with pytest.raises(InputError, match=r"imported with holdout \*, and this is \{1\}"):
        bring(known.path, source="other", holdout="{1}", **write(tmp_path, Given(IDS, VALUES), ".npz"))
    assert listing(known.path) == before


def test_after_a_full_disk_the_same_command_completes_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=FOLDS)
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    move = os.replace
    for writes in (0, 2, 4, 6, 7):  # of: marker, clips, plan, view, recipe, training clips, rows, selection
        left = [writes]

        def fail(source: str, target: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            move(source, target)

        work = tmp_path / f"work-{writes}"
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", fail)
            with pytest.raises(CacheError, match="the disk is full: free space"):
                bring(work, holdout="{1}", labels=labels, **files)
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
    rows[18] = rows[0]
    for source, count in (("both", 19), ("one", 18)):
        done = bring(cache.path, source=source, **write(tmp_path, Given(ids[:count], rows[:count]), ".npz"))
        block = FeatureCache(cache.path).block(source, "*")
        assert done.written == 18 and block.embedding.tolist() == rows.tolist() and list(block.ids) == ids
    assert bring(cache.path, source="one", **write(tmp_path, Given(ids, rows), ".npz")).written == 0


def test_source_names_are_plain_and_not_those_of_extract(known: FeatureCache, tmp_path: Path) -> None:
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    for name in ("", "../a", "-a", "a b", "a" * 65, "c3d@mine"):
        refuse(tmp_path, "is not plain", source=name, **files)
    recipe = Recipe("c3d", "c3d", 1, "random", "{}", "frozen", None, embedding_tuned=False)
    known.write_recipe(recipe)
    known.select([recipe])
    with pytest.raises(InputError, match="'c3d' was made by extract"):
        bring(known.path, source="c3d", **files)


def test_a_holdout_must_be_possible_and_decides_the_training_clips(tmp_path: Path) -> None:
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
    assert block.training_clips == {block.digests[row] for row in (0, 1, 4)}
    with pytest.raises(CacheError, match=r"cache import --cache .* --source mine --holdout '\{0\}' FILE"):
        FeatureCache(tmp_path / "work").block("mine", {0})
    assert bring(tmp_path / "work", holdout="0", **files).missing_holdouts == ()
    with pytest.raises(InputError, match=r"imported with holdout folds, and this is \*"):
        bring(tmp_path / "work", **files)
    with pytest.raises(InputError, match="name one, such as --holdout"):
        export_features(FeatureCache(tmp_path / "work"), "mine", None, tmp_path / "out.npz")
    export_features(FeatureCache(tmp_path / "work"), "mine", Holdout.of(0), tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["fold"].tolist() == FOLDS


# Clips and folds of a table of labels


def test_a_changed_table_is_reported(tmp_path: Path) -> None:
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    settings = ImportSettings(cache=tmp_path / "known", source="one", holdout=Holdout.frozen(), **files)
    lines: list[str] = []
    labels = write_labels(tmp_path / "labels.csv", IDS, fold=FOLDS)
    import_features(replace(settings, labels=labels), report=lines.append)
    import_features(replace(settings, source="two", labels=labels), report=lines.append)
    assert lines == ["6 clips in 6 groups, 2 folds, seed 0: a 3, b 3"] * 2
    changed = write_labels(
        tmp_path / "changed.csv",
        (*IDS[:5], "new", "newer"),
        ("b", "b", "a", *LABELS[3:], "a"),
        fold=[0, 0, 1, 1, 2, 1, 2],
        group=["g", *IDS[1:5], "new", "newer"],
    )
    rows = write(tmp_path, Given(("new", "newer"), VALUES[:2]), ".npz")
    import_features(replace(settings, labels=changed, **rows), report=lines.append)
    assert lines[2:4] == [
        "7 clips in 7 groups, 3 folds, seed 0: a 3, b 4",
        f"{changed} replaces the current clips and folds: 2 clips added, 1 clips removed, 1 labels changed, "
        "1 groups changed, 1 clips in another fold",
    ]


def test_a_table_of_other_clips_needs_replace(known: FeatureCache, tmp_path: Path) -> None:
    others = tuple(f"other {number}" for number in range(6))
    labels = write_labels(tmp_path / "others.csv", others)
    files = write(tmp_path, Given(others, VALUES), ".npz")
    before = listing(known.path)
    with pytest.raises(InputError, match=r"none of its 6 ids \('other 0', .*add --replace"):
        bring(known.path, labels=labels, **files)
    assert listing(known.path) == before
    bring(known.path, labels=labels, replace=True, **files)
    assert [status.clip.id for status in FeatureCache(known.path).clips] == list(others)


def test_the_fold_of_a_test_clip_declares_no_folds(tmp_path: Path) -> None:
    ids, labels, split = (*IDS, "t"), (*LABELS, "a"), ["train"] * 6 + ["test"]
    table = write_labels(tmp_path / "labels.csv", ids, labels, split=split, fold=[""] * 6 + ["0"])
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    with pytest.raises(InputError, match=r"--holdout \{0\}: this command assigns clips to folds"):
        bring(tmp_path / "new", holdout="{0}", labels=table, **files)
    with pytest.raises(InputError, match="--folds is 0; expected 2 or more"):
        bring(tmp_path / "new", labels=table, plan=PlanChoice(0), **files)


def test_added_clips_need_only_their_own_rows_and_others_keep_their_folds(
    known: FeatureCache, tmp_path: Path
) -> None:
    before = dict(known.plan.assignment)
    labels = write_labels(tmp_path / "more.csv", (*IDS, "new"), (*LABELS, "a"))
    old = write(tmp_path, Given(IDS[:1], np.arange(2.0)[None]), ".npz")
    with pytest.raises(InputError, match=r"has no features of 1 of 7 clips \(first: 'new'\)"):
        bring(known.path, "*", "other", labels=labels, **old)
    new = write(tmp_path, Given(("new",), np.full((1, 2), 7.0)), ".npz")
    assert bring(known.path, "*", "other", labels=labels, **new).written == 1
    again = FeatureCache(known.path)
    assert {digest: again.plan.assignment[digest] for digest in before} == before
    assert again.block("other", "*").embedding[-1].tolist() == [7.0, 7.0] and len(again.clips) == 7


def test_labels_are_only_for_caches_of_imports(
    small_cache: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    cache = small_cache()
    ids = [status.clip.id for status in cache.clips]
    files = write(tmp_path, Given(ids, np.ones((18, 2))), ".npz")
    before = listing(cache.path)
    with pytest.raises(InputError, match="extract declared its clips; drop --labels"):
        bring(cache.path, labels=write_labels(tmp_path / "labels.csv", ids, ("a",) * 18), **files)
    with pytest.raises(InputError, match="current plan has 3 folds and seed 0; drop --folds and --seed"):
        bring(cache.path, plan=PlanChoice(5), **files)
    assert listing(cache.path) == before
    assert bring(cache.path, plan=PlanChoice(3, 0), **files).written == 18


def test_a_new_cache_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"add --labels FILE\.csv .* or run: moodfuse extract"):
        bring(tmp_path / "new", **write(tmp_path, Given(IDS, VALUES), ".npz"))


def test_rows_of_test_clips_are_dropped_with_a_line(tmp_path: Path) -> None:
    split = ["train"] * 6 + ["test"]
    labels = write_labels(tmp_path / "labels.csv", (*IDS, "t"), (*LABELS, "a"), split=split)
    lines: list[str] = []
    files = write(tmp_path, Given((*IDS, "t"), np.ones((7, 2))), ".csv")
    settings = ImportSettings(
        tmp_path / "work", source="mine", holdout=Holdout.frozen(), labels=labels, plan=PlanChoice(2), **files
    )
    assert import_features(settings, report=lines.append).clips == 6
    assert "1 rows dropped" in lines[-1] and len(FeatureCache(tmp_path / "work").block("mine", "*").ids) == 6


def test_labels_and_groups_are_warned_about_before_a_plan_is_made(tmp_path: Path) -> None:
    labels, group = ("sad", "Sad", "fear") * 2, ["nan", "", "NaN", "a", "a", "b"]
    table = write_labels(tmp_path / "labels.csv", IDS, labels, group=group)
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    settings = ImportSettings(
        tmp_path / "new", source="mine", holdout=Holdout.frozen(), labels=table, plan=PlanChoice(6), **files
    )
    lines: list[str] = []
    with pytest.raises(InputError, match="fewer than the 6 folds"):
        import_features(settings, report=lines.append)
    assert len(lines) == 3 and all(line.startswith(f"WARNING {table}: ") for line in lines)
    assert "'Sad' (2 clips) and 'sad' (2 clips)" in lines[0] and "'NaN' (1 clip), 'nan'" in lines[2]


# Logits and their classes


def test_stored_logits_are_put_in_class_order_or_refused(known: FeatureCache) -> None:
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


def import_logits(
    folder: Path, labels: tuple[str, ...], width: int = 0, **arrays: np.ndarray
) -> tuple[Any, list[str]]:
    """Import logits in which column c is c; returns the logits in the cache and the reported lines."""
    ids, width = CLIPS[: len(labels)], width or len(set(labels))
    logits = np.tile(np.arange(width, dtype=np.float32), (len(ids), 1))
    np.savez(folder / "zs.npz", id=np.array(ids), embedding=np.ones((len(ids), 2)), logits=logits, **arrays)
    table = write_labels(folder / "labels.csv", ids, labels)
    settings = ImportSettings(
        folder / "work", folder / "zs.npz", "zs", Holdout.frozen(), labels=table, plan=PlanChoice(2)
    )
    lines: list[str] = []
    import_features(settings, report=lines.append)
    return FeatureCache(folder / "work").block("zs", "*").logits, lines


def test_logits_without_classes_are_refused_unless_their_order_is_clear(tmp_path: Path) -> None:
    for labels, width in ((NUMBERED, 4), (("1.5", "10.5", "9") * 2, 3), (LABELS, 3)):
        with pytest.raises(InputError, match=rf"no class names for its {width} logits; expected .*'classes'"):
            import_logits(tmp_path, labels, width)
        assert not (tmp_path / "work").exists()
    for labels, order in ((MOODS, "angry, happy, sad"), (("01", "10", "02") * 2, "01, 02, 10")):
        (tmp_path / order).mkdir()
        _, lines = import_logits(tmp_path / order, labels)
        expected = (
            f"{tmp_path / order / 'zs.npz'}: classes of the logits, not named, so in sorted order: {order}"
        )
        assert expected in lines


@pytest.mark.parametrize("kind", ["i8", "U2", "S2"])
def test_classes_of_a_file_decide_the_order_of_its_logits(tmp_path: Path, kind: str) -> None:
    logits, lines = import_logits(tmp_path, NUMBERED, classes=np.array([1, 2, 9, 10]).astype(kind))
    assert logits.tolist() == [[0, 3, 1, 2]] * 12  # columns of 1, 10, 2 and 9
    assert f"{tmp_path / 'zs.npz'}: classes of the logits, as named in the file: 1, 2, 9, 10" in lines
    with pytest.raises(InputError, match="logits are of a, b, c, d; expected 1, 10, 2, 9"):
        import_logits(tmp_path, NUMBERED, classes=np.array(list("abcd")))


# Columns that encode the label


def moods_file(folder: Path, columns: dict[str, Any], moods: tuple[str, ...] = MOODS) -> dict[str, Path]:
    """A table of features and the labels of its clips."""
    file = write_csv(
        folder / "features.csv", [("id", *columns), *zip(CLIPS, *columns.values(), strict=False)]
    )
    return {"file": file, "labels": write_labels(folder / "labels.csv", CLIPS[: len(moods)], moods)}


NOISE = np.random.default_rng(0).normal(size=24).round(3).tolist()
CODES = [{"angry": 0, "happy": 1, "sad": 2}[mood] for mood in MOODS]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("target", CODES),
        ("label_sad", [int(code == 2) for code in CODES]),
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


@pytest.mark.parametrize(
    "values",
    [
        [code if row else 1 for row, code in enumerate(CODES)],
        [1] * 24,
        [row + code / 10 for row, code in enumerate(CODES)],
        [row % 4 for row in range(24)],
    ],
    ids=["one clip otherwise", "constant", "all distinct", "few values"],
)
def test_columns_that_do_not_determine_the_label_are_features(tmp_path: Path, values: list[float]) -> None:
    assert bring(tmp_path / "work", **moods_file(tmp_path, {"x": NOISE, "value": values})).embedding == 2


def test_few_clips_are_no_evidence_against_a_column(tmp_path: Path) -> None:
    files = moods_file(tmp_path, {"c": CODES[:9], "x": NOISE[:9]}, MOODS[:9])
    assert bring(tmp_path / "work", **files).embedding == 2


def test_a_declared_modality_is_kept_and_must_stay_the_same(known: FeatureCache, tmp_path: Path) -> None:
    """It is in the recipe of the source, whose digest depends on it; by default there is none."""
    files = write(tmp_path, Given(IDS, VALUES), ".npz")
    bring(known.path, source="clip", modality="picture", **files)
    cache = FeatureCache(known.path)
    assert cache.recipe("clip").declared_modality == "picture" and cache.recipe("clip").modality is None
    assert cache.recipe("other").declared_modality is None
    with pytest.raises(InputError, match="imported with no --made-by, --modality video; use another"):
        bring(known.path, source="clip", modality="sound", **files)


def test_unused_columns_of_labels_are_reported(tmp_path: Path) -> None:
    """A column of groups under another name, but no column of features in the same file."""

    def warnings(folder: str, file: Path, labels: Path) -> list[str]:
        settings = ImportSettings(
            cache=tmp_path / folder,
            file=file,
            source="mine",
            holdout=Holdout.of("*"),
            labels=labels,
            plan=PlanChoice(2, 0),
        )
        lines: list[str] = []
        import_features(settings, report=lines.append)
        return [line for line in lines if line.startswith("WARNING")]

    labels = write_labels(tmp_path / "labels.csv", IDS, artist=list("xyxyxy"))
    (features,) = write(tmp_path, Given(IDS, VALUES), ".csv").values()
    (line,) = warnings("one", features, labels)
    assert f"{labels}: columns not used: 'artist'; " in line
    both = write_labels(tmp_path / "both.csv", IDS, e0=list(range(6)), e1=[5, 3, 1, 2, 4, 0])
    assert warnings("two", both, both) == []
