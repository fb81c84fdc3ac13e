"""How figures look and how they are written: fonts, colours, headings, file names, PNG (150 dpi) and SVG.

Drawn on figure objects with Agg: no window, no global state. Colours are those of Okabe and Ito (2008, Color
Universal Design), told apart by line style as well. The same evaluation and the same fonts give the same bytes: SVG ids
are salted with a constant, and no file holds a date.
"""

import io
import logging
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moodfuse.cache.console import printable
from moodfuse.cache.digests import digest16
from moodfuse.cache.files import write_aside
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.results import ResultScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
COLOURS = (BLUE, "#E69F00", GREEN, "#CC79A7", "#56B4E9", ORANGE, "#7F6000", "#000000")
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_NO_DATE: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
FONT = "DejaVu Sans"
"""Comes with Matplotlib."""
_NAMES_SHOWN = 5
log = logging.getLogger(__name__)


def file_name(evaluation: Evaluation, name: str) -> str:
    """Name of a figure without its ending; that of a leaky run says so."""
    return f"{name}-{evaluation.marker}" if evaluation.marker else name


def slug(name: str) -> str:
    """A result's name as part of a file name; where something had to be dropped, a digest keeps it unique.

    Examples
    --------
    >>> slug("c3d+i3d softmax logits")
    'c3d+i3d-softmax-logits'
    """
    text = name.replace(" ", "-").replace(":", "_")
    safe = re.sub(r"[^A-Za-z0-9._+@-]+", "-", text)[:80]
    return safe if safe == text else f"{safe}-{digest16(name)[:8]}"


@contextmanager
def drawing_settings(names: Iterable[str] = ()) -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's settings file says; undone on leaving.

    Parameters
    ----------
    names : iterable of str
        Names that the figures show, such as labels; fonts are chosen that have their characters.
    """
    import matplotlib

    families = list(font_families(tuple(names)))
    with matplotlib.rc_context(), warnings.catch_warnings():
        # `font_families` says once what Matplotlib would say of each character in each figure.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": families,
                "font.size": 9.0,
                "axes.titlesize": 10.0,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.constrained_layout.use": True,
                "svg.hashsalt": "moodfuse",
                "text.parse_math": False,
            }
        )
        yield


@lru_cache(maxsize=8)
def font_families(names: tuple[str, ...]) -> tuple[str, ...]:
    """Choose fonts that have the characters of some names; where no installed font has them, a warning says so.

    Parameters
    ----------
    names : tuple of str

    Returns
    -------
    tuple of str
        `FONT`, and the families of installed fonts for the characters that it lacks.
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    def lacking(font: FT2Font, characters: set[str]) -> set[str]:
        return {char for char in characters if not font.get_char_index(ord(char))}

    families = [FONT]
    wanted = {char for name in names for char in printable(name)}
    missing = lacking(FT2Font(font_manager.findfont(FONT)), wanted)
    known = set(font_manager.get_font_names())
    for path in sorted(font_manager.findSystemFonts()) if missing else ():
        if "lastresort" in path.lower():  # has a box for every character
            continue
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):  # skip damaged fonts
            continue
        left = lacking(font, missing)
        if (
            len(left) == len(missing) or font.style_flags or not font.scalable
        ):  # bold, italic; bitmaps of emoji
            continue
        if font.family_name not in known:  # installed since Matplotlib made its list of fonts
            font_manager.fontManager.addfont(path)
        families.append(font.family_name)
        missing = left
        if not missing:
            break
    if missing:
        lost = [name for name in names if missing.intersection(printable(name))]
        log.warning(
            "no installed font has %d characters of %s%s, so figures show boxes in their place; install a font for "
            "this script, such as Noto (Debian: apt-get install fonts-noto-core fonts-noto-cjk), and run this again",
            len(missing),
            ", ".join(repr(printable(name)) for name in lost[:_NAMES_SHOWN]),
            " and others" if len(lost) > _NAMES_SHOWN else "",
        )
    return tuple(families)


def write_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure in the format that its path ends in (png, svg, pdf), unless the file already holds it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    ending = path.suffix.lower()
    figure.savefig(content, format=ending[1:], dpi=DPI, metadata=_NO_DATE.get(ending))
    data = content.getvalue()
    if not (path.is_file() and path.read_bytes() == data):
        write_aside(path, data)
    return path


def title(evaluation: Evaluation, text: str, item: ResultScore | None = None, *, width: int = 80) -> str:
    """A heading of wrapped lines: what it is, of which result, and LEAKY where the run is."""
    parts = [f"{evaluation.marker}: {text}" if evaluation.marker else text]
    if item is not None:
        result = item.result
        parts.append(f"{' + '.join(result.sources)}, {result.head}, {result.level} level")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width))


def short(name: str, limit: int = 28) -> str:
    """A name cut to `limit` characters; what cannot be printed is escaped."""
    name = printable(name)
    return name if len(name) <= limit else name[: limit - 1] + "…"


def row_name(item: ResultScore) -> str:
    """A result's name as a row's heading."""
    result = item.result
    return f"{' + '.join(result.sources)}, {result.head}" + ("" if item.is_network else f", {result.level}")


def rows_axes(axes: "Axes", places: list[float], names: list[str]) -> None:
    """Axes of named rows, the first on top, with a grid across."""
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
