"""FORMAT.md is true: the archived cache reads as it was written, and a part reads without our code."""

import hashlib
import json
import re
import tarfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moodfuse.cache.store
from moodfuse._version import __version__
from moodfuse.cache.audits import Finding
from moodfuse.cache.digests import canonical_json, clip_digest, digest16
from moodfuse.cache.errors import SchemaError
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Holdout, Outcome
from moodfuse.cache.runs import read_run
from moodfuse.cache.storage.parts import SCHEMA, read_header, read_part, write_part
from moodfuse.cache.store import FeatureCache

ARCHIVES = sorted((Path(__file__).parent / "archives").glob("*.tar.xz"))
FORMAT = Path(moodfuse.cache.store.__file__).parent / "FORMAT.md"


def values_of(rows: int, width: int, fold: int = 0) -> np.ndarray:
    return (np.arange(rows)[:, None] + np.arange(width) / 64 + 100 * fold).astype(np.float32)


def unpack(archive: Path, folder: Path) -> FeatureCache:
    """An archived cache, opened."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return FeatureCache(folder)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_archived_caches_read_as_they_were_written(archive: Path, tmp_path: Path) -> None:
    """Clips, plans, recipes and blocks of every released version, value for value."""
    old = unpack(archive, tmp_path)
    assert len(old.clips) == 12 and old.classes == ("a", "b") and old.sources() == ("net", "still")
    assert (
        old.clips[0].clip.id == "a/é 00.mp4"
        and old.clips[0].clip.end_s == 20.5
        and old.clips[0].clip.group is None
    )
    assert (old.plan.folds, old.plan.sequence, len(old.repeat_plans)) == (3, 1, 1)
    assert sorted(old.plan.assignment.values()) == [0] * 4 + [1] * 4 + [2] * 4
    still = old.block("still", "*")
    assert (
        np.array_equal(still.embedding, values_of(12, 4))
        and still.logits is None
        and not still.training_clips
    )
    for fold in range(3):
        block = old.block("net", fold)
        assert block.holdout == Holdout.of(fold) and np.array_equal(block.embedding, values_of(12, 4, fold))
        assert block.logits is not None and np.array_equal(block.logits, values_of(12, 2, fold))
        assert block.training_clips == {digest for digest, at in old.plan.assignment.items() if at != fold}
    assert old.outcomes([old.clips[0].digest])[old.clips[0].digest][0].duration_s == 20.5
    assert not list(tmp_path.rglob("*.bad"))


def test_the_present_version_is_archived() -> None:
    assert f"format-{SCHEMA}.tar.xz" in [archive.name for archive in ARCHIVES]
    assert f"format version {SCHEMA}" in FORMAT.read_text().splitlines()[0]


def test_the_example_of_the_format_reads_a_part(tmp_path: Path) -> None:
    """The lines in FORMAT.md, plain h5py and the standard library, give a part's clips and features."""
    old = unpack(ARCHIVES[-1], tmp_path)
    part = next(iter(old.block_folder(old.recipe("still"), None).glob("*.h5")))
    (example,) = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    found: dict[str, object] = {}
    exec(re.sub(r'path = ".*"', f"path = {str(part)!r}", example), found)
    assert found["clips"] == [status.digest for status in old.clips]
    assert np.array_equal(found["embedding"], values_of(12, 4))  # type: ignore[arg-type]
    assert found["attributes"]["source"] == "still"  # type: ignore[index]


def keys_in_format(title: str) -> set[str]:
    """The keys of the table under a heading of FORMAT.md."""
    _, found, rest = FORMAT.read_text().partition(f"\n### {title}\n")
    assert found, title
    table = rest.partition("\n\n")[0].splitlines()[2:]
    return {key for row in table for key in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.parametrize(
    ("title", "record"),
    [
        ("`recipe.json`", Recipe),
        ("`tuning` of a recipe", Tuning),
        ("Outcomes: `clips/<aa>/<clip32>-<digest16>.json`", Outcome),
        ("A finding of an audit", Finding),
    ],
)
def test_the_format_has_the_keys_of_each_record(title: str, record: type) -> None:
    """Its tables name the fields of the records that are written, all of them and no other."""
    assert keys_in_format(title) == {item.name for item in fields(record)}


def test_the_format_has_the_keys_of_each_file(whole_cache: FeatureCache) -> None:
    """Its tables name the keys that stand in what is written, all of them and no other."""
    home = whole_cache.path
    files = {
        "`sources/<digest16>.json`": home.glob("sources/*.json"),
        "`audits/<digest16>.json`": home.glob("audits/*.json"),
        "`run.json`": home.glob("runs/*/run.json"),
        "`recipe.json`": home.glob("features/*/*/recipe.json"),
        "Outcomes: `clips/<aa>/<clip32>-<digest16>.json`": home.glob("clips/*/*.json"),
    }
    written = {title: json.loads(next(iter(found)).read_text()) for title, found in files.items()}
    for title, values in written.items():
        absent = {"architecture"} if title == "`recipe.json`" else set()
        assert set(values) == keys_in_format(title) - absent, title
    assert set(written["`run.json`"]["results"][0]) == keys_in_format("A result of a run")
    optional = set(re.findall(r"`(\w+)`\\\*", FORMAT.read_text()))
    assert optional == {
        "architecture",
        "class_weight",
        "digests",
        "gradient_checkpointing",
        "label_smoothing",
        "layer_decay",
        "missing",
        "mixup",
        "reading",
        "repeat_folds",
        "series_folds",
        "schedule",
        "spec_augment",
        "warmup_epochs",
        "commands",
        "versions",
        "modalities",
        "settings",
        "temperatures",
    }


def test_optional_keys_of_a_run_may_be_missing(whole_cache: FeatureCache) -> None:
    file = whole_cache.path / "runs" / "run-1" / "run.json"
    values = json.loads(file.read_text())
    arrays, attributes = read_part(file.with_name(values.pop("predictions")))
    for name in ("digests", "missing", "repeat_folds", "commands", "versions", "class_weight", "modalities"):
        del values[name]
    del values["results"][0]["temperatures"], values["results"][0]["settings"]
    part = write_part(file.parent, "predictions", arrays, {**attributes, "record": digest16(values)})
    file.write_text(canonical_json({**values, "predictions": part.name}))
    run = read_run(whole_cache, "run-1")
    assert run.digests == run.commands == run.modalities == run.results[0].temperatures == ()
    assert run.results[0].settings == ()
    assert run.class_weight == ""


def test_every_array_and_attribute_of_a_part_is_in_the_format(whole_cache: FeatureCache) -> None:
    text = FORMAT.read_text()
    for file in whole_cache.path.rglob("*.h5"):
        arrays, values = read_part(file)
        named = [*values, *(re.sub(r"_(ends|row)$", "", name) for name in arrays)]
        named = [re.sub(r"_[0-9]{4}$", "_0000", name) for name in named]
        assert f"`{values['format']}`" in text, file
        assert [name for name in named if f"`{name}`" not in text] == [], file


def test_the_text_of_json_is_what_the_format_says() -> None:
    """The Python expression in FORMAT.md gives the canonical text, and the rules beside it are true of it."""
    value = {"é": [0.0, 1e-5, 1e16, 1, None, True], "a": '"\\\x01\x7f\n', "B": {}}
    (expression,) = re.findall(r"`(json\.dumps\(value.*?\))`", FORMAT.read_text())
    assert eval(expression, {"json": json, "value": value}) == canonical_json(value)
    assert canonical_json(value) == '{"B":{},"a":"\\"\\\\\\u0001\x7f\\n","é":[0.0,1e-05,1e+16,1,null,true]}'


def test_seconds_in_a_clip_digest_are_floats() -> None:
    text = f'{{"end_s":20.0,"file":"{"ab" * 32}","start_s":0.0}}'
    assert clip_digest("ab" * 32, 0, 20) == hashlib.sha256(text.encode()).hexdigest()


def test_a_newer_cache_names_the_version_to_install(tmp_path: Path) -> None:
    """A cache of a later schema is refused."""
    unpack(ARCHIVES[-1], tmp_path)
    marker = {"format": "moodfuse-cache", "schema": SCHEMA + 1, "written_by": "7.1.0"}
    (tmp_path / "moodfuse-cache.json").write_text(json.dumps(marker))
    with pytest.raises(SchemaError, match=r"schema 3 is newer.*pip install 'moodfuse>=7.1.0'"):
        FeatureCache(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": SCHEMA + 1, "written_by": "7.1.0"}, r"newer than the 2.*pip install 'moodfuse>=7.1.0'"),
        ({"schema": SCHEMA - 1}, "schema 1 was never released and cannot be read"),
    ],
)
def test_a_part_of_another_schema_is_an_error_and_stays(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    old = unpack(ARCHIVES[-1], tmp_path)
    part = next(iter(old.block_folder(old.recipe("still"), None).glob("*.h5")))
    header = replace(read_header(part), **change).to_bytes()
    part.write_bytes(header + part.read_bytes()[len(header) :])
    with pytest.raises(SchemaError, match=message):
        old.block("still", "*")
    assert part.exists() and not list(tmp_path.rglob("*.bad"))


def test_a_header_names_the_version_and_may_have_further_keys(tmp_path: Path) -> None:
    part = write_part(tmp_path, "part", {"clip": np.zeros(2, "S64")}, {})
    header = read_header(part)
    assert header.written_by == __version__ and header.rows == 2
    values = {**json.loads(part.read_bytes()[:512]), "origin": "elsewhere"}
    del values["check"]
    data = canonical_json({**values, "check": digest16(values)}).encode().ljust(511) + b"\n"
    part.write_bytes(data + part.read_bytes()[512:])
    assert read_header(part) == header and len(read_part(part)[0]["clip"]) == 2
