"""`cache verify` finds every changed byte and stops at no file."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.looking import denied, fault_of, file_of, mend, place, places, state
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, InputError, SchemaError
from moodfuse.cache.maintenance.repair import Repair, repair
from moodfuse.cache.maintenance.verify import CHECKS, UNREADABLE, Fault, verify
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.storage.layout import entries
from moodfuse.cache.storage.parts import SCHEMA, read_part, write_part
from moodfuse.cache.store import FeatureCache

NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
DIGEST_KINDS = sorted(set(CHECKS) - {"marker"})


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set aside is logged; here it is asserted."""
    monkeypatch.setattr(logging.getLogger("moodfuse.cache.storage.files"), "disabled", True)


def test_a_sound_cache_passes_and_is_left_alone(whole_cache: FeatureCache) -> None:
    before = state(whole_cache.path)
    progress: list[tuple[int, int]] = []
    found = verify(whole_cache.path, on_progress=lambda done, total: progress.append((done, total)))
    assert not found.faults and not found.disagreements and not found.stale_clips_csv
    assert progress[-1] == (found.bytes, found.bytes) and len(progress) == found.checked
    assert found.others["output"] == ("runs/run-1/report/report.html",)
    unchecked = {"clips.csv", "runs/run-1/report/report.html"}
    assert found.checked == len(before) - 2
    assert found.bytes == sum(len(data) for name, data in before.items() if name not in unchecked)
    assert state(whole_cache.path) == before


@pytest.mark.parametrize("kind", DIGEST_KINDS)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(whole_cache: FeatureCache, kind: str, where: float, bit: int) -> None:
    file = file_of(whole_cache, kind)
    sound = file.read_bytes()
    harmed = bytearray(sound)
    harmed[int(where * len(sound))] ^= 1 << bit
    file.write_bytes(harmed)
    try:
        found = places(verify(whole_cache.path))
    finally:
        file.write_bytes(sound)
    assert found - {"runs/run-1/run.json"} <= {place(whole_cache, file)} <= found


@pytest.mark.parametrize("kind", ["outcome", "choice", "recipe", "training", "run"])
def test_every_byte_of_a_record_counts(whole_cache: FeatureCache, kind: str) -> None:
    file = file_of(whole_cache, kind)
    entry = next(entry for entry in entries(whole_cache.path) if entry.path == file)
    sound = file.read_bytes()
    for position in range(0, len(sound), 1 + len(sound) // 200):
        file.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        with pytest.raises(Exception):  # noqa: B017 - whatever reading it raises
            CHECKS[kind](entry)


@pytest.mark.parametrize("kind", [*DIGEST_KINDS, "marker"])
def test_other_lengths_are_found(whole_cache: FeatureCache, kind: str) -> None:
    file = file_of(whole_cache, kind)
    data = file.read_bytes()
    for harmed in (b"", data[: len(data) // 2], data + b"\n"):
        file.write_bytes(harmed)
        assert fault_of(whole_cache, file)


def test_a_marker_needs_no_line_feed(whole_cache: FeatureCache) -> None:
    marker = whole_cache.path / "moodfuse-cache.json"
    marker.write_bytes(marker.read_bytes().removesuffix(b"\n"))
    assert not verify(whole_cache.path).faults


def test_a_part_in_the_wrong_folder_is_bad(whole_cache: FeatureCache) -> None:
    here, there = (whole_cache.block_folder(NET, whole_cache.roles(NET, fold)) for fold in (0, 1))
    part = min(here.glob("*.h5"))
    part.rename(there / part.name)
    (fault,) = verify(whole_cache.path).faults
    assert fault.place == place(whole_cache, there / part.name)
    assert f"belongs to net@a/{NET.digest16}" in fault.reason


@pytest.mark.parametrize(
    ("length", "samples", "reason"),
    [
        (480_000, 0, None),
        (480_000, 480_000, None),
        (479_999, 16, "its waveform has 479999 samples; expected 480000"),
        (480_001, 16, "its waveform has 480001 samples; expected 480000"),
        (480_000, 480_001, "480001 of its 480000 samples are declared as from the file"),
        (480_000, -1, "-1 of its 480000 samples are declared as from the file"),
    ],
)
def test_a_waveform_has_30_seconds(
    whole_cache: FeatureCache, length: int, samples: int, reason: str | None
) -> None:
    part = file_of(whole_cache, "media")
    _, attributes = read_part(part)
    part.unlink()
    arrays = {"waveform": np.zeros(length, np.float32)}
    write_part(part.parent, part.stem.rpartition("-")[0], arrays, {**attributes, "waveform_samples": samples})
    assert [fault.reason for fault in verify(whole_cache.path).faults] == ([] if reason is None else [reason])


ROW = np.full((18, 2), 0.5)
GOOD = {"probabilities_0000": ROW, "unscaled_0000": ROW, "repeats_0000": ROW[None]}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (GOOD, None),
        ({"unscaled_0000": ROW}, "no array 'probabilities_0000'"),
        ({"probabilities_0000": ROW[1:]}, "probabilities_0000 of shape (17, 2); expected (18, 2)"),
        ({"probabilities_0000": ROW[:, :1]}, "probabilities_0000 of shape (18, 1); expected (18, 2)"),
        (GOOD | {"unscaled_0000": ROW[:0]}, "unscaled_0000 of shape (0, 2); expected (18, 2)"),
        (
            GOOD | {"repeats_0000": np.array([ROW, ROW])},
            "repeats_0000 of shape (2, 18, 2); expected (1, 18, 2)",
        ),
    ],
)
def test_predictions_have_the_rows_of_their_run(
    whole_cache: FeatureCache, arrays: dict[str, np.ndarray], reason: str | None
) -> None:
    record, part = file_of(whole_cache, "run"), file_of(whole_cache, "predictions")
    _, attributes = read_part(part)
    part.unlink()
    values = {key: value for key, value in json.loads(record.read_text()).items() if key != "predictions"}
    values["repeat_folds"] = [values["folds"]]
    written = write_part(part.parent, "predictions", arrays, {**attributes, "record": digest16(values)})
    record.write_text(canonical_json({**values, "predictions": written.name}))
    found = [(fault.kind, fault.reason) for fault in verify(whole_cache.path).faults]
    assert found == ([] if reason is None else [("run", f"its predictions have {reason}")])


@pytest.mark.parametrize("difference", [0, 1])
def test_rows_that_differ_in_two_parts_are_nondeterminism_and_no_damage(
    whole_cache: FeatureCache, difference: int
) -> None:
    owner = whole_cache.owner(STILL, None)
    block = whole_cache.block("still", "*")
    rows = block.embedding[:3].copy()
    rows[1] += difference
    digests = np.array(list(block.digests)[:3], dtype="S64")
    assert block.logits is not None
    arrays = {"clip": digests, "embedding": rows, "logits": block.logits[:3]}
    write_part(owner.folder, "zz", arrays, owner.attributes)
    found = verify(whole_cache.path)
    assert not found.faults and len(found.disagreements) == difference
    assert all("1 rows differ from those of" in sentence for sentence in found.disagreements)


def test_no_file_stops_the_others_from_being_checked(whole_cache: FeatureCache) -> None:
    root = whole_cache.path
    folder = whole_cache.block_folder(STILL, None)
    os.mkfifo(root / "plans" / "plan-pipe.h5")
    os.mkfifo(root / "sources" / "pipe.json")
    (folder / "folder.h5").mkdir()
    (folder / "link.h5").symlink_to("nowhere")
    (folder / "circle.h5").symlink_to("circle.h5")
    (root / "runs" / "loop").symlink_to("..", target_is_directory=True)
    (root / "features" / "a").symlink_to(root / "features", target_is_directory=True)
    (root / "audits" / "deep.json").write_text("[" * 100_000)
    (root / "audits" / "huge.json").write_text("9" * 5_000_000)
    (root / "audits" / "nan.json").write_text("NaN")
    (root / "clips" / "aa").mkdir()
    (root / "clips" / "aa" / "list.json").write_text("[1]")
    (root / "clips" / "aa" / ("b" * 200 + ".json")).write_bytes(b"\xff")
    (root / os.fsdecode(b"odd \xff\n")).write_bytes(b"")
    found = verify(root)
    faults = (fault for fault in found.faults if not fault.place.startswith("runs/l"))
    bad = {fault.place.rpartition("/")[2]: fault.reason for fault in faults}
    parts = {f"{name}.h5" for name in ("plan-pipe", "folder", "link", "circle")}
    assert set(bad) == parts | {f"{name}.json" for name in ("pipe", "deep", "huge", "nan", "list", "b" * 200)}
    assert bad["plan-pipe.h5"].startswith("is no plain file") and bad["folder.h5"] == "is a folder"
    assert bad["link.h5"] == bad["circle.h5"] == "is a link that leads nowhere"
    assert os.fsdecode(b"odd \xff\n") in found.others["unknown"] and "features/a" in found.others["unknown"]
    done = repair(root, found)
    assert not done.failed and not verify(root).faults


def test_what_another_process_takes_away_is_no_fault(
    whole_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = CHECKS["media"]

    def late(entry: object) -> object:
        file_of(whole_cache, "media").unlink()
        return check(entry)  # type: ignore[arg-type]

    monkeypatch.setitem(CHECKS, "media", late)
    assert not verify(whole_cache.path).faults


def test_what_the_system_withholds_is_reported_and_left_alone(
    whole_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def withheld(entry: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(CHECKS, "media", withheld)
    (fault,) = verify(whole_cache.path).faults
    assert (fault.state, fault.reason) == (UNREADABLE, "cannot be read (Permission denied)")
    assert mend(whole_cache) == Repair((), (), (), ())


@pytest.mark.parametrize("place", ["media", "features", "plans", "sources"])
def test_a_folder_that_may_not_be_listed_is_reported(whole_cache: FeatureCache, place: str) -> None:
    with denied(whole_cache.path / place):
        (fault,) = verify(whole_cache.path).faults
    assert fault == Fault(place, "folder", "cannot be listed (Permission denied)", UNREADABLE)


def test_a_view_or_a_cache_that_may_not_be_read_is_reported(whole_cache: FeatureCache) -> None:
    with denied(whole_cache.path / "clips.csv"):
        found = verify(whole_cache.path)
    assert found.faults == (Fault("clips.csv", "view", "cannot be read (Permission denied)", UNREADABLE),)
    assert not found.stale_clips_csv
    for reader in (verify, FeatureCache):
        with (
            denied(whole_cache.path),
            pytest.raises(CacheError, match=r"cannot be read \(Permission denied\)"),
        ):
            reader(whole_cache.path)


def test_an_error_that_no_bad_record_explains_is_raised(
    whole_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(cache: FeatureCache) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(FeatureCache, "selection", property(fails))
    file_of(whole_cache, "media").write_bytes(b"")
    with pytest.raises(ValueError, match="a mistake of ours"):
        verify(whole_cache.path)


def test_foreign_folders_and_newer_caches_are_refused(tmp_path: Path, whole_cache: FeatureCache) -> None:
    (tmp_path / "other").mkdir()
    for name in ("none", "other"):
        with pytest.raises(InputError, match="not a moodfuse cache"):
            verify(tmp_path / name)
    marker = {"format": "moodfuse-cache", "schema": SCHEMA + 1, "written_by": "9.0"}
    (whole_cache.path / "moodfuse-cache.json").write_text(json.dumps(marker))
    with pytest.raises(SchemaError, match="upgrade"):
        verify(whole_cache.path)
