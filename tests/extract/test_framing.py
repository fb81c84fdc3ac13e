"""What the framing of an MP3 and of an Ogg shows about lost bytes."""

from pathlib import Path

import pytest
from odd_media import Making, Picture, Sound

from moodfuse.extract.media.framing import matroska_is_complete, mp3_was_longer, ogg_is_damaged


@pytest.fixture
def ogg(tmp_path: Path) -> Path:
    """A whole Ogg of pictures and sound, whose pages are numbered for each."""
    Making(Picture("libvpx", seconds=4.0), (Sound("libopus", seconds=4.0),), "ogg")(tmp_path / "a.ogv")
    return tmp_path / "a.ogv"


def test_whole_and_joined_oggs_are_not_damaged(ogg: Path) -> None:
    """An Ogg whose pages have correct checksums and numbers is not damaged, even if the numbers start again."""
    assert not ogg_is_damaged(ogg)
    ogg.write_bytes(2 * ogg.read_bytes())
    assert not ogg_is_damaged(ogg)


def test_a_missing_page_a_wrong_byte_and_other_bytes_are_damage(ogg: Path) -> None:
    """An Ogg is damaged if one page is missing, one byte is wrong, or other bytes are between two pages."""
    data = ogg.read_bytes()
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    changed = bytearray(data)
    changed[pages[6] - 1] ^= 1
    for damaged in (
        data[: pages[5]] + data[pages[6] :],
        changed,
        data[: pages[5]] + bytes(99) + data[pages[5] :],
    ):
        ogg.write_bytes(damaged)
        assert ogg_is_damaged(ogg)


def test_an_mp3_that_was_cut_names_more_bytes_than_it_has(tmp_path: Path) -> None:
    """A cut MP3 is recognised by its Xing or Info header, also behind tags; without a header it is not."""
    path = tmp_path / "a.mp3"
    Making(None, (Sound("libmp3lame", seconds=4.0),), "mp3")(path)
    data = path.read_bytes()
    assert data.startswith(b"ID3") and not mp3_was_longer(path)
    path.write_bytes(data[: len(data) // 2])
    assert mp3_was_longer(path)
    Making(None, (Sound("libmp3lame", seconds=4.0),), "mp3", {"write_xing": "0"})(path)
    path.write_bytes(path.read_bytes()[: len(data) // 2])
    assert not mp3_was_longer(path)
    path.write_bytes(b"ID3")
    assert not mp3_was_longer(path)


def test_a_matroska_is_complete_with_all_bytes_of_its_segment(tmp_path: Path) -> None:
    """A Matroska file that was cut, or whose segment has no size, is not complete."""
    path = tmp_path / "a.mkv"
    Making(Picture(), (Sound(),), "matroska")(path)
    assert matroska_is_complete(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not matroska_is_complete(path)
    Making(Picture(), (Sound(),), "matroska", {"live": "1"})(path)
    assert not matroska_is_complete(path)
    path.write_bytes(b"\x1a\x45\xdf\xa3\x18\x53\x80\x67")
    assert not matroska_is_complete(path)
