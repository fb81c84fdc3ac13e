"""Tests of moodfuse.timeline.sentences."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moodfuse.model.predictions import Timeline
from moodfuse.timeline import sentences

Make = Callable[..., Timeline]


def test_windows_note_names_length_and_hop(timeline: Make) -> None:
    """Length and distance of windows are named, also of uneven ones and of a single one."""
    full = timeline()
    note = sentences.windows_note(full)
    assert "a window of 30 s" in note and note.endswith("every 5 s, so neighbouring windows overlap.")
    starts = np.array([0.0, 10.0, 20.0, 23.5])
    uneven = replace(full, starts_s=starts, ends_s=starts + 30, probabilities=full.probabilities[:4])
    assert "Windows start 3.5 s to 10 s apart" in sentences.windows_note(uneven)
    single = timeline(windows=1, window_s=21.4)
    assert sentences.windows_note(single).startswith("One window, 0:00 to 0:21.4")


def test_summary_counts_the_most_probable_emotion(timeline: Make) -> None:
    """The summary names the label of most windows, and says so if none could be read."""
    full = timeline()
    label, count = max(((name, full.labels.count(name)) for name in full.classes), key=lambda item: item[1])
    assert sentences.summary(full).startswith(
        f"“{label}” is the most probable emotion in {count} of 43 windows"
    )
    assert sentences.summary(timeline(windows=2, lost=(0, 1))) == "None of the 2 windows could be read."


def test_uncertain_windows_are_counted(timeline: Make) -> None:
    """Windows below the threshold are counted; an imputed modality is named."""
    full = timeline()
    below = int((full.probabilities.max(axis=1) < 0.6).sum())
    assert sentences.uncertainty(full, 0.6).endswith(f"reaches probability 0.6): {below} of 43.")
    assert sentences.missing_note(full) == ""
    assert "has no sound" in sentences.missing_note(replace(full, missing="sound"))


def test_refused_windows_are_named(timeline: Make) -> None:
    """Windows refused for one reason are named in one sentence, by number and time; a long list is cut."""
    some = timeline(lost=(17, 18, 30))
    same = tuple((row, replace(refusal, detail="It breaks off.")) for row, refusal in some.refusals)
    (sentence,) = sentences.refusal_notes(replace(some, refusals=same))
    assert sentence == (
        "3 of 43 windows could not be read: windows 18 to 19 (1:25 to 2:00), window 31 (2:30 to 3:00). "
        "It breaks off."
    )
    assert len(sentences.refusal_notes(some)) == 3
    assert "Unknown reason." in sentences.refusal_notes(replace(some, refusals=()))[0]
    many = timeline(lost=range(0, 43, 2))
    (cut,) = sentences.refusal_notes(replace(many, refusals=()))
    assert cut.startswith("22 of 43") and "and 10 more (see the table)" in cut
