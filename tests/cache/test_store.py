"""The cache folder: identity by content, blocks by holdout, nothing damaged is read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import CacheError, InputError, MissingBlockError, UnknownNameError
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.recipe import UNCORRECTED, Recipe, Tuning, recipe_from_mapping
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
TUNED = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
FROZEN = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


def fill(cache: FeatureCache, recipe: Recipe) -> None:
    """Write every block of a recipe under the current plan; values depend on clip and fold."""
    digests = [status.digest for status in cache.clips]
    cache.write_recipe(recipe)
    for fold in range(cache.plan.folds) if recipe.tuning else [0]:
        training_clips = cache.training_clips(recipe, fold)
        if training_clips is not None:
            cache.write_training_clips(recipe, training_clips)
        rows = np.arange(len(digests), dtype=np.float32)[:, None] + 100 * fold
        arrays = {"embedding": np.repeat(rows, 4, axis=1)}
        if recipe.tuning:
            arrays["logits"] = np.repeat(rows, len(cache.classes), axis=1)
        for half in (slice(7), slice(7, None)):
            rows_of_half = {name: array[half] for name, array in arrays.items()}
            cache.write_block_part(recipe, training_clips, digests[half], rows_of_half)
    cache.select([recipe])


def test_the_reading_options_of_the_latest_extract_are_kept(small_cache: MakeCache) -> None:
    cache = small_cache()
    cache.write_recipe(FROZEN)
    assert cache.reading == {}
    for reading in ({"missing": "impute", "deadline": 90.0}, {}, {"missing": "impute"}):
        cache.select([FROZEN], command="moodfuse extract clips", reading=reading)
        cache.select([FROZEN], command="moodfuse extract clips", reading=reading)
        cache.select([FROZEN], command="moodfuse cache import x.npz")
        assert FeatureCache(cache.path).reading == reading
    assert len(list((cache.path / "sources").iterdir())) == 4


def test_a_block_comes_back_as_written(small_cache: MakeCache) -> None:
    """Rows follow the plan's clips, and `seen` are the clips outside the holdout."""
    cache = small_cache()
    fill(cache, TUNED)
    block = FeatureCache(cache.path).block("net", {2})
    assert block.embedding[:, 0].tolist() == [200.0 + row for row in range(18)]
    held = {status.digest for status in cache.clips if cache.plan.assignment[status.digest] == 2}
    assert block.training_clips == {status.digest for status in cache.clips} - held
    assert str(block.holdout) == "{2}" and block.logits is not None and block.logits.shape == (18, 2)


def test_a_corrected_label_reuses_only_networks_that_did_not_see_it(small_cache: MakeCache) -> None:
    cache = small_cache(("a", "b") * 9 + ("c",) * 4)
    fill(cache, TUNED)
    statuses = list(cache.statuses)
    wrong = statuses[0]
    statuses[0] = replace(wrong, clip=replace(wrong.clip, label="c"))
    held_out = cache.plan.assignment[wrong.digest]
    records = (table_name(statuses),)
    cache.write_plan(replace(cache.plan, records=records), statuses)
    for fold in range(3):
        if fold == held_out:
            assert cache.block("net", fold).embedding[0, 0] == 100.0 * fold
        else:
            with pytest.raises(MissingBlockError, match="labels, groups or folds changed"):
                cache.block("net", fold)


def test_merged_groups_reuse_only_networks_tuned_on_the_same_roles(small_cache: MakeCache) -> None:
    cache = small_cache()
    fill(cache, TUNED)
    before = {fold: cache.training_clips(TUNED, fold) for fold in range(3)}
    statuses = list(cache.statuses)
    statuses[2] = replace(statuses[2], group=statuses[0].group)
    assignment = assign_folds(clip_groups(statuses), folds=3, seed=0, placed=cache.plan.assignment)
    cache.write_plan(Plan(3, 0, "test", assignment, (table_name(statuses),)), statuses)
    for fold in range(3):
        if cache.training_clips(TUNED, fold) == before[fold]:
            cache.block("net", fold)
        else:
            with pytest.raises(MissingBlockError):
                cache.block("net", fold)
    assert any(cache.training_clips(TUNED, fold) != before[fold] for fold in range(3))


def test_writing_the_same_again_changes_no_file(small_cache: MakeCache) -> None:
    cache = small_cache()
    fill(cache, TUNED)

    def files() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in cache.path.rglob("*") if file.is_file()}

    before = files()
    again = FeatureCache(cache.path, create=True)
    assert not again.write_plan(again.plan, again.statuses)
    fill(again, TUNED)
    assert files() == before


def test_a_damaged_part_is_quarantined_and_nothing_else_is_lost(small_cache: MakeCache) -> None:
    """The block asks for extract; the rows of the other part stay."""
    cache = small_cache()
    fill(cache, FROZEN)
    part = min(cache.block_folder(FROZEN, None).glob("*.h5"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(MissingBlockError, match="no features of .*extract again with --source still"):
        FeatureCache(cache.path).block("still", "*")
    assert part.with_name(part.name + ".bad").exists() and not part.exists()
    assert 0 < len(cache.held(FROZEN, None)) < 18
    fill(cache, FROZEN)
    assert FeatureCache(cache.path).block("still", "*").embedding.shape == (18, 4)


def test_two_copies_of_a_file_have_the_same_row(small_cache: MakeCache) -> None:
    cache = small_cache()
    fill(cache, FROZEN)
    before = cache.block("still", "*").embedding
    statuses = list(cache.statuses)
    for name, row in (("!first", 3), ("zz", 3), ("010 again", 10)):
        statuses.append(replace(statuses[row], clip=replace(statuses[row].clip, id=name)))
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    block = FeatureCache(cache.path).block("still", "*")
    order = [
        int(name) if name.isdigit() else {"!first": 3, "zz": 3, "010 again": 10}[name] for name in block.ids
    ]
    assert len(order) == 21 and block.embedding.tobytes() == before[order].tobytes()
    min(cache.block_folder(FROZEN, None).glob("*.h5")).unlink()
    with pytest.raises(MissingBlockError, match="no features of [0-9]+ of 21 clips"):
        FeatureCache(cache.path).block("still", "*")


def test_another_folder_is_not_a_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        FeatureCache(tmp_path, create=True)
    with pytest.raises(InputError, match="moodfuse extract"):
        FeatureCache(tmp_path / "none")


def test_unknown_sources_list_the_known(small_cache: MakeCache) -> None:
    cache = small_cache()
    fill(cache, FROZEN)
    with pytest.raises(UnknownNameError, match="unknown source 'c4d'; known: still"):
        cache.block("c4d", "*")


def test_recipes_round_trip_and_ignore_their_name() -> None:
    """A recipe reads back equal; its digest depends on settings, not on the source's name."""
    assert recipe_from_mapping(json.loads(TUNED.to_json())) == TUNED
    assert replace(TUNED, source="net@other").digest16 == TUNED.digest16
    assert replace(TUNED, seed=1).digest16 != TUNED.digest16


def test_recipes_of_older_caches_keep_their_digest() -> None:
    """They have no class weights: their networks were tuned with balanced ones, and not corrected."""
    older = json.loads(TUNED.to_json())
    del older["tuning"]["class_weight"]
    recipe = recipe_from_mapping(older)
    assert recipe.tuning is not None and recipe.tuning.class_weight == UNCORRECTED
    assert json.loads(recipe.to_json()) == older
    assert recipe.digest16 == digest16({key: value for key, value in older.items() if key != "source"})
    assert recipe.digest16 != TUNED.digest16


@pytest.mark.parametrize(
    ("text", "covers"), [("*", [0, 1, 2, 4]), ("{1,4}", [1, 4]), (" 1, 4 ", [1, 4]), ("2", [2]), ("{ }", [])]
)
def test_holdouts_parse_and_cover(text: str, covers: list[int]) -> None:
    holdout = Holdout.of(text)
    assert [fold for fold in (0, 1, 2, 4) if holdout.covers(fold)] == covers


@pytest.mark.parametrize("text", ["", ",", "{1", "1}", "{1,}", "1_0", "{1}{2}", "1 2", "**"])
def test_other_text_is_not_a_holdout(text: str) -> None:
    with pytest.raises(InputError, match="is not '\\*', a fold, or folds such as"):
        Holdout.of(text)


def test_logits_and_classes_must_fit(small_cache: MakeCache) -> None:
    cache = small_cache()
    rows = np.ones((18, 3), dtype=np.float32)
    with pytest.raises(CacheError, match="logits have 3 columns; expected 2: a, b"):
        cache.write_block_part(
            FROZEN, None, [clip.digest for clip in cache.clips], {"embedding": rows, "logits": rows}
        )


def test_training_clips_are_computed_once_per_plan(small_cache: MakeCache) -> None:
    cache = small_cache()
    training_clips = cache.training_clips(TUNED, 1)
    assert cache.training_clips(TUNED, {1}) is training_clips
    other = replace(
        cache.plan, assignment={clip: (fold + 1) % 3 for clip, fold in cache.plan.assignment.items()}
    )
    assert (
        cache.training_clips(TUNED, 2, plan=other) == training_clips
        and cache.training_clips(TUNED, 1, plan=other) != training_clips
    )
