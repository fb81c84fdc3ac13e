"""Tests of extract.networks.hubs: embeddings equal those of each library's own pipeline on the same clip.

Each test builds a small random model with the library, saves it as a download lies on disk, and gives the
file or folder to moodfuse.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from click.testing import CliRunner
from hub_models import (
    check_equal,
    edit_json,
    embed,
    save_huggingface,
    save_timm,
    save_torchvision,
    tiny,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file, save_model
from torch import Tensor

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.media import Media
from moodfuse.extract.cli import weights_group
from moodfuse.extract.media.preprocess import frame_indices
from moodfuse.extract.networks import WeightsError, create_network, network_spec, weights_facts
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe, name_hf_sources, split_hf_source

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, SAMPLES = 32, 480_000


@pytest.fixture(scope="module")
def clip() -> Media:
    """Frames of moving stripes with noise, and a waveform of chords with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :341]
    stripes = [
        np.stack([np.sin((rows + 3 * t) / a + columns / b) for a, b in ((9, 23), (31, 5), (17, 40))], 2)
        for t in range(FRAMES)
    ]
    noise = rng.normal(0, 12, (FRAMES, 256, 341, 3))
    frames = np.clip(128 + 90 * np.stack(stripes) + noise, 0, 255).astype(np.uint8)
    times = np.arange(SAMPLES) / 16_000
    waveform = sum(np.sin(2 * np.pi * hz * times) for hz in (220, 277.2, 329.6)) / 5
    waveform = (waveform + rng.normal(0, 0.02, SAMPLES)).astype(np.float32)
    return Media(frames, np.arange(FRAMES) + 0.5, waveform, SAMPLES)


def images(clip: Media) -> list[Image.Image]:
    """The frames as images."""
    return [Image.fromarray(frame) for frame in clip.frames]


# torchvision


@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1"]
)
def test_torchvision_image_models(name: str, clip: Media, tmp_path: Path) -> None:
    """The embedding is the mean over frames of what enters the last layer, with torchvision's transforms."""
    from torchvision.models import get_model_weights

    model, path = save_torchvision(name, tmp_path)
    network = create_network(f"torchvision:{name}", num_classes=2, weights=path)
    transforms = get_model_weights(name).DEFAULT.transforms()
    last = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))][-1]
    entering: list[Tensor] = []
    last.register_forward_pre_hook(lambda layer, inputs: entering.append(inputs[0]))
    with torch.inference_mode():
        model(torch.stack([transforms(image) for image in images(clip)]))
    features = entering[0]
    if features.ndim == 4:  # squeezenet rectifies and averages after its last layer, a convolution
        features = features.relu().mean(dim=(2, 3))
    check_equal(embed(network, clip), features.mean(dim=0))


def test_torchvision_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """The message names the file and the network."""
    _, path = save_torchvision("shufflenet_v2_x0_5", tmp_path)
    with pytest.raises(WeightsError, match=r"download\.pth: not weights of torchvision:mobilenet_v3_small"):
        create_network("torchvision:mobilenet_v3_small", num_classes=2, weights=path)


# timm


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k", "mobilenetv3_small_050"])
def test_timm_image_models(name: str, clip: Media, tmp_path: Path) -> None:
    """The embedding is the mean over frames of timm's features, with timm's data config."""
    import timm

    model, path = save_timm(name, tmp_path)
    network = create_network(f"timm:{name}", num_classes=2, weights=path)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        batch = torch.stack([transform(image) for image in images(clip)])
        features = model.forward_head(model.forward_features(batch), pre_logits=True)  # type: ignore[operator]
    check_equal(embed(network, clip), features.mean(dim=0))


def test_timm_names_and_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown names list similar ones; without weights, one line says what to download."""
    with pytest.raises(UnknownNameError, match=r"unknown timm model 'resnet1800'; known: .*resnet18"):
        network_spec("timm:resnet1800")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError,
        match=r"\(HF_HUB_OFFLINE is set\); run `hf download timm/test_vit.r160_in1k --local-dir FOLDER` "
        ".*--weights timm:test_vit=FOLDER$",
    ):
        build_recipe("timm:test_vit", RecipeChoice(device="cpu"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="not safetensors"):
        weights_facts(tmp_path / "model.pth", "timm:test_vit")
    _, path = save_timm("test_resnet", tmp_path)
    with pytest.raises(WeightsError, match="not weights of timm:test_vit"):
        create_network("timm:test_vit", num_classes=2, weights=path)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "hf:a/b",
            {},
            r"^hf:a/b: config.json is not in \S+ and cannot be downloaded \(\S+ cannot be reached\); run "
            r"`hf download a/b --local-dir FOLDER` on a machine with a network, .*--weights hf:a/b=FOLDER$",
        ),
        ("hf:a/b@v1", {}, "run `hf download a/b --revision v1 --local-dir FOLDER` .*--weights hf:a/b=FOLDER"),
        ("torchvision:resnet18", {}, "resnet18-f37072fd.pth cannot be fetched .*put the file by hand at"),
        ("torchaudio:WAVLM_BASE", {}, "wavlm_base.pth cannot be fetched .*put the file by hand at"),
        ("torchvision:resnet18", {"torchvision:resnet18": "none"}, "no such file.*IMAGENET1K_V1, DEFAULT"),
    ],
)
def test_without_a_network_one_line_says_what_to_download(
    source: str, options: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hub source starts from random values."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("requests.head", lambda *arguments, **settings: raise_(requests.ConnectionError()))
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("requests.get", lambda *arguments, **settings: raise_(requests.ConnectionError()))
    (name,), choice = name_hf_sources([source], RecipeChoice(device="cpu", weights=options))
    with pytest.raises(WeightsError, match=message) as caught:
        build_recipe(name, choice)
    assert "\n" not in str(caught.value)


def raise_(error: Exception) -> None:
    raise error


def test_files_that_the_libraries_have_downloaded_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own folder and Hugging Face's cache; sources of hubs are frozen unless a depth is given."""
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints/wavlm_base.pth").write_bytes(b"PK\3\4")
    assert weights_facts("DEFAULT", "torchaudio:WAVLM_BASE").path.parent == tmp_path / "hub/checkpoints"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--timm--test_vit.r160_in1k"
    (cached / "snapshots/0123").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123")
    save_timm("test_vit", cached / "snapshots/0123")
    recipe = build_recipe("timm:test_vit", RecipeChoice(device="cpu"))
    assert recipe.depth == "frozen" and len(recipe.weights) == 64 and not recipe.architecture
    assert build_recipe("timm:test_vit", RecipeChoice(device="cpu", depth="head")).tuning is not None
    cached = tmp_path / "models--a--clip"
    (cached / "snapshots/4567").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/v1").write_text("4567")
    save_huggingface("clip", cached / "snapshots/4567")
    (name,), choice = name_hf_sources(["hf:a/clip@v1"], RecipeChoice(device="cpu"))
    recipe = build_recipe(name, choice)
    assert (recipe.source, recipe.network, recipe.depth) == ("hf:a--clip", "hf:a--clip", "frozen")
    assert "clip_vision_model" in recipe.architecture


def test_weights_of_hubs_are_fetched_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weights fetch` downloads the files that a source needs, and prints where they are."""
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    for repository in ("a/clip", "timm/test_vit.r160_in1k"):
        (hub / repository).mkdir(parents=True)
    save_huggingface("clip", hub / "a/clip")
    save_timm("test_vit", hub / "timm/test_vit.r160_in1k")

    def download(repository: str, file: str, *, revision: str | None, local_files_only: bool = False) -> str:
        path = cache / repository / file
        if not local_files_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / repository / file, path)
        if not path.is_file():
            raise LocalEntryNotFoundError(file)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("requests.head", lambda *arguments, **settings: None)
    result = CliRunner().invoke(weights_group, ["fetch", "hf:a/clip@v1", "timm:test_vit"])
    assert result.exit_code == 0, result.output
    lines = [line.partition(" (sha256 ")[0] for line in result.stdout.splitlines()]
    vit = cache / "timm/test_vit.r160_in1k/model.safetensors"
    assert lines == [f"hf:a/clip@v1: {cache / 'a/clip'}", f"timm:test_vit: {vit}"]
    shutil.rmtree(hub)
    (name,), choice = name_hf_sources(["hf:a/clip@v1"], RecipeChoice(device="cpu"))
    assert build_recipe(name, choice).weights in result.stdout


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command that installs it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match=r"^timm:resnet18: timm is not installed; pip install 'moodfuse\[timm\]'"
    ):
        network_spec("timm:resnet18")


# Hugging Face


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "vit"])
def test_image_encoders_of_hugging_face(kind: str, clip: Media, tmp_path: Path) -> None:
    """The embedding is the mean over frames of the pooled output, with the model's own image processor."""
    model, processor = save_huggingface(kind, tmp_path)
    network = create_network(f"hf:{kind}", num_classes=2, weights=tmp_path)
    encoder = getattr(model, "vision_model", getattr(model, "vit", model))
    with torch.inference_mode():
        output = encoder(**processor(images=images(clip), return_tensors="pt"))
    features = output.last_hidden_state[:, 0] if kind == "vit" else output.pooler_output
    check_equal(embed(network, clip), features.mean(dim=0))


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit"])
def test_video_encoders_of_hugging_face(kind: str, clip: Media, tmp_path: Path) -> None:
    """The embedding is the mean or the first of the last hidden state, on the frames that the model takes."""
    model, processor = save_huggingface(kind, tmp_path)
    network = create_network(f"hf:{kind}", num_classes=2, weights=tmp_path)
    chosen = [images(clip)[index] for index in frame_indices(FRAMES, 8)]
    with torch.inference_mode():
        hidden = model(**processor(chosen, return_tensors="pt")).last_hidden_state[0]
    check_equal(embed(network, clip), hidden.mean(dim=0) if kind == "videomae" else hidden[0])


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_speech_encoders_of_hugging_face(kind: str, clip: Media, tmp_path: Path) -> None:
    """The embedding is the mean over time of the last hidden state, with the model's own normalisation."""
    model, extractor = save_huggingface(kind, tmp_path)
    network = create_network(f"hf:{kind}", num_classes=2, weights=tmp_path)
    with torch.inference_mode():
        output = model(**extractor(clip.waveform, sampling_rate=16_000, return_tensors="pt"))
    check_equal(embed(network, clip), output.last_hidden_state[0].mean(dim=0))


def test_audio_spectrogram_transformer(clip: Media, tmp_path: Path) -> None:
    """The embedding is the mean of the pooled outputs of pieces of 10.24 s, with its own spectrogram."""
    model, extractor = save_huggingface("ast", tmp_path)
    network = create_network("hf:ast", num_classes=2, weights=tmp_path)
    pieces = [clip.waveform[start : start + 163_840] for start in range(0, SAMPLES, 163_840)]
    with torch.inference_mode():
        output = model(**extractor(pieces, sampling_rate=16_000, return_tensors="pt"))
    check_equal(embed(network, clip), output.pooler_output.mean(dim=0))


def test_older_checkpoints_of_hugging_face(clip: Media, tmp_path: Path) -> None:
    """Configs of former versions, former names of arrays, a task's head, an absent array of training."""
    model, _ = save_huggingface("clip", tmp_path)
    expected = embed(create_network("hf:clip", num_classes=2, weights=tmp_path), clip)
    edit_json(tmp_path / "config.json", lambda values: values["vision_config"].update(FORMER_KEYS))
    former = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64, "resample": 3}
    former |= {"do_resize": True, "do_center_crop": True, "do_normalize": True}
    former |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(former))
    check_equal(embed(create_network("hf:former", num_classes=2, weights=tmp_path), clip), expected)

    model, _ = save_huggingface("wav2vec2", tmp_path)
    expected = embed(create_network("hf:speech", num_classes=2, weights=tmp_path), clip)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "feature_size": 1, "padding_value": 0.0, "sampling_rate": 16_000})
    )
    convolution = "encoder.pos_conv_embed.conv."
    names = {
        f"{convolution}parametrizations.weight.original{i}": f"{convolution}weight_{'gv'[i]}" for i in (0, 1)
    }
    arrays = {f"wav2vec2.{names.get(name, name)}": value for name, value in model.state_dict().items()}
    del arrays["wav2vec2.masked_spec_embed"]
    head = {"lm_head.weight": torch.zeros(5, 32), "lm_head.bias": torch.zeros(5)}
    save_file(arrays | head, tmp_path / "model.safetensors", metadata={"format": "pt"})
    edit_json(tmp_path / "config.json", lambda values: values.update(architectures=["Wav2Vec2ForCTC"]))
    check_equal(embed(create_network("hf:ctc", num_classes=2, weights=tmp_path), clip), expected)


CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
FORMER_KEYS = {
    "_name_or_path": "",
    "bos_token_id": None,
    "dropout": 0.0,
    "finetuning_task": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "is_decoder": False,
    "length_penalty": 1.0,
    "num_beams": 1,
    "task_specific_params": None,
    "torch_dtype": "float16",
    "torchscript": False,
    "transformers_version": "4.16.0.dev0",
    "use_bfloat16": False,
}
"""Keys of configs that versions 4 of transformers wrote."""


def test_checkpoints_of_hugging_face_are_checked(tmp_path: Path) -> None:
    """A folder without safetensors, an unknown kind of model and a missing array are named."""
    import transformers as hf

    save_huggingface("dinov2", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "kept")
    with pytest.raises(WeightsError, match="has no model.safetensors"):
        weights_facts(tmp_path, "hf:x")
    save_model(hf.Dinov2Model(hf.Dinov2Config(**tiny(num_hidden_layers=1))), str(weights))
    with pytest.raises(WeightsError, match="arrays are missing, such as|not weights of hf:x"):
        create_network("hf:x", num_classes=2, weights=tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "mert", "auto_map": {}}))
    where = rf"^hf:x \({re.escape(str(tmp_path))}/config.json\): "
    with pytest.raises(InputError, match=f"{where}needs code of its repository"):
        weights_facts(tmp_path, "hf:x")
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "whisper"}))
    with pytest.raises(InputError, match=f"{where}model_type 'whisper' is not supported; supported: audio-"):
        weights_facts(tmp_path, "hf:x")


def test_names_of_hugging_face_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository and a folder get a name without slashes; a last @ and a recipe's name is a recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/clip").mkdir(parents=True)
    assert split_hf_source("hf:facebook/dinov2-base@main", {"zhou2022"}) == (
        "hf:facebook--dinov2-base",
        "facebook/dinov2-base@main",
    )
    assert split_hf_source("hf:a/b@v1@zhou2022", {"zhou2022"}) == ("hf:a--b@zhou2022", "a/b@v1")
    assert split_hf_source("hf:models/clip", set()) == ("hf:clip", "models/clip")
    (tmp_path / "m1").mkdir()
    assert split_hf_source("hf:m1", set()) == ("hf:m1", "m1")
    assert split_hf_source("hf:m1@zhou2022", {"zhou2022"}) == ("hf:m1@zhou2022", "m1")
    assert split_hf_source("hf:m2", set()) == ("hf:m2", None)
    assert split_hf_source("hf:a--b", set()) == ("hf:a--b", None)
    names, choice = name_hf_sources(["hf:a/b@v1", "c3d"], RecipeChoice(depths={"hf:a/b": "head"}))
    assert names == ("hf:a--b", "c3d")
    assert choice.weights == {"hf:a--b": "a/b@v1"} and choice.depths == {"hf:a--b": "head"}


# torchaudio


@pytest.mark.parametrize("name", ["WAV2VEC2_BASE", "HUBERT_BASE", "WAVLM_BASE"])
def test_torchaudio_bundles(name: str, tmp_path: Path) -> None:
    """The embedding is the mean over time and layers of what torchaudio's `extract_features` gives."""
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name)
    factory: Callable[[], torch.nn.Module] = getattr(torchaudio.models, name.lower())
    torch.manual_seed(0)
    model = factory().eval()
    torch.save(model.state_dict(), tmp_path / bundle._path)
    network = create_network(f"torchaudio:{name}", num_classes=2, weights=tmp_path / bundle._path)
    x = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        layers, _ = model.extract_features(x)  # type: ignore[operator]
        check_equal(network.trunk(x)[0], torch.stack(layers).mean(dim=0)[0].mean(dim=0))
    if name == "WAVLM_BASE":
        network = create_network(f"torchaudio:{name}.6", num_classes=2, weights=tmp_path / bundle._path)
        with torch.inference_mode():
            check_equal(network.trunk(x)[0], layers[5][0].mean(dim=0))
        with pytest.raises(
            UnknownNameError, match="unknown layer of torchaudio:WAVLM_BASE '13'; known: 1, 10"
        ):
            network_spec("torchaudio:WAVLM_BASE.13")


def test_torchaudio_bundles_have_torchaudios_files_and_normalisation() -> None:
    """The table agrees with `torchaudio.pipelines`."""
    import torchaudio

    from moodfuse.extract.networks.hubs.torchaudio_speech import BUNDLES

    for name, ours in BUNDLES.items():
        theirs = getattr(torchaudio.pipelines, name)
        assert (ours.file, ours.normalised) == (theirs._path, theirs._normalize_waveform)
        sizes = (theirs._params["encoder_embed_dim"], theirs._params["encoder_num_layers"])
        assert (ours.width, ours.layers) == sizes
