"""Files that disappear between hashing and decoding, refusals of older rules, and which files are hashed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.cache.digests import clip_digest
from moodfuse.cache.records import Clip, Outcome
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset import ingest
from moodfuse.extract.dataset.ingest import DecodeSettings, decode_dataset, hash_files
from moodfuse.extract.media.decode import MEDIA_RULES
from moodfuse.extract.media.limits import MAX_FILE_BYTES
from moodfuse.synthetic_corpus import ClipSettings, make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """A clip of one second."""
    return Clip("a", str(make_clip(tmp_path / "a.mp4", settings=ClipSettings(1.0, 64, 48))), "sad")


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """An empty cache."""
    return FeatureCache(tmp_path / "work", create=True)


def test_a_file_that_was_away_is_read_when_it_is_back(
    clip: Clip, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that disappears after it was hashed is not refused for good."""
    hashed = hash_files([clip])
    monkeypatch.setattr(ingest, "hash_files", lambda _: hashed)
    Path(clip.path).rename(tmp_path / "away.mp4")
    assert [status.reason for status in decode_dataset(cache, [clip], DecodeSettings(1))] == ["missing"]
    (tmp_path / "away.mp4").rename(clip.path)
    assert [status.ok for status in decode_dataset(cache, [clip], DecodeSettings(1))] == [True]


def test_a_file_that_changes_after_hashing_is_refused(
    clip: Clip, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored of a file whose content is not what its digest names; the next run reads it."""
    decoded: list[str] = []
    decoding = DecodeSettings(1, on_decoded=lambda digest, clip, media: decoded.append(digest))

    def hash_and_change(clips: list[Clip]) -> dict[str, str]:
        digests = hash_files(clips)
        make_clip(Path(clip.path), settings=ClipSettings(1.5, 64, 48, seed=1))
        return digests

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "hash_files", hash_and_change)
        assert [status.reason for status in decode_dataset(cache, [clip], decoding)] == ["changed"]
    assert not decoded
    assert [status.ok for status in decode_dataset(cache, [clip], decoding)] == [True] and len(decoded) == 1


def test_a_refusal_of_older_rules_is_tried_again(clip: Clip, cache: FeatureCache, tmp_path: Path) -> None:
    """Clips that earlier decoder rules refused are read again; clips refused by the current rules are not."""
    digest = clip_digest(hash_files([clip])["a"], 0.0, None)
    old = Outcome(digest, ok=False, reason="decode_failed", detail="a gap", decoder=MEDIA_RULES)
    cache.write_outcome(old)
    assert [status.ok for status in decode_dataset(cache, [clip], DecodeSettings(1))] == [True]
    other = FeatureCache(tmp_path / "other", create=True)
    other.write_outcome(replace(old, decoder=ingest.REFUSAL_RULES))
    assert [status.reason for status in decode_dataset(other, [clip], DecodeSettings(1))] == ["decode_failed"]


def test_hashing_reads_regular_files_up_to_the_limit(tmp_path: Path) -> None:
    """A pipe and a file above the limit are not read."""
    huge, pipe = (tmp_path / name for name in ("huge.mp4", "pipe.mp4"))
    with huge.open("wb") as stream:
        try:
            stream.truncate(MAX_FILE_BYTES + 1)
        except OSError as error:
            pytest.skip(f"the file system holds no such file: {error}")
    os.mkfifo(pipe)
    clips = [Clip(path.stem, str(path), "sad") for path in (huge, pipe)]
    assert hash_files(clips) == {"huge": "", "pipe": ""}
