"""A cache that extract filled passes `cache verify`, has nothing to prune, and gets back what was lost or freed."""

import pytest

from moodfuse.cache.errors import CacheError
from moodfuse.cache.maintenance.networks import IN_FORCE, SERVES
from moodfuse.cache.maintenance.inventory import read_inventory
from moodfuse.cache.maintenance.prune import PruneOptions, choose_removals, remove
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.planning import PlanChoice


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_extract_writes_a_lost_record_of_a_network_anew(extracted, harm: str) -> None:
    """`trained.json` alone is missing or damaged: no reader finds the block until extract has run again."""
    runner = extracted
    cache = runner.open()
    sound = cache.block("twodmcnn", 0).embedding
    record = (
        cache.block_folder(cache.recipe("twodmcnn"), cache.roles(cache.recipe("twodmcnn"), 0))
        / "trained.json"
    )
    record.unlink() if harm == "gone" else record.write_text("[]")
    with pytest.raises(CacheError, match="extract again"):
        runner.open().block("twodmcnn", 0)
    done = runner(plan=PlanChoice(folds=2))
    assert (done.tuned, done.embedded) == (0, 0)
    assert (runner.open().block("twodmcnn", 0).embedding == sound).all()


def test_what_extract_leaves_is_sound_and_in_use(extracted) -> None:
    """Every file is of a known kind, every block complete; media can be freed, and a new label's old networks."""
    runner = extracted
    found, stock = verify(runner.cache), read_inventory(runner.open())
    assert not found.faults and not found.stale_view and not any(found.others.values())
    assert {recipe.state for recipe in stock.recipes} == {IN_FORCE, SERVES}
    assert all(block.complete and block.names for recipe in stock.recipes for block in recipe.blocks)
    media = choose_removals(stock, PruneOptions(media=True), now_s=0.0)
    assert media.removals and all(item.place.startswith("media/") for item in media.removals)
    assert not remove(runner.cache, media.removals)
    block = runner.open().block("twodmcnn", 0).embedding
    moved = min((runner.data / "sad").iterdir())
    moved.rename(runner.data / "excited" / f"was-sad-{moved.name}")
    runner(plan=PlanChoice(folds=2))
    old = choose_removals(read_inventory(runner.open()), PruneOptions(), now_s=0.0).removals
    assert any("no plan in force names" in item.why for item in old) and not remove(runner.cache, old)
    assert (
        not verify(runner.cache).faults and runner.open().block("twodmcnn", 1).embedding.shape == block.shape
    )
