"""The page has every section, loads and runs nothing but its own, escapes every text, and works in a browser."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
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
from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.figures import figure_plan
from moodfuse.evaluate.intervals import Interval
from moodfuse.evaluate.paired import InflatedResult, Inflation
from moodfuse.evaluate.published import compare_with, find_published
from moodfuse.evaluate.report.page import (
    confident_mistakes,
    data_uri,
    pictured_clips,
    read_thumbnails,
    render_page,
)
from moodfuse.evaluate.results import RepeatedScore
from moodfuse.evaluate.shapley import SourceImportance

CLIPS, LIMIT = 52, 3_000_000
CLASSES = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")
HOSTILE = (
    '<script>alert("1")</script>',
    "</script><img src=x onerror=alert(2)>",
    "it's \"quoted\" & 'so'",
    "line\nend\ttab\0nul",
    "悲しい é \udcff",
    "{{ 7 * 7 }}\u202egnp.4pm",
)


def make_run(*, protocol: str = "crossfit", classes: tuple[str, ...] = CLASSES, clips: int = CLIPS) -> Run:
    """Five results over random clips, some without audio."""
    rng = np.random.default_rng(0)
    y_true = np.arange(clips) % len(classes)

    def drawn(strength: float) -> np.ndarray:
        return (1 - strength) * rng.dirichlet(np.ones(len(classes)), clips) + strength * np.eye(len(classes))[
            y_true
        ]

    def result(sources: tuple[str, ...], head: str, strength: float, notes: tuple[str, ...] = ()) -> Result:
        temperatures = tuple(1.5 for _ in range(4))
        return Result(sources, head, "logits", drawn(strength), notes, drawn(strength), temperatures)

    return Run(
        name="run-1",
        protocol=protocol,
        classes=tuple(sorted(classes)),
        ids=tuple(f"{sorted(classes)[row % len(classes)]}/{row:03d}.mp4" for row in range(clips)),
        labels=tuple(sorted(classes)[row % len(classes)] for row in range(clips)),
        groups=tuple(f"group {row // 2}" for row in range(clips)),
        folds=tuple(row // 2 % 4 for row in range(clips)),
        fold_count=4,
        seed=7,
        recipes=(("c3d", "ab" * 8), ("twodmcnn", "cd" * 8)),
        results=(
            result(("c3d",), "network", 0.25),
            result(("twodmcnn",), "network", 0.3),
            result(("c3d", "twodmcnn"), "softmax", 0.35),
            result(("c3d", "twodmcnn"), "mean", 0.32),
            result(("c3d", "twodmcnn"), "lightgbm", 0.2, ("uncalibrated",)),
        ),
        digests=tuple(f"{row:032x}{row:032x}" for row in range(clips)),
        missing=tuple(("sound",) if row % 9 == 0 else () for row in range(clips)),
        commands=("moodfuse extract clips --cache work --crossfit", "moodfuse fuse --cache work"),
        versions=(("numpy", "2.3"),),
    )


def full(run: Run) -> Evaluation:
    """An evaluation of a run in which no section is empty."""
    found = evaluate_run(run, draws=60)
    near = Interval(-0.02, 0.2)
    importance = tuple(
        SourceImportance(source, head, "logits", 0.4, 0.1, near, 0.05, near)
        for head in ("mean", "softmax")
        for source in ("c3d", "twodmcnn")
    )
    paired = tuple(
        replace(test, verdict=verdict)
        for test, verdict in zip(
            found.paired, ("better", "worse", "cannot tell") * len(found.paired), strict=False
        )
    )
    leak = Inflation(
        "run-1", "leaky-1", (InflatedResult("c3d network logits", 0.4, 0.9, 0.5, near),), 0.5, near
    )
    audit = Audit("sound alike", (Finding("sound", run.ids[0], run.ids[1], 0.97, 1.5, 20.0, 6.0, False),))
    repeated = tuple(replace(item, repeated=RepeatedScore(3, 0.5, 0.02, near)) for item in found.scored)
    return replace(found, importance=importance, paired=paired, inflation=leak, audit=audit, scored=repeated)


@cache
def pictures(clips: int = CLIPS) -> dict[int, str]:
    """Thumbnails of noise: the largest possible."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (clips, 256, 455, 3), dtype=np.uint8)
    return {row: data_uri(frame) for row, frame in enumerate(frames)}


def full_page(run: Run, thumbnails: dict[int, str] | None = None) -> str:
    """A page in which no section is empty."""
    found = full(run)
    comparison = compare_with(found, find_published("zhou2022"))
    return render_page(found, comparison=comparison, thumbnails=thumbnails)


class Reader(HTMLParser):
    """Elements with their attributes and text, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.found if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return full_page(make_run(), pictures())


def test_the_page_has_every_section_in_order(html: str) -> None:
    """Each has its content."""
    wanted = "headline results paired importance detail folds mistakes published inflation audit repeat"
    assert " ".join(re.findall(r'<section id="(\w+)"', html)) == wanted
    for text in (
        "corrected for selecting the best of 5 results",
        "better than",
        "no significant difference",
        "Shapley",
        "sound alike",
    ):
        assert text in html
    for text in (
        "moodfuse extract clips --cache work --crossfit",
        "--draws 60 --seed 0",
        "ab" * 8,
        f"{51:032x}" * 2,
    ):
        assert text in html


def test_empty_sections_have_a_sentence() -> None:
    """A run of one result has no comparison, no audit, no importance and no pictures."""
    run = make_run()
    one = replace(run, results=(replace(run.results[0], unscaled=None),), digests=(), commands=(), missing=())
    html = render_page(evaluate_run(one, draws=30))
    for text in (
        "This cache has no audit",
        "No comparison",
        "--combine all",
        "older version",
        "no probabilities from before temperature scaling",
    ):
        assert text in html
    assert "<img" not in html and "placeholder&quot;" not in html and 'class="placeholder"' not in html


def test_the_page_loads_nothing(html: str) -> None:
    """Every address is within the page or holds its own data, and the policy allows no other."""
    reader = Reader(html)
    for _, attributes, _ in reader.found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html
    assert not any(name.startswith("on") for _, attributes, _ in reader.found for name in attributes)


def test_the_page_is_small_and_the_same_every_time(html: str) -> None:
    """52 clips with the largest thumbnails take less than 3 MB, and give the same bytes again."""
    assert len(html.encode()) < LIMIT
    assert full_page(make_run(), pictures()) == html


def test_it_reads_without_its_script(html: str) -> None:
    """Rows are sorted, every result in detail is shown, and controls that need the script are hidden."""
    rows = re.findall(r'<td class="n wide" data-value="([\d.]+)"><span class="value">[\d.]+ <span', html)[:5]
    assert rows == sorted(rows, key=float, reverse=True) and len(set(rows)) > 1
    reader = Reader(html)
    panels = [item for item in reader.all("section") if item.get("class") == "panel"]
    assert len(panels) == 5 and not any("hidden" in item for item in panels)
    assert all("hidden" in item for item in reader.all("p") if item.get("class") in ("control", "hint"))
    assert not reader.all("button")


def test_hostile_text_stays_text() -> None:
    """Labels, clip names, sources and notes with markup, quotes, line ends and stray bytes are only shown."""
    run = make_run(classes=HOSTILE)
    nasty = HOSTILE[1]
    results = tuple(
        replace(item, sources=(f"{nasty}{item.sources[0]}", *item.sources[1:])) for item in run.results
    )
    run = replace(
        run, results=results, notes=HOSTILE, groups=tuple(map(str.upper, run.ids)), commands=HOSTILE
    )
    html = render_page(full(run))
    html.encode("utf-8")
    reader = Reader(html)
    assert len(reader.all("script")) == 2 and not reader.all("img")
    assert not any("onerror" in attributes for _, attributes, _ in reader.found)
    for text in HOSTILE:
        assert text not in html and printable(text).isprintable()
    assert "49gnp" not in html and "\u202e" not in html and "\0" not in html
    data = next(
        "".join(text) for tag, item, text in reader.found if tag == "script" and item.get("id") == "data"
    )
    assert json.loads(data)["clips"] == [printable(name) for name in run.ids] and "<" not in data


def test_a_leaky_run_is_marked_everywhere() -> None:
    """Title, banner, summary, every caption of ours and every figure have the mark."""
    run = make_run(protocol="leaky")
    html = full_page(run)
    captions = re.findall(r"<(?:caption|figcaption)>(.*?)</", html, re.DOTALL)
    assert len(captions) > 10
    assert [text for text in captions if "LEAKY" not in text] == [
        text for text in captions if ", zhou2022, " in text
    ]
    for pattern in ("<title>LEAKY", 'class="banner"', '<p class="claim">LEAKY', "@page { @top-center"):
        assert pattern in html
    assert all(name.endswith("-LEAKY") for name, _ in figure_plan(full(run)))
    assert "LEAKY" not in " ".join(name for name, _ in figure_plan(full(make_run())))


def test_matrices_and_mistakes_are_those_of_the_result(html: str) -> None:
    """Cells of each panel add up to the clips; mistakes are wrong, and fall in confidence."""
    cells = [int(count) for count in re.findall(r'data-clips="(\d+)"', html)]
    assert (
        len(cells) == 5 * 36
        and [sum(cells[start : start + 36]) for start in range(0, 180, 36)] == [CLIPS] * 5
    )
    evaluation = evaluate_run(make_run(), draws=20)
    run, table = evaluation.run, evaluation.best.result.probabilities
    mistakes = confident_mistakes(evaluation)
    found = [table[row].max() for row in mistakes]
    assert 0 < len(found) <= 12 and found == sorted(found, reverse=True)
    assert all(run.labels[row] != run.classes[table[row].argmax()] for row in mistakes)


def test_pictured_clips_are_limited_and_begin_with_the_mistakes() -> None:
    """A large run shows its most important clips."""
    found = evaluate_run(make_run(), draws=20)
    chosen = pictured_clips(found, limit=15)
    assert len(set(chosen)) == 15
    shown = confident_mistakes(found)
    assert shown and list(chosen[: len(shown)]) == shown
    assert set(pictured_clips(found)) == set(range(CLIPS))


def make_cache(folder: Path, run: Run, *, kept: int) -> FeatureCache:
    """A cache with the clips of a run, of which the first few have media."""
    cache = FeatureCache(folder, create=True)
    rows = list(zip(run.ids, run.labels, run.groups, run.digests, strict=True))
    statuses = [
        ClipStatus(
            Clip(name, f"/nowhere/{number}.mp4", label), digest, digest, group, ok=True, decoder="test"
        )
        for number, (name, label, group, digest) in enumerate(rows)
    ]
    store = MediaStore(cache.path / "media", Rendition("picture", "test"))
    for status in statuses[:kept]:
        frames = np.full((32, 90, 160, 3), int(status.digest[:32], 16), dtype=np.uint8)
        store.write(status.digest, Media(frames, np.arange(32.0), np.zeros(16, np.float32), 16))
    plan = Plan(
        folds=run.fold_count,
        seed=run.seed,
        group_rule="declared",
        records=(table_name(statuses),),
        assignment=dict(zip(run.digests, run.folds, strict=True)),
    )
    cache.write_plan(plan, statuses)
    write_run(cache, run)
    return cache


def test_thumbnails_come_from_the_media_store(tmp_path: Path) -> None:
    """A stored frame becomes a small JPEG; a clip without media, or with another file, has a placeholder."""
    run = make_run(clips=12)
    work = make_cache(tmp_path / "work", run, kept=5)
    found = read_thumbnails(work, run, range(12))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(uri.startswith("data:image/jpeg;base64,") and len(uri) < 4000 for uri in found.values())
    assert read_thumbnails(work, replace(run, digests=("f" * 64, *run.digests[1:])), [0, 1]).keys() == {1}
    html = render_page(evaluate_run(make_run(), draws=20), thumbnails={99: "data:,"})
    assert 'class="placeholder"' in html
    assert read_thumbnails(FeatureCache(tmp_path / "bare", create=True), run, range(12)) == {}


# In a browser


def written(html: str, folder: Path) -> str:
    """Address of a page in a file."""
    (folder / "report.html").write_text(html, "utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    return written(full_page(make_run(), pictures()), folder)


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


OPEN_ALL = "for (const item of document.querySelectorAll('details')) item.open = true"
SHOW_ALL = f"{OPEN_ALL}; for (const item of document.querySelectorAll('.panel')) item.hidden = false"


@pytest.mark.slow
def test_sorting_by_mouse_and_keyboard(tab: Any) -> None:
    """A heading sorts by click and by Enter, reverses on the next, and has its order for screen readers."""
    column = (
        "[...document.querySelectorAll('#ablation tbody tr')].map(row => Number(row.cells[6].dataset.value))"
    )
    heading = tab.locator("#ablation th", has_text="log loss")
    heading.locator("button").click()
    up = tab.evaluate(column)
    assert up == sorted(up) and heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate(column) == up[::-1] and heading.get_attribute("aria-sort") == "descending"
    assert tab.locator("#ablation [aria-sort]").count() == 1
    tab.locator("#filter").fill("softmax c3d")
    assert tab.locator("#ablation tbody tr:visible").count() == 1
    assert tab.locator("#filter-count").inner_text() == "1 of 5 results"


@pytest.mark.slow
def test_a_long_table_begins_with_its_first_rows(browser: Any, tmp_path: Path) -> None:
    """Of 45 results the first 20 in the current order are shown; a button and a printed page show all."""
    run = make_run()
    fused = [item for item in run.results if item.head != "network"]
    heads = tuple(replace(item, head=f"{item.head}{number}") for number in range(8) for item in fused)
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    long = replace(run, results=run.results + heads + more_networks(run))
    found = evaluate_run(long, draws=20)
    page.goto(written(render_page(found), tmp_path))
    rows = page.locator("#ablation tbody tr:visible")
    assert rows.count() == 20 and page.locator("#more").inner_text() == "Show all 45 results"
    shown = "[...document.querySelectorAll('#ablation tbody tr:not(.tail)')]"
    column = f"{shown}.map(row => Number(row.cells[6].dataset.value))"
    page.locator("#ablation th", has_text="log loss").locator("button").click()
    assert page.evaluate(column) == sorted(item.score.log_loss for item in found.scored)[:20]
    page.emulate_media(media="print")
    assert rows.count() == 45
    page.emulate_media(media="screen")
    page.locator("#more").click()
    assert rows.count() == 45 and page.locator("#more:visible").count() == 0
    context.close()


def more_networks(run: Run) -> tuple[Result, ...]:
    """Networks under further recipes, for a total of 45 results."""
    return tuple(replace(run.results[0], sources=(f"c3d@{number}",)) for number in range(16))


@pytest.mark.slow
def test_a_cell_lists_its_clips(tab: Any) -> None:
    """Click and Enter on a cell list its clips with thumbnails; the selection changes the result."""
    for number, press in ((0, False), (2, True)):
        tab.locator("#chosen").select_option(index=number)
        assert tab.locator(".panel:visible").count() == 1
        cell = tab.locator(".panel:visible .confusion td:has(button)").first
        if press:
            cell.locator("button").focus()
            tab.keyboard.press("Enter")
        else:
            cell.locator("button").click()
        shown = tab.locator(".panel:visible .cell-clips li")
        assert shown.count() == int(cell.get_attribute("data-clips"))
        assert shown.locator("img").count() == shown.count()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(tab: Any, scheme: str) -> None:
    """With everything open, contrast, names, headings and landmarks are accessible."""
    from axe_playwright_python.sync_playwright import Axe

    tab.emulate_media(color_scheme=scheme)
    tab.locator(".confusion td button").first.click()
    tab.evaluate(OPEN_ALL)
    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    assert [
        (item["id"], item["nodes"][0]["html"]) for item in found if item["impact"] in ("serious", "critical")
    ] == []


@pytest.mark.slow
def test_a_phone_does_not_scroll_sideways(tab: Any) -> None:
    """At 390 pixels the page is not wider than the screen, with everything open."""
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.evaluate(SHOW_ALL)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@pytest.mark.parametrize("size", [(703, 1032), (1032, 703)], ids=["upright", "landscape"])
def test_no_table_is_wider_than_the_paper(tab: Any, size: tuple[int, int]) -> None:
    """On A4 without margins, upright and landscape, every table fits the sheet."""
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": size[0], "height": size[1]})
    tab.evaluate(SHOW_ALL)
    wide = "[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().right)"
    assert max(tab.evaluate(wide)) <= size[0] + 1
    assert tab.pdf(format="A4", landscape=size[0] > size[1]).startswith(b"%PDF")


@pytest.mark.slow
def test_without_javascript_everything_is_shown(browser: Any, address: str) -> None:
    """Every row and every result in detail is visible."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#ablation tbody tr:visible").count() == page.locator(".panel:visible").count() == 5
    assert page.locator(".control:visible").count() == 0
    context.close()


@pytest.mark.slow
def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    """A page with hostile labels opens, lists the clips of a cell, and runs nothing of them."""
    uri = written(render_page(full(make_run(classes=HOSTILE))), tmp_path)
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(uri)
    page.locator(".confusion td button").first.click()
    assert page.locator(".cell-clips .name").count() > 0 and errors == []
    context.close()
