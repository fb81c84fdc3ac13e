"""Tests of extract.networks.torchvision_video: torchvision's video models as sources."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models import get_model, get_model_weights

from moodfuse.cache.errors import MoodfuseError, UnknownNameError
from moodfuse.extract.media.preprocess import frame_indices, video_input
from moodfuse.extract.networks import create_network, network_spec
from moodfuse.extract.networks.inputs import VideoPreprocessing
from moodfuse.extract.networks.torchvision_video import torchvision_names
from moodfuse.extract.networks.weights.published import known_weights

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = torchvision_names()
FACTORY = "moodfuse.extract.networks.torchvision_video"
SHAPES = {  # the smallest input, [C, T, H, W], of three kinds of models
    "r3d_18": (3, 8, 32, 32),
    "swin3d_t": (3, 4, 64, 64),
    "s3d": (3, 16, 224, 224),
}


def frames(height: int = 90, width: int = 161) -> np.ndarray:
    """32 frames of noise, [32, height, width, 3] uint8."""
    return np.random.default_rng(0).integers(0, 256, (32, height, width, 3), dtype=np.uint8)


def test_a_torchvision_that_does_not_load_is_named_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names both versions and the command to run; other networks are created."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision" or name == FACTORY]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    create_network("twodmcnn", num_classes=6)
    version = torchvision.__version__.split("+")[0]
    with pytest.raises(MoodfuseError, match=f"^torchvision {re.escape(version)}") as caught:
        create_network("torchvision:r3d_18", num_classes=6)
    assert f"cannot be loaded with torch {torch.__version__}" in str(caught.value)
    assert "pip install" in str(caught.value)


def preprocessing(name: str) -> VideoPreprocessing:
    preprocessing = network_spec(f"torchvision:{name}").preprocessing
    assert isinstance(preprocessing, VideoPreprocessing)
    return preprocessing


@pytest.mark.parametrize("name", NAMES)
def test_input_equals_the_transforms_of_the_weights(name: str) -> None:
    """What a model gets is what torchvision's own transforms of its weights make of the same frames."""
    ours = preprocessing(name)
    chosen = torch.from_numpy(frames()[frame_indices(32, ours.frames)]).permute(0, 3, 1, 2)
    expected = get_model_weights(name).DEFAULT.transforms()(chosen)
    torch.testing.assert_close(video_input(frames(), ours), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_embedding_is_what_enters_the_last_linear_layer(name: str, tmp_path: Path) -> None:
    """With a model's weights loaded, its last layer applied to our embedding gives the model's output."""
    torch.manual_seed(0)
    model = get_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    network = create_network(f"torchvision:{name}", num_classes=6, weights=tmp_path / "model.pth")
    layers = (torch.nn.Linear, torch.nn.Conv3d)
    head = [module for module in model.modules() if isinstance(module, layers)][-1]
    x = torch.rand(1, *SHAPES[name])
    with torch.inference_mode():
        embedding = network.embed(network.get_submodule("body")(x))
        assert head.bias is not None
        expected = torch.nn.functional.linear(embedding, head.weight.flatten(1), head.bias)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert embedding.shape == (1, network.spec.embedding_width)


def test_mvit_gets_every_other_frame() -> None:
    """A model that encodes 16 positions in time gets the 16 frames at the middles of equal intervals."""
    assert preprocessing("mvit_v1_b").frames == 16 and frame_indices(32, 16) == list(range(1, 32, 2))
    assert preprocessing("s3d").frames == 32 and frame_indices(32, 32) == list(range(32))


def test_unknown_models_list_the_known() -> None:
    """A name that torchvision does not have is an error that lists those it has."""
    with pytest.raises(
        UnknownNameError, match="unknown torchvision model 'resnet19'; known: alexnet, .*mc3_18.*resnet18"
    ):
        network_spec("torchvision:resnet19")


def test_weights_are_those_of_torchvision() -> None:
    """The table has each of torchvision's weights with its address and the digest in its name."""
    for name in NAMES:
        weights, known = get_model_weights(name), known_weights(f"torchvision:{name}")
        assert set(known) == {*(entry.name for entry in weights), "DEFAULT"}
        assert known["DEFAULT"].url == weights.DEFAULT.url
        for entry in weights:
            digest = known[entry.name].check.value
            assert f"-{digest}.pth" in entry.url and len(digest) == 8


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """A file of one model given to another is an error that names the arrays."""
    torch.save(get_model("mc3_18").state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="misshapen: body.layer"):
        create_network("torchvision:r3d_18", num_classes=6, weights=tmp_path / "model.pth")
