"""Tests of extract.networks.hubs.huggingface_audio: CLAP and MERT on audio decoded at their own rates."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hub_models import check_equal, edit_json, embed, save_huggingface

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import Media
from moodfuse.extract.media.decode import make_media, read_clip
from moodfuse.extract.networks import WeightsError, create_network, weights_facts
from moodfuse.extract.networks.base import Network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audio file of tones and noise up to 20 kHz, at 44.1 kHz."""
    path = tmp_path_factory.mktemp("audio") / "song.wav"
    times = np.arange(31 * 44_100) / 44_100
    tones = sum(np.sin(2 * np.pi * hz * times * (1 + times / 300)) for hz in (220, 1200, 9000)) / 5
    noise = np.random.default_rng(0).normal(0, 0.05, len(times)) * (1 + np.sin(times))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes((np.clip(tones + noise, -1, 1) * 32_767).astype("<i2").tobytes())
    return path


def decode_at(path: Path, rate_hz: int) -> np.ndarray:
    """The first 30 s of an audio file, decoded and resampled by PyAV alone."""
    with av.open(str(path)) as media:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        frames = [made for frame in media.decode(audio=0) for made in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])[: 30 * rate_hz]


def decode_for(network: Network, path: Path) -> Media:
    """An audio file as moodfuse decodes it for a network."""
    rate_hz = network.preprocessing.sample_rate_hz
    return make_media(read_clip(path, allow_missing=True, other_rates_hz=(rate_hz,)))


@pytest.mark.parametrize("kind", ["clap", "clap-fused"])
def test_clap(kind: str, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding is the mean of the pooled outputs of pieces of 10 s, or fused from the middles of thirds.

    The audio is decoded at 48 kHz, and the spectrogram is the model's own.
    """
    model, extractor = save_huggingface(kind, tmp_path)
    network = create_network("hf:clap", num_classes=2, weights=tmp_path)
    waveform = decode_at(song, 48_000)
    pieces = [waveform] if kind == "clap-fused" else np.split(waveform, 3)
    monkeypatch.setattr("numpy.random.choice", lambda values: values[len(values) // 2])
    with torch.inference_mode():
        inputs = extractor(pieces, sampling_rate=48_000, return_tensors="pt")
        features = model.audio_model(**inputs).pooler_output
    check_equal(embed(network, decode_for(network, song)), features.mean(dim=0))


def test_clap_on_crops(tmp_path: Path) -> None:
    """A crop that is shorter than the model's input is repeated and padded, as its extractor does."""
    for kind in ("clap", "clap-fused"):
        model, extractor = save_huggingface(kind, tmp_path)
        network = create_network("hf:clap", num_classes=2, weights=tmp_path)
        x = torch.randn(2, 3 * 48_000, generator=torch.Generator().manual_seed(0)) / 10
        inputs = extractor(list(x.numpy()), sampling_rate=48_000, return_tensors="pt")
        with torch.inference_mode():
            features = model.audio_model(inputs.input_features, is_longer=torch.zeros(2, 1)).pooler_output
            check_equal(network.trunk(x), features)


def test_mert_is_a_hubert_at_its_own_rate(song: Path, tmp_path: Path) -> None:
    """Its audio is decoded at 24 kHz; the variants that differ from HuBERT need code that is not run."""
    model, extractor = save_huggingface("mert", tmp_path)
    network = create_network("hf:mert", num_classes=2, weights=tmp_path)
    with torch.inference_mode():
        output = model(**extractor(decode_at(song, 24_000), sampling_rate=24_000, return_tensors="pt"))
    check_equal(embed(network, decode_for(network, song)), output.last_hidden_state[0].mean(dim=0))
    edit_json(tmp_path / "config.json", lambda values: values.update(deepnorm=True))
    with pytest.raises(InputError, match="needs code of its repository"):
        weights_facts(tmp_path, "hf:other-mert")


def test_a_front_end_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """Another padding of CLAP's extractor, or a rate that no audio has."""
    save_huggingface("clap", tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    edit_json(settings, lambda values: values.update(padding="repeat"))
    with pytest.raises(InputError, match="cannot make its input: .* padding 'repeat'; expected fusion or"):
        weights_facts(tmp_path, "hf:clap")
    save_huggingface("mert", tmp_path)
    edit_json(settings, lambda values: values.update(sampling_rate=200_000))
    with pytest.raises(WeightsError, match="sample_rate_hz is 200000, expected 1 to 192000"):
        weights_facts(tmp_path, "hf:mert")
