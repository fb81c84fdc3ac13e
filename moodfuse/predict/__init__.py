"""`moodfuse predict`: label files with an exported model."""

from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.extract.decoding import ReadingRules


@dataclass(frozen=True)
class PredictSettings:
    """The options of `moodfuse predict`; `rules` are the limits for decoding."""

    inputs: tuple[str, ...]
    format: str = "table"
    output: Path | None = None
    threshold: float = 0.5
    why: bool = False
    wide: bool = False
    timeline: bool = False
    hop_s: float = 5.0
    html: Path | None = None
    plot: Path | None = None
    jobs: int = 1
    rules: ReadingRules = field(default_factory=ReadingRules)
    retry: bool = False
    device: str | None = None
