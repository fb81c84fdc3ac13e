"""Figures show the results, and use installed fonts that have the characters of the names."""

import warnings
from collections.abc import Callable
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


def make_font(path: Path, family: str, characters: str) -> Path:
    """A font with empty glyphs for the characters."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"u{ord(char):X}" for char in characters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(char): f"u{ord(char):X}" for char in characters})
    builder.setupGlyf({name: Glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return path


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


def test_installed_fonts_have_the_other_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Latin, Cyrillic and Greek names need no other font; Chinese ones use an installed font."""
    monkeypatch.setattr("moodfuse.evaluate.figures.MORE_FONTS", ("Missing", "Test Han"))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(make_font(tmp_path / "han.ttf", "Test Han", "快乐"))
    assert font_families(("happy", "счастье", "χαρά", "a\nb", "\x1b[31m")) == [FONT] == font_families(())
    assert font_families(("happy", "快乐")) == [FONT, "Test Han"]
    draw(("happy", "快乐"), tmp_path / "figure.png")
    assert not caplog.messages


def test_a_missing_font_gives_one_warning_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning has the characters, and figures are written in each format."""
    monkeypatch.setattr("moodfuse.evaluate.figures.MORE_FONTS", ())
    for suffix in ("png", "svg", "pdf"):
        caplog.clear()
        draw(("happy", "快乐", "हर्ष", "🧨"), tmp_path / f"figure.{suffix}")
        (message,) = caplog.messages
        assert "乐" in message and "🧨" in message and "fonts-noto" in message and "happy" not in message


def test_the_figures_of_a_run(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named after what they show; a confusion matrix has its counts and percentages."""
    monkeypatch.setattr("moodfuse.evaluate.figures.write_figure", lambda figure, path: path)
    run = make_run()
    evaluation = evaluate_run(run, draws=20)
    best = slug(evaluation.best.result.name)
    names = {"accuracy", f"roc-{best}", *(f"confusion-{slug(result.name)}" for result in run.results)}
    assert set(draw_figures(evaluation, tmp_path)) - {f"reliability-{best}"} == names
    texts = [text.get_text() for text in confusion_figure(evaluation, evaluation.best).axes[0].texts]
    counts = evaluation.best.score.confusion_matrix
    assert texts == [f"{count}\n{100 * count / 12:.0f} %" for count in counts.ravel()]
    assert slug("a b") == "a-b" and slug("a/b") != slug("a?b")
