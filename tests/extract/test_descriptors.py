"""The sources without weights: descriptors of frames and of audio against NumPy, SciPy and simple clips."""

import colorsys
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal
import scipy.stats
import torch

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import frozen_counterpart
from moodfuse.extract.inference import ShippedSource, SourceWorker, make_network
from moodfuse.extract.networks import NETWORKS, create_network
from moodfuse.extract.networks.descriptors import AUDIO_NAMES, FRAME_NAMES, HUES, N_MFCC
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.tune_networks import save_body

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {"frame-stats": FRAME_NAMES, "audio-stats": AUDIO_NAMES}
RATE_HZ = 16_000
WINDOW, HOP = 2048, 320


def describe(source: str, clip: np.ndarray) -> dict[str, float]:
    """Descriptors by name of frames [T, H, W, 3] in [0, 1], or of a waveform [samples]."""
    batch = torch.from_numpy(clip.astype(np.float32))[None]
    with torch.inference_mode():
        values = create_network(source, num_classes=2).trunk(
            batch.movedim(-1, 1) if clip.ndim == 4 else batch
        )
    return dict(zip(NAMES[source], values[0].tolist(), strict=True))


def coloured(*colours: tuple[float, float, float]) -> np.ndarray:
    """Frames of one colour each."""
    return np.tile(np.array(colours)[:, None, None], (1, 32, 32, 1))


def tones(*frequencies_hz: float, seconds: float = 5.0) -> np.ndarray:
    """Sines of the same loudness."""
    times_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return np.asarray(sum(0.1 * np.sin(2 * np.pi * frequency * times_s) for frequency in frequencies_hz))


def clicks(per_minute: float) -> np.ndarray:
    """30 s of clicks over soft noise."""
    waveform = np.random.default_rng(0).normal(0, 1e-3, 30 * RATE_HZ)
    waveform[(np.arange(0.2, 30, 60 / per_minute) * RATE_HZ).astype(int)] = 0.9
    return waveform


@pytest.mark.parametrize("source", NAMES)
def test_every_descriptor_is_documented(source: str) -> None:
    """docs/networks.md has the descriptors in the order of the embedding, whose width is that of the spec."""
    page = (Path(__file__).parents[2] / "docs/networks.md").read_text(encoding="utf-8")
    section = page.split(f"## `{source}`")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \| `(\w+)` \| ([\w, ]*) \|", section, re.MULTILINE)
    documented = [f"{name}_{part}".rstrip("_") for _, name, parts in rows for part in parts.split(", ")]
    columns = [int(column) for columns, _, _ in rows for column in columns.split(", ")]
    assert documented == list(NAMES[source])
    assert columns == list(range(len(documented)))
    spec = NETWORKS[source]
    assert {spec.embedding_width, spec.frozen_width, spec.activation_width} == {len(documented)}


def test_frames_against_numpy() -> None:
    """Brightness, colour, edges and motion of random smooth frames are those of plain formulas."""
    noise = np.random.default_rng(1).random((6, 32, 48, 3))
    frames = (scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0)) * 8 - 3.5).clip(0, 1)
    frames *= np.linspace(0.4, 1, 6)[:, None, None, None]
    ours = describe("frame-stats", frames)
    red, green, blue = np.moveaxis(frames, 3, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in frames.reshape(-1, 3)]).reshape(frames.shape)
    slopes = [[scipy.ndimage.sobel(frame, axis)[1:-1, 1:-1] / 8 for frame in luma] for axis in (0, 1)]
    # Hasler and Suesstrunk 2003, equations 2 to 5
    opponents = (red - green, 0.5 * (red + green) - blue)
    sigma = np.hypot(*(opponent.std(axis=(1, 2)) for opponent in opponents))
    colourfulness = sigma + 0.3 * np.hypot(*(opponent.mean(axis=(1, 2)) for opponent in opponents))
    saturation, brightness = hsv[..., 1], luma.mean(axis=(1, 2))
    expected = {
        "brightness_mean": luma.mean(),
        "brightness_std": brightness.std(),
        "brightness_max": brightness.max(),
        "contrast_mean": luma.std(axis=(1, 2)).mean(),
        "saturation_mean": saturation.mean(),
        "saturation_spread_mean": saturation.std(axis=(1, 2)).mean(),
        "colourfulness_mean": colourfulness.mean(),
        "colourfulness_max": colourfulness.max(),
        "edges_mean": (np.hypot(*slopes) > 0.1).mean(),
        "dark_mean": (luma < 0.2).mean(),
        "bright_mean": (luma > 0.8).mean(),
        "motion_mean": abs(np.diff(luma, axis=0)).mean(),
        "brightness_change_mean": abs(np.diff(brightness)).mean(),
    }
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert min(expected.values()) > 0.002  # each has something to measure


@pytest.mark.parametrize("number", range(12))
def test_the_hue_of_a_colour(number: int) -> None:
    """A clip of one colour has its hue, within the 1.2 degrees between the hexagon of HSV and its circle."""
    ours = describe("frame-stats", coloured(colorsys.hsv_to_rgb(number / 12, 0.8, 0.6)))
    angle = math.degrees(math.atan2(ours["hue_sin_mean"], ours["hue_cos_mean"]))
    assert abs((angle - 30 * number + 180) % 360 - 180) < 1.2
    shares = [ours[f"{hue}_mean"] for hue in HUES]
    assert sum(shares) == pytest.approx(1)
    if number % 2 == 0:
        assert shares[number // 2] == pytest.approx(1)


def test_a_change_of_colour_is_a_cut() -> None:
    """Of 31 steps one is a cut; a slow change of brightness has none, and nothing moves in a still clip."""
    red, blue = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)
    assert describe("frame-stats", coloured(*[red] * 20, *[blue] * 12))["cuts"] == pytest.approx(1 / 31)
    fade = describe("frame-stats", coloured(*((level, level, level) for level in np.linspace(0, 1, 32))))
    assert fade["cuts"] == 0 and fade["brightness_change_mean"] == pytest.approx(1 / 31)
    still = describe("frame-stats", coloured(*[red] * 32))
    changing = ("motion", "brightness_change", "histogram_change")
    assert all(still[f"{name}_mean"] == 0 for name in changing) and still["brightness_std"] < 1e-6


def test_audio_against_numpy() -> None:
    """Level, shape of the spectrum and MFCC of noise with changing colour are those of plain formulas."""
    rng = np.random.default_rng(2)
    noise = np.concatenate(
        [scipy.signal.lfilter([1], [1, -pole], rng.normal(0, 0.05, 16_000)) for pole in (0.0, 0.5, 0.9)]
    )
    ours = describe("audio-stats", noise)
    starts = range(0, len(noise) - WINDOW + 1, HOP)
    windows = np.stack([noise[start : start + WINDOW] for start in starts])
    magnitude = abs(scipy.fft.rfft(windows * scipy.signal.get_window("hann", WINDOW)))
    khz = np.arange(WINDOW // 2 + 1) * RATE_HZ / WINDOW / 1000
    total = magnitude.sum(axis=1)
    centroid = magnitude @ khz / total
    cumulated = magnitude.cumsum(axis=1) / total[:, None]
    level = np.log10((windows**2).mean(axis=1))
    mel = np.log10(magnitude**2 @ mel_filters(khz * 1000))
    mel = np.maximum(mel, mel.max() - 8)
    columns = {
        "level": level,
        "centroid": centroid,
        "bandwidth": np.sqrt(magnitude * (khz - centroid[:, None]) ** 2 / total[:, None] @ np.ones(1025)),
        "roll_off": khz[(cumulated >= 0.85).argmax(axis=1)],
        "flatness": np.log10(scipy.stats.gmean(magnitude**2, axis=1) / (magnitude**2).mean(axis=1)),
        "zero_crossings": np.array([(np.diff(np.sign(window)) != 0).mean() for window in windows]),
        "flux": np.r_[0, np.maximum(np.diff(mel, axis=0), 0).mean(axis=1)],
    }
    cepstrum = scipy.fft.dct(mel, norm="ortho")
    columns |= {f"mfcc_{number}": cepstrum[:, number] for number in range(N_MFCC)}
    expected = {f"{name}_mean": column.mean() for name, column in columns.items()}
    expected |= {f"{name}_std": column.std() for name, column in columns.items()}
    assert {name: ours[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert ours["level_p10"] == pytest.approx(np.quantile(level, 0.1, method="nearest"), abs=1e-5)
    assert ours["level_p90"] == pytest.approx(np.quantile(level, 0.9, method="nearest"), abs=1e-5)
    rms = np.sqrt((windows**2).mean(axis=1))
    assert ours["quiet"] == pytest.approx((rms < rms.mean()).mean(), abs=1e-5)


def mel_filters(bins_hz: np.ndarray) -> np.ndarray:
    """64 triangles of Slaney's mel scale up to 8 kHz, of equal area, [F, 64]."""
    scale_hz = np.r_[np.arange(15) * 200 / 3, 1000 * 6.4 ** (np.arange(40) / 27)]  # at mels 0, 1, 2, ...
    mel_of_8k = np.interp(math.log(8000), np.log(scale_hz[1:]), np.arange(1, len(scale_hz)))
    mels = np.linspace(0, mel_of_8k, 66)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    return np.stack(
        [
            np.interp(bins_hz, edges[number : number + 3], [0, 1, 0])
            * 2
            / (edges[number + 2] - edges[number])
            for number in range(64)
        ],
        axis=1,
    )


def test_a_pure_tone() -> None:
    """Its centroid and roll-off are its frequency, its crossings twice that, and it has one pitch class."""
    tone = describe("audio-stats", tones(1000))
    assert tone["centroid_mean"] == pytest.approx(1, abs=1e-3)
    assert tone["roll_off_mean"] == pytest.approx(1, abs=0.01)
    assert tone["zero_crossings_mean"] == pytest.approx(2000 / RATE_HZ, rel=0.01)
    assert tone["level_mean"] == pytest.approx(math.log10(0.1**2 / 2), abs=1e-3)
    assert tone["chroma_entropy"] < 0.01 and tone["onsets"] == 0
    noise = describe("audio-stats", np.random.default_rng(0).normal(0, 0.1, 80_000))
    assert tone["flatness_mean"] < -3 < noise["flatness_mean"] and noise["chroma_entropy"] > 0.95


@pytest.mark.parametrize("per_minute", [80, 100, 120, 150])
def test_the_tempo_of_clicks(per_minute: float) -> None:
    """Onsets and tempo are those of the clicks, within 2 %; noise has no clear tempo."""
    ours = describe("audio-stats", clicks(per_minute))
    assert [60 * ours["tempo"], 60 * ours["onsets"]] == pytest.approx([per_minute] * 2, rel=0.02)
    noise = describe("audio-stats", np.random.default_rng(0).normal(0, 0.1, 480_000))
    assert noise["tempo_strength"] < 0.3 < ours["tempo_strength"]


def test_major_and_minor() -> None:
    """A major triad fits a major key better, a minor triad a minor key, in every transposition."""
    for semitones in range(12):
        root = 261.63 * 2 ** (semitones / 12)
        major, minor = (
            describe("audio-stats", tones(root, root * 2 ** (third / 12), root * 2 ** (7 / 12), seconds=2))
            for third in (4, 3)
        )
        assert major["major"] > major["minor"] + 0.02 and minor["minor"] > minor["major"] + 0.02
        assert major["key_clarity"] > 0 and 0.4 < major["chroma_entropy"] < 0.55  # log 3 / log 12


def test_padding_does_not_count() -> None:
    """Descriptors of a short clip do not depend on the zeros that pad it."""
    music = clicks(120)[: 10 * RATE_HZ] + tones(300, 440, seconds=10)
    short, padded = (describe("audio-stats", np.pad(music, (0, zeros))) for zeros in (0, 20 * RATE_HZ))
    assert padded == pytest.approx(short, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_blank_clips_are_finite(level: float) -> None:
    """Silence, a constant, black, white and a single frame give finite numbers."""
    blank = [describe("frame-stats", np.full((count, 32, 32, 3), level)) for count in (1, 32)]
    blank.append(describe("audio-stats", np.full(480_000, level)))
    assert all(np.isfinite(list(values.values())).all() for values in blank)


@pytest.mark.parametrize("source", NAMES)
def test_descriptors_are_computed_in_float32(source: str) -> None:
    """Autocast to bfloat16 changes nothing."""
    network, clip = create_network(source, num_classes=2), torch.rand(1, 3, 4, 64, 64)
    clip = clip if source == "frame-stats" else clip.flatten(1)
    with torch.inference_mode():
        expected = network.trunk(clip)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network.trunk(clip), expected)


def test_no_weights_and_nothing_to_tune_whole() -> None:
    """The default depth is frozen, the recipe has no weights, and depth full is refused."""
    for source in NAMES:
        recipe = build_recipe(source, RecipeChoice())
        assert (recipe.depth, recipe.weights) == ("frozen", "none")
        assert build_recipe(source, RecipeChoice(depth="head")).tuning
        with pytest.raises(InputError, match=f"{source}=full: {source} has no weights to tune"):
            build_recipe(source, RecipeChoice(depth="full"))


@pytest.mark.parametrize("source", NAMES)
def test_an_exported_source_gives_the_same_bits(source: str, tmp_path: Path) -> None:
    """The source of a model folder, whose body has no arrays, gives a clip the features of extraction."""
    rng, recipe = np.random.default_rng(3), build_recipe(source, RecipeChoice(device="cpu"))
    audio = rng.normal(0, 0.1, 480_000).astype(np.float32)
    media = Media(rng.integers(0, 255, (32, 60, 80, 3), dtype=np.uint8), np.arange(32.0), audio, len(audio))
    network = make_network(recipe, None, 2)
    save_body(tmp_path / "body.safetensors", recipe, network)
    expected = SourceWorker(recipe, network).frozen_rows(media)["embedding"]
    assert expected.shape == (len(NAMES[source]),)
    (shipped,) = ShippedSource(recipe, 2, tmp_path / "body.safetensors", []).embed(media)
    assert np.array_equal(shipped["embedding"], expected)


def test_tuning_heads_on_descriptors(runner) -> None:  # type: ignore[no-untyped-def]
    """Both sources go through extraction, frozen and at depth head, without the notice of random values."""
    runner.keep(6)
    (runner.recipe).write_text(
        'name = "default"\n[frame-stats]\nhead = { optimizer = "adamw", learning_rate = 1e-2, epochs = 2 }\n'
    )
    plan = PlanChoice(folds=2)
    done = runner(sources=tuple(NAMES), plan=plan, depths={"frame-stats": "head"})
    cache = runner.open()
    assert done.tuned and not any("RANDOM" in line for line in runner.lines)
    recipe = frozen_counterpart(cache.recipe("frame-stats"))
    assert cache.rows(recipe, None, cache.clips_with(recipe), ("embedding",)).present.all()
