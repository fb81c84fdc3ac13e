"""Streamed past the cache or kept in it: the same features; each clip is decoded once, and a killed run goes on."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.audits import read_audit
from moodfuse.cache.errors import InputError
from moodfuse.cache.planning import PlanChoice
from moodfuse.cache.store import FeatureCache
from moodfuse.extract import streaming
from moodfuse.extract.dataset import ingest as examine
from moodfuse.extract.pipeline import RefusedClipsError
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from tests.extract.conftest import DEPTHS, FOLDS, RECIPE, SOURCES, STILL, Runner


class Interrupted(Exception):
    """Stands for a signal that ends the run."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose decoding was asked for."""
    names: list[str] = []
    decode_many = examine.decode_many

    def counted(requests, *, jobs: int, limits):
        def noted() -> Iterator[object]:
            for request in requests:
                names.append(request.path.name)
                yield request

        return decode_many(noted(), jobs=jobs, limits=limits)

    monkeypatch.setattr(examine, "decode_many", counted)
    return names


def files(folder: Path, *rooms: str) -> dict[str, bytes]:
    """Every file of some rooms of a cache."""
    found = (file for room in rooms for file in (folder / room).rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_streaming_gives_the_features_of_kept_media(
    runner, all_depths, begun, tmp_path: Path, monkeypatch
) -> None:
    """Frozen, head and full tuning leave the same files; clips are decoded once, nothing decoded stays anywhere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    runner = Runner(
        all_depths.runner.data, runner.cache, runner.recipe
    )  # the same paths, which clip records hold
    kept, done = all_depths.runner.cache, all_depths.done
    begun.clear()
    options = {"sources": SOURCES, "depths": DEPTHS, "plan": FOLDS, "keep_media": False}
    streamed = runner(**options)
    assert len(begun) == 4 and (streamed.tuned, streamed.embedded) == (done.tuned, done.embedded) == (4, 24)
    rooms = ("features", "networks", "clips", "plans", "audits")
    assert files(runner.cache, *rooms) == files(kept, *rooms)
    assert read_audit(runner.open()) is not None
    assert not (runner.cache / "media").exists() and not list((tmp_path / "temporary").glob("moodfuse-*"))
    assert any(f"4 clips to decode once, past twodmcnn, {STILL}" in line for line in runner.said)
    assert any("RANDOM" in line and STILL in line for line in runner.said)
    again = runner(**options)
    assert (len(begun), again.tuned, again.embedded) == (4, 0, 0) and "nothing to decode" in runner.said[-1]


def test_c3d_does_not_depend_on_other_sources_nor_on_what_is_kept(narrow, tmp_path: Path) -> None:
    """Embeddings of c3d from small media kept for it alone, and from media streamed past i3d too, are equal."""
    for number in range(4):
        label = "excited" if number % 2 else "sad"
        (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
        settings = ClipSettings(duration_s=2.0, width=320, height=240, seed=number)
        make_clip(tmp_path / "clips" / label / f"{number}.mp4", mood=label, settings=settings)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    blocks, sizes = {}, {}
    for name, sources, keep in (("alone", ("c3d",), True), ("past", ("c3d", "i3d"), False)):
        runner = Runner(tmp_path / "clips", tmp_path / name, tmp_path / "tiny.toml")
        runner(sources=sources, depths=dict.fromkeys(sources, "frozen"), plan=FOLDS, keep_media=keep)
        blocks[name] = runner.open().block("c3d", "*")
        sizes[name] = sum(file.stat().st_size for file in (tmp_path / name / "media").rglob("*.h5"))
    assert blocks["past"].digests == blocks["alone"].digests
    assert blocks["past"].embedding.tobytes() == blocks["alone"].embedding.tobytes()
    assert 0 == sizes["past"] < sizes["alone"]


def test_a_streamed_run_that_was_killed_decodes_only_the_rest(runner, all_depths, begun, monkeypatch) -> None:
    """Clips whose features are written are not decoded again; what comes out is what an unbroken run leaves."""
    monkeypatch.setattr(streaming, "CLIPS_PER_PART", 2)
    runner.keep(4)
    options = {"sources": ("twodmcnn", STILL), "depths": DEPTHS, "plan": FOLDS, "keep_media": False}
    write, written = FeatureCache.write_block_part, []

    def breaks(self: FeatureCache, recipe, roles, digests, arrays) -> int:
        written.append(write(self, recipe, roles, digests, arrays))
        if len(written) == 2:
            raise Interrupted
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "write_block_part", breaks)
        with pytest.raises(Interrupted):
            runner(**options)
    begun.clear()
    runner(**options)
    assert len(begun) == 2
    for source, holdout in (("twodmcnn", 0), ("twodmcnn", 1), (STILL, "*")):
        ours, theirs = (cache.block(source, holdout) for cache in (runner.open(), all_depths.runner.open()))
        assert ours.embedding.tobytes() == theirs.embedding.tobytes()


def test_a_kept_run_that_was_killed_decodes_nothing_that_is_in_the_store(runner, begun, monkeypatch) -> None:
    """Killed after two clips, whether before or after the second was kept: the next run leaves out what is there."""
    from moodfuse.cache.media import MediaStore

    write, kept = MediaStore.write, []

    def breaks(self: MediaStore, digest: str, media) -> Path:
        kept.append(write(self, digest, media))
        if len(kept) == 2:
            raise Interrupted
        return kept[-1]

    runner.keep(4)
    with monkeypatch.context() as patch:
        patch.setattr(MediaStore, "write", breaks)
        with pytest.raises(Interrupted):
            runner(plan=FOLDS)
    begun.clear()
    runner(plan=FOLDS)
    assert len(begun) == 2 and len(list((runner.cache / "media").rglob("*.h5"))) == 4


def test_media_that_went_are_decoded_again_and_marks_too(runner, all_depths, begun) -> None:
    """Without media a finished cache needs none; a further source decodes what it reads; lost marks are made anew."""
    runner.keep(4)
    shutil.copytree(all_depths.runner.cache, runner.cache)
    shutil.rmtree(runner.cache / "media")
    begun.clear()
    assert runner(plan=FOLDS).embedded == 0 and not begun
    further = "onedmcnn@seed-sgd"
    runner(plan=FOLDS, sources=("twodmcnn", further), depths={further: "frozen"})
    assert len(begun) == 4
    begun.clear()
    next(iter((runner.cache / "audits").rglob("*.h5"))).unlink()
    assert runner(plan=FOLDS).embedded == 0 and len(begun) == 1


def test_a_video_network_is_not_tuned_whole_without_media(runner) -> None:
    """That is refused before anything is read, with the remedy."""
    full = 'full = { optimizer = "sgd", learning_rate = 1e-5, epochs = 1 }'
    runner.recipe.write_text(runner.recipe.read_text() + full)
    with pytest.raises(InputError, match=r"c3d: tuned whole.*drop --no-keep-media, or use --tune c3d=head"):
        runner(sources=("c3d",), depths={"c3d": "full"}, keep_media=False)
    assert not list(runner.cache.rglob("*.h5"))


def test_nothing_is_computed_before_it_is_known_to_be_of_use(runner, begun) -> None:
    """Folds that cannot be are refused before decoding; strict and dry runs judge every clip before any feature."""
    runner.keep(4)
    with pytest.raises(InputError, match="use --folds 2"):
        runner(plan=PlanChoice(folds=6), keep_media=False)
    assert not begun
    assert runner(plan=FOLDS, keep_media=False, dry_run=True).dry_run and len(begun) == 4
    assert any("2 networks to tune" in line for line in runner.said)
    (runner.data / "sad" / "zero.mp4").write_bytes(b"")
    with pytest.raises(RefusedClipsError, match="1 of 5 clips refused"):
        runner(plan=FOLDS, keep_media=False, strict=True)
    assert not (runner.cache / "features").exists()


def test_a_clip_without_sound_is_streamed_past_video_networks_alone(runner, narrow) -> None:
    """Under --missing impute a mute clip passes c3d and leaves no row of the tagger."""
    runner.keep(4)
    make_clip(
        runner.data / "sad" / "mute.mp4", mood="sad", settings=ClipSettings(2.0, 64, 48, seed=50), audio=False
    )
    done = runner(
        sources=("twodmcnn", "c3d"),
        depths=dict.fromkeys(("twodmcnn", "c3d"), "frozen"),
        plan=PlanChoice(folds=2, seed=3),  # the mute clip shares its fold with a clip of its label
        impute=True,
        keep_media=False,
    )
    assert not done.refused and done.embedded == 4 + 5
    (mute,) = (status for status in runner.open().clips if status.missing)
    block = runner.open().block("c3d", "*")
    assert np.any(block.embedding[block.digests.index(mute.digest)])
    assert runner.open().block("twodmcnn", "*").absent == {mute.digest}
