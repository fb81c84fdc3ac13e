"""Figures show the results, and use installed fonts that have the characters of the names."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from matplotlib import font_manager
from matplotlib.figure import Figure

from moodfuse.cache.runs import Run
from moodfuse.evaluate.evaluation import evaluate_run
from moodfuse.evaluate.figures import (
    FONT,
    confusion_figure,
    draw_figures,
    drawing_settings,
    font_families,
    short,
    slug,
    write_figure,
)


@pytest.fixture(autouse=True)
def forget_fonts() -> Iterator[None]:
    """Choose fonts again in each test, and remove those that a test has added."""
    font_families.cache_clear()
    kept = list(font_manager.fontManager.ttflist)
    yield
    font_families.cache_clear()
    font_manager.fontManager.ttflist[:] = kept


def make_font(path: Path, family: str, characters: str, *, style: str = "Regular") -> str:
    """A font with empty glyphs for the characters."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"u{ord(char):X}" for char in characters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(char): f"u{ord(char):X}" for char in characters})
    builder.setupGlyf({name: Glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": style})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    if style == "Bold":
        builder.font["head"].macStyle = 1
        builder.font["OS/2"].fsSelection = 1 << 5
    builder.save(path)
    return str(path)


def draw(names: tuple[str, ...], path: Path) -> None:
    """Write a figure with the names; any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawing_settings(names):
            figure = Figure()
            for name in names:
                figure.text(0.5, 0.5, short(name))
            write_figure(figure, path)
    assert path.stat().st_size > 0


def test_an_installed_font_with_the_characters_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fonts with the missing characters, without bold fonts, damaged fonts and fonts that add nothing."""
    (tmp_path / "a.ttf").write_bytes(b"no font")
    fonts = [
        str(tmp_path / "a.ttf"),
        make_font(tmp_path / "b.ttf", "Test Bold", "快乐", style="Bold"),
        make_font(tmp_path / "c.ttf", "Test Latin", "abc"),
        make_font(tmp_path / "d.ttf", "Test Han", "快乐"),
        make_font(tmp_path / "e.ttf", "Test Other", "快"),
    ]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: fonts)
    assert font_families(("happy", "快乐")) == (FONT, "Test Han")
    draw(("happy", "快乐"), tmp_path / "figure.png")
    assert not caplog.messages


def test_a_missing_font_gives_one_warning_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the labels, and figures are written in each format."""
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    names = ("happy", "快乐", "हर्ष", "🧨")
    with caplog.at_level(logging.WARNING):
        for ending in ("png", "svg", "pdf"):
            draw(names, tmp_path / f"figure.{ending}")
    (message,) = caplog.messages
    assert "'快乐', 'हर्ष', '🧨'" in message and "fonts-noto" in message and "happy" not in message


def test_names_that_the_default_font_has_need_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Latin, Cyrillic and Greek names, and control characters, need no search for other fonts."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("searched"))
    names = ("happy", "счастье", "χαρά", "a\nb", "\x1b[31m")
    draw(names, tmp_path / "figure.png")
    assert font_families(names) == (FONT,) and not caplog.messages
    assert all(short(name).isprintable() for name in names)


def test_the_figures_of_a_run(make_run: Callable[..., Run], tmp_path: Path, monkeypatch) -> None:
    """They are named after what they show; a confusion matrix has its counts and percentages."""
    monkeypatch.setattr("moodfuse.evaluate.figures.write_figure", lambda figure, path: path)
    evaluation = evaluate_run(make_run(), draws=20)
    best = slug(evaluation.best.result.name)
    names = draw_figures(evaluation, tmp_path)
    assert set(names) == {"accuracy", "shapley-mean-logits"} | {f"roc-{best}"} | {
        f"confusion-{slug(scored.result.name)}" for scored in evaluation.scored
    } | ({f"reliability-{best}"} if evaluation.best.calibration else set())
    texts = [text.get_text() for text in confusion_figure(evaluation, evaluation.best).axes[0].texts]
    counts = evaluation.best.score.confusion_matrix
    assert texts == [f"{count}\n{100 * count / 12:.0f} %" for count in counts.ravel()]
    assert slug("a b") == "a-b" and slug("a/b") != slug("a?b")
