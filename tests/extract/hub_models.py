"""Small random models of each hub's library, saved as a user's download lies on disk."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moodfuse.cache.media import Media
from moodfuse.extract.media.preprocess import InputMaker
from moodfuse.extract.networks.base import Network

RELATIVE_ERROR = 1e-4


@torch.inference_mode()
def embed(network: Network, clip: Media) -> Tensor:
    """Our embedding of a clip at depth frozen."""
    return network.pool_frozen(network.trunk(InputMaker(network.preprocessing)(clip)[None]))[0]


def check_equal(ours: Tensor, expected: Tensor) -> None:
    """The largest difference is at most `RELATIVE_ERROR` of the largest value."""
    assert ours.shape == expected.shape
    error = float((ours - expected).abs().max() / expected.abs().max())
    print(f"relative error {error:.1e}")
    assert error < RELATIVE_ERROR


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the object of a JSON file."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def save_torchvision(name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    """An image model of torchvision, and the file of its weights."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(name).eval()
    torch.save(model.state_dict(), folder / f"{name}-download.pth")
    return model, folder / f"{name}-download.pth"


def save_timm(name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    """An image model of timm, and the file of its weights."""
    import timm
    from safetensors.torch import save_model

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    save_model(model, str(folder / "model.safetensors"))
    return model, folder / "model.safetensors"


def add_tiny_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the source `torchaudio:TINY`, a small model, until `monkeypatch` undoes it."""
    import torchaudio

    from moodfuse.extract.networks.hubs.torchaudio_speech import BUNDLES, Bundle

    sizes = {"encoder_embed_dim": 32, "encoder_num_layers": 2, "encoder_ff_interm_features": 48}
    convolutions = [(16, width, stride) for width, stride in ((10, 5), (3, 4), (3, 4), (2, 4))]
    create = functools.partial(
        torchaudio.models.wav2vec2_model,
        extractor_mode="group_norm", extractor_conv_layer_config=convolutions, extractor_conv_bias=False,
        encoder_projection_dropout=0.0, encoder_pos_conv_kernel=16, encoder_pos_conv_groups=4,
        encoder_num_heads=4, encoder_attention_dropout=0.0, encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None,
        **sizes,
    )  # fmt: skip
    monkeypatch.setattr(torchaudio.models, "tiny", create, raising=False)
    monkeypatch.setitem(BUNDLES, "TINY", Bundle("tiny", "tiny.pth", 32, 2, 0.1, True))


def save_tiny_bundle(folder: Path) -> Path:
    """The file of the weights of the small bundle."""
    import torchaudio

    torch.manual_seed(0)
    torch.save(torchaudio.models.tiny().state_dict(), folder / "tiny.pth")
    return folder / "tiny.pth"


def save_huggingface(kind: str, folder: Path) -> tuple[Any, Any]:
    """A model of transformers and its processor, both saved in `folder`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    if kind == "mert":
        return save_mert(folder)
    model, processor = IMAGE[kind]() if kind in IMAGE else _audio(kind)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def tiny(**others: Any) -> dict[str, Any]:
    """Settings of a small transformer."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**sizes, **others}


def _clip() -> tuple[Any, Any]:
    import transformers as hf

    vision, text = tiny(image_size=64, patch_size=16), tiny(vocab_size=99, bos_token_id=1, eos_token_id=2)
    config = hf.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    return hf.CLIPModel(config), hf.CLIPImageProcessor(**sizes)


def _siglip() -> tuple[Any, Any]:
    import transformers as hf

    vision, text = tiny(image_size=64, patch_size=16), tiny(vocab_size=99, bos_token_id=1, eos_token_id=2)
    config = hf.SiglipConfig(vision_config=vision, text_config=text)
    return hf.SiglipModel(config), hf.SiglipImageProcessor(size={"height": 64, "width": 64})


def _dinov2() -> tuple[Any, Any]:
    import transformers as hf

    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    return hf.Dinov2Model(hf.Dinov2Config(**tiny(image_size=56, patch_size=14))), hf.BitImageProcessor(
        **sizes
    )


def _vit() -> tuple[Any, Any]:
    import transformers as hf

    model = hf.ViTForImageClassification(hf.ViTConfig(**tiny(image_size=64, patch_size=16)))
    return model, hf.ViTImageProcessor(size={"height": 64, "width": 64})


def _videomae() -> tuple[Any, Any]:
    import transformers as hf

    config = hf.VideoMAEConfig(**tiny(image_size=64, patch_size=16, num_frames=8, tubelet_size=2))
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    return hf.VideoMAEModel(config), hf.VideoMAEImageProcessor(**sizes)


def _timesformer() -> tuple[Any, Any]:
    import transformers as hf

    config = hf.TimesformerConfig(**tiny(image_size=64, patch_size=16, num_frames=8))
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    return hf.TimesformerModel(config), hf.VideoMAEImageProcessor(**sizes)


def _vivit() -> tuple[Any, Any]:
    import transformers as hf

    config = hf.VivitConfig(**tiny(image_size=64, num_frames=8, tubelet_size=[2, 16, 16]))
    sizes = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
    return hf.VivitModel(config, add_pooling_layer=False), hf.VivitImageProcessor(**sizes)


IMAGE = {
    "clip": _clip,
    "siglip": _siglip,
    "dinov2": _dinov2,
    "vit": _vit,
    "videomae": _videomae,
    "timesformer": _timesformer,
    "vivit": _vivit,
}


def _clap(kind: str) -> tuple[Any, Any]:
    import transformers as hf

    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 2, 2]}
    truncation = "rand_trunc"
    if kind == "clap-fused":
        audio, truncation = {**audio, "enable_fusion": True, "fusion_type": "aff_2d"}, "fusion"
    config = hf.ClapConfig(audio_config=audio, text_config=tiny(vocab_size=99), projection_dim=16)
    model = hf.ClapModel(config)
    for module in model.modules():  # as if it had seen spectrograms: decibels, far from mean 0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-30.0, 0.0)
            module.running_var.uniform_(50.0, 200.0)
    return model, hf.ClapFeatureExtractor(truncation=truncation, frequency_min=50)


def save_mert(folder: Path) -> tuple[Any, Any]:
    """A HuBERT at 24 kHz under the config of MERT, which refers to code of its repository."""
    model, _ = save_huggingface("hubert", folder)
    import transformers as hf

    extractor = hf.Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True)
    extractor.save_pretrained(folder)
    path = folder / "config.json"
    others = {
        "feature_extractor_cqt": False,
        "deepnorm": False,
        "attention_relax": -1.0,
        "sample_rate": 24_000,
    }
    code = {"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"}
    config = {**json.loads(path.read_text()), **others, "model_type": "mert_model"}
    path.write_text(json.dumps({**config, "sample_rate": 24_000, "auto_map": code}))
    return model, extractor


def _audio(kind: str) -> tuple[Any, Any]:
    import transformers as hf

    if kind.startswith("clap"):
        return _clap(kind)
    if kind == "ast":
        return hf.ASTModel(hf.ASTConfig(**tiny(num_mel_bins=128, max_length=1024))), hf.ASTFeatureExtractor()
    convolutions = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    classes = {
        "wav2vec2": (hf.Wav2Vec2Config, hf.Wav2Vec2Model),
        "hubert": (hf.HubertConfig, hf.HubertModel),
        "wavlm": (hf.WavLMConfig, hf.WavLMModel),
    }
    config, model = classes[kind]
    return model(config(**tiny(**convolutions))), hf.Wav2Vec2FeatureExtractor(do_normalize=True)
