"""What is refused as a file is opened, and before a picture is made of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extract.media import container
from extract.media.container import MediaError, open_media
from extract.media.pictures import picture_of


def test_a_file_that_goes_before_it_is_opened_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at it and its opening it may vanish."""
    path = tmp_path / "gone.mp4"
    path.write_bytes(b"film")
    check = container._check_regular

    def vanish(found: Path) -> None:
        check(found)
        found.unlink()

    monkeypatch.setattr(container, "_check_regular", vanish)
    with pytest.raises(MediaError, match="no such file"):
        open_media(path)


def test_a_picture_that_grows_into_a_strip_is_refused() -> None:
    """Pixels of another shape count for every picture, not for the first alone, before one is made of it."""
    opened: Any = SimpleNamespace(path=Path("grows.mp4"), pixel_aspect=50.0)
    with pytest.raises(MediaError, match="192000 x 2160"):
        picture_of(SimpleNamespace(width=3840, height=2160), opened)
