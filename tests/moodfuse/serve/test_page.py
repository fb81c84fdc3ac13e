"""The page of the service in a browser: a video is sent, its label and timeline are shown."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")

from running_service import SLOW_MARK, StandIn, make_clip_bytes, served

from moodfuse.serve.app import render_page
from moodfuse.serve.messages import MIB, Limits

LIMITS = Limits(upload_bytes=2 * MIB, timeline_s=70.0)
SHORT = replace(LIMITS, timeline_s=50.0)
WAIT_MS = 15_000


def test_the_page_names_its_model_and_limits_as_text() -> None:
    """Names with markup stay text, in the page and in its data; only digests of its own may run."""
    nasty = "</script><img src=x onerror=alert(1)>"
    page = render_page(nasty, (nasty, "b"), limits=LIMITS)
    html, policy = bytes(page.body).decode(), page.headers["content-security-policy"]
    assert nasty not in html and "<img" not in html and html.count("<script") == 2
    assert "At most 2 MB" in html
    assert "unsafe" not in policy and policy.count("'sha256-") == 2


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, labeller = tmp_path_factory.mktemp("page"), StandIn(delay_s=1.0)
    with served(labeller, limits=LIMITS, temporary=folder) as running:
        yield f"http://{running.host}:{running.port}/"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute, small."""
    path = tmp_path_factory.mktemp("video") / "song.mp4"
    path.write_bytes(make_clip_bytes(60.0))
    return path


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    """The page in a tab; no message on its console, and no request but to the service and the chosen file."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    messages: list[str] = []
    own = (address, "blob:", "data:")
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: request.url.startswith(own) or messages.append(request.url))
    page.goto(address)
    page.messages = messages
    yield page
    context.close()
    assert messages == []


def wait_until(tab: Any, condition: str) -> None:
    """Wait until a condition holds; the page's policy forbids `wait_for_function`."""
    for _ in range(WAIT_MS // 20):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(20)
    pytest.fail(f"not true in time: {condition}")


def label_video(tab: Any, video: Path) -> None:
    tab.set_input_files("#file", str(video))
    tab.wait_for_selector("#answer:visible")


@pytest.mark.slow
def test_a_video_is_labelled_and_its_time_line_moves_with_it(tab: Any, video: Path) -> None:
    """Label, bars and reasons are there; a click and a key seek; the playhead follows the video."""
    label_video(tab, video)
    assert tab.locator("#claim").inner_text().startswith("Uncertain: most probably ")
    meaning = tab.locator("#meaning").inner_text()
    assert "About 4 of 10 predictions with this probability are expected to be correct" in meaning
    assert tab.locator("#labels tbody tr").count() == 6 and tab.locator("#reasons li").count() == 2
    assert "Without it: " in tab.locator("#reasons").inner_text()
    assert tab.locator("#curves path.curve").count() == 2 * 6 and tab.locator("#curves .gap").count() == 1
    assert "1 of 6 windows could not be read" in tab.locator("#over-time-caption").inner_text()
    now = """[
        document.getElementById('video').currentTime, Number(document.getElementById('curves').ariaValueNow)
    ]"""
    box = tab.locator("#curves").bounding_box()
    tab.mouse.click(box["x"] + 44 + (box["width"] - 56) / 2, box["y"] + 150)
    wait_until(tab, "!document.getElementById('video').seeking")
    assert tab.evaluate(now) == [pytest.approx(30, abs=0.6)] * 2
    assert tab.locator("#now").inner_text().startswith("0:") and "%" in tab.locator("#now").inner_text()
    tab.locator("#curves").focus()
    for key, time_s in (("ArrowRight", 35), ("Home", 0), ("End", 60), ("PageDown", 30)):
        tab.keyboard.press(key)
        wait_until(tab, "!document.getElementById('video').seeking")
        assert tab.evaluate(now) == [pytest.approx(time_s, abs=0.7)] * 2, key
    tab.evaluate("document.getElementById('video').muted = true")
    tab.keyboard.press(" ")
    wait_until(tab, "document.getElementById('video').currentTime > 30.5")
    tab.keyboard.press(" ")
    tab.wait_for_timeout(200)
    shown = tab.evaluate(now)
    assert shown[0] == pytest.approx(shown[1], abs=0.3) and shown[1] > 30.4


@pytest.mark.slow
def test_a_dropped_video_without_a_time_line(tab: Any, video: Path) -> None:
    """Dropping equals choosing; without the box only the label is requested; Tab reaches the button."""
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "file"
    tab.locator("#timeline").uncheck()
    tab.evaluate(
        """async () => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(await (await fetch('/health')).arrayBuffer())], 'x.mp4'));
            window.held = data;
        }"""
    )
    with tab.expect_request("**/predict") as sent:
        tab.evaluate(
            "document.dispatchEvent(new DragEvent('drop', {dataTransfer: window.held, cancelable: true}))"
        )
    assert sent.value.url.endswith("/predict")
    tab.wait_for_selector("#problem:visible")
    assert "Not a video file that can be opened" in tab.locator("#problem").inner_text()
    assert [text for text in tab.messages if "422" not in text] == []
    tab.messages.clear()
    label_video(tab, video)
    assert tab.locator("#over-time:visible").count() == 0 and tab.locator("#problem:visible").count() == 0


@pytest.mark.slow
def test_limits_are_said_before_anything_is_sent(tab: Any, video: Path, tmp_path: Path) -> None:
    """A large file is not sent, a long one has no timeline, and a request can be cancelled."""
    large = {"name": "large.mp4", "mimeType": "video/mp4", "buffer": bytes(LIMITS.upload_bytes + 1)}
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.method))
    tab.set_input_files("#file", files=[large])
    tab.wait_for_selector("#problem:visible")
    assert "large.mp4 is too large: 2.0 MB, at most 2.0 MB" in tab.locator("#problem").inner_text().replace(
        "\xa0", " "
    )
    assert "POST" not in requests
    slow = {"name": "slow.mp4", "mimeType": "video/mp4", "buffer": SLOW_MARK}
    tab.set_input_files("#file", files=[slow])
    wait_until(tab, "document.getElementById('status').textContent.startsWith('Labelling slow.mp4')")
    tab.locator("#cancel").click()
    assert tab.locator("#going:visible").count() == 0 and tab.locator("#problem:visible").count() == 0
    with served(StandIn(), limits=SHORT, temporary=tmp_path) as running:
        address = f"http://{running.host}:{running.port}/"
        tab.goto(address)
        label_video(tab, video)
        tab.messages[:] = [text for text in tab.messages if not text.startswith(address)]
    assert "lasts 1:00, a timeline at most 0:50" in tab.locator("#notes").inner_text()
    assert tab.locator("#over-time:visible").count() == 0


@pytest.mark.slow
def test_axe_and_a_phone(tab: Any, video: Path) -> None:
    """Both colour schemes are accessible, and at 390 pixels nothing is wider than the screen."""
    from axe_playwright_python.sync_playwright import Axe

    label_video(tab, video)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        violations = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
        bad = [
            (violation["id"], violation["nodes"][0]["html"])
            for violation in violations
            if violation["impact"] in ("serious", "critical")
        ]
        assert bad == [], scheme
    tab.set_viewport_size({"width": 390, "height": 800})
    wait_until(tab, "document.querySelector('#curves svg').viewBox.baseVal.width < 390")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_the_page_of_the_api(tab: Any, address: str) -> None:
    """It is accessible in both colour schemes, links to its objects, and fits a phone."""
    from axe_playwright_python.sync_playwright import Axe

    tab.goto(f"{address}api")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        violations = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
        assert [rule["id"] for rule in violations if rule["impact"] in ("serious", "critical")] == [], scheme
    links = tab.eval_on_selector_all("a[href^='#']", "links => links.map(link => link.hash.slice(1))")
    assert links and all(tab.locator(f"[id='{name}']").count() == 1 for name in set(links))
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
