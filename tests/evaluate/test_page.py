"""The report's page: what stands on it, that no text gets out of its place, and that a browser can use it."""

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
from click.testing import CliRunner

from moodfuse.cache.audits import Audit, Finding
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.console import printable
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.media import Media, MediaStore, Rendition
from moodfuse.cache.records import Clip, ClipStatus, Plan
from moodfuse.cache.runs import Result, Run, write_run
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.cli import chosen_runs, evaluate_command
from moodfuse.evaluate.compare import compare, find_published
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.records import Inflated, Inflation, Interval, RepeatedScore, SourceWorth
from moodfuse.evaluate.report.page import Page, confident_mistakes, page_of, pictured_clips
from moodfuse.evaluate.report.plots import figure_plan
from moodfuse.evaluate.report.rendering import render_page, write_page
from moodfuse.evaluate.report.thumbnails import data_uri, thumbnails

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
UNKNOWN = Interval(float("nan"), float("nan"))


def make_run(*, protocol: str = "crossfit", classes: tuple[str, ...] = CLASSES, clips: int = CLIPS) -> Run:
    """Five results over made-up clips, some without sound."""
    rng = np.random.default_rng(0)
    truth = np.arange(clips) % len(classes)

    def drawn(strength: float) -> np.ndarray:
        return (1 - strength) * rng.dirichlet(np.ones(len(classes)), clips) + strength * np.eye(len(classes))[
            truth
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
    worth = tuple(
        SourceWorth(source, head, "logits", 0.4, 0.1, near, 0.05, near)
        for head in ("mean", "softmax")
        for source in ("c3d", "twodmcnn")
    )
    paired = tuple(
        replace(test, verdict=verdict)
        for test, verdict in zip(
            found.paired, ("better", "worse", "cannot tell") * len(found.paired), strict=False
        )
    )
    leak = Inflation("run-1", "leaky-1", (Inflated("c3d network logits", 0.4, 0.9, 0.5, near),), 0.5, near)
    audit = Audit("sound alike", (Finding("sound", run.ids[0], run.ids[1], 0.97, 1.5, 20.0, 6.0, False),))
    repeated = tuple(replace(item, repeated=RepeatedScore(3, 0.5, 0.02, near)) for item in found.scored)
    return replace(found, worth=worth, paired=paired, inflation=leak, audit=audit, scored=repeated)


@cache
def pictures(clips: int = CLIPS) -> dict[int, str]:
    """Noisy thumbnails: the largest that there can be."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (clips, 256, 455, 3), dtype=np.uint8)
    return {row: data_uri(frame) for row, frame in enumerate(frames)}


def full_page(run: Run, thumbs: dict[int, str] | None = None) -> Page:
    """A page in which no section is empty."""
    found = full(run)
    return page_of(found, comparison=compare(found, find_published("seed")), thumbnails=thumbs)


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
    return render_page(full_page(make_run(), pictures()))


def test_the_page_holds_every_section_in_order(html: str) -> None:
    """Headline, results, differences, views, detail, folds, mistakes, published, leak, audit, repetition."""
    wanted = "headline results paired worth detail folds mistakes published inflation audit repeat"
    assert " ".join(re.findall(r'<section id="(\w+)"', html)) == wanted
    for text in (
        "Taking the best of 5 results",
        "better than",
        "these clips cannot tell",
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


def test_empty_sections_say_so() -> None:
    """One result, no audit, no views to compare, no pictures: each is said, and nothing breaks."""
    run = make_run()
    one = replace(run, results=(replace(run.results[0], unscaled=None),), digests=(), commands=(), missing=())
    html = render_page(page_of(evaluate_run(one, draws=30)))
    for text in (
        "No audit in this cache",
        "Nothing was compared",
        "--combine all",
        "older version",
        "nothing to compare",
    ):
        assert text in html
    assert "<img" not in html and "placeholder&quot;" not in html and 'class="placeholder"' not in html


def test_the_page_asks_for_nothing(html: str) -> None:
    """Every address on the page is within it or holds its own data, and the policy allows no other."""
    reader = Reader(html)
    for _, attributes, _ in reader.found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html
    assert not any(name.startswith("on") for _, attributes, _ in reader.found for name in attributes)


def test_the_page_is_small_and_the_same_every_time(html: str) -> None:
    """52 clips with the largest thumbnails make less than 3 MB, and the same bytes again."""
    assert len(html.encode()) < LIMIT
    assert render_page(full_page(make_run(), pictures())) == html


def test_it_reads_without_its_script(html: str) -> None:
    """Rows come sorted, every result in detail is shown, and controls that need the script are hidden."""
    page = full_page(make_run())
    shares = [item.score.accuracy for item in page.rows]
    assert shares == sorted(shares, reverse=True)
    reader = Reader(html)
    panels = [item for item in reader.all("section") if item.get("class") == "panel"]
    assert len(panels) == len(page.panels) == 5 and not any("hidden" in item for item in panels)
    assert all("hidden" in item for item in reader.all("p") if item.get("class") in ("control", "hint"))
    assert not reader.all("button")


def test_hostile_text_stays_text() -> None:
    """Labels, clip names, sources and notes with markup, quotes, line ends and stray bytes are shown, not obeyed."""
    run = make_run(classes=HOSTILE)
    nasty = HOSTILE[1]
    results = tuple(
        replace(item, sources=(f"{nasty}{item.sources[0]}", *item.sources[1:])) for item in run.results
    )
    run = replace(
        run, results=results, notes=HOSTILE, groups=tuple(map(str.upper, run.ids)), commands=HOSTILE
    )
    html = render_page(page_of(full(run)))
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
    """Title, banner, headline, every caption of ours and every figure, drawn or written, say LEAKY."""
    page = full_page(make_run(protocol="leaky"))
    html = render_page(page)
    captions = re.findall(r"<(?:caption|figcaption)>(.*?)</", html, re.DOTALL)
    assert len(captions) > 10
    assert [text for text in captions if "LEAKY" not in text] == [
        text for text in captions if ", seed, " in text
    ]
    for pattern in ("<title>LEAKY", 'class="banner"', '<p class="claim">LEAKY', "@page { @top-center"):
        assert pattern in html
    assert "right for" in page.words.claim and "new clips" not in page.words.claim
    assert all(name.endswith("-LEAKY") for name, _ in figure_plan(page.evaluation))
    assert "LEAKY" not in " ".join(name for name, _ in figure_plan(full(make_run())))


def test_matrices_and_mistakes_are_those_of_the_result() -> None:
    """Cells add up to the clips, shares of a row to 1; mistakes are wrong and fall in confidence."""
    page = full_page(make_run())
    for panel in page.panels:
        assert sum(cell.clips for row in panel.matrix for cell in row) == CLIPS
        assert all(sum(cell.share for cell in row) == pytest.approx(1) for row in panel.matrix)
    found = [mistake.confidence for mistake in page.mistakes]
    assert 0 < len(found) <= 12 and found == sorted(found, reverse=True)
    assert all(mistake.truth != mistake.said for mistake in page.mistakes)


def test_pictured_clips_are_capped_and_begin_with_the_mistakes() -> None:
    """A big run shows the clips that matter most."""
    found = evaluate_run(make_run(), draws=20)
    chosen = pictured_clips(found, limit=15)
    assert len(set(chosen)) == 15
    shown = [mistake.row for mistake in confident_mistakes(found)]
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
    """A kept frame is a small JPEG; a clip whose media are gone, or whose file is another now, has a placeholder."""
    run = make_run(clips=12)
    work = make_cache(tmp_path / "work", run, kept=5)
    found = thumbnails(work, run, range(12))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(uri.startswith("data:image/jpeg;base64,") and len(uri) < 4000 for uri in found.values())
    assert thumbnails(work, replace(run, digests=("f" * 64, *run.digests[1:])), [0, 1]).keys() == {1}
    assert 'class="placeholder"' in render_page(
        page_of(evaluate_run(make_run(), draws=20), thumbnails={99: "data:,"})
    )
    assert thumbnails(FeatureCache(tmp_path / "bare", create=True), run, range(12)) == {}


def test_the_command_writes_page_and_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says where the page is; `--no-thumbnails` leaves the pictures out and nothing else."""
    monkeypatch.setattr("moodfuse.evaluate.report.plots.draw_figures", lambda *_: iter(()))
    work = make_cache(tmp_path / "work", make_run(clips=24), kept=24)
    pages = []
    for options in ([], ["--no-thumbnails"]):
        output = tmp_path / str(len(pages))
        arguments = ["--cache", str(work.path), "--output", str(output), "--draws", "40", *options]
        done = CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False)
        assert done.exit_code == 0 and done.output.splitlines()[-1] == f"page: {output / 'report.html'}"
        assert {"report.html", "report.md", "table.tex"} <= {item.name for item in output.iterdir()}
        pages.append((output / "report.html").read_text("utf-8"))
    assert ["data:image/jpeg" in page for page in pages] == [True, False]


def test_inflation_takes_the_newest_of_each_kind(tmp_path: Path) -> None:
    """`--inflation` puts the newest leaky run beside the newest honest one, and says what to run where one lacks."""
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, make_run())
    with pytest.raises(InputError, match="extract DATA .* --leaky, then moodfuse fuse .* --protocol leaky"):
        chosen_runs(work, None, inflation=True)
    for name, protocol in (("old", "leaky"), ("second", "crossfit"), ("new", "leaky")):
        write_run(work, replace(make_run(protocol=protocol), name=name))
    honest, leaky = chosen_runs(work, None, inflation=True)
    assert leaky is not None and (honest.name, leaky.name) == ("second", "new")
    named, beside = chosen_runs(work, "run-1", inflation=True)
    assert beside is not None and (named.name, beside.name) == ("run-1", "new")
    with pytest.raises(InputError, match="'old' is leaky itself"):
        chosen_runs(work, "old", inflation=True)
    assert chosen_runs(work, None, inflation=False)[0].name == "new"


def test_inflation_reads_no_run_that_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of six runs are read; damaged ones are passed over with a warning, and stop nothing but their own report."""
    work = FeatureCache(tmp_path / "work", create=True)
    for number, protocol in enumerate(("crossfit", "leaky", "crossfit", "leaky", "crossfit", "leaky")):
        write_run(work, replace(make_run(protocol=protocol, clips=12), name=f"run-{number}"))
    read: list[str] = []
    monkeypatch.setattr(
        "moodfuse.cache.runs.read_part", lambda path: read.append(path.parent.name) or read_part(path)
    )
    honest, leaky = chosen_runs(work, None, inflation=True)
    assert (
        leaky is not None
        and (honest.name, leaky.name) == ("run-4", "run-5")
        and sorted(read) == ["run-4", "run-5"]
    )
    (work.path / "runs" / "run-5" / "run.json").write_text("{")
    next((work.path / "runs" / "run-4").glob("predictions-*.h5")).write_bytes(b"no part")
    honest, leaky = chosen_runs(work, None, inflation=True)
    assert leaky is not None and (honest.name, leaky.name) == ("run-2", "run-3")
    assert all(
        caplog.text.count(f"run run-{number} cannot be read and is skipped") == 1 for number in (4, 5)
    )
    with pytest.raises(CacheError, match="not JSON"):
        chosen_runs(work, "run-5", inflation=False)
    with pytest.raises(InputError, match="run 'run-5' exists"):
        write_run(work, replace(make_run(clips=12), name="run-5"))
    write_run(work, replace(make_run(clips=12), name="run-6"))
    assert chosen_runs(work, None, inflation=False)[0].name == "run-6"


# In a browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    return write_page(full_page(make_run(), pictures()), folder).as_uri()


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    """The page in a tab that takes no complaint and no request but that for the page itself."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith("data:") or complaints.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert complaints == [address]


OPEN_ALL = "for (const item of document.querySelectorAll('details')) item.open = true"
SHOW_ALL = f"{OPEN_ALL}; for (const item of document.querySelectorAll('.panel')) item.hidden = false"


@pytest.mark.slow
def test_sorting_by_mouse_and_keyboard(tab: Any) -> None:
    """A heading sorts by click and by Enter, turns round when asked again, and says how it is sorted."""
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
    """Of 45 results 20 show, the best in the order that is asked for; a button and paper show them all."""
    run = make_run()
    fused = [item for item in run.results if item.head != "network"]
    heads = tuple(replace(item, head=f"{item.head}{number}") for number in range(8) for item in fused)
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    long = replace(run, results=run.results + heads + more_networks(run))
    page.goto(write_page(page_of(evaluate_run(long, draws=20)), tmp_path).as_uri())
    rows = page.locator("#ablation tbody tr:visible")
    assert rows.count() == 20 and page.locator("#more").inner_text() == "Show all 45 results"
    shown = "[...document.querySelectorAll('#ablation tbody tr:not(.tail)')]"
    column = f"{shown}.map(row => Number(row.cells[6].dataset.value))"
    page.locator("#ablation th", has_text="log loss").locator("button").click()
    assert (
        page.evaluate(column)
        == sorted(item.score.log_loss for item in evaluate_run(long, draws=20).scored)[:20]
    )
    page.emulate_media(media="print")
    assert rows.count() == 45
    page.emulate_media(media="screen")
    page.locator("#more").click()
    assert rows.count() == 45 and page.locator("#more:visible").count() == 0
    context.close()


def more_networks(run: Run) -> tuple[Result, ...]:
    """As many networks under further recipes as fill 45 results up."""
    return tuple(replace(run.results[0], sources=(f"c3d@{number}",)) for number in range(16))


@pytest.mark.slow
def test_a_cell_lists_its_clips_and_the_box_changes_the_result(tab: Any) -> None:
    """Click and Enter on a cell list as many clips as it counts, with pictures; another result has its own cells."""
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
    """With all of it open, contrast, names, headings and landmarks keep no reader out."""
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
    """At 390 pixels the page is as wide as the screen, with everything open."""
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.evaluate(SHOW_ALL)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@pytest.mark.parametrize("size", [(703, 1032), (1032, 703)], ids=["upright", "landscape"])
def test_no_table_is_wider_than_the_paper(tab: Any, size: tuple[int, int]) -> None:
    """On A4 less its margins, either way up, every table ends on the sheet."""
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": size[0], "height": size[1]})
    tab.evaluate(SHOW_ALL)
    wide = "[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().right)"
    assert max(tab.evaluate(wide)) <= size[0] + 1
    assert tab.pdf(format="A4", landscape=size[0] > size[1]).startswith(b"%PDF")


@pytest.mark.slow
def test_without_javascript_all_is_there(browser: Any, address: str) -> None:
    """Every row and every result in detail shows where scripts are off."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#ablation tbody tr:visible").count() == page.locator(".panel:visible").count() == 5
    assert page.locator(".control:visible").count() == 0
    context.close()


@pytest.mark.slow
def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    """A page of hostile labels opens, lists a cell's clips by name, and runs nothing of them."""
    html = write_page(page_of(full(make_run(classes=HOSTILE))), tmp_path)
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(html.as_uri())
    page.locator(".confusion td button").first.click()
    assert page.locator(".cell-clips .name").count() > 0 and said == []
    context.close()
