"""The page has every section, loads nothing, escapes every text, and works in a browser."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.audits import Audit, Finding
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.console import printable
from moodfuse.cache.media import Media, MediaStore, Rendition
from moodfuse.cache.records import Clip, ClipStatus, Plan
from moodfuse.cache.runs import Run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.figures import plan_figures
from moodfuse.evaluate.published import compare_with, find_published
from moodfuse.evaluate.report.page import (
    data_uri,
    detailed_results,
    read_thumbnails,
    render_page,
    wrong_rows,
)
from tests.evaluate.conftest import build_run

CLIPS, RESULTS = 36, 4
CLASSES = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")
HOSTILE = (
    '<script>alert("1")</script>',
    "</script><img src=x onerror=alert(2)>",
    "it's \"quoted\" & 'so'",
    "line\nend\ttab\0nul",
    "悲しい é \udcff",
    "{{ 7 * 7 }}\u202egnp.4pm",
)


def full(run: Run) -> Evaluation:
    """An evaluation of a run in which no section is empty."""
    leaky = replace(run, name="leaky-1", protocol="leaky")
    audit = Audit("sound alike", (Finding("sound", run.ids[0], run.ids[1], 0.97, 1.5, 20.0, 6.0, False),))
    return replace(evaluate_run(run, draws=60, leaky=leaky), audit=audit)


def full_page(run: Run) -> str:
    """A page in which no section is empty, with a thumbnail of noise, the largest possible, for each clip."""
    evaluation = full(run)
    comparison = compare_with(evaluation, find_published("zhou2022"))
    noise = data_uri(np.random.default_rng(0).integers(0, 256, (256, 455, 3), dtype=np.uint8))
    return render_page(evaluation, comparison=comparison, thumbnails=dict.fromkeys(range(CLIPS), noise))


def read_elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """Name and attributes of each element."""
    elements: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: elements.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(html)
    return elements


@pytest.fixture(scope="module")
def html() -> str:
    return full_page(build_run(classes=CLASSES))


def test_the_page_has_every_section_in_order(html: str) -> None:
    """Each has its content; the correction for the selection is stated once."""
    wanted = "headline results importance planned confusion classes calibration mistakes detail "
    wanted += "published inflation limitations audit repeat"
    assert " ".join(re.findall(r'<section id="(\w+)"', html)) == wanted
    for text in (
        "corrected for selecting the best of 4 results",
        "Using a trained head instead of the mean",
        "3 exploratory differences",
        "Shapley",
        "sound alike",
        "moodfuse fuse --cache work",
        "--draws 60 --seed 0",
        "ab" * 8,
        f"{35:032x}" * 2,
    ):
        assert text in html
    assert "corrected for the selection it is" not in html


def test_numbers_and_options_are_not_broken() -> None:
    """A p-value stays on one line, and so does an option."""
    run = build_run()
    page = render_page(
        evaluate_run(replace(run, notes=("p < 0.001, 95 % CI 3-5 %: --group-pattern",)), draws=50)
    )
    space = "\u00a0"
    wanted = f'p{space}&lt;{space}0.001, 95{space}% CI <span class="value">3-5{space}%</span>: '
    assert wanted + '<span class="value">--group-pattern</span></li>' in page


def test_a_column_of_notes_needs_notes(html: str) -> None:
    """Without any note on a result the table of all results has no such column."""
    column, run = '<th scope="col">notes</th>', build_run()
    silent = replace(run, results=tuple(replace(result, notes=()) for result in run.results))
    assert column in html and column not in render_page(evaluate_run(silent, draws=50))


def test_empty_sections_have_a_sentence() -> None:
    """A run of one result has no comparison, no audit, no importance and no thumbnails."""
    run = build_run()
    html = render_page(
        evaluate_run(replace(run, results=run.results[:1], digests=(), commands=(), missing=()), draws=30)
    )
    for text in (
        "This cache has no audit",
        "No planned test",
        "No comparison",
        "--combine all",
        "older version",
        "no probabilities from before temperature scaling",
    ):
        assert text in html
    assert "<img" not in html and 'class="placeholder"' not in html


def test_the_page_loads_nothing(html: str) -> None:
    """Every address is within the page, and the policy allows no other; the page is below 2 MB."""
    for _, attributes in read_elements(html):
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attributes)
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html
    assert len(html.encode()) < 2_000_000


def test_hostile_text_stays_text() -> None:
    """Labels, clip names, sources and notes with markup, quotes, line ends and stray bytes are only shown."""
    run = build_run(classes=HOSTILE)
    results = tuple(
        replace(result, sources=(f"{HOSTILE[1]}{result.sources[0]}", *result.sources[1:]))
        for result in run.results
    )
    run = replace(run, results=results, notes=HOSTILE, groups=run.ids, commands=HOSTILE)
    html = render_page(full(run))
    html.encode("utf-8")
    elements = read_elements(html)
    tags = [tag for tag, _ in elements]
    assert tags.count("script") == 2 and "img" not in tags
    assert not any("onerror" in attributes for _, attributes in elements)
    assert not any(text in html for text in HOSTILE)
    assert "49gnp" not in html and "\u202e" not in html and "\0" not in html
    (data,) = re.findall(r'id="data">(.*?)</script>', html)
    assert json.loads(data)["clips"] == [printable(name) for name in run.ids] and "<" not in data


def test_a_leaky_run_is_marked_everywhere() -> None:
    """Title, banner, summary, every caption of ours and every figure have the mark."""
    run = build_run(protocol="leaky")
    html = full_page(run)
    captions = re.findall(r"<(?:caption|figcaption)>(.*?)</", html, re.DOTALL)
    unmarked = [text for text in captions if "LEAKY" not in text]
    assert len(captions) > 10 and all(text.endswith("in zhou2022") for text in unmarked)
    for pattern in ("<title>LEAKY", 'class="banner"', '<p class="claim">LEAKY', "@page { @top-center"):
        assert pattern in html
    assert all(name.endswith("-LEAKY") for name in plan_figures(full(run)))
    assert "LEAKY" not in " ".join(plan_figures(full(build_run())))


def test_matrices_and_mistakes_are_those_of_the_result(html: str) -> None:
    """Cells of each panel add up to the clips; mistakes are wrong, and fall in confidence."""
    cells = np.array(re.findall(r'data-clips="(\d+)"', html), dtype=int)
    assert cells.reshape(RESULTS, 36).sum(axis=1).tolist() == [CLIPS] * RESULTS
    evaluation = evaluate_run(build_run(), draws=20)
    run, table = evaluation.run, evaluation.best.result.probabilities
    confidence = [table[row].max() for row in wrong_rows(evaluation)]
    assert confidence and confidence == sorted(confidence, reverse=True)
    assert all(run.labels[row] != run.classes[table[row].argmax()] for row in wrong_rows(evaluation))
    assert {scored.result.name for scored in detailed_results(evaluation)} == {
        result.name for result in run.results
    }


def test_chosen_settings_are_those_of_the_result(html: str) -> None:
    """A result without them has no such line."""
    assert html.count("by fold, chosen on inner folds") == html.count("C by fold") == 1
    assert "chosen on inner folds under the first fold plan: default, 0.1, 1." in html
    run = build_run()
    *others, scaled = run.results
    page = render_page(evaluate_run(replace(run, results=(*others, replace(scaled, settings=()))), draws=20))
    assert "Temperature by fold: 2.00" in page and "chosen on inner folds" not in page


def test_thumbnails_come_from_the_media_store(tmp_path: Path) -> None:
    """A frame becomes a small JPEG, wrong predictions first; a clip without media has a placeholder."""
    evaluation = evaluate_run(build_run(), draws=20)
    run, order = evaluation.run, wrong_rows(evaluation)
    cache = FeatureCache(tmp_path / "work", create=True)
    statuses = [
        ClipStatus(Clip(name, f"/nowhere/{name}", label), digest, digest, group, ok=True, decoder="test")
        for name, label, group, digest in zip(run.ids, run.labels, run.groups, run.digests, strict=True)
    ]
    store = MediaStore(cache.path / "media", Rendition("picture", "test"))
    for row in order[:3]:
        frames = np.full((32, 90, 160, 3), row, dtype=np.uint8)
        store.write(run.digests[row], Media(frames, np.arange(32.0), np.zeros(16, np.float32), 16))
    plan = Plan(
        folds=run.fold_count,
        seed=run.seed,
        group_rule="declared",
        records=(table_name(statuses),),
        assignment=dict(zip(run.digests, run.folds, strict=True)),
    )
    cache.write_plan(plan, statuses)
    images = read_thumbnails(cache, evaluation)
    assert list(images) == order[:3]
    assert all(uri.startswith("data:image/jpeg;base64,") and len(uri) < 4000 for uri in images.values())
    changed = replace(
        run, digests=tuple("f" * 64 if row == order[0] else run.digests[row] for row in range(36))
    )
    assert list(read_thumbnails(cache, replace(evaluation, run=changed))) == order[1:3]
    assert 'class="placeholder"' in render_page(evaluation, thumbnails={99: "data:,"})
    assert read_thumbnails(FeatureCache(tmp_path / "bare", create=True), evaluation) == {}


# In a browser


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, "utf-8")
    return path.as_uri()


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    """The page in a tab that fails on any console message and any request but that for the page."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: request.url.startswith("data:") or messages.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert messages == [address]


OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true"
SHOW_ALL = f"{OPEN_ALL}; for (const panel of document.querySelectorAll('.panel')) panel.hidden = false"


@pytest.mark.slow
def test_sorting_by_mouse_and_keyboard(tab: Any) -> None:
    """The best is first; a heading reverses the order by click and by Enter, and screen readers are told."""
    column = (
        "[...document.querySelectorAll('#ablation tbody tr')].map(row => Number(row.cells[6].dataset.value))"
    )
    heading = tab.locator("#ablation th", has_text="log loss")
    up = tab.evaluate(column)
    assert up == sorted(up) and heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert tab.evaluate(column) == up[::-1] and heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate(column) == up and heading.get_attribute("aria-sort") == "ascending"
    assert tab.locator("#ablation [aria-sort]").count() == 1
    tab.locator("#filter").fill("softmax c3d")
    assert tab.locator("#ablation tbody tr:visible").count() == 1
    assert tab.locator("#filter-count").inner_text() == f"1 of {RESULTS} results"


@pytest.mark.slow
def test_a_long_table_is_closed(browser: Any) -> None:
    """Of 45 results the figure is shown and the table is opened by its line; a printed page leaves it out."""
    run = build_run()
    more = tuple(replace(run.results[0], sources=(f"c3d@{number}",)) for number in range(41))
    evaluation = evaluate_run(replace(run, results=run.results + more), draws=5)
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_content(render_page(evaluation))
    rows, line = (
        page.locator("#ablation tbody tr:visible"),
        page.locator("summary", has_text="All 45 results"),
    )
    assert rows.count() == 0 and page.locator(".strip:visible").count() == 3 + 41 + 1
    page.emulate_media(media="print")
    assert not line.is_visible()
    page.emulate_media(media="screen")
    line.click()
    assert rows.count() == 45
    context.close()


@pytest.mark.slow
def test_a_cell_lists_its_clips(tab: Any) -> None:
    """Click and Enter on a cell list its clips with thumbnails; the selection changes the result."""
    tab.evaluate(OPEN_ALL)
    tab.locator("#chosen").select_option(index=1)
    assert tab.locator(".panel:visible").count() == 1
    for place, press in (("#confusion", False), (".panel:visible", True)):
        button = tab.locator(f"{place} .confusion td button").first
        if press:
            button.focus()
            tab.keyboard.press("Enter")
        else:
            button.click()
        shown = tab.locator(f"{place} .cell-clips li")
        assert shown.count() == int(button.locator("..").get_attribute("data-clips")) > 0
        assert shown.locator("img").count() == shown.count()


@pytest.mark.slow
def test_axe_finds_nothing_serious(tab: Any) -> None:
    """With everything open, contrast, names, headings and landmarks are accessible, light and dark."""
    from axe_playwright_python.sync_playwright import Axe

    tab.locator(".confusion td button").first.click()
    tab.evaluate(OPEN_ALL)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        violations = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [one for one in violations if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("media", "width", "height"), [("screen", 390, 800), ("print", 703, 1032), ("print", 1032, 703)]
)
def test_nothing_is_wider_than_a_phone_or_the_paper(tab: Any, media: str, width: int, height: int) -> None:
    """At 390 pixels, and on A4 without margins, upright and landscape, with everything open."""
    tab.emulate_media(media=media)
    tab.set_viewport_size({"width": width, "height": height})
    tab.evaluate(SHOW_ALL)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width + (media == "print")


@pytest.mark.slow
def test_without_javascript_everything_is_shown(browser: Any, address: str) -> None:
    """The table has every row, and the other results in detail are all in one place."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#ablation tbody tr:visible").count() == RESULTS
    page.locator("#detail summary").first.click()
    assert page.locator(".panel:visible").count() == RESULTS - 1
    assert page.locator(".control:visible").count() == 0
    context.close()
