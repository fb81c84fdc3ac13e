"""Records that a newer version wrote are passed over and left alone; only what its own digest denies is damage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moodfuse.cache.audits import read_audit
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import DamagedPartError, SchemaError
from moodfuse.cache.maintenance.verify import UNREADABLE, verify
from moodfuse.cache.records import Outcome
from moodfuse.cache.storage.json_files import read_named, record_of
from moodfuse.cache.storage.layout import entries
from moodfuse.cache.store import FeatureCache

Change = Callable[[dict[str, object]], object]


def rewrite(cache: FeatureCache, kind: str, change: Change) -> Path:
    """Change the first record of a kind, under a name that is right for it."""
    file = next(entry.path for entry in entries(cache.path) if entry.kind == kind)
    values = json.loads(file.read_text())
    change(values)
    file.unlink()
    parts = [*file.stem.split("-")[:-1], digest16(values)]
    file = file.with_name("-".join(parts) + ".json")
    file.write_text(canonical_json(values))
    return file


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("outcome", lambda values: values.update(loudness=3)),
        ("audit", lambda values: values["findings"][0].update(loudness=3)),
        ("audit", lambda values: values["findings"][0].update(kind="smell")),
    ],
)
def test_a_record_of_a_newer_version_is_passed_over(
    whole_cache: FeatureCache, kind: str, change: Change
) -> None:
    """It is no damage: readers do without it, verify asks for an upgrade, and nothing renames it."""
    file = rewrite(whole_cache, kind, change)
    again = FeatureCache(whole_cache.path)
    assert not again.outcomes([again.clips[0].digest]) if kind == "outcome" else read_audit(again) is None
    (fault,) = verify(whole_cache.path).faults
    assert (fault.state, "upgrade moodfuse" in fault.reason) == (UNREADABLE, True)
    assert file.exists()


def test_a_recipe_of_a_newer_version_is_no_damage(whole_cache: FeatureCache) -> None:
    """Its folder's name is right for it, so repair leaves it alone."""
    folder = whole_cache.block_folder(whole_cache.recipe("still"), None).parent
    values = {**json.loads((folder / "recipe.json").read_text()), "fused": True}
    name = digest16({key: value for key, value in values.items() if key != "source"})
    folder.with_name(name).mkdir()
    folder.with_name(name).joinpath("recipe.json").write_text(canonical_json(values))
    (fault,) = verify(whole_cache.path).faults
    assert (fault.state, "'fused', which a newer version wrote" in fault.reason) == (UNREADABLE, True)


def test_an_outcome_of_another_clip_is_set_aside(whole_cache: FeatureCache) -> None:
    """A sound file under the name of another clip says nothing of that clip."""
    file = next(entry.path for entry in entries(whole_cache.path) if entry.kind == "outcome")
    other = whole_cache.clips[1].digest
    wrong = whole_cache.path / "clips" / other[:2] / f"{other[:32]}-{file.stem.split('-')[1]}.json"
    wrong.parent.mkdir(exist_ok=True)
    file.rename(wrong)
    assert not whole_cache.outcomes([other]) and wrong.with_name(wrong.name + ".bad").exists()


def test_the_digest_is_looked_at_before_the_keys(tmp_path: Path) -> None:
    """Unknown keys in a damaged file are damage; a record that lacks keys is none."""
    file = tmp_path / f"{'0' * 32}-{'0' * 16}.json"
    file.write_text(canonical_json({"digest": "0", "ok": True, "loudness": 3}))
    with pytest.raises(DamagedPartError, match="does not match its name"):
        read_named(file)
    with pytest.raises(SchemaError, match="'loudness', which a newer version wrote"):
        record_of(Outcome, json.loads(file.read_text()), file)
    with pytest.raises(DamagedPartError, match=r"is not a Outcome \(.*'ok'"):
        record_of(Outcome, {"digest": "0"}, file)
