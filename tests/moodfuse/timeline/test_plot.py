"""The figure of a timeline: what it shows, its formats, and that it is the same every time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.evaluate.figures import drawing_settings
from moodfuse.model.predictions import Timeline
from moodfuse.timeline.plot import timeline_figure, write_timeline_plot

Make = Callable[..., Timeline]
MAGIC = {".PNG": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("ending", MAGIC)
def test_equal_time_lines_give_equal_bytes(timeline: Make, tmp_path: Path, ending: str) -> None:
    """Each format is written, by suffix, with the same bytes again."""
    paths = [tmp_path / f"{number}{ending}" for number in range(2)]
    found = [write_timeline_plot(timeline(lost=(3,)), path, threshold=0.5).read_bytes() for path in paths]
    assert found[0].startswith(MAGIC[ending]) and found[0] == found[1]


def test_another_ending_is_refused(timeline: Make, tmp_path: Path) -> None:
    """A figure that cannot be written says how it may end, and writes nothing."""
    for name in ("figure.mp4", "figure"):
        with pytest.raises(InputError, match=r"suffix '(\.mp4)?', expected \.png, \.svg, \.pdf"):
            write_timeline_plot(timeline(), tmp_path / name, threshold=0.5)
    assert not list(tmp_path.iterdir())


def test_curves_are_the_probabilities(timeline: Make) -> None:
    """Each label's line goes through its probabilities at the middles of the windows, and breaks at a gap."""
    found = timeline(lost=(10,))
    with drawing_settings():
        axes = timeline_figure(found, threshold=0.4).axes[0]
    lines = [line.get_xydata() for line in axes.lines if len(np.asarray(line.get_xdata())) > 5]
    assert len(lines) == 2 * len(found.classes)
    for label in range(len(found.classes)):
        drawn = np.concatenate(lines[2 * label : 2 * label + 2])  # type: ignore[arg-type]
        rows = [row for row in range(43) if row != 10]
        assert drawn == pytest.approx(np.column_stack([found.middles_s, found.probabilities[:, label]])[rows])


def test_any_name_and_any_number_is_drawn(timeline: Make, tmp_path: Path) -> None:
    """Labels that mean something to a plotting library, one window, twenty labels and nothing read are all
    drawn.
    """
    odd = ("_hidden", "$x$", "<script>", "line\nend", "\udcff", "{}")
    with drawing_settings():
        texts = [text.get_text() for text in timeline_figure(timeline(odd), threshold=0.5).axes[0].texts]
    assert texts == ["_hidden", "$x$", "<script>", "line\\nend", "\\udcff", "{}"]
    for number, settings in enumerate(({"windows": 1, "window_s": 9.5}, {"windows": 2, "lost": (0, 1)})):
        assert write_timeline_plot(timeline(**settings), tmp_path / f"{number}.png", threshold=0.5).exists()
    many = timeline([f"emotion {place}" for place in range(40)], windows=200)
    with drawing_settings():
        figure = timeline_figure(many, threshold=0.5)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 40
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
