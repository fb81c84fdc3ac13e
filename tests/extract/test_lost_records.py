"""What was lost of a network's record is written again by the next extract, and nothing is computed for it."""

import pytest

from cache.errors import CacheError
from cache.planning import PlanChoice


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_extract_writes_a_lost_record_of_a_network_anew(runner, harm: str) -> None:
    """`trained.json` alone is missing or damaged: no reader finds the block until extract has run again."""
    runner(plan=PlanChoice(folds=2))
    cache = runner.open()
    sound = cache.block("twodmcnn", 0).embedding
    record = cache.block_folder(cache.recipe("twodmcnn"), cache.roles(cache.recipe("twodmcnn"), 0)) / "trained.json"
    record.unlink() if harm == "gone" else record.write_text("[]")
    with pytest.raises(CacheError, match="extract again"):
        runner.open().block("twodmcnn", 0)
    done = runner(plan=PlanChoice(folds=2))
    assert (done.tuned, done.embedded) == (0, 0)
    assert (runner.open().block("twodmcnn", 0).embedding == sound).all()
