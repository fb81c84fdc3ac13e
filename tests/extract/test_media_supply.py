"""With and without kept media: the same features; each clip is decoded once, and an interrupted run continues."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.audits import read_audit
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.media import MediaStore
from moodfuse.cache.store import FeatureCache
from moodfuse.extract import media_supply, pending
from moodfuse.extract.dataset import ingest
from moodfuse.extract.pipeline import RefusedClipsError
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from tests.extract.conftest import DEPTHS, FOLDS, RECIPE, SOURCES, STILL, Runner


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
    """Frozen, head and full tuning write the same files; clips are decoded once, and no media stay anywhere."""
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


def test_c3d_does_not_depend_on_other_sources_nor_on_kept_media(narrow, tmp_path: Path) -> None:
    """Embeddings from media kept for c3d alone, and from media streamed past i3d too, are equal."""
    for number in range(4):
        label = "excited" if number % 2 else "sad"
        (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
        settings = ClipSettings(duration_s=2.0, width=320, height=240, seed=number)
        make_clip(tmp_path / "clips" / label / f"{number}.mp4", mood=label, settings=settings)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    blocks, sizes = {}, {}
    for name, sources, keep in (("kept", ("c3d",), True), ("streamed", ("c3d", "i3d"), False)):
        runner = Runner(tmp_path / "clips", tmp_path / name, tmp_path / "tiny.toml")
        runner(sources=sources, depths=dict.fromkeys(sources, "frozen"), plan=FOLDS, keep_media=keep)
        blocks[name] = runner.open().block("c3d", "*")
        sizes[name] = sum(file.stat().st_size for file in (tmp_path / name / "media").rglob("*.h5"))
    assert list(blocks["streamed"].digests) == list(blocks["kept"].digests)
    assert blocks["streamed"].embedding.tobytes() == blocks["kept"].embedding.tobytes()
    assert 0 == sizes["streamed"] < sizes["kept"]


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


def test_a_video_network_is_not_tuned_whole_without_kept_media(runner) -> None:
    """It is refused before anything is read, with the remedy."""
    full = 'full = { optimizer = "sgd", learning_rate = 1e-5, epochs = 1 }'
    runner.recipe.write_text(runner.recipe.read_text() + full)
    with pytest.raises(InputError, match=r"c3d: tuned whole.*drop --no-keep-media, or use --tune c3d=head"):
        runner(sources=("c3d",), depths={"c3d": "full"}, keep_media=False)
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
