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
ODD_CONFIG = '{"config":{"model_type":"vit","hidden_size":"x"}}'
VIDEO = '{"kind":"video","interpolation":"bilinear uint8","crop_px":112,"resize_hw":[128,171]}'
BODY = "networks/00-body.safetensors"
ARRAYS = "arrays.safetensors"


def change_card(folder: Path, *, recipe: dict[str, Any] | None = None, **values: Any) -> None:
    """Change the card and make all digests consistent again, as an attacker would."""
    card = json.loads((folder / "model.json").read_text())
    del card["check"]
    card |= values
    card["sources"][0]["recipe"] |= recipe or {}
    for name, facts in card["files"].items():
        if (folder / name).is_file():
            facts.update(sha256=file_digest(folder / name), bytes=(folder / name).stat().st_size)
    (folder / "model.json").write_text(json.dumps({**card, "check": digest(card)}))


def change_array(folder: Path, name: str, value: np.ndarray | None, *, file: str = ARRAYS) -> None:
    """Replace or remove an array, and make the card consistent."""
    arrays = load((folder / file).read_bytes())
    former = arrays.pop(name, None)
    if value is not None:
        arrays[name] = value if value.ndim or former is None else np.full_like(former, value)
    (folder / file).write_bytes(save(arrays))
    change_card(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": ["excited", "happy", "sad"]}, "do not fit the card"),
        ({"classes": ["sad", "excited"]}, "in order"),
        ({"classes": ["../x", "sad"]}, "empty or a path"),
        ({"hook": "os.system"}, "unexpected keyword argument 'hook'"),
        ({"temperature": "hot"}, "model.json: cannot be read as the card"),
        ({"temperature": 1e9}, "temperature"),
        ({"level": "pixels"}, "level"),
        ({"head_kind": "pickle"}, "head"),
        ({"schema": 99}, "schema 99"),
        ({"files": {}}, "is not listed under files"),
        ({"recipe": {"network": "os:system"}}, "no installed package registers"),
        ({"recipe": {"network": "hf:x", "architecture": "{}"}}, "not an architecture"),
        ({"recipe": {"network": "hf:x", "architecture": ODD_CONFIG}}, "not a config of vit"),
        ({"recipe": {"network": "hf:x"}}, "its checkpoint has the architecture"),
        ({"recipe": {"threads": 10**9}}, "threads"),
        ({"recipe": {"preprocessing": VIDEO}}, "input"),
    ],
)
def test_a_wrong_card_is_refused(values: dict[str, Any], message: str, model_copy: Path) -> None:
    """With the reason, although the digests are consistent."""
    change_card(model_copy, **values)
    with pytest.raises(ModelError, match=message):
        Model.load(model_copy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.weights", np.array(np.nan), "NaN or infinity"),
        ("head.mean", np.zeros(3), "float64"),
        ("extra", np.zeros(3), "unknown arrays"),
        ("source.1.fill", None, "do not fit the card"),
    ],
)
def test_wrong_arrays_are_refused(
    name: str, value: np.ndarray | None, message: str, model_copy: Path
) -> None:
    """With the reason, although the digests are consistent."""
    change_array(model_copy, name, value)
    with pytest.raises(ModelError, match=message):
        Model.load(model_copy)


def test_a_tree_with_a_cycle_is_refused(models: Callable[..., Path], tmp_path: Path) -> None:
    """A node whose child is above it."""
    folder = Path(shutil.copytree(models(TREES), tmp_path / "model"))
    left = load((folder / ARRAYS).read_bytes())["head.left"].copy()
    left.flat[0] = 0
    change_array(folder, "head.left", left)
    with pytest.raises(ModelError, match="left"):
        Model.load(folder)


def test_damaged_missing_and_outside_files_are_refused(model_copy: Path) -> None:
    """A flipped bit, no network, another card, deep JSON, no card, and a path outside the folder."""
    card, network = model_copy / "model.json", model_copy / BODY
    files = {card: card.read_bytes(), network: network.read_bytes()}
    outside = files[card].replace(BODY.encode(), b"../outside.safetensors")
    damages = [
        (network, bytes([files[network][0] ^ 1]) + files[network][1:], "is not what was written"),
        (network, None, "missing, or not a regular file"),
        (card, files[card].replace(b'"impute":false', b'"impute":true'), "does not match its digest"),
        (card, b"[" * 1_000_000, "model.json"),
        (card, None, "it has no model.json"),
        (card, outside, "outside the folder"),
    ]
    for path, content, message in damages:
        path.unlink() if content is None else path.write_bytes(content)
        if content == outside:
            change_card(model_copy)
        with pytest.raises(ModelError, match=message):
            Model.load(model_copy)
        path.write_bytes(files[path])
    change_array(model_copy, "moodfuse", np.zeros(1), file=BODY)
    with pytest.raises(ModelError, match="bytes differ|checksum"):
        Model.load(model_copy)


def test_training_clips_are_read_back(trained: Any, model_copy: Path) -> None:
    """Names, digests and fingerprints are those of the cache; a file without one array is refused."""
    path = model_copy / "training.safetensors"
    assert path.read_bytes() == pack_training_clips(trained.cache)
    rules, clips = read_training_clips(path)
    assert rules and [clip.id for clip in clips] == [status.clip.id for status in trained.cache.clips]
    assert [clip.digest for clip in clips] == [status.digest for status in trained.cache.clips]
    assert all(len(clip.marks.peak_times) == len(clip.marks.peak_bins) > 0 for clip in clips)
    change_array(model_copy, "group_ends", None, file=path.name)
    with pytest.raises(ModelError, match="not a list of training clips"):
        read_training_clips(path)
