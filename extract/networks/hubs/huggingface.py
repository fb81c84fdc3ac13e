"""`hf:<repository>`: encoders of transformers, from a folder as Hugging Face's hub has it.

Image encoders take the frames of a clip, video encoders as many frames as they were trained on, and audio
encoders the waveform. `MODELS` has the supported kinds of models and what the embedding of each is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from moodfuse.cache.digests import canonical_json, digest
from moodfuse.cache.errors import InputError
from moodfuse.extract.networks.hubs.base import (
    SAFETENSORS,
    FrameNetwork,
    HubNetwork,
    check_safetensors,
    sha256_of,
)
from moodfuse.extract.networks.hubs.huggingface_audio import (
    ClapSpectrograms,
    ast_spectrograms,
    read_front_end,
)
from moodfuse.extract.networks.hubs.huggingface_cache import find_file
from moodfuse.extract.networks.inputs import (
    AudioPreprocessing,
    Interpolation,
    Preprocessing,
    VideoPreprocessing,
    preprocessing_from_record,
)
from moodfuse.extract.networks.registry import PRETRAINED, NetworkSpec
from moodfuse.extract.networks.weights.files import WeightsError
from moodfuse.extract.networks.weights.load import WeightsFacts
from moodfuse.extract.networks.weights.published import KnownWeights

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
TRAINING_ONLY = "masked_spec_embed"
"""An array of speech models that replaces masked steps in training; not all checkpoints have it."""
INDEX = f"{SAFETENSORS}.index.json"
"""Lists the files of weights that are split."""
_PLAIN_PROCESSORS = tuple(
    f"{kind}ImageProcessor" for kind in ("BiT", "Bit", "CLIP", "DeiT", "Siglip", "VideoMAE", "ViT", "Vivit")
)
"""Image processors that resize, crop and normalise, and do nothing else."""
_FILTERS: dict[int, Interpolation] = {2: "bilinear uint8", 3: "bicubic uint8"}  # by Pillow's number
_PILLOW_FILTERS: dict[int, Interpolation] = {2: "bilinear PIL", 3: "bicubic PIL"}
_USES_PILLOW = "VivitImageProcessor"


@dataclass(frozen=True)
class HubModel:
    """A kind of models: what it takes, and what of its output is the embedding.

    `takes` is ``frames`` (each frame alone), ``clip``, ``waveform``, ``spectrogram`` or ``clap`` (the
    spectrogram of CLAP). The embedding is the output `pooled`: ``pooler_output``, or the ``first`` or the
    ``mean`` of the last hidden state. That of an image or of a piece of audio is then averaged over the clip.
    """

    cls: str  # of transformers
    takes: Literal["frames", "clip", "waveform", "spectrogram", "clap"]
    pooled: Literal["pooler_output", "first", "mean"]
    renamed: dict[str, str] | None = None  # patterns of names in checkpoints to what replaces them


MODELS = {
    "clip_vision_model": HubModel("CLIPVisionModel", "frames", "pooler_output"),
    "siglip_vision_model": HubModel("SiglipVisionModel", "frames", "pooler_output"),
    "dinov2": HubModel("Dinov2Model", "frames", "pooler_output"),
    "vit": HubModel("ViTModel", "frames", "first"),
    "videomae": HubModel("VideoMAEModel", "clip", "mean"),
    "timesformer": HubModel("TimesformerModel", "clip", "first"),
    "vivit": HubModel("VivitModel", "clip", "first"),
    "wav2vec2": HubModel("Wav2Vec2Model", "waveform", "mean"),
    "hubert": HubModel("HubertModel", "waveform", "mean"),
    "wavlm": HubModel("WavLMModel", "waveform", "mean"),
    "audio-spectrogram-transformer": HubModel("ASTModel", "spectrogram", "pooler_output"),
    "clap_audio_model": HubModel("ClapAudioModel", "clap", "pooler_output", {r"^audio_model\.": ""}),
}
"""Kinds of models by the ``model_type`` of their config."""
_ENCODER_OF = {
    "clip": ("clip_vision_model", "vision_config"),
    "siglip": ("siglip_vision_model", "vision_config"),
    "clap": ("clap_audio_model", "audio_config"),
}
"""Models of images or audio and texts to the part that encodes images or audio, and the key of its config."""
_MERT, _MERT_CHANGES = "mert_model", ("feature_extractor_cqt", "deepnorm")
"""MERT is a HuBERT unless one of these settings is on; transformers has no class for it."""


# Architectures


def hub_spec(name: str, architecture: str = "") -> NetworkSpec:
    """The spec of a model from its architecture, which `checkpoint_facts` reads from its folder."""
    if not architecture:
        raise InputError(f"{name}: its checkpoint has the architecture; give --weights {name}=FOLDER")
    return _cached_spec(name, architecture)


@lru_cache(32)
def _cached_spec(name: str, architecture: str) -> NetworkSpec:
    try:
        values = json.loads(architecture)
        model, config = _read_config(name, values["config"])
        preprocessing = preprocessing_from_record(values["preprocessing"])
        width, _ = config.hidden_size, values["front_end"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: not an architecture: {architecture[:100]!r}") from error
    is_audio = isinstance(preprocessing, AudioPreprocessing)
    return NetworkSpec(
        name=name,
        modality="audio" if is_audio else "video",
        factory=f"{__name__}:{'HubFrames' if model.takes == 'frames' else 'HubClip'}",
        preprocessing=preprocessing,
        embedding_width=width,
        default_depth="frozen",
        min_crop_s=1.0 if is_audio else None,
        architecture=architecture,
    )


def _read_config(where: str, values: Mapping[str, Any]) -> tuple[HubModel, Any]:
    """The kind of a model and its config as an object of transformers; `where` begins its errors."""
    kind = str(values.get("model_type"))
    if kind not in MODELS:
        if "auto_map" in values:
            raise InputError(f"{where}: needs code of its repository, which moodfuse does not run")
        known = ", ".join(sorted([*MODELS, *_ENCODER_OF, _MERT]))
        raise InputError(f"{where}: model_type {kind!r} is not supported; supported: {known}")
    model = MODELS[kind]
    # Names that begin with "_", and those of attention and quantisation, choose code that may be downloaded.
    settings = {
        key: value
        for key, value in values.items()
        if not key.startswith("_") and not key.endswith(("_implementation", "_config", "auto_map"))
    }
    try:
        return model, transformers.CONFIG_MAPPING[kind].from_dict(settings)
    except Exception as error:  # the checks of configs raise many types
        raise InputError(f"{where}: not a config of {kind} ({str(error)[:500]})") from error


def _read_architecture(name: str, folder: Path) -> str:
    """The architecture of the model in a folder: its config, and how its input is made."""
    values = _read_json(folder / CONFIG)
    kind = str(values.get("model_type"))
    if kind in _ENCODER_OF:
        encoder, key = _ENCODER_OF[kind]
        values = {**values[key], "model_type": encoder}
    elif kind == _MERT and not any(values.get(key) for key in _MERT_CHANGES):
        values["model_type"] = "hubert"
    others = ("architectures", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id")
    values = {key: value for key, value in values.items() if key not in others}
    model, config = _read_config(f"{name} ({folder / CONFIG})", values)
    preprocessing: Preprocessing
    front_end: dict[str, Any] = {}
    if model.takes in ("frames", "clip"):
        preprocessing = _read_image_processor(
            name, folder, config.num_frames if model.takes == "clip" else 32
        )
    else:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        preprocessing = AudioPreprocessing(sample_rate_hz=extractor.sampling_rate)
        front_end = read_front_end(name, extractor, model.takes)
    return canonical_json(
        {"config": values, "preprocessing": preprocessing.as_record(), "front_end": front_end}
    )


def _read_image_processor(name: str, folder: Path, frames: int) -> VideoPreprocessing:
    """The preprocessing of the image processor in a folder."""
    processor = transformers.AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    kind = type(processor).__name__.removesuffix("Fast")
    if kind not in _PLAIN_PROCESSORS or processor.resample not in _FILTERS or not processor.do_resize:
        raise InputError(
            f"{name}: cannot make its input: {kind} with resample {processor.resample}; expected one of "
            f"{', '.join(_PLAIN_PROCESSORS)} that resizes by a bilinear or bicubic filter"
        )
    size = dict(processor.size)
    short_side_px = size.get("shortest_edge")
    hw = None if short_side_px else (size["height"], size["width"])
    crop = dict(processor.crop_size if processor.do_center_crop else size)
    if not crop.get("height") or crop["height"] != crop["width"]:
        raise InputError(f"{name}: its input is not a square: size {size}, crop {crop}")
    filters = _PILLOW_FILTERS if kind == _USES_PILLOW else _FILTERS
    mean = np.array(processor.image_mean if processor.do_normalize else (0.0, 0.0, 0.0))
    if getattr(processor, "offset", False):  # values from -1 to 1 are normalised
        mean = mean + 1.0
    return VideoPreprocessing(
        crop_px=crop["height"],
        frames=frames,
        resize_short_side_px=short_side_px,
        resize_hw=hw,
        interpolation=filters[processor.resample],
        scale=processor.rescale_factor if processor.do_rescale else 1.0,
        mean=tuple(mean.tolist()),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
    )


# Checkpoints


def known_weights(name: str) -> dict[str, KnownWeights]:
    """None: the weights of a repository are found by its name."""
    return {}


def checkpoint_facts(name: str, weights: str) -> WeightsFacts:
    """Facts of a folder, or of a repository, ``NAME[@REVISION]``, in the cache of Hugging Face."""
    folder = Path(weights)
    if not folder.is_dir():
        repository = name.removeprefix("hf:").replace("--", "/") if weights == PRETRAINED else weights
        folder = _find_repository(name, *repository.split("@", 1))
    files = _weights_files(folder)
    for file in files:
        check_safetensors(file)
    sums = [sha256_of(file) for file in files]
    architecture = _cached_architecture(name, folder, (folder / CONFIG).stat().st_mtime_ns)
    preprocessing = preprocessing_from_record(json.loads(architecture)["preprocessing"])
    sha256 = sums[0] if len(sums) == 1 else digest(sums)
    return WeightsFacts(folder, sha256, "transformers", preprocessing, architecture=architecture)


@lru_cache(32)
def _cached_architecture(name: str, folder: Path, mtime_ns: int) -> str:
    try:
        return _read_architecture(name, folder)
    except (InputError, WeightsError):
        raise
    except Exception as error:  # transformers raises many types for a wrong config or processor
        reason = str(error)[:500]
        raise WeightsError(f"{folder}: {CONFIG} or {PROCESSOR} cannot be used ({reason})") from error


def _find_repository(name: str, repository: str, revision: str | None = None) -> Path:
    """The folder of a repository in the cache of Hugging Face, downloaded if it is not there."""
    name = name.replace("--", "/")  # as the user writes it
    config = find_file(repository, CONFIG, name=name, revision=revision)
    find_file(repository, PROCESSOR, name=name, revision=revision)
    try:
        find_file(repository, SAFETENSORS, name=name, revision=revision)
    except WeightsError as without_one_file:
        try:
            index = find_file(repository, INDEX, name=name, revision=revision)
        except WeightsError:
            raise without_one_file from None
        for file in _read_index(index):
            find_file(repository, file, name=name, revision=revision)
    return config.parent


def _weights_files(folder: Path) -> list[Path]:
    """The weights files of a folder."""
    for file in (CONFIG, PROCESSOR):
        if not (folder / file).is_file():
            raise WeightsError(f"{folder}: has no {file}; expected the files of a repository of Hugging Face")
    if (folder / SAFETENSORS).is_file():
        return [folder / SAFETENSORS]
    if (folder / INDEX).is_file():
        return [folder / file for file in _read_index(folder / INDEX)]
    raise WeightsError(
        f"{folder}: has no {SAFETENSORS}, the only format that is read here, as it holds no code; take a "
        "revision that has it, or convert pytorch_model.bin (docs/networks.md)"
    )


def _read_index(path: Path) -> list[str]:
    """The names of the weights files that an index lists, sorted; they are in its folder."""
    weight_map = _read_json(path).get("weight_map")
    files = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    if not files or any(Path(file).name != file for file in files):
        raise WeightsError(f"{path}: its weight_map does not list files of this folder")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: is not a JSON object")
    return values


# Networks


class HubEncoder(HubNetwork):
    """An encoder of transformers."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        values = json.loads(spec.architecture)
        self.model, config = _read_config(spec.name, values["config"])
        self.front_end: dict[str, Any] = values["front_end"]
        super().__init__(spec, num_classes, _build_body(self.model, config))
        self.has_spectrogram = self.model.takes == "spectrogram"

    def pool(self, output: Any) -> Tensor:
        """The embedding ``[N, hidden_size]`` of an output of the body."""
        if self.model.pooled == "pooler_output":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output.last_hidden_state
        return hidden[:, 0] if self.model.pooled == "first" else hidden.mean(dim=1)

    def load_checkpoint(self, path: Path) -> None:
        """Load the weights of a folder; layers of a task that stand on the encoder are not loaded."""
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            body, report = type(self.body).from_pretrained(  # type: ignore[attr-defined]
                path,
                config=self.body.config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                key_mapping=self.model.renamed,
                **_options(self.model),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: not weights of {self.spec.name}: {str(error)[:500]}") from error
        finally:
            transformers_logging.set_verbosity(verbosity)
        if missing := sorted(set(report["missing_keys"]) - {TRAINING_ONLY}):
            raise WeightsError(f"{path}: {len(missing)} arrays are missing, such as {missing[0]}")
        self.body.load_state_dict(body.state_dict())


class HubFrames(HubEncoder, FrameNetwork):
    """An image encoder on each frame of a clip."""

    def image_features(self, images: Tensor) -> Tensor:
        """Features ``[N, hidden_size]`` of images ``[N, 3, S, S]``."""
        return self.pool(self.body(pixel_values=images))


class HubClip(HubEncoder):
    """A video encoder on the frames, or an audio encoder on the waveform, of a clip."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        if isinstance(spec.preprocessing, AudioPreprocessing):
            self.rate_hz = spec.preprocessing.sample_rate_hz
        if self.model.takes == "clap":
            self.clap_spectrograms = ClapSpectrograms(self.front_end, self.rate_hz)

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, hidden_size]``, float32, of ``[N, 3, T, S, S]`` or ``[N, samples]``."""
        if self.model.takes == "clip":
            return self.pool(self.body(pixel_values=x.transpose(1, 2))).float()
        if self.model.takes == "waveform":
            if self.front_end["normalised"]:
                variance = x.var(dim=1, keepdim=True, correction=0)
                x = (x - x.mean(dim=1, keepdim=True)) / (variance + 1e-7).sqrt()
            return self.pool(self.body(x)).float()
        if self.model.takes == "clap":
            pieces, shrunk = self.clap_spectrograms(x)
            output = self.body(input_features=pieces, is_longer=shrunk)
        else:
            spectrograms = ast_spectrograms(x, self.front_end, self.rate_hz)
            output = self.body(self.mask(spectrograms))
        return self.pool(output).float().unflatten(0, (len(x), -1)).mean(dim=1)


def _options(model: HubModel) -> dict[str, Any]:
    """Options of a model's class: without a pooling layer that is not used, and may have no weights."""
    return {"add_pooling_layer": False} if model.cls in ("ViTModel", "VivitModel") else {}


def _build_body(model: HubModel, config: Any) -> nn.Module:
    body: nn.Module = getattr(transformers, model.cls)(config, **_options(model))
    return body
