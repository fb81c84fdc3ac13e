"""Writers and readers of one folder at once; benchmarks/many_writers.py at full size."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from faults.samples import STILL, TUNED, Sample, right_rows
from faults.writers import DRIFT, Crowd, run_crowd, twice_differing
from moodfuse.cache import blocks
from moodfuse.cache.blocks import held, part_files, read_rows, valid_parts
from moodfuse.cache.digests import digest_array
from moodfuse.cache.errors import CacheError
from moodfuse.cache.storage.files import set_aside
from moodfuse.cache.storage.parts import write_part
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]


def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    """Three writers of the same clips and two readers: nothing wrong is read, lost or left over, the view is one's."""
    crowd = run_crowd(Crowd(parts=12, writers=3, readers=2, deadline_s=120.0), tmp_path / "many")
    assert not crowd.failures and not crowd.stuck and not crowd.gone and not crowd.stray
    assert all(reader.reads and not reader.bad and not reader.warnings for reader in crowd.readers)
    assert sum(writer.differing for writer in crowd.writers) == 0
    sample = Sample(parts=0, clips_per_part=4, added=12)
    alone = FeatureCache(tmp_path / "one", create=True)
    sample.put_plan(alone, sample.statuses)
    assert (tmp_path / "many" / "clips.csv").read_bytes() == (tmp_path / "one" / "clips.csv").read_bytes()
    block = FeatureCache(tmp_path / "many").block("still", "*")
    assert np.array_equal(block.embedding, right_rows(block.digests, "still")["embedding"])


def test_rows_that_come_out_otherwise_are_reported_and_change_nothing(
    small_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    """A second writer with other values is told how many; files and rows stay as they were."""
    cache = small_cache()
    clips = [status.digest for status in cache.clips]
    values = right_rows(clips, "still")
    assert (
        cache.write_block_part(STILL, None, clips[:10], {name: rows[:10] for name, rows in values.items()})
        == 0
    )
    before = [(file.name, file.read_bytes()) for file in part_files(cache.block_folder(STILL, None))]
    drifted = {name: rows + DRIFT for name, rows in values.items()}
    assert (
        cache.write_block_part(STILL, None, clips[5:10], {name: rows[5:10] for name, rows in drifted.items()})
        == 5
    )
    assert "5 of 5 rows differ from the stored ones" in caplog.text
    assert [(file.name, file.read_bytes()) for file in part_files(cache.block_folder(STILL, None))] == before


def test_two_writers_of_a_clip_at_once_are_told_of_each_other(
    small_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Where another's part of the same clips arrives while one is made, the rows that differ are reported."""
    cache = small_cache()
    clips = [status.digest for status in cache.clips]
    values = right_rows(clips, "still")
    owner = cache.owner(STILL, None)

    def slow(*given: object) -> Path:
        other = {name: rows + DRIFT for name, rows in values.items()}
        write_part(owner.folder, "other", {**other, "clip": np.array(clips, dtype="S64")}, owner.attributes)
        return write_part(*given)  # type: ignore[arg-type]

    with patch.object(blocks, "write_part", slow):
        assert cache.write_block_part(STILL, None, clips, values) == len(clips)
    assert "18 of 18 rows differ from the stored ones" in caplog.text
    assert len(part_files(owner.folder)) == 2 and twice_differing(cache.path) == len(clips)


def test_a_part_that_is_gone_is_no_damage(small_cache: MakeCache, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that lists a part which another process takes away meanwhile passes it over in silence."""
    cache = small_cache()
    clips = [status.digest for status in cache.clips]
    cache.write_block_part(STILL, None, clips, right_rows(clips, "still"))
    owner = cache.owner(STILL, None)
    ghost = owner.folder / "00-0123456789abcdef.h5"
    with patch.object(blocks, "part_files", lambda folder: [ghost, *part_files(folder)]):
        assert len(held(owner)) == len(clips)
        assert read_rows(owner, digest_array(clip.digest for clip in cache.clips), ("embedding",)).found.all()
    set_aside(ghost, "is gone")
    assert caplog.text == "" and not list(owner.folder.glob("*.bad"))


def test_a_part_damaged_after_it_was_listed_is_set_aside(small_cache: MakeCache) -> None:
    """Its rows count as missing, those of others are read."""
    cache = small_cache()
    clips = [status.digest for status in cache.clips]
    for half in (clips[:9], clips[9:]):
        cache.write_block_part(STILL, None, half, right_rows(half, "still"))
    owner = cache.owner(STILL, None)
    parts = dict(valid_parts(owner))
    first = part_files(owner.folder)[0]
    first.write_bytes(first.read_bytes()[:-1])
    wanted = digest_array(clips)
    with patch.object(blocks, "valid_parts", lambda owner: parts.items()):
        rows = read_rows(owner, wanted, ("embedding",))
    assert rows.found.sum() == 9 and len(part_files(owner.folder)) == 1
    right = right_rows([clip.digest for clip in cache.clips], "still")["embedding"]
    assert np.array_equal(rows.arrays["embedding"][rows.found], right[rows.found])


def test_a_part_of_other_widths_is_named_not_mixed_in(small_cache: MakeCache) -> None:
    """Rows of two widths under one recipe are an error that names the file."""
    cache = small_cache()
    clips = [status.digest for status in cache.clips]
    cache.write_block_part(STILL, None, clips[:9], right_rows(clips[:9], "still"))
    narrow = right_rows(clips[9:], "still")
    narrow["embedding"] = narrow["embedding"][:, :1]
    cache.write_block_part(STILL, None, clips[9:], narrow)
    with pytest.raises(CacheError, match=r"\.h5: rows of /embedding are float32\[.*move the part away"):
        cache.rows(STILL, None, cache.clips, ("embedding",))


def test_two_selections_at_once_are_both_in_force(small_cache: MakeCache) -> None:
    """Processes that put different sources in force at the same time do not undo each other."""
    cache = small_cache()
    one, two = FeatureCache(cache.path), FeatureCache(cache.path)
    with patch.object(FeatureCache, "_selections", ()):
        one.select([STILL], command="first")
        two.select([TUNED], command="second")
    found = FeatureCache(cache.path)
    assert found.sources() == ("net", "still") and set(found.commands) == {"first", "second"}
    newer = replace(STILL, seed=1)
    found.select([newer])
    assert FeatureCache(cache.path).selection == {"still": newer.digest16, "net": TUNED.digest16}
