"""Figures use installed fonts that have the characters of the names, and warn where there is none."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from matplotlib import font_manager
from matplotlib.figure import Figure

from moodfuse.evaluate.figures import FONT, drawing_settings, font_families, short, write_figure


@pytest.fixture(autouse=True)
def forget_fonts() -> Iterator[None]:
    """Choose fonts again in each test, and remove those that a test has added."""
    font_families.cache_clear()
    kept = list(font_manager.fontManager.ttflist)
    yield
    font_families.cache_clear()
    font_manager.fontManager.ttflist[:] = kept


def make_font(path: Path, family: str, characters: str, *, style: str = "Regular") -> Path:
    """A font with empty glyphs for some characters."""
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
    return path


def draw(names: tuple[str, ...], path: Path) -> None:
    """Write a figure with some names; any warning is an error."""
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
    """Fonts with the missing characters are chosen, without bold fonts, damaged fonts and fonts that add nothing."""
    (tmp_path / "a.ttf").write_bytes(b"no font")
    fonts = [tmp_path / "a.ttf", make_font(tmp_path / "b.ttf", "Test Bold", "\u5feb\u4e50", style="Bold")]
    fonts += [
        make_font(tmp_path / "c.ttf", "Test Latin", "abc"),
        make_font(tmp_path / "d.ttf", "Test Han", "\u5feb\u4e50"),
    ]
    fonts += [make_font(tmp_path / "e.ttf", "Test Other", "\u5feb")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(font) for font in fonts])
    assert font_families(("happy", "\u5feb\u4e50")) == (FONT, "Test Han")
    draw(("happy", "\u5feb\u4e50"), tmp_path / "figure.png")
    assert not caplog.messages


def test_a_missing_font_gives_one_warning_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the labels, and figures are written in each format."""
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    names = ("happy", "\u5feb\u4e50", "\u0939\u0930\u094d\u0937", "\U0001f9e8")
    with caplog.at_level(logging.WARNING):
        for ending in ("png", "svg", "pdf"):
            draw(names, tmp_path / f"figure.{ending}")
    (message,) = caplog.messages
    assert "'\u5feb\u4e50', '\u0939\u0930\u094d\u0937', '\U0001f9e8'" in message and "fonts-noto" in message
    assert "happy" not in message


@pytest.mark.parametrize(
    "name",
    ["happy", "\u0441\u0447\u0430\u0441\u0442\u044c\u0435", "\u03c7\u03b1\u03c1\u03ac", "a\nb", "\x1b[31m"],
)
def test_names_that_the_default_font_has_need_no_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Latin, Cyrillic and Greek names, and control characters, need no search for other fonts."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("searched"))
    draw((name,), tmp_path / "figure.png")
    assert font_families((name,)) == (FONT,) and not caplog.messages and short(name).isprintable()
