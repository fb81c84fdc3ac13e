"""Which clips and folds an import uses: those of the cache, or of a table of labels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bringing import IDS, LABELS, Given, bring, listing, write, write_labels
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.importing import ImportSettings, import_features

pytestmark = pytest.mark.usefixtures("unsynced")

VALUES = np.arange(12.0).reshape(6, 2)
FOLDS = [0, 0, 1, 1, 0, 1]


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
        f"{changed} replaces the current clips and folds: 2 clips added (first: 'new', 'newer'); 1 clips "
        "removed (first: 'clip 5'); 1 labels changed (first: 'clip 0'); 1 groups changed (first: 'clip "
        "0'); 3 folds instead of 2; 1 of 7 clips are in another fold",
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


def test_a_table_must_agree_with_the_clips_that_extract_read(
    small_cache: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    cache = small_cache()
    ids, labels = (
        [status.clip.id for status in cache.clips],
        [status.clip.label for status in cache.clips],
    )
    folds = [cache.plan.assignment[status.digest] for status in cache.clips]
    files = write(tmp_path, Given(ids, np.ones((18, 2))), ".npz")
    good = write_labels(tmp_path / "good.csv", ids, labels, group=ids, fold=folds)
    options = {"plan": PlanChoice(), **files}
    assert bring(cache.path, labels=good, **options).written == 18
    assert FeatureCache(cache.path).plan == cache.plan
    before = listing(cache.path)
    for columns, cause in (
        ({"labels": ["b", *labels[1:]]}, "label of clip '000' is 'b', but 'a'"),
        ({"group": ["x", *ids[1:]]}, "group of clip '000' is 'x', but '000'"),
        ({"fold": [(folds[0] + 1) % 3, *folds[1:]]}, "fold of clip '000' is"),
        ({"ids": ["x", *ids[1:]]}, r"1 of 18 ids are not clips of .* \(first: 'x'\)"),
        ({"split": ["test", *["train"] * 17]}, "split of clip '000' is 'test', but 'train'"),
    ):
        wrong = write_labels(tmp_path / "wrong.csv", **({"ids": ids, "labels": labels} | columns))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=cause):
            bring(cache.path, source="two", labels=wrong, **options)
    short = write_labels(tmp_path / "wrong.csv", ids[1:], labels[1:])
    with pytest.raises(InputError, match=r"1 of 18 clips of .* are missing \(first: '000'\)"):
        bring(cache.path, source="two", labels=short, **options)
    with pytest.raises(InputError, match="--folds is 5, but the current plan has 3"):
        bring(cache.path, source="two", **(options | {"plan": PlanChoice(5)}))
    assert listing(cache.path) == before


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
