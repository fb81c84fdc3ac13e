"""The leak guard: every declared leak is refused, by the holdout of a block and by the clips that it saw."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moodfuse.cache.errors import InputError, LeakError, MissingBlockError, UnknownNameError
from moodfuse.cache.records import Block, ClipStatus, Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.design import DesignInputs, DesignMatrix, assemble
from moodfuse.fuse.leak_guard import CrossFitted, Features, clip_rows

FOLDS = range(4)
LEVELS = ("logits", "embedding")


def build_design(cache: FeatureCache, *blocks: Features, fold: int, level: str = "embedding") -> DesignMatrix:
    """Assemble under the cache's plan."""
    rows = clip_rows(cache.plan, cache.clips)
    return assemble(DesignInputs(rows, blocks, level, fold))  # type: ignore[arg-type]


def in_fold(cache: FeatureCache, fold: int) -> list[str]:
    """Digests of a fold's clips."""
    return [status.digest for status in cache.clips if cache.plan.assignment[status.digest] == fold]


def test_block_of_another_fold_is_refused(cache: FeatureCache) -> None:
    """A network that held out one fold cannot be tested on another; the message names all three."""
    for held_out, tested, level in product(FOLDS, FOLDS, LEVELS):
        block = cache.block("c3d", {held_out})
        if held_out == tested:
            build_design(cache, block, fold=tested, level=level)
            continue
        message = rf"c3d: the block of holdout \{{{held_out}\}} cannot .* fold {tested}: .*\.mp4"
        with pytest.raises(LeakError, match=message):
            build_design(cache, block, fold=tested, level=level)


def test_block_that_saw_all_is_refused(cache: FeatureCache) -> None:
    """The empty holdout can be tested on nothing."""
    block = replace(cache.block("c3d", {0}), holdout=Holdout.of("{}"))
    for tested, level in product(FOLDS, LEVELS):
        with pytest.raises(LeakError, match=r"holdout \{\}"):
            build_design(cache, block, fold=tested, level=level)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_false_holdout_is_refused_by_content(cache: FeatureCache, data: st.DataObject) -> None:
    """A block that saw a test clip is refused whatever it declares, alone or among others, at both levels."""
    fold = data.draw(st.sampled_from(FOLDS))
    clip = data.draw(st.sampled_from(in_fold(cache, fold)))
    block = cache.block("c3d", {fold})
    claim = data.draw(st.sampled_from(["*", str(fold), "{0,1,2,3}"]))
    leak = replace(block, source="leak", holdout=Holdout.of(claim), seen=block.seen | {clip})
    leak = replace(leak, embedding_tuned=data.draw(st.booleans()))
    blocks = [leak, block] if data.draw(st.booleans()) else [block, leak]
    with pytest.raises(LeakError, match="leak: .* saw "):
        build_design(cache, *blocks, fold=fold, level=data.draw(st.sampled_from(LEVELS)))


@pytest.mark.parametrize("fold", FOLDS)
def test_clip_of_a_test_clips_group_is_refused(cache: FeatureCache, fold: int) -> None:
    """A network that saw a clip of a test clip's group is refused, as is a plan that splits the group."""
    block = cache.block("c3d", {fold})
    tested = next(status for status in cache.clips if status.digest == in_fold(cache, fold)[0])
    sister = next(status for status in cache.clips if status.digest in block.seen)
    clips = tuple(
        replace(status, group=tested.group) if status is sister else status for status in cache.clips
    )
    with pytest.raises(LeakError, match=r"are of one group, .*--replan"):
        assemble(DesignInputs(clip_rows(cache.plan, clips), [block], "embedding", fold))
    plan = replace(cache.plan, assignment={**cache.plan.assignment, sister.digest: fold})
    with pytest.raises(LeakError, match=f"c3d: .* saw {sister.clip.id}"):
        assemble(DesignInputs(clip_rows(plan, clips), [block], "embedding", fold))


def with_copy(cache: FeatureCache, row: int) -> tuple[tuple[ClipStatus, ...], Callable[[Block], Block]]:
    """The clips with a copy of one of them at the end, and what gives a block the same row for it."""
    original = cache.clips[row]
    copied = replace(original, clip=replace(original.clip, id="zzz copy.mp4"))
    rows = [*range(len(cache.clips)), row]

    def widened(block: Block) -> Block:
        logits = None if block.logits is None else block.logits[rows]
        ids, digests = (*block.ids, "zzz copy.mp4"), (*block.digests, original.digest)
        return replace(block, ids=ids, digests=digests, embedding=block.embedding[rows], logits=logits)

    return (*cache.clips, copied), widened


@pytest.mark.parametrize("fold", FOLDS)
def test_copies_of_a_file_are_one_clip_to_the_guard(cache: FeatureCache, fold: int) -> None:
    """Two rows of one digest: correct blocks pass, a leak and an unknown clip are found."""
    for row in (0, len(cache.clips) - 1):
        clips, widened = with_copy(cache, row)
        rows, block = clip_rows(cache.plan, clips), widened(cache.block("c3d", {fold}))
        design = assemble(DesignInputs(rows, [block], "embedding", fold))
        assert rows.digests[row] == rows.digests[-1] and design.groups[row] == design.groups[-1]
        assert len(assemble(DesignInputs(rows, [block], "embedding")).y) == len(clips)
        unknown, tested = "f" * 64, in_fold(cache, fold)[0]
        for digest, message in ((unknown, "saw clip ffff.* does not know"), (tested, "saw .*mp4")):
            leak = replace(block, seen=block.seen | {digest})
            with pytest.raises(LeakError, match=message):
                assemble(DesignInputs(rows, [leak], "embedding", fold))


def test_a_model_for_export_is_checked_against_the_plan(cache: FeatureCache) -> None:
    """No clip that is in no fold, by its row or by what a network saw, and no file in two groups."""
    plan, clips, block = cache.plan, tuple(cache.clips), cache.block("c3d", {1})
    rows = clip_rows(plan, clips)
    assert len(assemble(DesignInputs(rows, [block], "embedding")).y) == len(clips)
    assignment = dict(plan.assignment)
    del assignment[clips[3].digest]
    with pytest.raises(
        InputError, match=f"{clips[3].clip.id} is in no fold of the plan in force; run extract"
    ):
        clip_rows(replace(plan, assignment=assignment), clips)
    seen = replace(block, seen=block.seen | {"f" * 64})
    with pytest.raises(LeakError, match=r"c3d: the block of holdout \{1\} cannot be used: .* clip ffff"):
        assemble(DesignInputs(rows, [seen], "embedding"))
    twins = (clips[0], replace(clips[1], file_sha256=clips[0].file_sha256), *clips[2:])
    message = f"{clips[1].clip.id} .* {clips[0].clip.id} .* are the same file in two groups"
    with pytest.raises(LeakError, match=message):
        assemble(DesignInputs(clip_rows(plan, twins), [block], "embedding"))


def test_leak_inside_cross_fitted_logits_is_refused(cache: FeatureCache) -> None:
    """One network of many that saw a test clip is found."""
    good, bad = cache.block("c3d", {0}), cache.block("c3d", {1})
    rows = tuple((0,) for _ in cache.clips)
    mixed = CrossFitted((good, replace(bad, holdout=Holdout.of({0, 1}))), rows)
    with pytest.raises(LeakError, match=r"c3d: the block of holdout \{0,1\} .* saw "):
        build_design(cache, mixed, fold=0, level="logits")


def test_rows_out_of_order_are_refused(cache: FeatureCache) -> None:
    """Rows must be the plan's clips, all of them, in order."""
    block = cache.block("i3d", "*")
    turned = replace(block, ids=block.ids[::-1], digests=block.digests[::-1])
    with pytest.raises(InputError, match=r"i3d \*: 24 rows are not the plan's 24 clips in order \(row 0 is "):
        build_design(cache, turned, fold=0)
    short = replace(block, ids=block.ids[:-1], digests=block.digests[:-1], embedding=block.embedding[:-1])
    with pytest.raises(InputError, match="23 rows"):
        build_design(cache, short, fold=0)


def test_wrong_calls_are_refused(cache: FeatureCache) -> None:
    """A missing fold, level, or block, and an embedding from several networks, are refused."""
    block, frozen = cache.block("c3d", {0}), cache.block("i3d", "*")
    with pytest.raises(InputError, match="fold 9 holds no clip"):
        build_design(cache, frozen, fold=9)
    with pytest.raises(UnknownNameError, match="unknown level 'pixels'; known: embedding, logits"):
        build_design(cache, frozen, fold=0, level="pixels")
    with pytest.raises(MissingBlockError, match="no logits"):
        build_design(cache, frozen, fold=0, level="logits")
    with pytest.raises(InputError, match="one block per source"):
        build_design(cache, block, block, fold=0)
    with pytest.raises(InputError, match="cannot form one embedding"):
        build_design(cache, CrossFitted((block,), tuple((0,) for _ in cache.clips)), fold=0)


def test_rows_in_sample_are_recognised(cache: FeatureCache) -> None:
    """Frozen features and label-free embeddings are out of sample; a tuned network's rows are not."""
    tuned, frozen = cache.block("c3d", {2}), cache.block("i3d", "*")
    assert build_design(cache, frozen, fold=2).out_of_sample
    assert not build_design(cache, tuned, fold=2).out_of_sample
    assert not build_design(cache, frozen, tuned, fold=2).out_of_sample
    only_classifier = replace(tuned, embedding_tuned=False)
    assert build_design(cache, only_classifier, fold=2).out_of_sample
    assert not build_design(cache, only_classifier, fold=2, level="logits").out_of_sample
