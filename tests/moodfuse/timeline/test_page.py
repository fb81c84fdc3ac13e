"""The page of a timeline: its contents, the address of its video, and its poster."""

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from moodfuse.cache.errors import InputError
from moodfuse.model.predictions import Timeline
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from moodfuse.timeline.page import (
    HEIGHT,
    WIDTH,
    build_page,
    make_poster,
    make_relative_url,
    render_page,
    write_timeline_page,
)

Make = Callable[..., Timeline]
NAMES = (
    "plain.webm",
    "two words & more.webm",
    "100% #1?.webm",
    'it\'s "quoted" <i>.webm',
    "悲しい é.webm",
    "a:b;c+d=e@f.webm",
    "-dash\\back.webm",
    os.fsdecode(b"bytes \xff\xfe.webm"),
)
HOSTILE = (
    '<script>alert("1")</script>',
    "</script><img src=x onerror=alert(2)>",
    "it's \"quoted\" & 'so'",
    "line\nend\ttab\0nul",
    "悲しい é \udcff",
    "{{ 7 * 7 }}\u202egnp.4pm",
)


class Reader(HTMLParser):
    """Elements with their attributes, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def html_of(timeline: Timeline, *, url: str = "clip.webm", threshold: float = 0.5, model: str = "m") -> str:
    return render_page(build_page(timeline, name="clip.webm", url=url, threshold=threshold, model=model))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", [".", "../# other"])
def test_the_address_leads_from_the_page_to_the_video(tmp_path: Path, folder: str, name: str) -> None:
    """Read as a browser reads it, the relative address of any file name is the video's path, byte for
    byte.
    """
    home = tmp_path / "pages"
    (home / folder).mkdir(parents=True, exist_ok=True)
    url = make_relative_url(home / folder / name, home / "page.html")
    assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", url) and not url.startswith("/") and ":" not in url
    led = os.path.normpath(os.path.join(os.fsencode(home), unquote_to_bytes(url)))
    assert led == os.fsencode((home / folder / name).resolve())


def test_the_page_says_what_it_shows(timeline: Make) -> None:
    """Window, hop, model, threshold, the refused windows, a missing view and every label are in the text."""
    html = html_of(replace(timeline(lost=(17, 18)), missing="audio"), threshold=0.45, model="run-3 <best>")
    for text in (
        "a window of 30\u00a0s,",
        "every 5\u00a0s",
        "run-3 &lt;best&gt;",
        "at least 0.45",
        "window 18 (1:25 to 1:55). There is no sound in 17.",
        "could not be read: there is no sound in 18",
        "has no audio",
        *timeline().classes,
    ):
        assert text in html
    assert "All windows could be read." in html_of(timeline())


def test_the_page_asks_for_nothing_but_the_video(timeline: Make) -> None:
    """Every address is within the page, holds its own data or is the video's; the policy allows no other."""
    html = html_of(timeline(lost=(3,)), url="a%20b.webm")
    for _, attributes in Reader(html).found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:", "a%20b.webm"))
        assert not any(name.startswith("on") for name in attributes)
    assert (
        "default-src 'none'; img-src data:; media-src 'self' file:; style-src 'unsafe-inline'; script-src"
        in html
    )
    assert "@import" not in html and "url(" not in html and "http:" not in html and "https:" not in html


def test_hostile_text_stays_text(timeline: Make) -> None:
    """Labels, file, reasons and model with markup, quotes, line ends and stray bytes are shown, not
    obeyed.
    """
    found = timeline(HOSTILE, lost=(2,), file=HOSTILE[1])
    refusals = tuple((row, replace(refusal, detail=HOSTILE[0])) for row, refusal in found.refusals)
    page = build_page(
        replace(found, refusals=refusals), name=HOSTILE[3], url="v", threshold=0.5, model=HOSTILE[5]
    )
    html = render_page(page)
    html.encode("utf-8")
    reader = Reader(html)
    assert len(reader.all("script")) == 2 and not reader.all("img")
    assert not any("onerror" in attributes for _, attributes in reader.found)
    for text in (*HOSTILE, "49gnp", "\u202e", "\0"):
        assert text not in html
    data = json.loads(html.split('id="data">')[1].split("</script>")[0])
    assert data["classes"][3] == "line\\nend\\ttab\\x00nul" and len(data["rows"]) == 43


def test_curves_are_the_probabilities(timeline: Make) -> None:
    """Corners stand at the middles of windows; a gap parts a curve, and a window between two gaps is a
    dot.
    """
    found = timeline(lost=(10, 12))
    page = build_page(found, name="n", url="u", threshold=0.5, model="m")
    assert [line["label"] for line in page["lines"]] == list(range(6))
    for line in page["lines"]:
        corners = [tuple(map(int, corner.split(","))) for part in line["segments"] for corner in part.split()]
        corners += [tuple(map(int, dot.split())) for dot in line["dots"]]
        assert [len(part.split()) for part in line["segments"]] == [10, 30] and len(line["dots"]) == 1
        rows = [*range(10), *range(13, 43), 11]
        expected = [
            found.middles_s / found.duration_s * WIDTH,
            (1 - found.probabilities[:, line["label"]]) * HEIGHT,
        ]
        assert np.abs(np.array(corners) - np.column_stack(expected)[rows]).max() <= 0.5
    assert sum(run["width"] for run in page["band"]) == pytest.approx(100, abs=0.1)
    assert len(page["rows"]) == 43 and [row["numbers"] for row in page["rows"]].count([]) == 2


def test_a_page_is_written_whole_or_not_at_all(timeline: Make, tmp_path: Path) -> None:
    """Neither the video nor an older page is lost to a page that cannot be written."""
    page, own = tmp_path / "page.html", tmp_path / "own.webm"
    page.write_text("old")
    own.write_bytes(b"video")
    settings: dict[str, Any] = {"threshold": 0.5, "model": "m"}
    with pytest.raises(
        InputError, match=r"this is the video itself; give the page another name, such as own\.html"
    ):
        write_timeline_page(timeline(), own, video=own, poster=None, **settings)
    assert own.read_bytes() == b"video" and page.read_text() == "old"
    assert write_timeline_page(timeline(), page, video=own, poster=None, **settings) == page
    assert {item.name for item in tmp_path.iterdir()} == {
        "page.html",
        "own.webm",
    } and "<video" in page.read_text()


def test_a_poster_is_a_small_frame_of_the_video(tmp_path: Path) -> None:
    """A video with or without audio has one; audio alone and a file that is not media have none."""
    small = ClipSettings(duration_s=2.0, width=64, height=48)
    silent = make_clip(tmp_path / "silent.mp4", settings=small, audio=False)
    loud = make_clip(tmp_path / "loud.mp4", settings=ClipSettings(duration_s=2.0, width=800, height=480))
    for path, size in ((silent, (64, 48)), (loud, (450, 270))):
        poster = make_poster(path, 2.0)
        assert poster is not None and len(poster) < 60_000
        with Image.open(io.BytesIO(poster)) as image:
            assert (image.format, image.size) == ("JPEG", size)
    (tmp_path / "text.mp4").write_text("no media")
    audio = make_clip(tmp_path / "audio.mp4", video=False)
    assert [make_poster(path, 2.0) for path in (audio, tmp_path / "text.mp4")] == [None] * 2
