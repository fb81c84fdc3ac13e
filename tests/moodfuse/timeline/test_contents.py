"""Stretches, ticks, colours and sentences of a timeline."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from moodfuse.evaluate.markup import base_style
from moodfuse.model.predictions import Timeline
from moodfuse.timeline import contents
from moodfuse.timeline.contents import (
    DARK,
    DARK_BACKGROUND,
    LIGHT,
    NOT_READ,
    choose_look,
    choose_ticks,
    compute_cells_s,
    find_prominent,
    find_segments,
    find_stretches,
    format_time,
    spread_positions,
)

Make = Callable[..., Timeline]


def linear(colours: tuple[str, ...]) -> np.ndarray:
    """Linear light of sRGB colours, [n, 3]."""
    coded = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(
    ("colours", "ground"), [(LIGHT, "#ffffff"), (DARK, DARK_BACKGROUND)], ids=["light", "dark"]
)
def test_colours_have_contrast_to_their_background(colours: tuple[str, ...], ground: str) -> None:
    assert f"--paper: {ground}" in base_style()
    luminances = linear(colours) @ (0.2126, 0.7152, 0.0722)
    paper = float((linear((ground,)) @ (0.2126, 0.7152, 0.0722))[0])
    assert ((np.maximum(luminances, paper) + 0.05) / (np.minimum(luminances, paper) + 0.05)).min() >= 3


def test_looks_are_one_for_each_label() -> None:
    """32 labels have different looks, and neighbours have different colours."""
    looks = [choose_look(place) for place in range(33)]
    assert len(set(looks[:32])) == 32
    assert all(first.colour != second.colour for first, second in pairwise(looks))


def test_stretches_say_what_the_windows_say(timeline: Make) -> None:
    """Stretches follow each other over all windows; each window's label, certainty and gap are its
    stretch's.
    """
    found = timeline(lost=(4, 5, 20))
    runs = find_stretches(found, 0.5)
    assert [row for run in runs for row in range(run.first, run.last + 1)] == list(range(43))
    assert runs[0].start_s == 0 and runs[-1].end_s == found.duration_s
    assert all(first.end_s == second.start_s for first, second in pairwise(runs))
    for run in runs:
        for row in range(run.first, run.last + 1):
            values = found.probabilities[row]
            assert found.labels[row] == ("" if run.label == NOT_READ else found.classes[run.label])
            assert run.uncertain == (run.label != NOT_READ and values.max() < 0.5)
            assert run.start_s <= found.middles_s[row] <= run.end_s
    assert [rows.tolist() for rows in find_segments(found)] == [
        list(range(4)),
        list(range(6, 20)),
        list(range(21, 43)),
    ]


def test_windows_that_do_not_touch_leave_a_hole(timeline: Make) -> None:
    """Under a hop longer than a window, no window answers for what none of them holds."""
    found = timeline(("a",), windows=3, hop_s=50.0)
    assert compute_cells_s(found).tolist() == [[0, 30], [50, 80], [100, 130]]
    assert len(find_stretches(found, 0.0)) == 3


def test_names_are_spread_in_order() -> None:
    """Names keep their order and their distance, stay on the drawing, and do not move where there is room."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 8, 18, 40):
        places = rng.random(count) ** 3
        moved = spread_positions(places, 0.056)
        gap = min(0.056, 1 / max(1, count - 1))
        assert (np.argsort(moved) == np.argsort(places, kind="stable")).all()
        assert (
            np.diff(np.sort(moved)).min(initial=1) >= gap - 1e-9
            and moved.min() >= 0
            and moved.max() <= 1 + 1e-9
        )
    assert spread_positions(np.array([0.9, 0.1, 0.5]), 0.1).tolist() == pytest.approx([0.9, 0.1, 0.5])
    assert len(spread_positions(np.zeros(0), 0.1)) == 0


@pytest.mark.parametrize("end_s", [0.4, 2.0, 21.4, 240.0, 3599.0, 5025.0, 40_000.0])
def test_ticks_fit(end_s: float) -> None:
    """Any length has a tick at 0, few that fit on a phone, all within the axis, each with its own text."""
    found = choose_ticks(end_s)
    assert found[0].at_s == 0 and found[0].major and found[-1].at_s <= end_s
    assert sum(tick.major for tick in found) <= 6 and len(found) <= 13
    assert len({format_time(tick.at_s) for tick in found}) == len(found)


def test_of_many_labels_the_most_probable_are_strong(timeline: Make) -> None:
    """All of eight labels are drawn strongly; of twenty, the eight with the highest peaks."""
    assert len(find_prominent(timeline([f"e{place}" for place in range(8)]))) == 8
    found = timeline([f"e{place:02d}" for place in range(20)], lost=(3,))
    strong = find_prominent(found)
    peaks = np.nanmax(found.probabilities, axis=0)
    assert len(strong) == 8 and min(peaks[list(strong)]) >= max(np.delete(peaks, list(strong)))


def test_windows_note_names_length_and_hop(timeline: Make) -> None:
    """Length and distance of windows are named, also of uneven ones and of a single one."""
    full = timeline()
    note = contents.explain_windows(full)
    assert "a window of 30 s" in note and note.endswith("every 5 s, so neighbouring windows overlap.")
    starts = np.array([0.0, 10.0, 20.0, 23.5])
    uneven = replace(full, starts_s=starts, ends_s=starts + 30, probabilities=full.probabilities[:4])
    assert "Windows start 3.5 s to 10 s apart" in contents.explain_windows(uneven)
    single = timeline(windows=1, window_s=21.4)
    assert contents.explain_windows(single).startswith("One window, 0:00 to 0:21.4")


def test_summary_counts_the_most_probable_emotion(timeline: Make) -> None:
    """The summary names the label of most windows, and says so if none could be read."""
    full = timeline()
    label, count = max(((name, full.labels.count(name)) for name in full.classes), key=lambda item: item[1])
    assert contents.summarise(full).startswith(
        f"“{label}” is the most probable emotion in {count} of 43 windows"
    )
    assert contents.summarise(timeline(windows=2, lost=(0, 1))) == "None of the 2 windows could be read."


def test_uncertain_windows_are_counted(timeline: Make) -> None:
    """Windows below the threshold are counted; an imputed modality is named."""
    full = timeline()
    below = int((full.probabilities.max(axis=1) < 0.6).sum())
    assert contents.describe_uncertainty(full, 0.6).endswith(f"reaches probability 0.6): {below} of 43.")
    assert contents.describe_missing(full) == ""
    assert "has no audio" in contents.describe_missing(replace(full, missing="audio"))


def test_refused_windows_are_named(timeline: Make) -> None:
    """Windows refused for one reason are named in one sentence, by number and time; a long list is cut."""
    some = timeline(lost=(17, 18, 30))
    same = tuple((row, replace(refusal, detail="It breaks off.")) for row, refusal in some.refusals)
    (sentence,) = contents.describe_refusals(replace(some, refusals=same))
    assert sentence == (
        "3 of 43 windows could not be read: windows 18 to 19 (1:25 to 2:00), window 31 (2:30 to 3:00). "
        "It breaks off."
    )
    assert len(contents.describe_refusals(some)) == 3
    assert "Unknown reason." in contents.describe_refusals(replace(some, refusals=()))[0]
    many = timeline(lost=range(0, 43, 2))
    (cut,) = contents.describe_refusals(replace(many, refusals=()))
    assert cut.startswith("22 of 43") and "and 10 more (see the table)" in cut
