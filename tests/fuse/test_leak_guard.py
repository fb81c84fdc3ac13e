"""The leak guard: every declared leak is an error, by the holdout of a block and by the clips that it saw."""

from dataclasses import replace
from itertools import product

import pytest

from moodfuse.cache.errors import InputError, LeakError, MissingBlockError
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.design import DesignInputs, DesignMatrix, assemble
from moodfuse.fuse.inference import LEVELS, Level
from moodfuse.fuse.leak_guard import CrossFitted, Features, make_clip_rows

FOLDS = range(4)


def build_design(
    cache: FeatureCache, *blocks: Features, fold: int | None, level: Level = "embedding"
) -> DesignMatrix:
    """Assemble under the cache's plan."""
    return assemble(DesignInputs(make_clip_rows(cache.plan, cache.clips), blocks, level, fold))


def in_fold(cache: FeatureCache, fold: int) -> list[str]:
    """Digests of a fold's clips."""
    return [status.digest for status in cache.clips if cache.plan.assignment[status.digest] == fold]


def test_a_block_is_tested_on_its_holdout_alone(cache: FeatureCache) -> None:
    """A network that held out another fold, or none, raises; the message names block, fold and clip."""
    for held_out, fold, level in product(FOLDS, FOLDS, LEVELS):
        block = cache.block("c3d", {held_out})
        if held_out == fold:
            build_design(cache, block, fold=fold, level=level)
            continue
        message = rf"c3d: the block of holdout \{{{held_out}\}} cannot .* fold {fold}: .*\.mp4"
        with pytest.raises(LeakError, match=message):
            build_design(cache, block, fold=fold, level=level)
        with pytest.raises(LeakError, match=r"holdout \{\}"):
            build_design(cache, replace(block, holdout=Holdout.of("{}")), fold=fold, level=level)


@pytest.mark.parametrize("claim", ["*", "1", "{0,1,2,3}"])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_false_holdout_is_found_by_content(cache: FeatureCache, claim: str, tuned: bool) -> None:
    """A block that saw a test clip raises under any holdout, alone or among others, at both levels."""
    block = cache.block("c3d", {1})
    for clip, level, leak_first in product(in_fold(cache, 1), LEVELS, (True, False)):
        leak = replace(
            block, source="leak", holdout=Holdout.of(claim), training_clips=block.training_clips | {clip}
        )
        leak = replace(leak, embedding_tuned=tuned)
        with pytest.raises(LeakError, match="leak: .* saw .*mp4"):
            build_design(cache, *([leak, block] if leak_first else [block, leak]), fold=1, level=level)


@pytest.mark.parametrize("fold", FOLDS)
def test_a_clip_of_a_test_clips_group_is_a_leak(cache: FeatureCache, fold: int) -> None:
    """So is a plan that splits a group, and a network that saw a clip of the test clip's group."""
    block = cache.block("c3d", {fold})
    tested = next(status for status in cache.clips if status.digest == in_fold(cache, fold)[0])
    sister = next(status for status in cache.clips if status.digest in block.training_clips)
    clips = tuple(
        replace(status, group=tested.group) if status is sister else status for status in cache.clips
    )
    with pytest.raises(LeakError, match=r"is in fold \d and in others; .*--replan"):
        assemble(DesignInputs(make_clip_rows(cache.plan, clips), [block], "embedding", fold))
    plan = replace(cache.plan, assignment={**cache.plan.assignment, sister.digest: fold})
    with pytest.raises(LeakError, match=f"c3d: .* saw {sister.clip.id}"):
        assemble(DesignInputs(make_clip_rows(plan, clips), [block], "embedding", fold))


def test_copies_of_a_file_are_one_clip_to_the_guard(cache: FeatureCache) -> None:
    """Two rows of one digest: a correct block passes, a leak and an unknown clip are found."""
    original, block = cache.clips[0], cache.block("c3d", {1})
    clips = (*cache.clips, replace(original, clip=replace(original.clip, id="zzz copy.mp4")))
    digests = (*block.digests, original.digest)
    embedding = block.embedding[[*range(len(cache.clips)), 0]]
    ids = (*block.ids, "zzz copy.mp4")
    block = replace(block, ids=ids, digests=digests, embedding=embedding, logits=None)
    rows = make_clip_rows(cache.plan, clips)
    design = assemble(DesignInputs(rows, [block], "embedding", 1))
    assert design.groups[0] == design.groups[-1] and len(design.y) == len(clips)
    for digest, message in (("f" * 64, "saw clip ffff.* does not know"), (in_fold(cache, 1)[0], "saw .*mp4")):
        with pytest.raises(LeakError, match=message):
            leak = replace(block, training_clips=block.training_clips | {digest})
            assemble(DesignInputs(rows, [leak], "embedding", 1))


def test_a_model_for_export_is_checked_against_the_plan(cache: FeatureCache) -> None:
    """No clip that is in no fold, by its row or by what a network saw, and no file in two groups."""
    plan, clips, block = cache.plan, tuple(cache.clips), cache.block("c3d", {1})
    assert len(build_design(cache, block, fold=None).y) == len(clips)
    assignment = dict(plan.assignment)
    del assignment[clips[3].digest]
    with pytest.raises(
        InputError, match=f"{clips[3].clip.id} is in no fold of the current plan; run extract"
    ):
        make_clip_rows(replace(plan, assignment=assignment), clips)
    with pytest.raises(LeakError, match=r"c3d: the block of holdout \{1\} cannot be used: .* clip ffff"):
        build_design(cache, replace(block, training_clips=block.training_clips | {"f" * 64}), fold=None)
    twins = (clips[0], replace(clips[1], file_sha256=clips[0].file_sha256), *clips[2:])
    message = f"{clips[1].clip.id} and {clips[0].clip.id} are the same file in two groups"
    with pytest.raises(LeakError, match=message):
        assemble(DesignInputs(make_clip_rows(plan, twins), [block], "embedding"))


def test_a_leak_inside_cross_fitted_logits_is_found(cache: FeatureCache) -> None:
    """One network of many that saw a test clip is found."""
    good, bad = cache.block("c3d", {0}), cache.block("c3d", {1})
    mixed = CrossFitted((good, replace(bad, holdout=Holdout.of({0, 1}))), ((0,),) * len(cache.clips))
    with pytest.raises(LeakError, match=r"c3d: the block of holdout \{0,1\} .* saw "):
        build_design(cache, mixed, fold=0, level="logits")


def test_blocks_that_do_not_fit_are_errors(cache: FeatureCache) -> None:
    """Rows in another order, an empty fold, and no logits."""
    frozen = cache.block("i3d", "*")
    turned = replace(frozen, ids=frozen.ids[::-1], digests=frozen.digests[::-1])
    with pytest.raises(InputError, match=r"i3d: .* 24 rows are not the plan's 24 clips in order"):
        build_design(cache, turned, fold=0)
    with pytest.raises(InputError, match="fold 9 holds no clip"):
        build_design(cache, frozen, fold=9)
    with pytest.raises(MissingBlockError, match="no logits"):
        build_design(cache, frozen, fold=0, level="logits")


def test_rows_in_sample_are_recognised(cache: FeatureCache) -> None:
    """Frozen features and label-free embeddings are out of sample; a tuned network's rows are not."""
    tuned, frozen = cache.block("c3d", {2}), cache.block("i3d", "*")
    assert build_design(cache, frozen, fold=2).out_of_sample
    assert not build_design(cache, tuned, fold=2).out_of_sample
    assert not build_design(cache, frozen, tuned, fold=2).out_of_sample
    only_classifier = replace(tuned, embedding_tuned=False)
    assert build_design(cache, only_classifier, fold=2).out_of_sample
    assert not build_design(cache, only_classifier, fold=2, level="logits").out_of_sample
