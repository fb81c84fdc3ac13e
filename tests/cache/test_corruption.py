"""Harm to any kind of file of a cache is noticed, or changes nothing; 10 000 times in benchmarks/corruption.py."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from faults.mutants import MUTATIONS
from faults.targets import fingerprint, harm, make_targets
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError
from moodfuse.cache.runs import read_run
from moodfuse.cache.storage.json_files import read_json
from moodfuse.cache.storage.parts import HEADER_BYTES, read_header, read_part, verify_part
from moodfuse.cache.store import FeatureCache


def test_harm_is_detected_or_changes_nothing_that_is_read(tmp_path: Path) -> None:
    """500 mutants of parts, networks and records: refused, or read as they were written."""
    targets = make_targets(tmp_path / "cache")
    mutants = list(harm(targets, 500))
    assert [mutant for mutant in mutants if mutant.verdict not in ("detected", "identical")] == []
    assert {mutant.mutation for mutant in mutants} == set(MUTATIONS)
    # Of a part and a network every byte counts; but a header that is edited and signed anew may name another writer.
    checked = [mutant for mutant in mutants if "part" in mutant.kind or mutant.kind == "network"]
    verdicts = Counter(mutant.verdict for mutant in checked if mutant.mutation != "edit")
    assert verdicts == {"detected": verdicts.total()}
    assert max(mutant.seconds for mutant in mutants) < 5.0


def test_fingerprints_tell_bits_apart(tmp_path: Path) -> None:
    """What mutants are judged by sees one bit of an array and one letter of a record."""
    targets = {target.kind: target for target in make_targets(tmp_path / "cache")}
    arrays, attributes = targets["feature part"].read()
    harmed = {**arrays, "embedding": arrays["embedding"].copy()}
    harmed["embedding"].view("uint8")[0, 0] ^= 1
    assert fingerprint((harmed, attributes)) != fingerprint((arrays, attributes))
    run = targets["predictions"].read()
    assert fingerprint(replace(run, labels=("fear", *run.labels[1:]))) != fingerprint(run)


def test_a_header_that_lies_about_its_rows_is_found_by_verifying(tmp_path: Path) -> None:
    """Even with the right digest of its own: the count of rows is held to the arrays."""
    part = make_targets(tmp_path / "cache")[0].path
    data = part.read_bytes()
    values = json.loads(data[:HEADER_BYTES])
    del values["check"]
    values["rows"] += 1
    header = canonical_json({**values, "check": digest16(values)}).encode().ljust(HEADER_BYTES - 1) + b"\n"
    part.write_bytes(header + data[HEADER_BYTES:])
    assert read_header(part).rows == values["rows"]
    with pytest.raises(DamagedPartError, match="arrays are not those of its header"):
        verify_part(part)


def test_a_label_changed_in_a_run_is_noticed(tmp_path: Path) -> None:
    """The record of a run is held to the part that was written with it."""
    make_targets(tmp_path / "cache")
    file = tmp_path / "cache" / "runs" / "made-1" / "run.json"
    assert "sad" in read_run(FeatureCache(tmp_path / "cache"), "made-1").labels
    file.write_text(file.read_text().replace('"sad"', '"bad"'))
    with pytest.raises(CacheError, match=r"run\.json: is not the record that was written.*run fuse again"):
        read_run(FeatureCache(tmp_path / "cache"), "made-1")


def test_a_recipe_of_another_source_is_refused(tmp_path: Path) -> None:
    """A recipe's name does not enter its digest, so it is held to the folder."""
    make_targets(tmp_path / "cache")
    file = next((tmp_path / "cache" / "features" / "still").glob("*/recipe.json"))
    file.write_text(file.read_text().replace('"source":"still"', '"source":"net"'))
    with pytest.raises(DamagedPartError, match="does not match its folder's name"):
        FeatureCache(tmp_path / "cache").recipe("still")


@pytest.mark.parametrize("text", ["NaN", "[1e999]", '{"a":-Infinity}', "{", "", "\xff"])
def test_json_that_no_writer_wrote_is_damaged(tmp_path: Path, text: str) -> None:
    """Numbers that are not finite have no digest, so they are refused on reading."""
    (tmp_path / "file.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedPartError, match=r"file\.json: not JSON"):
        read_json(tmp_path / "file.json")


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    """A sound part that was given the name of another is not read."""
    part = make_targets(tmp_path / "cache")[0].path
    other = part.with_name(f"{part.stem[:-1]}{'0' if part.stem[-1] != '0' else '1'}.h5")
    part.rename(other)
    with pytest.raises(DamagedPartError, match="not the one in its name"):
        read_part(other)
