"""Labelling many files with a model: what is done is skipped, each row is written as it comes, bad files are named."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.extract.decoding import ReadingRules
from moodfuse.extract.failures import Tally, counted
from moodfuse.model.model import Ask, Model
from moodfuse.model.predictions import Prediction, Refusal, Timeline
from moodfuse.predict.inputs import expand
from moodfuse.predict.outputs import (
    CsvRows,
    Lines,
    Row,
    Table,
    Writer,
    csv_columns,
    is_window,
    key_of,
    row_of,
)
from moodfuse.predict.resuming import Output, Target, open_output

REFUSED = 3
"""Exit code where some file could not be labelled."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What `predict` is asked for.

    Attributes
    ----------
    inputs : tuple of str
    format : str
        One of `moodfuse.outputs.FORMATS`.
    output : Path or None
    threshold : float
    why, timeline : bool
    hop_s : float
    html, plot : Path or None
    jobs : int
    rules : ReadingRules
        What each file may cost, and which are taken.
    retry : bool
        Whether files that the output has as refused are tried again.
    device : str or None
        Where the model's networks work; `None` for where each was made.
    """

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
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold is {self.threshold}; expected 0 to 1")
        if not (np.isfinite(self.hop_s) and self.hop_s > 0):
            raise InputError(f"--hop is {self.hop_s}; expected seconds above 0")
        if self.timeline and self.rules.allow_partial:
            raise InputError(
                "--allow-partial does not go with --timeline, where what cannot be decoded leaves a gap"
            )
        if self.output is None and self.format == "parquet":
            raise InputError("--format parquet is no text; give --output FILE.parquet")
        if self.output is not None and self.format == "table":
            raise InputError("--format table is for reading; for --output take jsonl, csv or parquet")
        if self.output is None and self.retry:
            raise InputError("--retry tries again what an --output has as refused; give --output FILE")

    @property
    def draws(self) -> bool:
        """Whether a page or a figure is asked for."""
        return self.html is not None or self.plot is not None


def label_all(folder: Path, wish: Wish, *, stream: TextIO, say: Say) -> int:
    """Label every input; returns the exit code.

    Parameters
    ----------
    folder : Path
        Of the model.
    wish : Wish
    stream : text stream
        Where rows go that go to no file.
    say : callable
        Takes lines for the user.

    Raises
    ------
    InputError
        If the model, an input list or the output cannot be used.
    """
    asks = expand(wish.inputs, say=say)
    _check_asks(asks, wish)
    model = Model.load(folder, device=wish.device)
    if not model.card.chosen:
        say(
            "WARNING the model is not calibrated: nothing could be chosen out of sample, so confidences mislead"
        )
    output = _output(model, wish, asks, stream)
    left = [ask for ask in asks if key_of(ask) not in output.done]
    refused = sum(key_of(ask) in output.refused for ask in asks)
    if len(left) < len(asks):
        again = f", {refused} of them refused (--retry tries those again)" if refused else ""
        say(f"{len(asks) - len(left)} of {len(asks)} files are in {wish.output} already{again}")
    if wish.draws and not left:
        output.writer.close()
        raise InputError(
            f"{asks[0].file}: nothing is drawn of what {wish.output} has already; leave --output out"
        )
    reasons: list[str] = []
    for row in _timelines(model, left, wish) if wish.timeline else _labels(model, left, wish):
        output.writer.write(row)
        if "error" in row:
            reasons.append(str(row["error"]))
    output.writer.close()
    if reasons:
        say(f"{counted(reasons)}; each {'window' if wish.timeline else 'file'} is named with its reason")
    lacking = sum(reason in ("no_audio", "no_video") for reason in reasons)
    if lacking and len(model.card.views) > 1:
        say(
            f"{lacking} of them have no audio or no video stream: to label such files, export the model again with "
            "moodfuse fuse --export RESULT --missing impute"
        )
    return REFUSED if refused or reasons else 0


def _check_asks(asks: Sequence[Ask], wish: Wish) -> None:
    """Refuse what could only be ignored."""
    if wish.draws and len(asks) != 1:
        raise InputError(f"--html and --plot are of one video; {len(asks)} files were given")
    if wish.timeline and (windowed := next((ask for ask in asks if is_window(ask)), None)):
        raise InputError(
            f"{windowed.file}: a list names a window of it, and a time line is of a whole file; leave start_s and "
            "end_s out of the list, or --timeline"
        )


def _output(model: Model, wish: Wish, asks: list[Ask], stream: TextIO) -> Output:
    sources = [source.source for source in model.fusion.sources]
    if wish.output is not None:
        target = Target(
            wish.output,
            wish.format,
            model.card.digest[:16],
            model.classes,
            sources,
            threshold=wish.threshold,
            hop_s=wish.hop_s if wish.timeline else None,
            asked=frozenset(map(key_of, asks)),
            retry=wish.retry,
        )
        return open_output(target)
    width = min(60, max((len(ask.file) for ask in asks), default=0))
    writers: dict[str, Callable[[], Writer]] = {
        "table": lambda: Table(stream, width=width, why=wish.why),
        "jsonl": lambda: Lines(stream),
        "csv": lambda: CsvRows(stream, csv_columns(model.classes, sources), header=True),
    }
    return Output(writers[wish.format]())


def _labels(model: Model, asks: list[Ask], wish: Wish) -> Iterator[Row]:
    tally, jobs = Tally(wish.rules), max(1, min(wish.jobs, len(asks)))
    for ask, found in zip(asks, model.label(asks, jobs=jobs, rules=wish.rules), strict=True):
        yield row_of(found, ask, model=model.card.digest[:16], threshold=wish.threshold)
        tally.count(ask.file, found.code if isinstance(found, Refusal) else "")


def _timelines(model: Model, asks: list[Ask], wish: Wish) -> Iterator[Row]:
    """A row a window; a file that cannot be opened has one row, and counts as refused, as does one without a label."""
    from moodfuse.extract.decoding import MediaError
    from moodfuse.model.refusing import refusal_of

    tally = Tally(wish.rules)
    for ask in asks:
        try:
            timeline = model.timeline(ask.file, hop_s=wish.hop_s, limits=wish.rules.limits)
        except MediaError as error:
            yield row_of(
                refusal_of(ask.file, error), ask, model=model.card.digest[:16], threshold=wish.threshold
            )
            tally.count(ask.file, error.code)
            continue
        _draw(model, timeline, wish)
        yield from timeline_rows(timeline, model=model.card.digest[:16], threshold=wish.threshold)
        whole = timeline.refusals and len(timeline.refusals) == len(timeline.starts_s)
        tally.count(ask.file, timeline.refusals[0][1].code if whole else "")


def timeline_rows(timeline: Timeline, *, model: str, threshold: float) -> Iterator[Row]:
    """A time line as rows, one a window."""
    refused: dict[int, Refusal] = dict(timeline.refusals)
    times = zip(timeline.starts_s.tolist(), timeline.ends_s.tolist(), strict=True)
    for number, (start_s, end_s) in enumerate(times):
        ask = Ask(timeline.file, start_s, end_s)
        found: Prediction | Refusal = refused.get(number) or Prediction(
            timeline.file, timeline.classes, timeline.probabilities[number], start_s, end_s, timeline.missing
        )
        place = {"start_s": start_s, "end_s": end_s, "windows": len(timeline.starts_s)}
        yield row_of(found, ask, model=model, threshold=threshold) | place


def _draw(model: Model, timeline: Timeline, wish: Wish) -> None:
    if wish.html is not None:
        from moodfuse.timeline.page import poster_of, write_timeline_page

        video = Path(timeline.file)
        write_timeline_page(
            timeline,
            wish.html,
            video=video,
            threshold=wish.threshold,
            model=model.name,
            poster=poster_of(video),
        )
    if wish.plot is not None:
        from moodfuse.timeline.plot import write_timeline_plot

        write_timeline_plot(timeline, wish.plot, threshold=wish.threshold)
