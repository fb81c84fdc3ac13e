"""The table of networks, their common base class, and what all of them have in common."""

import importlib
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from moodfuse.cache.digests import digest16
from moodfuse.extract.inference import make_network
from moodfuse.extract.networks import (
    NETWORKS,
    AudioPreprocessing,
    create_network,
    list_networks,
    network_spec,
)
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.inputs import preprocessing_from_record
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

FULL_SHAPES = {
    "onedmcnn": (480_000,),
    "twodmcnn": (480_000,),
    "musicnn": (480_000,),
    "c3d": (3, 32, 112, 112),
    "i3d": (3, 32, 224, 224),
    "frame-stats": (3, 32, 128, 128),
    "audio-stats": (480_000,),
}
SMALL_SHAPES = {
    "onedmcnn": (128_000,),
    "twodmcnn": (128_000,),
    "musicnn": (128_000,),
    "c3d": (3, 16, 112, 112),
    "i3d": (3, 16, 64, 64),
    "frame-stats": (3, 16, 64, 64),
    "audio-stats": (128_000,),
}


def make(name: str, num_classes: int = 6) -> Network:
    """A network of always the same random weights."""
    torch.manual_seed(0)
    return create_network(name, num_classes=num_classes)


def clips(name: str, count: int) -> torch.Tensor:
    """Clips that differ: tones for audio, drifting gratings over noise for video."""
    shape = SMALL_SHAPES[name]
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 1:
        t = torch.arange(shape[0]) / 16_000
        tones = [
            0.3 * torch.sin(2 * math.pi * 300 * 2**k * t) * (1 + torch.sin(2 * math.pi * k * t))
            for k in range(count)
        ]
        return torch.stack(tones) + 0.02 * torch.randn(count, *shape, generator=generator)
    time, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in shape[1:]), indexing="ij")
    angles = [math.pi * k / count for k in range(count)]
    waves = [
        torch.sin(0.3 * (x * math.cos(a) + y * math.sin(a)) + 0.2 * k * time) for k, a in enumerate(angles)
    ]
    frames = torch.stack(waves).unsqueeze(1).repeat(1, 3, 1, 1, 1)
    frames = 0.5 * frames + 0.1 * torch.randn(count, *shape, generator=generator)
    if name == "frame-stats":
        return (0.5 + 0.5 * frames).clamp(0, 1)
    return frames * (127.5 if name == "c3d" else 1.0)


def test_import_needs_no_torch() -> None:
    """The table and the weights module can be imported without loading torch."""
    code = "import sys, moodfuse.extract.networks; print(sorted({'torch'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_package_can_add_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point adds a network; an unknown name is an error that lists all known ones."""
    (tmp_path / "added-1.0.dist-info").mkdir()
    (tmp_path / "added-1.0.dist-info/entry_points.txt").write_text("[moodfuse.networks]\nmine = added:SPEC\n")
    (tmp_path / "added-1.0.dist-info/METADATA").write_text("Name: added\nVersion: 1.0\n")
    (tmp_path / "added.py").write_text(
        "from dataclasses import replace\nfrom moodfuse.extract.networks import NETWORKS\n"
        "SPEC = replace(NETWORKS['onedmcnn'], name='mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert create_network("mine", num_classes=2).spec.name == "mine"
    with pytest.raises(LookupError, match="unknown source 'c4d'; known: audio-stats, c3d, .*mine, .*torch"):
        network_spec("c4d")
    lines = list(list_networks())
    assert lines[len(NETWORKS)] == "mine: audio, embedding 256, of the package added"
    assert lines[len(NETWORKS) + 1].startswith("torchvision:")
    (tmp_path / "added.py").write_text("raise RuntimeError\n")
    monkeypatch.delitem(sys.modules, "added")
    importlib.invalidate_caches()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    assert list(list_networks()) == [
        *lines[: len(NETWORKS)],
        "mine: of the package added",
        *lines[len(NETWORKS) + 1 :],
    ]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", NETWORKS)
def test_full_size(name: str) -> None:
    """The stated input gives the stated widths, finite, in float32; the network comes in eval mode."""
    network = make(name)
    spec = NETWORKS[name]
    assert not network.training
    x = torch.randn(1, *FULL_SHAPES[name]) * (60 if name == "c3d" else 0.3)
    with torch.inference_mode():
        activation = network.trunk(x)
        embedding = network.embed(activation)
        logits = network.classifier(embedding)
        frozen = network.pool_frozen(activation)
    assert activation.shape == (1, spec.activation_width)
    assert embedding.shape == (1, spec.embedding_width)
    assert frozen.shape == (1, spec.frozen_width)
    assert logits.shape == (1, 6)
    for values in (activation, embedding, frozen, logits):
        assert values.dtype == torch.float32 and bool(values.isfinite().all())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_new_weights(name: str, request: pytest.FixtureRequest) -> None:
    """A clip has the same features in a batch and alone; two clips differ; none vanish or explode.

    The same random seed gives the same network.
    """
    if name == "c3d":
        request.getfixturevalue("narrow")
    network = make(name)
    x = clips(name, 2)
    with torch.inference_mode():
        first, second = network.trunk(x)
        alone = make(name).trunk(x[1:])[0]
    torch.testing.assert_close(second, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    assert float((first - second).abs().max()) > 0.01 * float(first.abs().max())
    assert all(0.05 < float(features.square().mean().sqrt()) < 20 for features in (first, second))


def test_views_of_a_clip_are_averaged() -> None:
    """The activations are the mean of those of each view; clips keep their own."""
    network = make("i3d")
    network.preprocessing = replace(network.preprocessing, frames=8)
    x = torch.randn(2, 3, 16, 32, 32)
    with torch.inference_mode():
        activations = network.activations(x)
        expected = (network.trunk(x[:, :, :8]) + network.trunk(x[:, :, 8:])) / 2
        embedding, _ = network(x)
    torch.testing.assert_close(activations, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding, activations, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_tuning_reaches_every_parameter(name: str, request: pytest.FixtureRequest) -> None:
    """The loss of a clip has a finite gradient in every parameter, which is not zero in the first layer."""
    if name == "c3d":
        request.getfixturevalue("narrow")
    network = make(name, num_classes=2).train()
    F.cross_entropy(network(clips(name, 1))[1], torch.tensor([0])).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    assert gradients[0] is not None and bool(gradients[0].any())


@pytest.mark.usefixtures("narrow")
def test_head_parameters() -> None:
    """Depth head tunes the classifier, and for c3d the two replaced layers before it."""
    assert len(list(make("i3d").head_parameters())) == 2
    sizes = [tuple(parameter.shape) for parameter in make("c3d").head_parameters()]
    assert sizes == [(1024, 8192), (1024,), (512, 1024), (512,), (6, 512), (6,)]


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("onedmcnn", 4, "convolutions.3.weight"),
        ("twodmcnn", 5, "convolutions.4.weight"),
        ("musicnn", 5, "dense.weight"),
        ("c3d", 8, "conv5b.weight"),
        ("i3d", 12, "Mixed_5c.b0.conv3d.weight"),
        ("frame-stats", 0, None),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_blocks(name: str, count: int, first: str | None) -> None:
    """Convolutions or modules in order; a block has its BatchNorm, and the head has number 0."""
    network = make(name)
    numbers = dict(zip(dict(network.named_parameters()), network.number_parameters(), strict=True))
    assert len(network.blocks()) == count
    assert next((name for name, (_, number) in numbers.items() if number == 1), None) == first
    head = {id(parameter) for parameter in network.head_parameters()}
    assert {id(parameter) for parameter, number in numbers.values() if number == 0} == head
    if name == "twodmcnn":
        assert [numbers[f"norms.{block}.weight"][1] for block in range(5)] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("name", ["onedmcnn", "twodmcnn", "musicnn", "c3d", "i3d"])
@pytest.mark.usefixtures("narrow")
def test_the_last_block_alone_has_gradients(name: str) -> None:
    """At depth last:1, with those of the head; they equal those of depth full."""
    gradients = []
    for depth in ("full", "last:1"):
        network = make_network(build_recipe(name, RecipeChoice(device="cpu", depth=depth)), None, 6).train()
        torch.manual_seed(1)
        F.cross_entropy(network(clips(name, 2))[1], torch.tensor([0, 1])).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(
        (other is None) == (number > 1) and (other is None or torch.equal(one, other))
        for one, other, (_, number) in zip(*gradients, network.number_parameters(), strict=True)
    )


def test_masks_of_spec_augment() -> None:
    """One stretch of time and one of frequencies are 0 in training, in a waveform one of time."""
    network = make("twodmcnn")
    network.spec_augment = 0.25
    spectrograms = torch.ones(20, 1, 96, 400)
    assert network.mask(spectrograms) is spectrograms  # in eval mode
    masked = network.train().mask(spectrograms)[:, 0] == 0
    lengths = {axis: masked.all(dim=axis).sum(dim=1) for axis in (1, 2)}
    for axis, size in ((1, 400), (2, 96)):
        assert 0 < lengths[axis].max() <= size / 4 and len(set(lengths[axis].tolist())) > 5
        edges = masked.all(dim=axis).int().diff(dim=1).abs().sum(dim=1)
        assert edges.max() <= 2
    times, bands = lengths[1], lengths[2]
    assert torch.equal(masked.sum(dim=(1, 2)), times * 96 + bands * 400 - times * bands)
    network = make("onedmcnn").train()
    network.spec_augment, seen = 0.25, []
    network.trunk = lambda x: seen.append(x) or torch.zeros(len(x), 256)  # type: ignore[method-assign, assignment]
    network(torch.ones(3, 32_000))
    assert 0 < (seen[0] == 0).sum() <= 3 * 8_000


@pytest.mark.usefixtures("narrow")
def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    """With dropout, and BatchNorm of a pretrained network, whose statistics stay."""
    network, x = make("i3d"), clips("i3d", 2)
    network.pretrained = True
    network.train()
    calls: list[int] = []
    network.Mixed_5b.b0.register_forward_pre_hook(lambda *_: calls.append(1))
    statistics = network.get_buffer("Mixed_5b.b0.bn.running_mean").clone()
    gradients = []
    for _ in range(2):
        network.zero_grad()
        torch.manual_seed(1)
        F.cross_entropy(network(x)[1], torch.tensor([0, 1])).backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.checkpoint_blocks()
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert len(calls) == 3 and torch.equal(network.get_buffer("Mixed_5b.b0.bn.running_mean"), statistics)
    with torch.inference_mode():
        network(x)
    assert len(calls) == 4


def test_batchnorm_keeps_statistics_where_pretrained() -> None:
    """In training mode BatchNorm keeps the statistics of a pretrained network, not those of a new one."""
    network = make("twodmcnn")
    before = network.get_buffer("norms.0.running_mean").clone()
    network.pretrained = True
    network.train()
    assert network.training and not network.norms[0].training and network.classifier.training
    network(clips("twodmcnn", 1))
    assert torch.equal(network.get_buffer("norms.0.running_mean"), before)
    network.pretrained = False
    network.train()
    network(clips("twodmcnn", 1))
    assert not torch.equal(network.get_buffer("norms.0.running_mean"), before)


@pytest.mark.parametrize(
    ("rate_hz", "samples", "digest"),
    [(16_000, 480_000, "143882da0ece21ca"), (48_000, 1_440_000, "cb53c5c4a71ad0c4")],
)
def test_audio_has_30_s_at_its_rate_by_default(rate_hz: int, samples: int, digest: str) -> None:
    """Records are those that versions without the default stored, so recipes keep their digests."""
    preprocessing = AudioPreprocessing(sample_rate_hz=rate_hz)
    stored = {"kind": "audio", "sample_rate_hz": rate_hz, "samples": samples}
    assert preprocessing.as_record() == stored and digest16(stored) == digest
    assert preprocessing_from_record(stored) == preprocessing
    assert preprocessing_from_record({**stored, "samples": 100}).as_record()["samples"] == 100
