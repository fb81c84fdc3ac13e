"""With and without kept media: the same features; each clip is decoded once, and an interrupted run
continues.
"""

import functools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.cache.audits import read_audit
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.media import Media, MediaStore
from moodfuse.cache.store import FeatureCache
from moodfuse.extract import media_supply, pending
from moodfuse.extract.dataset import ingest
from moodfuse.extract.media.preprocess import InputMaker
from moodfuse.extract.media_supply import (
    DECODED_FRAMES,
    WAVEFORM,
    choose_rendition,
    choose_renditions,
    find_store,
    render_media,
)
from moodfuse.extract.networks import NETWORKS, AudioPreprocessing, VideoPreprocessing
from moodfuse.extract.pipeline import RefusedClipsError
from moodfuse.extract.recipe_files import RecipeChoice
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from tests.extract.conftest import DEPTHS, FOLDS, SOURCES, STILL, Runner

C3D, I3D, AUDIO = (NETWORKS[name].preprocessing for name in ("c3d", "i3d", "onedmcnn"))
PORT = VideoPreprocessing(resize_short_side_px=128, crop_px=112, mean=(104.0, 117.0, 128.0))
VISION = VideoPreprocessing(resize_hw=(128, 171), crop_px=112, antialias=False, centre="even")
SQUARE = VideoPreprocessing(resize_hw=(256, 256), crop_px=224)
CLIP = "ab" * 32
FRAMES = 8


class Interrupted(Exception):
    """Stands for a signal that ends the run."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose decoding was asked for."""
    names: list[str] = []
    decode_many = ingest.decode_many

    def counted(requests, *, jobs: int, limits):
        def noted() -> Iterator[object]:
            for request in requests:
                names.append(request.path.name)
                yield request

        return decode_many(noted(), jobs=jobs, limits=limits)

    monkeypatch.setattr(ingest, "decode_many", counted)
    return names


def interrupt(patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Have a method raise after its second call."""
    method, calls = getattr(owner, name), []

    def interrupted(*arguments):
        calls.append(method(*arguments))
        if len(calls) == 2:
            raise Interrupted
        return calls[-1]

    patch.setattr(owner, name, interrupted)


def files(folder: Path, *parts: str) -> dict[str, bytes]:
    """Every file of some folders of a cache."""
    found = (file for part in parts for file in (folder / part).rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_streamed_features_are_those_of_kept_media(
    runner, all_depths, begun, tmp_path: Path, monkeypatch
) -> None:
    """Frozen, head and full tuning write the same files; clips are decoded once, and no media stay
    anywhere.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    runner = Runner(
        all_depths.runner.data, runner.cache, runner.recipe
    )  # records of clips hold the same paths
    options = {"sources": SOURCES, "depths": DEPTHS, "plan": FOLDS, "keep_media": False}
    streamed, done = runner(**options), all_depths.done
    assert len(begun) == 4 and (streamed.tuned, streamed.embedded) == (done.tuned, done.embedded) == (4, 24)
    parts = ("features", "networks", "clips", "plans", "audits")
    assert files(runner.cache, *parts) == files(all_depths.runner.cache, *parts)
    assert read_audit(runner.open()) is not None
    assert not (runner.cache / "media").exists() and not list((tmp_path / "temporary").glob("moodfuse-*"))
    assert any("RANDOM" in line and STILL in line for line in runner.lines)
    again = runner(**options)
    assert (len(begun), again.tuned, again.embedded) == (4, 0, 0) and "nothing to decode" in runner.lines[-1]


HIGH = "onedmcnn-48k"


@pytest.fixture
def network_at_48_khz(monkeypatch: pytest.MonkeyPatch) -> None:
    """`onedmcnn` on audio at 48 kHz is a network of the table."""
    preprocessing = AudioPreprocessing(sample_rate_hz=48_000)
    spec = replace(NETWORKS["onedmcnn"], name=HIGH, preprocessing=preprocessing)
    monkeypatch.setitem(NETWORKS, HIGH, spec)


@pytest.mark.usefixtures("network_at_48_khz")
def test_networks_of_other_sampling_rates(runner, all_depths, begun, tmp_path: Path) -> None:
    """Kept or streamed, beside a network at 16 kHz or alone, tuned whole or frozen: the same features.

    What the cache has at 16 kHz stays; a source of another rate decodes the clips again.
    """
    runner.keep(4)
    runner.recipe.write_text(runner.recipe.read_text().replace("[onedmcnn]", f"[{HIGH}]"))
    tuned, frozen = HIGH, f"{HIGH}@zhou2022"
    options = {"sources": (tuned, frozen, "twodmcnn"), "depths": {frozen: "frozen"}, "plan": FOLDS}
    shutil.copytree(all_depths.runner.cache, runner.cache)
    before = files(runner.cache, "media", "features")
    begun.clear()
    runner(**options)
    after = files(runner.cache, "media", "features")
    assert len(begun) == 4 and before.items() <= after.items()
    store = find_store(runner.cache / "media", NETWORKS[HIGH].preprocessing)
    for status in runner.open().clips:
        waveform, samples = store.read(status.digest).waveform_at(48_000)
        assert len(waveform) == 1_440_000 and samples == pytest.approx(96_000, abs=10)
    assert not verify(runner.cache).faults
    for sources in ((tuned, frozen, "twodmcnn"), (frozen,)):
        streamed = Runner(runner.data, tmp_path / f"streamed{len(sources)}", runner.recipe)
        streamed(**{**options, "sources": sources}, keep_media=False)
        theirs = files(streamed.cache, "features", "networks")
        assert theirs.items() <= files(runner.cache, "features", "networks").items()
        assert any(HIGH in name for name in theirs)


def test_frames_of_short_windows(runner, all_depths, begun, tmp_path: Path) -> None:
    """Kept or streamed, beside a network of even frames or alone: the same features; clips that are stored
    with even frames only are decoded again.
    """
    runner.keep(4)
    short, even = "frame-stats@zhou2022", "frame-stats"
    shutil.copytree(all_depths.runner.cache, runner.cache)
    begun.clear()
    choice = RecipeChoice(recipe=str(runner.recipe), frames={short: "windows:2@5"})
    runner(sources=(short, even), plan=FOLDS, recipes=choice)
    assert len(begun) == 4 and not verify(runner.cache).faults
    blocks = [runner.open().block(source, "*").embedding for source in (short, even)]
    assert np.abs(blocks[0] - blocks[1]).max() > 0.01
    for sources in ((short, even), (short,)):
        streamed = Runner(runner.data, tmp_path / f"streamed{len(sources)}", runner.recipe)
        streamed(sources=sources, plan=FOLDS, recipes=choice, keep_media=False)
        theirs = files(streamed.cache, "features")
        assert theirs and theirs.items() <= files(runner.cache, "features").items()


def test_an_interrupted_streamed_run_decodes_only_the_rest(runner, all_depths, begun, monkeypatch) -> None:
    """Clips whose features are written are not decoded again; the result is that of an uninterrupted run."""
    for module in (media_supply, pending):
        monkeypatch.setattr(module, "CLIPS_PER_PART", 2)
    runner.keep(4)
    options = {"sources": ("twodmcnn", STILL), "depths": DEPTHS, "plan": FOLDS, "keep_media": False}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, FeatureCache, "write_block_part")
        runner(**options)
    begun.clear()
    runner(**options)
    assert len(begun) == 2
    for source, holdout in (("twodmcnn", 0), ("twodmcnn", 1), (STILL, "*")):
        ours, theirs = (cache.block(source, holdout) for cache in (runner.open(), all_depths.runner.open()))
        assert ours.embedding.tobytes() == theirs.embedding.tobytes()


def test_an_interrupted_kept_run_decodes_no_stored_clip_again(runner, begun, monkeypatch) -> None:
    """Interrupted after two clips were stored, the next run decodes the other two."""
    runner.keep(4)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, MediaStore, "write")
        runner(plan=FOLDS)
    begun.clear()
    runner(plan=FOLDS)
    assert len(begun) == 2 and len(list((runner.cache / "media").rglob("*.h5"))) == 4


def test_removed_media_and_marks_are_made_again_if_needed(runner, all_depths, begun) -> None:
    """A finished cache needs no media; a further source decodes what it reads; lost marks are made again."""
    runner.keep(4)
    shutil.copytree(all_depths.runner.cache, runner.cache)
    shutil.rmtree(runner.cache / "media")
    begun.clear()
    assert runner(plan=FOLDS).embedded == 0 and not begun
    further = "onedmcnn@zhou2022-sgd"
    runner(plan=FOLDS, sources=("twodmcnn", further), depths={further: "frozen"})
    assert len(begun) == 4
    begun.clear()
    next(iter((runner.cache / "audits").rglob("*.h5"))).unlink()
    assert runner(plan=FOLDS).embedded == 0 and len(begun) == 1


@pytest.mark.parametrize("depth", ["full", "last:1"])
def test_the_trunk_of_a_video_network_is_not_tuned_without_kept_media(depth: str, runner) -> None:
    """It is refused before anything is read, with the remedy."""
    full = 'full = { optimizer = "sgd", learning_rate = 1e-5, epochs = 1 }'
    runner.recipe.write_text(runner.recipe.read_text() + full)
    with pytest.raises(
        InputError, match=rf"c3d: at depth {depth}, .*drop --no-keep-media, or use --tune c3d=head"
    ):
        runner(sources=("c3d",), depths={"c3d": depth}, keep_media=False, plan=FOLDS)
    assert not list(runner.cache.rglob("*.h5"))


def test_streaming_computes_no_features_too_early(runner, begun) -> None:
    """Strict and dry runs validate every clip before any feature."""
    runner.keep(4)
    assert runner(plan=FOLDS, keep_media=False, dry_run=True).embedded == 0 and len(begun) == 4
    assert any("2 networks to tune" in line for line in runner.lines)
    (runner.data / "sad" / "zero.mp4").write_bytes(b"")
    with pytest.raises(RefusedClipsError, match="1 of 5 clips refused"):
        runner(plan=FOLDS, keep_media=False, strict=True)
    assert not (runner.cache / "features").exists()


def test_a_clip_without_audio_is_streamed_past_video_networks_only(runner, narrow) -> None:
    """Under --missing impute a mute clip passes c3d and has no row of the tagger."""
    runner.keep(4)
    settings = ClipSettings(2.0, 64, 48, seed=50)
    make_clip(runner.data / "sad" / "mute.mp4", mood="sad", settings=settings, audio=False)
    sources, plan = (
        ("twodmcnn", "c3d"),
        PlanChoice(folds=2, seed=3),
    )  # the mute clip shares its fold with a sad one
    depths = dict.fromkeys(sources, "frozen")
    done = runner(sources=sources, depths=depths, plan=plan, impute=True, keep_media=False)
    assert not done.refused and done.embedded == 4 + 5
    (mute,) = (status for status in runner.open().clips if status.missing)
    block = runner.open().block("c3d", "*")
    assert np.any(block.embedding[list(block.digests).index(mute.digest)])
    assert runner.open().block("twodmcnn", "*").absent == {mute.digest}


@functools.cache
def decoded(height: int, width: int) -> Media:
    """A clip as decoded, of a few frames: smooth colours with noise on them."""
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 200, (FRAMES, height // 8, width // 8, 3)), np.ones((1, 8, 8, 1)))
    frames = (frames + rng.integers(0, 50, frames.shape)).astype(np.uint8)
    return Media(frames, np.arange(float(FRAMES)), np.zeros(480_000, np.float32), 480_000)


def test_each_network_has_the_smallest_rendition_that_serves_it() -> None:
    """Frames as decoded, where one network needs them, serve all video networks."""
    assert set(choose_renditions([AUDIO, AUDIO])) == {WAVEFORM}
    assert set(choose_renditions([AUDIO, C3D])) == {WAVEFORM, choose_rendition(C3D)}
    assert set(choose_renditions([C3D, PORT, VISION])) == {
        choose_rendition(item) for item in (C3D, PORT, VISION)
    }
    assert len({choose_rendition(item).name for item in (C3D, PORT, VISION, I3D, AUDIO)}) == 5
    assert set(choose_renditions([C3D, I3D, AUDIO])) == {WAVEFORM, DECODED_FRAMES}
    assert choose_rendition(SQUARE) == DECODED_FRAMES
    short = replace(C3D, windows=2, frame_rate_hz=12.5)
    assert set(choose_renditions([short, I3D])) == {choose_rendition(short), DECODED_FRAMES}
    assert choose_rendition(replace(I3D, windows=2, frame_rate_hz=12.5)) != DECODED_FRAMES


@pytest.mark.parametrize("size_hw", [(256, 344), (456, 256), (48, 64), (128, 176)])
@pytest.mark.parametrize("preprocessing", [C3D, PORT, VISION, I3D], ids=["c3d", "port", "vision", "i3d"])
def test_inputs_are_the_same_bits_whatever_is_kept(
    tmp_path: Path, size_hw: tuple[int, int], preprocessing: VideoPreprocessing
) -> None:
    """From the network's own rendition, from frames as decoded, and without a store, also in fine-tuning."""
    media, make = decoded(*size_hw), InputMaker(preprocessing)
    own = MediaStore(tmp_path / "own", choose_rendition(preprocessing))
    own.write(CLIP, render_media(media, preprocessing))
    MediaStore(tmp_path / "whole", DECODED_FRAMES).write(CLIP, render_media(media, I3D))
    stores = [find_store(tmp_path / "own", preprocessing), find_store(tmp_path / "whole", preprocessing)]
    for store in stores:
        assert torch.equal(make(store.read(CLIP)), make(media))
        assert store.read(CLIP).shape_hw == size_hw
        draw, again = (torch.Generator().manual_seed(3) for _ in range(2))
        assert torch.equal(make(store.read(CLIP), generator=draw), make(media, generator=again))
    assert own.read(CLIP).frames.nbytes <= media.frames.nbytes


def test_a_clip_without_video_has_a_rendition() -> None:
    media = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), np.zeros(480_000, np.float32), 480_000)
    assert render_media(media, C3D).frames.shape == (0, 0, 0, 3)
