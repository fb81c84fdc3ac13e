"""Plans of a cache folder: what is in the wrong folder, or is not a plan, is never the current plan."""

import shutil

import pytest

from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.store import FeatureCache


@pytest.mark.parametrize(
    "change", [{"records": "0123456789abcdef"}, {"records": []}, {"format": "moodfuse-part"}]
)
def test_a_part_that_is_not_a_plan_is_damage(tuned_cache: FeatureCache, change: dict[str, object]) -> None:
    home = tuned_cache.path / "plans"
    arrays, values = read_part(next(home.glob("plan-*.h5")))
    file = write_part(home, "plan", arrays, {**values, "sequence": 99, **change})
    with pytest.raises(DamagedPartError, match=rf"{file.name}: is not a plan .*run extract again"):
        _ = FeatureCache(tuned_cache.path).statuses
    assert [fault.relative_path for fault in verify(tuned_cache.path).faults] == [f"plans/{file.name}"]


def test_the_plan_of_a_repeat_in_another_folder_is_quarantined_when_writing(
    tuned_cache: FeatureCache,
) -> None:
    home = tuned_cache.path / "plans"
    file = home / next(home.glob("repeat-1/plan-*.h5")).name
    shutil.copy(home / "repeat-1" / file.name, file)
    with pytest.raises(DamagedPartError, match=rf"{file.name}: is not a plan"):
        _ = FeatureCache(tuned_cache.path).plan
    mended = FeatureCache(tuned_cache.path, create=True)
    assert mended.plan == tuned_cache.plan and file.with_name(file.name + ".bad").exists()
