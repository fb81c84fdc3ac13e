"""The leak guard: every planted leak is refused, and what is honest is told from what is not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moodfuse.cache.errors import InputError, LeakError, MissingBlockError, UnknownNameError
from moodfuse.cache.folds import can_cross_fit
from moodfuse.cache.records import Block, ClipStatus, Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import fit_logits, holdouts_to_fit, logits_for_fold
from moodfuse.fuse.design import Ingredients, assemble, assemble_whole
from moodfuse.fuse.features import CrossFitted, Features
from moodfuse.fuse.matrix import HIDDEN, DesignMatrix

FOLDS = range(4)
LEVELS = ("logits", "embedding")


def build_design(cache: FeatureCache, *blocks: Features, fold: int, level: str = "embedding") -> DesignMatrix:
    """Assemble under the cache's plan."""
    return assemble(cache.plan, cache.clips, Ingredients(blocks, level), test_fold=fold)  # type: ignore[arg-type]


def in_fold(cache: FeatureCache, fold: int) -> list[str]:
    """Digests of a fold's clips."""
    return [status.digest for status in cache.clips if cache.plan.assignment[status.digest] == fold]


def as_frozen(block: Block, **changes: object) -> Block:
    """A block that claims to have seen no label."""
    return replace(block, holdout=Holdout.frozen(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fold", "level"), list(product(FOLDS, LEVELS)))
def test_rows_columns_and_labels(cache: FeatureCache, fold: int, level: str) -> None:
    """Rows are the plan's clips in order, columns the sources in order, and test labels are hidden."""
    block = cache.block("c3d", {fold})
    other = replace(block, source="other")
    design = build_design(cache, block, other, fold=fold, level=level)
    values = block.logits if level == "logits" else block.embedding
    assert values is not None
    digests = [digest.decode() for digest in design.digests]
    assert digests == [status.digest for status in cache.clips]
    assert [name for name, _ in design.columns] == ["c3d", "other"]
    assert all(np.array_equal(design.x[:, columns], values) for _, columns in design.columns)
    assert design.test.tolist() == [cache.plan.assignment[digest] == fold for digest in digests]
    assert set(design.y[design.test]) == {HIDDEN} and design.classes == cache.classes
    labels = [cache.classes[number] for number in design.y_train]
    assert labels == [s.clip.label for s in cache.clips if cache.plan.assignment[s.digest] != fold]
    assert (
        len(design.x_test) + len(design.x_train)
        == len(design.groups_train) + design.test.sum()
        == len(cache.clips)
    )


WRONG = [(held, tested, level) for held, tested, level in product(FOLDS, FOLDS, LEVELS) if held != tested]


@pytest.mark.parametrize(("held", "tested", "level"), WRONG)
def test_block_of_another_fold_is_refused(cache: FeatureCache, held: int, tested: int, level: str) -> None:
    """A network that held out one fold cannot be tested on another; the message names source, holdout and fold."""
    with pytest.raises(
        LeakError, match=rf"c3d: the block of holdout \{{{held}\}} cannot .* fold {tested}: .*\.mp4"
    ):
        build_design(cache, cache.block("c3d", {held}), fold=tested, level=level)


@pytest.mark.parametrize(("tested", "level"), list(product(FOLDS, LEVELS)))
def test_block_that_saw_all_is_refused(cache: FeatureCache, tested: int, level: str) -> None:
    """The empty holdout can be tested on nothing."""
    block = replace(cache.block("c3d", {0}), holdout=Holdout.of("{}"))
    with pytest.raises(LeakError, match=r"holdout \{\}"):
        build_design(cache, block, fold=tested, level=level)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_false_holdout_is_refused_by_content(cache: FeatureCache, data: st.DataObject) -> None:
    """A block that saw a test clip is refused whatever it declares, alone or among honest ones, at both levels."""
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
    """A network that saw a clip of a test clip's group is refused, as is a plan that parts the group."""
    block = cache.block("c3d", {fold})
    tested = next(status for status in cache.clips if status.digest == in_fold(cache, fold)[0])
    sister = next(status for status in cache.clips if status.digest in block.seen)
    clips = tuple(
        replace(status, group=tested.group) if status is sister else status for status in cache.clips
    )
    with pytest.raises(LeakError, match=r"are of one group, .*--replan"):
        assemble(cache.plan, clips, Ingredients([block], "embedding"), test_fold=fold)
    assignment = {**cache.plan.assignment, sister.digest: fold}
    with pytest.raises(LeakError, match=f"c3d: .* saw {sister.clip.id}"):
        assemble(
            replace(cache.plan, assignment=assignment),
            clips,
            Ingredients([block], "embedding"),
            test_fold=fold,
        )


def test_clip_that_the_plan_does_not_know_is_refused(cache: FeatureCache) -> None:
    """What cannot be checked is not let through."""
    block = cache.block("c3d", {1})
    with pytest.raises(LeakError, match="saw clip ffff.* does not know"):
        build_design(cache, replace(block, seen=block.seen | {"f" * 64}), fold=1)


def with_copy(cache: FeatureCache, place: int) -> tuple[tuple[ClipStatus, ...], Callable[[Block], Block]]:
    """The clips with a copy of one of them at the end, and what gives a block the same row for it."""
    twin = cache.clips[place]
    copied = replace(twin, clip=replace(twin.clip, id="zzz copy.mp4"))
    rows = [*range(len(cache.clips)), place]

    def widened(block: Block) -> Block:
        names = [*block.digests, twin.digest]
        logits = None if block.logits is None else block.logits[rows]
        ids, embedding = (*block.ids, "zzz copy.mp4"), block.embedding[rows]
        return replace(block, ids=ids, digests=tuple(names), embedding=embedding, logits=logits)

    return (*cache.clips, copied), widened


@pytest.mark.parametrize("fold", FOLDS)
def test_copies_of_a_file_are_one_clip_to_the_guard(cache: FeatureCache, fold: int) -> None:
    """Two rows of one digest: what is honest passes, a leak and an unknown clip are found as without the copy."""
    for place in (0, 1, len(cache.clips) - 1):
        clips, widened = with_copy(cache, place)
        block = widened(cache.block("c3d", {fold}))
        design = assemble(cache.plan, clips, Ingredients([block], "embedding"), test_fold=fold)
        assert design.digests[place] == design.digests[-1] and design.groups[place] == design.groups[-1]
        assert len(assemble_whole(cache.plan, clips, Ingredients([block], "embedding")).y) == len(clips)
        for more, said in (
            ({"f" * 64}, "saw clip ffff.* does not know"),
            ({in_fold(cache, fold)[0]}, "saw .*mp4"),
        ):
            seen = replace(block, seen=block.seen | more)
            with pytest.raises(LeakError, match=said):
                assemble(cache.plan, clips, Ingredients([seen], "embedding"), test_fold=fold)
        frozen = widened(cache.block("i3d", "*"))
        alone = fit_logits(frozen, Holdout.of(fold), cache.plan, clips, random_state=0)
        kept = {status.digest for status in clips if cache.plan.assignment[status.digest] != fold}
        assert alone.seen == kept and alone.logits is not None
        np.testing.assert_array_equal(alone.logits[place], alone.logits[-1])


def test_what_ships_is_held_to_the_plan(cache: FeatureCache) -> None:
    """No clip that is in no fold, by its row or by what a network saw, and no file in two groups."""
    plan, clips, block = cache.plan, cache.clips, cache.block("c3d", {1})
    parts = Ingredients([block], "embedding")
    assert len(assemble_whole(plan, clips, parts).y) == len(clips)
    assignment = dict(plan.assignment)
    del assignment[clips[3].digest]
    with pytest.raises(
        InputError, match=f"{clips[3].clip.id} is in no fold of the plan in force; run extract again"
    ):
        assemble_whole(replace(plan, assignment=assignment), clips, parts)
    seen = replace(block, seen=block.seen | {"f" * 64})
    with pytest.raises(
        LeakError, match=r"c3d: the block of holdout \{1\} cannot ship: its network saw clip ffff"
    ):
        assemble_whole(plan, clips, Ingredients([seen], "embedding"))
    twins = (clips[0], replace(clips[1], file_sha256=clips[0].file_sha256), *clips[2:])
    with pytest.raises(
        LeakError, match=f"{clips[1].clip.id} .* {clips[0].clip.id} .* are the same file in two groups"
    ):
        assemble_whole(plan, twins, parts)


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
    with pytest.raises(InputError, match="one block a source"):
        build_design(cache, block, block, fold=0)
    with pytest.raises(InputError, match="cannot form one embedding"):
        build_design(cache, CrossFitted((block,), tuple((0,) for _ in cache.clips)), fold=0)


def test_honest_tells_in_sample_rows(cache: FeatureCache) -> None:
    """Frozen features and label-free embeddings are out of sample; a tuned network's training rows are not."""
    tuned, frozen = cache.block("c3d", {2}), cache.block("i3d", "*")
    assert build_design(cache, frozen, fold=2).honest
    assert not build_design(cache, tuned, fold=2).honest
    assert not build_design(cache, frozen, tuned, fold=2).honest
    only_classifier = replace(tuned, embedding_tuned=False)
    assert build_design(cache, only_classifier, fold=2).honest
    assert not build_design(cache, only_classifier, fold=2, level="logits").honest


def test_derived_logits_are_cross_fitted(cache: FeatureCache) -> None:
    """A training row's logits come from a fit that left out its fold too, a test row's are the mean of all those."""
    block = cache.block("i3d", "*")
    assert can_cross_fit(cache.plan, cache.clips)
    wanted = holdouts_to_fit(block, cache.plan, crossfit=True)
    assert len(wanted) == 6
    fits = {
        holdout: fit_logits(block, holdout, cache.plan, cache.clips, random_state=0) for holdout in wanted
    }
    for fold in FOLDS:
        made = logits_for_fold(fits, cache.plan, test_fold=fold)
        assert isinstance(made, CrossFitted)
        design = build_design(cache, made, fold=fold, level="logits")
        assert design.honest and len(design.inner) == 3
        mean = np.mean([fits[Holdout.of({fold, other})].logits for other in FOLDS if other != fold], axis=0)
        np.testing.assert_allclose(design.x_test, mean[design.test], atol=1e-6)
        for row, status in enumerate(cache.clips):
            assert all(status.digest not in made.blocks[network].seen for network in made.rows[row])
            assert len(made.rows[row]) == (3 if design.test[row] else 1)
    single = fit_logits(block, Holdout.of({0}), cache.plan, cache.clips, random_state=0)
    assert not single.seen & set(in_fold(cache, 0))
    assert not build_design(cache, single, fold=0, level="logits").honest
    assert logits_for_fold({Holdout.of({0}): single}, cache.plan, test_fold=0) is single


@pytest.mark.parametrize("fold", FOLDS)
def test_inner_folds_of_tuned_embeddings_come_from_pair_networks(
    crossfitted: FeatureCache, fold: int
) -> None:
    """Inner fold j is the embedding of network {j,k}, fitted on the folds that it saw; a false pair is refused."""
    cache = crossfitted
    pairs = {other: [cache.block("c3d", {fold, other})] for other in FOLDS if other != fold}
    parts = Ingredients([cache.block("c3d", {fold})], "embedding", pairs)
    design = assemble(cache.plan, cache.clips, parts, test_fold=fold)
    assert not design.honest and len(design.inner) == 3
    folds = np.array([cache.plan.assignment[digest.decode()] for digest in design.digests])
    present = np.array([not status.missing for status in cache.clips])
    for other, inner in zip(sorted(pairs), design.inner, strict=True):
        np.testing.assert_array_equal(inner.held, folds == other)
        np.testing.assert_array_equal(inner.fit, (folds != other) & (folds != fold))
        np.testing.assert_array_equal(inner.x[present], pairs[other][0].embedding[present])
    other, wrong = sorted(pairs)[:2]
    with pytest.raises(LeakError, match=rf"cannot be used to test fold {other}"):
        assemble(cache.plan, cache.clips, replace(parts, pairs={other: pairs[wrong]}), test_fold=fold)
    assert not build_design(cache, cache.block("c3d", {fold}), fold=fold).inner


def test_lacking_rows_are_the_mean_of_training_rows(crossfitted: FeatureCache) -> None:
    """A clip that lacks what a source reads gets the mean over the training rows that have it, in each matrix."""
    cache = crossfitted
    block = cache.block("i3d", "*")
    lacking = np.array([bool(status.missing) for status in cache.clips])
    assert lacking.sum() == 2 == len(block.absent) and not block.embedding[lacking].any()
    for fold in FOLDS:
        design = build_design(cache, block, fold=fold)
        for matrix, fit in [(design.x, ~design.test), *((inner.x, inner.fit) for inner in design.inner)]:
            mean = block.embedding[fit & ~lacking].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(matrix[lacking], np.stack([mean, mean]))


def test_averaged_rows(cache: FeatureCache) -> None:
    """A row with several networks is the mean of their logits."""
    first = cache.block("c3d", {0})
    assert first.logits is not None
    second = replace(first, logits=first.logits + 2)
    made = CrossFitted((first, second), tuple((0, 1) for _ in cache.clips))
    np.testing.assert_allclose(made.logits, first.logits + 1, atol=1e-5)


def test_embedding_that_saw_the_holdout_cannot_be_fitted(cache: FeatureCache) -> None:
    """Logits of a holdout are not derived from a network that saw one of its folds."""
    with pytest.raises(LeakError, match=r"c3d: the block of holdout \{0\} cannot be used to test fold 1"):
        fit_logits(cache.block("c3d", {0}), Holdout.of({0, 1}), cache.plan, cache.clips, random_state=0)
    with pytest.raises(LeakError, match="leaves out no fold"):
        fit_logits(cache.block("i3d", "*"), Holdout.of("{}"), cache.plan, cache.clips, random_state=0)
