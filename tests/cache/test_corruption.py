"""Damage to any kind of file of a cache is detected; a damaged file is never read as another value."""

import json
import logging

import numpy as np
import pytest

from faults.forging import seal
from faults.looking import MISSING, READERS, fault_of, file_of
from faults.mutants import MUTATIONS
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.runs import read_run
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.layout import KINDS
from moodfuse.cache.storage.parts import HEADER_BYTES, read_part, verify_part
from moodfuse.cache.store import FeatureCache

pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("view", "output")])
def test_damage_is_detected_and_not_read(
    whole_cache: FeatureCache, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    file = file_of(whole_cache, kind)
    data = file.read_bytes()
    expected = READERS[kind](FeatureCache(whole_cache.path))
    random = np.random.default_rng(0)
    for mutation in MUTATIONS * 3:
        changed = mutation(data, random)
        if changed == data:
            continue
        file.write_bytes(changed)
        # The marker has no digest, so that another version in it is not seen.
        assert kind == "marker" or fault_of(whole_cache, file) is not None, mutation
        try:
            value = READERS[kind](FeatureCache(whole_cache.path))
            assert value == expected or value in MISSING, mutation
        except (CacheError, InputError):
            pass
        file.write_bytes(data)
        file.with_name(f"{file.name}.bad").unlink(missing_ok=True)


def test_a_wrong_count_of_rows_in_a_header_is_found_by_verifying(whole_cache: FeatureCache) -> None:
    part = file_of(whole_cache, "features")
    data = part.read_bytes()
    header = json.loads(data[:HEADER_BYTES])
    header["rows"] += 1
    part.write_bytes(canonical_json(header).encode().ljust(HEADER_BYTES - 1) + b"\n" + data[HEADER_BYTES:])
    seal(part)
    with pytest.raises(DamagedPartError, match="arrays are not those of its header"):
        verify_part(part)


def test_a_changed_label_in_a_run_is_noticed(whole_cache: FeatureCache) -> None:
    file = whole_cache.path / "runs" / "run-1" / "run.json"
    file.write_text(file.read_text().replace('"labels":["a"', '"labels":["b"'))
    with pytest.raises(CacheError, match=r"run\.json: is not the record that was written.*run fuse again"):
        read_run(FeatureCache(whole_cache.path), "run-1")


def test_a_recipe_of_another_source_is_an_error(whole_cache: FeatureCache) -> None:
    file = whole_cache.block_folder(whole_cache.recipe("still"), None).parent / "recipe.json"
    file.write_text(file.read_text().replace('"source":"still"', '"source":"net"'))
    with pytest.raises(DamagedPartError, match="does not match its folder's name"):
        FeatureCache(whole_cache.path).recipe("still")


def test_a_part_under_another_name_is_damaged(whole_cache: FeatureCache) -> None:
    part = file_of(whole_cache, "features")
    other = part.rename(part.with_name(f"{part.stem[:-1]}{'0' if part.stem[-1] != '0' else '1'}.h5"))
    with pytest.raises(DamagedPartError, match="not the one in its name"):
        read_part(other)


def test_a_selection_under_another_name_is_an_error(whole_cache: FeatureCache) -> None:
    file = file_of(whole_cache, "choice")
    file.rename(file.with_name(f"{digest16('other')}.json"))
    with pytest.raises(DamagedPartError, match="does not match its name; run extract again"):
        _ = FeatureCache(whole_cache.path).selection


@pytest.mark.parametrize("text", ["NaN", "[1e999]", '{"a":-Infinity}', "{", "", "\xff"])
def test_invalid_json_is_damaged(whole_cache: FeatureCache, text: str) -> None:
    """Numbers that are not finite have no digest."""
    file = whole_cache.path / "file.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedPartError, match=r"file\.json: not JSON"):
        read_json(file)
