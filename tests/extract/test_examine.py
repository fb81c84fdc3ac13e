"""What becomes of files that go, or become others, between their hashing and their decoding."""

from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.cache.digests import clip_digest
from moodfuse.cache.records import Clip, Outcome
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset import ingest as examining
from moodfuse.extract.dataset.ingest import Decoding, examine, hash_files
from moodfuse.extract.media.renditions import MEDIA_RULES
from moodfuse.synthetic_corpus import ClipSettings, make_clip


def test_a_file_that_was_away_is_read_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it went after it was hashed is no judgement on its bytes."""
    path = make_clip(tmp_path / "a.mp4", settings=ClipSettings(1.0, 64, 48))
    cache, clips = FeatureCache(tmp_path / "work", create=True), [Clip("a", str(path), "sad")]
    hashed = hash_files(clips)
    monkeypatch.setattr(examining, "hash_files", lambda _: hashed)
    path.rename(tmp_path / "away.mp4")
    assert [found.reason for found in examine(cache, clips, Decoding(1))] == ["missing"]
    (tmp_path / "away.mp4").rename(path)
    assert [found.ok for found in examine(cache, clips, Decoding(1))] == [True]


def test_nothing_is_kept_of_a_file_that_becomes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the other can be read or not: it is not the one that the record would name."""
    path = make_clip(tmp_path / "a.mp4", settings=ClipSettings(1.0, 64, 48))
    other = make_clip(tmp_path / "b.mp4", settings=ClipSettings(1.0, 64, 48, seed=1)).read_bytes()
    cache, clips = FeatureCache(tmp_path / "work", create=True), [Clip("a", str(path), "sad")]
    first = path.read_bytes()
    taken: list[str] = []
    decoding = Decoding(1, on_decoded=lambda digest, clip, decoded: taken.append(digest))
    for bytes_then in (b"half copied", other):
        with monkeypatch.context() as patch:

            def replaced(found: list[Clip], bytes_then: bytes = bytes_then) -> dict[str, str]:
                digests = hash_files(found)
                path.write_bytes(bytes_then)
                return digests

            patch.setattr(examining, "hash_files", replaced)
            assert [found.reason for found in examine(cache, clips, decoding)] == ["changed"] and not taken
        path.write_bytes(first)
    assert [found.ok for found in examine(cache, clips, decoding)] == [True] and len(taken) == 1


def test_a_refusal_of_older_rules_is_tried_again(tmp_path: Path) -> None:
    """Clips that earlier decoder rules refused are read again; clips refused by the current rules are not."""
    path = make_clip(tmp_path / "a.mp4", settings=ClipSettings(1.0, 64, 48))
    cache, clips = FeatureCache(tmp_path / "work", create=True), [Clip("a", str(path), "sad")]
    digest = clip_digest(hash_files(clips)["a"], 0.0, None)
    old = Outcome(digest, ok=False, reason="decode_failed", detail="a gap", decoder=MEDIA_RULES)
    cache.write_outcome(old)
    assert [found.ok for found in examine(cache, clips, Decoding(1))] == [True]
    other = FeatureCache(tmp_path / "other", create=True)
    other.write_outcome(replace(old, decoder=examining.REFUSAL_RULES))
    assert [found.reason for found in examine(other, clips, Decoding(1))] == ["decode_failed"]
