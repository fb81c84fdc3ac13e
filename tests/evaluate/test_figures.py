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
    ablation_figure,
    confusion_figure,
    draw_figures,
    drawing_settings,
    font_families,
    short,
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
    """The warning has the scripts and the characters, and figures are written in each format."""
    monkeypatch.setattr("moodfuse.evaluate.figures.MORE_FONTS", ())
    for suffix in ("png", "svg", "pdf"):
        caplog.clear()
        draw(("happy", "فرح", "快乐", "हर्ष", "かなしい"), tmp_path / f"figure.{suffix}")
        (message,) = caplog.messages
        assert "boxes for CJK, Devanagari, Hiragana characters (" in message and "Arabic" not in message
        assert "乐" in message and "apt-get install fonts-noto-core fonts-noto-cjk" in message
        assert "happy" not in message


def test_pdf_figures_embed_their_font_as_type_42(tmp_path: Path) -> None:
    """Publishers refuse type 3."""
    draw(("happy",), tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content


def test_the_figures_of_a_run(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ablation has a row per combination; a confusion matrix has its counts and percentages."""
    written: list[str] = []
    monkeypatch.setattr(
        "moodfuse.evaluate.figures.write_figure", lambda figure, path: written.append(path.name)
    )
    evaluation = evaluate_run(make_run(), draws=20)
    names = draw_figures(evaluation, tmp_path)
    assert set(names) - {"reliability"} == {"ablation", "confusion", "roc"}
    assert written == [f"{name}.{suffix}" for name in names for suffix in ("pdf", "png", "svg")]
    texts = [text.get_text() for text in confusion_figure(evaluation, evaluation.best).axes[0].texts]
    counts = evaluation.best.score.confusion_matrix
    assert texts == [f"{count}\n{100 * count / 12:.0f} %" for count in counts.ravel()]
    figure = ablation_figure(evaluation)
    assert sorted(label.get_text() for label in figure.axes[0].get_yticklabels()) == [
        "c3d",
        "c3d + i3d",
        "i3d",
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["network", "mean", "softmax, logits", "always “a”"]
    points = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert sorted(points) == sorted(scored.mean_accuracy[0] for scored in evaluation.scored)
