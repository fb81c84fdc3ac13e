"""Which bytes of which files are hashed: of what is no file, grows or is too large, none or no more."""

import os
from pathlib import Path

import pytest

from moodfuse.cache.records import Clip
from moodfuse.extract.dataset import ingest as hashing
from moodfuse.extract.dataset.ingest import hash_files
from moodfuse.extract.media.limits import MAX_FILE_BYTES

HASH_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_that_is_too_large_is_not_hashed(tmp_path: Path) -> None:
    """What is refused for its size costs no time before: its bytes, if only zeros of a sparse file, are not read."""
    path = tmp_path / "huge.mp4"
    with path.open("wb") as stream:
        try:
            stream.truncate(MAX_FILE_BYTES + 1)
        except OSError as error:
            pytest.skip(f"the file system holds no such file: {error}")
    assert hash_files([Clip("huge", str(path), "sad")]) == {"huge": ""}


def test_no_more_is_hashed_than_a_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows while it is read, or gives bytes for ever though it has none, comes to an end."""
    path = tmp_path / "grows.mp4"
    path.write_bytes(b"grown")
    size_before = os.stat_result((0o100644, 1, 1, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda _: size_before)
    assert hashing._hash(path) == HASH_OF_NOTHING
