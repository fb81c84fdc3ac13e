"""`moodfuse predict`: label files with an exported model."""

from dataclasses import dataclass, field
from pathlib import Path

from moodfuse.cache.errors import InputError
from moodfuse.extract.decoding import ReadingRules


@dataclass(frozen=True)
class PredictSettings:
    """The options of `moodfuse predict`; `rules` are the limits for decoding."""

    inputs: tuple[str, ...]
    format: str = "table"
    output: Path | None = None
    threshold: float = 0.5
    why: bool = False
    timeline: bool = False
    hop_s: float = 5.0
    html: Path | None = None
    plot: Path | None = None
    jobs: int = 1
    rules: ReadingRules = field(default_factory=ReadingRules)
    retry: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if self.timeline and self.rules.allow_partial:
            raise InputError(
                "--allow-partial cannot be used with --timeline, where unreadable parts are gaps"
            )
        if self.output is None and self.format == "parquet":
            raise InputError("--format parquet is binary; give --output FILE.parquet")
        if self.output is not None and self.format == "table":
            raise InputError("--format table is for reading; use jsonl, csv or parquet with --output")
        if self.output is None and self.retry:
            raise InputError("--retry tries the refused files of an --output again; give --output FILE")
