"""Import: rows are those of the clips, once, of their classes; what cannot be so is refused, and nothing written."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bringing import IDS, LABELS, Given, bring, listing, refuse, write, write_labels
from moodfuse.cache.blocks import write_rows
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import digest_array
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.planning import PlanChoice
from moodfuse.cache.recipe import Recipe, import_recipe
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import export_features
from moodfuse.cache.transfer.importing import ImportSettings, import_features

pytestmark = pytest.mark.usefixtures("unsynced")


def test_what_is_there_is_not_overwritten(known: FeatureCache, tmp_path: Path) -> None:
    """Other values, other widths and another kind of holdout need another name; equal rows change nothing."""
    found = np.arange(12.0).reshape(6, 2)
    before = listing(known.path)
    assert (
        bring(known.path, source="other", **write(tmp_path, Given(IDS[3:], found[3:]), ".csv")).written == 0
    )
    assert listing(known.path) == before
    other = found.copy()
    other[5, 1] = -11
    for given_, cause in (
        (Given(IDS, other), r"holds other values of 1 clips \(first: 'clip 5'\); nothing is overwritten"),
        (
            Given(IDS, np.hstack([found, found])),
            r"has embedding \[N, 4\], but source 'other' holds embedding \[N, 2\]",
        ),
        (Given(IDS, found, found), "has embedding .*, logits .*, but source 'other' holds embedding"),
    ):
        with pytest.raises(InputError, match=cause):
            bring(known.path, source="other", **write(tmp_path, given_, ".npz"))
    with pytest.raises(InputError, match=r"imported with holdout \*, and this is \{1\}"):
        bring(known.path, source="other", holdout="{1}", **write(tmp_path, Given(IDS, found), ".npz"))
    assert listing(known.path) == before


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file of an import the disk refuses, the error says so, and the same command completes it."""
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=[0, 0, 1, 1, 0, 1])
    files = write(tmp_path, Given(IDS, np.arange(12.0).reshape(6, 2)), ".npz")
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
        assert (
            FeatureCache(work).block("mine", {1}).embedding.tobytes()
            == np.arange(12, dtype=np.float32).tobytes()
        )
        assert not list(work.rglob(".tmp-*"))


def test_two_copies_of_a_file_have_one_row(small_cache: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Rows of both that differ are refused by name; equal ones, or one alone, serve both, and are written once."""
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


LOGITS = np.array([[2.0, -1.0]] * 6)


@pytest.mark.parametrize(
    ("ids", "labels", "names"),
    [(IDS, ("c", "b") * 3, "b, c"), ((*IDS, "x", "y"), (*LABELS, "c", "c"), "a, b, c")],
    ids=["renamed", "one more"],
)
def test_logits_are_never_those_of_other_classes(
    known: FeatureCache, tmp_path: Path, ids: tuple[str, ...], labels: tuple[str, ...], names: str
) -> None:
    """A label renamed, or one more: the block, an export and rows of the new classes are refused by name."""
    logits = np.array([[2.0, -1.0]] * len(ids))
    bring(known.path, source="zs", **write(tmp_path, Given(IDS, np.ones((6, 2)), LOGITS), ".npz"))
    changed = write_labels(tmp_path / "changed.csv", ids, labels)
    embedding = np.ones((len(ids), 2))
    bring(known.path, source="two", labels=changed, **write(tmp_path, Given(ids, embedding), ".npz"))
    wide = np.ones((len(ids), len(set(labels))))
    with pytest.raises(
        InputError, match=r"are of b, c, but those of source 'zs' are of a, b|'zs' holds .*logits"
    ):
        bring(known.path, source="zs", **write(tmp_path, Given(ids, embedding, wide), ".npz"))
    cache = FeatureCache(known.path, create=True)
    owner = cache.owner(cache.recipe("zs"), None)
    arrays = {"embedding": embedding.astype(np.float32), "logits": logits.astype(np.float32)}
    write_rows(
        owner, digest_array(clip.digest for clip in cache.clips), arrays
    )  # as a writer that knows no classes would
    cause = rf"zs \*: its logits are of a, b, but the labels are {names}; import .*cache prune .* --source zs"
    with pytest.raises(InputError, match=cause):
        cache.block("zs", "*")
    with pytest.raises(InputError, match=cause):
        export_features(cache, "zs", None, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_logits_whose_classes_are_not_on_record_are_taken_by_width(
    known: FeatureCache, tmp_path: Path
) -> None:
    """Parts of before have no classes: as many as there are labels are read, others refused."""
    cache = FeatureCache(known.path, create=True)
    for source, width in (("old", 2), ("wide", 3)):
        recipe = import_recipe(source, sees_labels=False)
        cache.write_recipe(recipe)
        logits = np.arange(6 * width, dtype=np.float32).reshape(6, width)
        write_rows(
            cache.owner(recipe, None),
            digest_array(clip.digest for clip in cache.clips),
            {"embedding": logits, "logits": logits},
        )
        cache.select([recipe])
    found = cache.block("old", "*").logits
    assert found is not None and found.shape == (6, 2)
    with pytest.raises(InputError, match=r"wide \*: its logits are of 3 classes, but the labels are a, b"):
        cache.block("wide", "*")


def test_logits_in_another_order_are_put_in_order(known: FeatureCache) -> None:
    """Another writer may have the same classes in any order; two orders in one block are refused."""
    cache = FeatureCache(known.path, create=True)
    clips, logits = digest_array(clip.digest for clip in cache.clips), LOGITS.astype(np.float32)
    cache.write_recipe(turned := import_recipe("turned", sees_labels=False))
    owner = cache.owner(turned, None)
    write_rows(owner, clips[:4], {"embedding": logits[:4], "logits": logits[:4]}, classes=("b", "a"))
    cache.select([turned])
    write_rows(owner, clips[4:], {"embedding": logits[4:], "logits": logits[4:]})
    found = cache.block("turned", "*").logits
    assert found is not None and found.tolist() == [[-1.0, 2.0]] * 6
    cache.write_recipe(mixed := import_recipe("mixed", sees_labels=False))
    for rows, classes in ((slice(0, 4), ("b", "a")), (slice(4, 6), ("a", "b"))):
        arrays = {"embedding": logits[rows], "logits": logits[rows]}
        write_rows(cache.owner(mixed, None), clips[rows], arrays, classes=classes)
    cache.select([mixed])
    with pytest.raises(InputError, match="classes of their logits in different orders"):
        cache.block("mixed", "*")


def test_a_changed_table_says_what_it_changes(tmp_path: Path) -> None:
    """Clips, labels, groups, folds, and sources left behind; wholly other ids are refused unless that is asked for."""
    found = np.arange(12.0).reshape(6, 2)
    files = write(tmp_path, Given(IDS, found), ".npz")
    wanted = ImportSettings(cache=tmp_path / "known", source="one", holdout=Holdout.frozen(), **files)
    said: list[str] = []
    labels = write_labels(tmp_path / "labels.csv", IDS, fold=[0, 0, 1, 1, 0, 1])
    import_features(replace(wanted, labels=labels), say=said.append)
    import_features(replace(wanted, source="two", labels=labels), say=said.append)
    assert said == ["6 clips in 6 groups, 2 folds, seed 0: a 3, b 3"] * 2
    changed = write_labels(
        tmp_path / "changed.csv",
        (*IDS[:5], "new", "newer"),
        ("b", "b", "a", *LABELS[3:], "a"),
        fold=[0, 0, 1, 1, 2, 1, 2],
        group=["g", *IDS[1:5], "new", "newer"],
    )
    rows = write(tmp_path, Given(("new", "newer"), found[:2]), ".npz")
    import_features(replace(wanted, labels=changed, **rows), say=said.append)
    assert said[2:5] == [
        "7 clips in 7 groups, 3 folds, seed 0: a 3, b 4",
        "5 rows are there already, and equal where the file has them",
        f"{changed} replaces the clips and folds in force: 2 clips added (first: 'new', 'newer'); 1 clips gone (first: "
        "'clip 5'); label of 1 clips changed (first: 'clip 0'); group of 1 clips changed (first: 'clip 0'); 3 folds in "
        "place of 2; 1 of 7 clips are in another fold",
    ]
    assert "source two * lacks features of 2 of 7 clips now; import them too, or take it out" in said[5]
    others = tuple(f"other {number}" for number in range(6))
    strange = write_labels(tmp_path / "strange.csv", others)
    files = write(tmp_path, Given(others, found), ".npz")
    before = listing(wanted.cache)
    with pytest.raises(InputError, match=r"none of its 6 ids \('other 0', .*add --replace"):
        import_features(replace(wanted, source="three", labels=strange, plan=PlanChoice(2), **files))
    assert listing(wanted.cache) == before
    import_features(
        replace(wanted, source="three", labels=strange, plan=PlanChoice(2), replace=True, **files)
    )
    assert [status.clip.id for status in FeatureCache(wanted.cache).clips] == list(others)


def test_a_fold_of_a_test_clip_declares_no_folds(tmp_path: Path) -> None:
    """Where this command deals the clips that count, nothing can have held a fold out; and no number of folds is 0."""
    ids, labels, split = (*IDS, "t"), (*LABELS, "a"), ["train"] * 6 + ["test"]
    table = write_labels(tmp_path / "labels.csv", ids, labels, split=split, fold=[""] * 6 + ["0"])
    files = write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz")
    with pytest.raises(InputError, match=r"--holdout \{0\}: this command deals clips to folds"):
        bring(tmp_path / "new", holdout="{0}", labels=table, **files)
    with pytest.raises(InputError, match="--folds is 0; expected 2 or more"):
        bring(tmp_path / "new", labels=table, plan=PlanChoice(0), **files)


def test_names_of_sources(known: FeatureCache, tmp_path: Path) -> None:
    """A path is no name, and a source that extract made is not imported over."""
    files = write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz")
    for name in ("", "a/b", "../a", "-a", "a b", "a" * 65, "torchvision:s3d", "c3d@mine"):
        refuse(tmp_path, "is not plain", source=name, **files)
    recipe = Recipe("c3d", "c3d", 1, "random", "{}", "frozen", None, embedding_tuned=False)
    known.write_recipe(recipe)
    known.select([recipe])
    with pytest.raises(InputError, match="'c3d' was made by extract"):
        bring(known.path, source="c3d", **files)


def test_holdouts(tmp_path: Path) -> None:
    """Features that saw labels are looked up by what they saw; a holdout must be one that they can have had."""
    files = write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz")
    plain = write_labels(tmp_path / "labels.csv", IDS)
    with pytest.raises(InputError, match=r"--holdout \{1\}: this command deals clips to folds"):
        bring(tmp_path / "new", holdout="{1}", labels=plain, **files)
    assert not (tmp_path / "new").exists()
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=[0, 0, 1, 1, 0, 1])
    for holdout, cause in (
        ("{2}", "has the folds 0..1, not 2"),
        ("{0,1}", "names every fold"),
        ("{-1}", "not -1"),
    ):
        with pytest.raises(InputError, match=cause):
            bring(tmp_path / "new", holdout=holdout, labels=labels, **files)
    assert not (tmp_path / "new").exists()
    done = bring(tmp_path / "work", holdout="{1}", labels=labels, **files)
    assert done.lacking == (Holdout.of(0),)
    block = FeatureCache(tmp_path / "work").block("mine", {1})
    assert block.holdout == Holdout.of(1) and block.embedding_tuned
    assert block.seen == {block.digests[row] for row in (0, 1, 4)}
    with pytest.raises(
        CacheError, match=r"moodfuse cache import --cache .* --source mine --holdout '\{0\}' FILE"
    ):
        FeatureCache(tmp_path / "work").block("mine", {0})
    assert bring(tmp_path / "work", holdout="0", **files).lacking == ()
    with pytest.raises(InputError, match=r"imported with holdout folds, and this is \*"):
        bring(tmp_path / "work", **files)
    with pytest.raises(InputError, match="name one, such as --holdout"):
        export_features(FeatureCache(tmp_path / "work"), "mine", None, tmp_path / "out.npz")
    export_features(FeatureCache(tmp_path / "work"), "mine", Holdout.of(0), tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["fold"].tolist() == [0, 0, 1, 1, 0, 1]


def test_test_clips_are_dropped(tmp_path: Path) -> None:
    """Rows of clips that the plan does not cover are taken out, and said; a strange id beside them is refused."""
    labels = write_labels(
        tmp_path / "labels.csv", (*IDS, "t"), (*LABELS, "a"), split=["train"] * 6 + ["test"]
    )
    said: list[str] = []
    files = write(tmp_path, Given((*IDS, "t"), np.ones((7, 2))), ".csv")
    wanted = ImportSettings(
        cache=tmp_path / "work",
        source="mine",
        holdout=Holdout.frozen(),
        labels=labels,
        plan=PlanChoice(2),
        **files,
    )
    assert import_features(wanted, say=said.append).clips == 6
    assert "1 rows dropped" in said[-1] and len(FeatureCache(tmp_path / "work").block("mine", "*").ids) == 6


def test_added_clips_need_only_their_own_rows(known: FeatureCache, tmp_path: Path) -> None:
    """A longer table makes a new plan in which clips keep their folds; only what is new is asked for and written."""
    before = dict(known.plan.assignment)
    labels = write_labels(tmp_path / "more.csv", (*IDS, "new"), (*LABELS, "a"))
    with pytest.raises(InputError, match=r"has no features of 1 of 7 clips \(first: 'new'\)"):
        bring(
            known.path,
            "*",
            "other",
            labels=labels,
            **write(tmp_path, Given(IDS[:1], np.arange(2.0)[None]), ".npz"),
        )
    given_ = Given(("new",), np.full((1, 2), 7.0))
    assert bring(known.path, "*", "other", labels=labels, **write(tmp_path, given_, ".npz")).written == 1
    again = FeatureCache(known.path)
    assert {digest: again.plan.assignment[digest] for digest in before} == before
    assert again.block("other", "*").embedding[-1].tolist() == [7.0, 7.0] and len(again.clips) == 7


def test_a_table_must_agree_with_what_extract_read(
    small_cache: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    """Where clips come from media, --labels changes nothing: the first difference is named."""
    cache = small_cache()
    ids, labels = [status.clip.id for status in cache.clips], [status.clip.label for status in cache.clips]
    folds = [cache.plan.assignment[status.digest] for status in cache.clips]
    files = write(tmp_path, Given(ids, np.ones((18, 2))), ".npz")
    good = write_labels(tmp_path / "good.csv", ids, labels, group=ids, fold=folds)
    options = {"plan": PlanChoice(), **files}
    assert bring(cache.path, labels=good, **options).written == 18
    assert FeatureCache(cache.path).plan == cache.plan
    before = listing(cache.path)
    turned = ["b", *labels[1:]]
    for columns, cause in (
        ({"labels": turned}, "label of clip '000' is 'b', but 'a'"),
        ({"group": ["x", *ids[1:]]}, "group of clip '000' is 'x', but '000'"),
        ({"fold": [(folds[0] + 1) % 3, *folds[1:]]}, "fold of clip '000' is"),
        ({"ids": ["x", *ids[1:]]}, r"1 of 18 ids are not clips of .* \(first: 'x'\)"),
        ({"split": ["test", *["train"] * 17]}, "split of clip '000' is 'test', but 'train'"),
    ):
        wrong = write_labels(tmp_path / "wrong.csv", **({"ids": ids, "labels": labels} | columns))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=cause):
            bring(cache.path, source="two", labels=wrong, **options)
    short = write_labels(tmp_path / "wrong.csv", ids[1:], labels[1:])
    with pytest.raises(InputError, match=r"lacks 1 of 18 clips .* \(first: '000'\)"):
        bring(cache.path, source="two", labels=short, **options)
    with pytest.raises(InputError, match="--folds is 5, but the plan in force has 3"):
        bring(cache.path, source="two", **(options | {"plan": PlanChoice(5)}))
    assert listing(cache.path) == before


def test_a_new_cache_needs_labels(tmp_path: Path) -> None:
    """Without clips there is nothing to match; the error says both ways to get them."""
    with pytest.raises(InputError, match=r"add --labels FILE\.csv .* or run: moodfuse extract"):
        bring(tmp_path / "new", **write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz"))
