"""Damaged and hostile model folders are refused with the reason, and nothing in them is run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from moodfuse.cache.digests import digest, file_digest
from moodfuse.model.folder import ModelError, pack_training_clips, read_training_clips
from moodfuse.model.model import Model

TREES = "onedmcnn@brief+twodmcnn@brief lightgbm embedding"
VIDEO = '{"kind":"video","interpolation":"bilinear uint8","crop_px":112,"resize_hw":[128,171]}'
BODY = "networks/00-body.safetensors"
Card = dict[str, Any]
Arrays = dict[str, np.ndarray]
Damage = Callable[[Path], object]


def change_card(folder: Path, change: Callable[[Card], object] = lambda card: None) -> None:
    """Change the card and make all digests consistent again, as an attacker would."""
    card = json.loads((folder / "model.json").read_text())
    del card["check"]
    change(card)
    for name, facts in card.get("files", {}).items():
        if isinstance(facts, dict) and (folder / name).is_file():
            facts.update(sha256=file_digest(folder / name), bytes=(folder / name).stat().st_size)
    (folder / "model.json").write_text(json.dumps({**card, "check": digest(card)}))


def card_with(**values: Any) -> Damage:
    return lambda folder: change_card(folder, lambda card: card.update(values))


def recipe_with(**values: Any) -> Damage:
    return lambda folder: change_card(folder, lambda card: card["sources"][0]["recipe"].update(values))


def arrays_with(change: Callable[[Arrays], object], file: str = "arrays.safetensors") -> Damage:
    def damage(folder: Path) -> None:
        arrays = {name: value.copy() for name, value in load((folder / file).read_bytes()).items()}
        change(arrays)
        (folder / file).write_bytes(save(arrays))
        change_card(folder)

    return damage


def first_of(name: str, value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name].flat[0] = value

    return change


def flip(file: str) -> Damage:
    """Flip one bit of a file."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)

    return damage


def outside(card: Card) -> None:
    """List a network file outside the folder."""
    card["files"]["../outside.safetensors"] = card["files"].pop(BODY)
    card["sources"][0]["body"] = "../outside.safetensors"


DAMAGES: dict[str, tuple[Damage, str]] = {
    "bit of the card": (flip("model.json"), "model.json"),
    "bit of the arrays": (flip("arrays.safetensors"), "is not what was written"),
    "bit of a network": (flip(BODY), "is not what was written"),
    "no card": (lambda folder: (folder / "model.json").unlink(), "it has no model.json"),
    "no network": (lambda folder: (folder / BODY).unlink(), "missing, or not a regular file"),
    "path outside": (lambda folder: change_card(folder, outside), "outside the folder"),
    "other labels": (card_with(classes=["excited", "happy", "sad"]), "do not fit the card"),
    "labels out of order": (card_with(classes=["sad", "excited"]), "in order"),
    "label that is a path": (card_with(classes=["../x", "sad"]), "empty or a path"),
    "unknown key": (card_with(hook="os.system"), "unexpected keyword argument 'hook'"),
    "text for a number": (card_with(temperature="hot"), "model.json: cannot be read as the card"),
    "temperature out of range": (card_with(temperature=1e9), "temperature"),
    "other level": (card_with(level="pixels"), "level"),
    "other head": (card_with(head_kind="pickle"), "head"),
    "newer schema": (card_with(schema=99), "schema 99"),
    "unknown network": (recipe_with(network="os:system"), "unknown source"),
    "many threads": (recipe_with(threads=10**9), "threads"),
    "other input": (recipe_with(preprocessing=VIDEO), "input"),
    "NaN in the head": (arrays_with(first_of("head.weights", np.nan)), "NaN or infinity"),
    "wrong shape": (arrays_with(lambda arrays: arrays.update({"head.mean": np.zeros(3)})), "float64"),
    "unknown array": (arrays_with(lambda arrays: arrays.update(extra=np.zeros(3))), "unknown arrays"),
    "missing array": (arrays_with(lambda arrays: arrays.pop("source.1.fill")), "do not fit the card"),
    "network of other shape": (arrays_with(lambda arrays: arrays.clear(), BODY), "bytes differ"),
    "no JSON": (lambda folder: (folder / "model.json").write_text("[" * 1_000_000), "model.json"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_hostile_folder_is_refused(name: str, model_copy: Path) -> None:
    """With the reason, also if the digests are consistent."""
    damage, message = DAMAGES[name]
    damage(model_copy)
    with pytest.raises(ModelError, match=message):
        Model.load(model_copy)


def test_a_tree_with_a_cycle_is_refused(models: Callable[..., Path], tmp_path: Path) -> None:
    """A node whose child is above it."""
    folder = Path(shutil.copytree(models(TREES), tmp_path / "model"))
    arrays_with(first_of("head.left", 0))(folder)
    with pytest.raises(ModelError, match="left"):
        Model.load(folder)


def test_training_clips_are_read_back(trained: Any, model_copy: Path, tmp_path: Path) -> None:
    """Names, digests and fingerprints are those of the cache; a file without one array is refused."""
    path = model_copy / "training.safetensors"
    assert path.read_bytes() == pack_training_clips(trained.cache)
    rules, clips = read_training_clips(path)
    assert rules and [clip.id for clip in clips] == [status.clip.id for status in trained.cache.clips]
    assert [clip.digest for clip in clips] == [status.digest for status in trained.cache.clips]
    assert all(len(clip.marks.peak_times) == len(clip.marks.peak_bins) > 0 for clip in clips)
    arrays_with(lambda arrays: arrays.pop("group_ends"), path.name)(model_copy)
    with pytest.raises(ModelError, match="not a list of training clips"):
        read_training_clips(path)
