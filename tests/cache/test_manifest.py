"""The records of a cache folder: what stands in the wrong place, or is not what it says, is never in force."""

import shutil

import pytest

from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.store import FeatureCache


@pytest.mark.parametrize("records", ["0123456789abcdef", [], ["0123456789abcdef"] * 2, None])
def test_a_plan_names_one_table(tuned_cache: FeatureCache, records: object) -> None:
    """Its attribute is a list of one; anything else is not a plan, said as such."""
    home = tuned_cache.path / "plans"
    arrays, values = read_part(next(home.glob("plan-*.h5")))
    file = write_part(home, "plan", arrays, {**values, "records": records, "sequence": 99})
    with pytest.raises(DamagedPartError, match=rf"{file.name}: is not a plan"):
        _ = FeatureCache(tuned_cache.path).statuses
    assert [fault.place for fault in verify(tuned_cache.path).faults] == [f"plans/{file.name}"]


@pytest.mark.parametrize("harm", ["format", "folder"])
def test_a_sound_part_that_is_no_plan_of_its_folder_is_damage(tuned_cache: FeatureCache, harm: str) -> None:
    """Another format, or the plan of a further repeat among those that holdouts are looked up in."""
    home = tuned_cache.path / "plans"
    if harm == "format":
        arrays, values = read_part(next(home.glob("plan-*.h5")))
        file = write_part(home, "plan", arrays, {**values, "format": "moodfuse-part", "sequence": 99})
    else:
        file = home / next(home.glob("repeat-1/plan-*.h5")).name
        shutil.copy(home / "repeat-1" / file.name, file)
    with pytest.raises(DamagedPartError, match=rf"{file.name}: is not a plan .*run extract again"):
        _ = FeatureCache(tuned_cache.path).plan
    assert [fault.place for fault in verify(tuned_cache.path).faults] == [f"plans/{file.name}"]
    mended = FeatureCache(tuned_cache.path, create=True)
    assert mended.plan == tuned_cache.plan and file.with_name(file.name + ".bad").exists()
