"""Made-up time lines."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from moodfuse.model.predictions import Refusal, Timeline

SIX = ("excited", "fear", "neutral", "relaxation", "sad", "tension")


def make_timeline(
    classes: Sequence[str] = SIX,
    *,
    windows: int = 43,
    hop_s: float = 5.0,
    window_s: float = 30.0,
    lost: Sequence[int] = (),
    file: str = "clip.webm",
) -> Timeline:
    """Probabilities that wander; the windows in `lost` could not be read."""
    rng = np.random.default_rng(1)
    steps = rng.standard_normal((windows, len(classes))).cumsum(axis=0)
    powers = np.exp(steps - steps.mean(axis=0))
    found = powers / powers.sum(axis=1, keepdims=True)
    found[list(lost)] = np.nan
    starts = hop_s * np.arange(windows)
    refusals = tuple((row, Refusal(file, "no_audio", f"there is no sound in {row}")) for row in lost)
    return Timeline(file, tuple(classes), starts, starts + window_s, found, refusals, float(starts[-1] + window_s))


@pytest.fixture
def timeline() -> Callable[..., Timeline]:
    """Make a time line; see `make_timeline`."""
    return make_timeline
