"""Colours and line styles by which emotions are told apart, on the page and in the figure.

An emotion's look follows from its place among the sorted labels, so it is the same for every video of a model. The
eight colours of either ground were searched for: each has a contrast of 3 or more to its ground (WCAG 2.2, 1.4.11),
and any two stay 0.095 or more apart in OKLab to readers without red, green or blue cones (Machado, Oliveira and
Fernandes 2009, severity 1). Line styles part what prints grey, and labels beyond the eighth: 32 looks in all.
"""

from dataclasses import dataclass

LIGHT = ("#1567d9", "#e36808", "#08a472", "#a87cc5", "#32196e", "#9e3199", "#6f1e1a", "#53684c")
"""On white."""
DARK = ("#5897be", "#ec8433", "#46c2a3", "#ffa1fc", "#7a5ad0", "#e1dd49", "#b73e6b", "#b7ebc4")
"""On the page's dark ground, `DARK_GROUND`."""
DARK_GROUND = "#14171b"
DASHES: tuple[tuple[float, ...], ...] = ((), (9, 3.5), (9, 3, 2, 3), (2.2, 2.6))
"""Strokes and gaps in multiples of 1 px on the page: solid, dashed, dash-dotted, dotted."""
PROMINENT_LIMIT = 8
"""Of more labels than these, only the most probable somewhere are drawn strongly."""


@dataclass(frozen=True)
class Look:
    """Places in `LIGHT` or `DARK`, and in `DASHES`."""

    colour: int
    dash: int


def look_of(place: int) -> Look:
    """The look of the label at a place among the sorted labels; the first 32 differ."""
    colours, dashes = len(LIGHT), len(DASHES)
    return Look(place % colours, (place % colours // 2 + place // colours) % dashes)


def palette_style() -> str:
    """The palette as CSS: `--e0` and so on by ground, and the classes `e0`, `k0` of colours and dashes."""
    light, dark = (
        "".join(f"--e{place}:{colour};" for place, colour in enumerate(colours)) for colours in (LIGHT, DARK)
    )
    colours = "".join(f".e{place}{{--series:var(--e{place})}}" for place in range(len(LIGHT)))
    dashes = "".join(
        f".k{place}{{stroke-dasharray:{' '.join(f'{length:g}' for length in dash)}}}"
        for place, dash in enumerate(DASHES)
        if dash
    )
    return (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}@media print{{:root{{{light}}}}}"
        f"{colours}{dashes}"
    )
