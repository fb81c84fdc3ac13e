"""The script of the page of a timeline, in a browser: playhead, seeking, values at a time, and layout."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from moodfuse.model.predictions import Timeline
from moodfuse.timeline.page import make_poster, make_relative_url, write_timeline_page

Make = Callable[..., Timeline]
SECONDS, RATE = 12, 5


def make_video(path: Path) -> Path:
    """A silent WebM (VP8) of 12 s at 5 pictures a second, each second another grey, with a key frame every
    second.
    """
    with av.open(str(path), "w", format="webm") as media:
        stream = media.add_stream("libvpx", rate=RATE, options={"g": str(RATE), "deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(SECONDS * RATE):
            grey = np.full((48, 64, 3), 20 * (number // RATE), dtype=np.uint8)
            grey[:24] += 15
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = number
            media.mux(stream.encode(frame))
        media.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "clip.webm")


@pytest.fixture(scope="module")
def poster(video: Path) -> bytes:
    found = make_poster(video, SECONDS)
    assert found is not None
    return found


def short(make: Make, **settings: Any) -> Timeline:
    """Nine windows of 4 s, one each second, over the test's video."""
    return make(windows=9, hop_s=1.0, window_s=4.0, **settings)


@pytest.fixture
def open_page(browser: Any, video: Path, poster: bytes, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the page of a timeline; it may ask for nothing but itself and its video, and complain of
    nothing.
    """
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(timeline: Timeline, *, width: int = 1400, script: bool = True) -> Any:
        copy = tmp_path / "clip.webm"
        copy.write_bytes(video.read_bytes())
        path = tmp_path / "page.html"
        write_timeline_page(timeline, path, video=copy, threshold=0.5, model="m", poster=poster)
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        allowed = (path.as_uri(), f"{tmp_path.as_uri()}/{make_relative_url(copy, path)}")
        page.on(
            "request",
            lambda asked: asked.url in allowed or asked.url[:5] == "data:" or complaints.append(asked.url),
        )
        page.goto(path.as_uri())
        if script:
            until(page, "document.getElementById('video').readyState >= 2")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


PLACE = f"parseFloat(playhead.style.left) / 100 * {SECONDS}"
"""Where the playhead is, in seconds; elements with an id are names to a script."""
NOW = "video.currentTime"
SETTLED = "!video.seeking"


def until(page: Any, true: str) -> None:
    """Wait for a condition; playwright's own way would ask the page to evaluate text, which its policy
    forbids.
    """
    end_s = time.monotonic() + 20
    while not page.evaluate(true):
        assert time.monotonic() < end_s, f"never came: {true}"
        page.wait_for_timeout(10)


def pressed_s(page: Any, share: float) -> tuple[float, float]:
    """Press the curves at a share of their width; where the video is then, and seconds a pixel."""
    box = page.locator("#plot .area").bounding_box()
    page.mouse.click(box["x"] + share * box["width"], box["y"] + 60)
    until(page, SETTLED)
    return page.evaluate(NOW), SECONDS / box["width"]


@pytest.mark.slow
def test_the_playhead_follows_the_video(open_page: Callable[..., Any], timeline: Make) -> None:
    """While the video plays, the playhead keeps to it, within 0.2 s at worst; where the video is put, it is
    at once.
    """
    page = open_page(short(timeline))
    page.locator("#plot").focus()
    page.keyboard.press(" ")
    until(page, f"{NOW} > 0.6")
    behind = page.evaluate(f"""new Promise(done => {{
      const found = [], look = () => {{
        found.push(Math.abs({NOW} - {PLACE}));
        if (found.length < 40) requestAnimationFrame(look); else done(found);
      }};
      requestAnimationFrame(look);
    }})""")
    assert np.median(behind) <= 0.05 and max(behind) <= 0.2
    page.evaluate("video.pause(); video.currentTime = 7.3")
    until(page, f"{SETTLED} && Math.abs({PLACE} - 7.3) < 0.001")
    assert page.locator("#when").inner_text() == "At 0:07"
    values = short(timeline).probabilities[5]  # the window from 5 to 9 s, whose middle is nearest
    assert page.locator("#labels .value").all_inner_texts() == [f"{value:.2f}" for value in values.round(3)]


@pytest.mark.slow
def test_a_click_seeks_and_keys_seek(open_page: Callable[..., Any], timeline: Make) -> None:
    """A click goes to its moment within a pixel; arrow keys go a hop, Page Up a window, Home and End to the
    ends.
    """
    page = open_page(short(timeline))
    for share in (0.75, 0.1, 0.5):
        found, pixel_s = pressed_s(page, share)
        assert abs(found - share * SECONDS) <= pixel_s + 0.001
        assert page.evaluate(PLACE) == pytest.approx(found, abs=0.001)
    page.evaluate("video.currentTime = 3")
    until(page, f"{SETTLED} && {PLACE} == 3")
    page.locator("#plot").focus()
    moves = (("ArrowRight", 4), ("ArrowUp", 5), ("ArrowLeft", 4), ("PageUp", 8), ("PageDown", 4), ("Home", 0))
    for key, expected in moves:
        page.keyboard.press(key)
        until(page, SETTLED)
        assert page.evaluate(NOW) == pytest.approx(expected, abs=0.001)
        assert float(page.locator("#plot").get_attribute("aria-valuenow")) == pytest.approx(
            expected, abs=0.06
        )
    press = "plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    page.evaluate(f"for (let times = 0; times < 20; times += 1) {press}")  # faster than the video seeks
    until(page, f"{SETTLED} && {NOW} > 11.9")
    assert page.locator("#plot").get_attribute("role") == "slider"
    assert page.locator("#plot").get_attribute("aria-valuetext").startswith("0:12, ")


@pytest.mark.slow
def test_pointing_reads_a_moment_and_a_name_leaves_its_curve(
    open_page: Callable[..., Any], timeline: Make
) -> None:
    """The numbers under the mouse are those of the nearest window, a gap says so, and a pressed name fades
    the rest.
    """
    found = short(timeline, lost=(6,))
    page = open_page(found)
    box = page.locator("#plot .area").bounding_box()

    def pointed(at_s: float) -> str:
        page.mouse.move(box["x"] + at_s / SECONDS * box["width"], box["y"] + 80)
        return str(page.locator("#tip").inner_text())

    text = pointed(4.1)
    assert "0:04" in text and "window 0:02 to 0:06" in text
    assert all(f"{value:.2f}" in text for value in found.probabilities[2].round(3))
    assert "could not be read" in pointed(8.0)
    page.mouse.move(5, 5)
    assert page.locator("#tip:visible").count() == 0 and page.evaluate(NOW) == 0
    page.get_by_role("button", name="fear").click()
    shown = "[...document.querySelectorAll('.lines .picked')].map(line => line.dataset.label)"
    assert page.evaluate(shown) == ["1"] and page.locator(".lines.picking").count() == 1
    page.get_by_role("button", name="fear").click()
    assert page.locator(".picking").count() == 0


@pytest.mark.slow
def test_without_javascript_all_is_there(open_page: Callable[..., Any], timeline: Make) -> None:
    """Curves, names, band, poster, means and table show where scripts are off, and nothing that needs one."""
    page = open_page(short(timeline, lost=(4,)), script=False)
    assert page.locator(".lines polyline").count() == 12 and page.locator("#labels li:visible").count() == 6
    assert (
        page.locator(".run:visible").count() > 2
        and page.locator("#when").inner_text() == "Mean over the video"
    )
    assert page.locator("#video").get_attribute("poster").startswith("data:image/jpeg")
    assert "If nothing plays" in page.locator(".source").inner_text()
    assert page.locator(".hint:visible, .playhead:visible, #broken:visible, [role=slider]").count() == 0
    page.locator("summary").click()
    assert page.locator("tbody tr:visible").count() == 9


@pytest.mark.slow
def test_a_video_that_cannot_be_played_is_said(browser: Any, timeline: Make, tmp_path: Path) -> None:
    """Where the file is gone or is no video, the page says so, and its curves can still be gone through."""
    (tmp_path / "text.webm").write_text("no video")
    page = browser.new_page()
    for name in ("gone.webm", "text.webm"):
        html = tmp_path / f"{name}.html"
        write_timeline_page(
            short(timeline), html, video=tmp_path / name, threshold=0.5, model="m", poster=None
        )
        page.goto(html.as_uri())
        page.locator("#broken:visible").wait_for()
        assert "cannot be played" in page.locator("#broken").inner_text()
        box = page.locator("#plot .area").bounding_box()
        page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 20)
        assert page.locator("#when").inner_text() in ("At 0:05", "At 0:06")
        page.keyboard.press("End")
        assert page.locator("#when").inner_text() == "At 0:12"
    page.close()


@pytest.mark.slow
def test_axe_finds_nothing(open_page: Callable[..., Any], timeline: Make) -> None:
    """With all of it open, light and dark, contrast, names, headings and landmarks keep no reader out."""
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(short(timeline, lost=(4,)))
    page.evaluate("document.querySelector('details').open = true")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(item["id"], item["nodes"][0]["html"]) for item in found] == []


OVERLAPS = """selector => {
  const all = [...document.querySelectorAll(selector)].map(item => item.getBoundingClientRect());
  const boxes = all.filter(box => box.width);
  const overlap = (one, other) => one.left < other.right && other.left < one.right
    && one.top < other.bottom - 1 && other.top < one.bottom - 1;
  const overlaps = (box, at) => boxes.slice(0, at).some(other => overlap(box, other));
  return [boxes.length, boxes.filter(overlaps).length];
}"""


@pytest.mark.slow
def test_nothing_overlaps_and_a_phone_does_not_scroll_sideways(
    open_page: Callable[..., Any], timeline: Make
) -> None:
    """Six labels, or 20 long labels and 1 000 windows: times and names stand apart at 390 and 1400 px."""
    many = timeline(
        [f"an emotion of a very long name, {place}" for place in range(20)], windows=1000, lost=(3,)
    )
    for found in (timeline(), many):
        page = open_page(found, width=390)
        for width in (390, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            for selector, least in ((".times span", 3), (".names > span", 6 if width == 1400 else 0)):
                count, overlapping = page.evaluate(OVERLAPS, selector)
                assert count >= least and overlapping == 0
