"""Label many files with a model: find them, skip those that the output has, write the rows of the others."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from moodfuse.cache.console import printable_lines
from moodfuse.cache.csv_rows import check_encoding, read_listed_path, read_number, read_records
from moodfuse.cache.errors import InputError
from moodfuse.cache.terminal import ProgressBar, terminal_width
from moodfuse.evaluate.markup import counted
from moodfuse.extract.dataset.scan import (
    MEDIA_SUFFIXES,
    describe_ignored,
    describe_long_windows,
    find_media,
)
from moodfuse.extract.decoding import MediaError
from moodfuse.extract.progress import FailureCounter, count_reasons
from moodfuse.model.answers import list_columns, list_windows
from moodfuse.model.model import Model
from moodfuse.model.predictions import Answer, LabelRequest, Refusal, Timeline, make_refusal
from moodfuse.predict import PredictSettings
from moodfuse.predict.outputs import (
    Output,
    format_csv,
    format_csv_rows,
    format_json,
    format_table,
    is_window,
    open_output,
)

log = logging.getLogger(__name__)
REFUSED = 3
"""Exit code if a file could not be labelled."""
LISTS = frozenset({".csv", ".tsv", ".txt"})
Echo = Callable[[str], object]


def label_all(folder: Path, settings: PredictSettings, *, stream: TextIO, echo: Echo) -> int:
    """Label all inputs and return the exit code.

    Rows go to `stream` if there is no output file; `echo` receives each line for the user.
    """
    requests = expand(settings.inputs, echo=echo)
    _check_requests(requests, settings)
    output_name = "standard output" if settings.output is None else settings.output
    echo(f"{counted(len(requests), 'file')} to label with {folder}; output: {output_name}")
    reasons: list[str] = []
    total = len(requests) if len(requests) > 1 else None
    with ProgressBar("Loading the model", total=total, transient=True) as bar:
        shares_terminal = settings.output is None and stream.isatty()
        writing = bar.paused if shares_terminal else nullcontext
        model = Model.load(folder, device=settings.device)
        if not model.card.chosen:
            echo("WARNING the model is not calibrated, so confidences may be misleading")
        with writing():
            output = _open(model, settings, requests, stream)
        left = [request for request in requests if request not in output.done]
        refused = sum(request in output.refused for request in requests)
        done = len(requests) - len(left)
        if done:
            again = f", {refused} of them refused (--retry tries those again)" if refused else ""
            files = "file is" if len(requests) == 1 else "files are"
            echo(f"{done} of {len(requests)} {files} in {output.path} already{again}")
        if (settings.html or settings.plot) and not left:
            raise InputError(
                f"{requests[0].file}: already in {settings.output}, so nothing would be drawn; leave "
                "--output out"
            )
        bar.describe("Labelling")
        bar.advance(done)
        label = _label_timelines if settings.timeline else _label_files
        for answer in label(model, left, settings, bar):
            with writing():
                output.write(answer)
            errors = [row["error"] for row in list_windows(answer) if "error" in row]
            for error in errors:
                log.info("refused %s: %s: %s", answer["file"], error["code"], error["detail"])
            reasons += [error["code"] for error in errors]
    output.close()
    if settings.output is not None and left:
        including = f" ({len(reasons)} refused)" if reasons and not settings.timeline else ""
        echo(f"{counted(len(left), 'file')}{including} written to {settings.output}")
    if reasons:
        unit = "window" if settings.timeline else "file"
        echo(f"{count_reasons(reasons)}; each {unit} is listed with its reason{_in(settings.output)}")
    without = sum(reason in ("no_audio", "no_video") for reason in reasons)
    if without and len(model.card.modalities) > 1:
        echo(
            f"{without} of them have no audio or no video stream: to label such files, export the model "
            "again with moodfuse fuse --export RESULT --missing impute"
        )
    return REFUSED if refused or reasons else 0


def _check_requests(requests: Sequence[LabelRequest], settings: PredictSettings) -> None:
    if (settings.html or settings.plot) and len(requests) != 1:
        raise InputError(f"--html and --plot show one video; {len(requests)} files were given")
    windows = [request.file for request in requests if is_window(request)]
    if settings.timeline and windows:
        raise InputError(
            f"{windows[0]}: a list names a window of it, but a timeline covers a whole file; leave "
            "start_s and end_s out of the list, or --timeline"
        )


def _in(output: Path | None) -> str:
    return "" if output is None else f" in {output}"


def _open(model: Model, settings: PredictSettings, requests: list[LabelRequest], stream: TextIO) -> Output:
    columns = list_columns(model.classes, [source.source for source in model.fusion.sources])
    if settings.output is not None:
        return open_output(settings, model=model.id.digest, columns=columns, requested=frozenset(requests))
    if settings.format == "jsonl":
        return Output(stream, format_json)
    if settings.format == "csv":
        escape = printable_lines if stream.isatty() else str
        stream.write(escape(format_csv(columns)))
        return Output(stream, lambda answer: escape(format_csv_rows(answer, columns)))
    line_width, shared = None if settings.wide else terminal_width(stream), 0
    if line_width is not None and len(requests) > 1:  # names without the folder that all files are in
        files = [request.file for request in requests]
        shared = os.path.commonprefix(files).rfind("/") + 1  # noqa: RUF071 - cut at the last slash
    width = min(60, max(len(request.file) for request in requests) - shared)

    def to_text(answer: Answer) -> str:
        return format_table(answer, width=width, why=settings.why, line_width=line_width, skipped=shared)

    return Output(stream, to_text)


def _label_files(
    model: Model, requests: list[LabelRequest], settings: PredictSettings, bar: ProgressBar
) -> Iterator[Answer]:
    tally, jobs = FailureCounter(settings.rules), max(1, min(settings.jobs, len(requests)))
    for request, result in zip(requests, model.label(requests, jobs=jobs, rules=settings.rules), strict=True):
        yield result.to_dict(threshold=settings.threshold)
        bar.advance()
        tally.count(request.file, result.code if isinstance(result, Refusal) else "")


def _label_timelines(
    model: Model, requests: list[LabelRequest], settings: PredictSettings, bar: ProgressBar
) -> Iterator[Answer]:
    """Yield the timeline of each file, or the refusal of one that cannot be opened."""
    tally = FailureCounter(settings.rules)
    for request in requests:
        try:
            timeline = model.timeline(request.file, hop_s=settings.hop_s, limits=settings.rules.limits)
        except MediaError as error:
            yield make_refusal(request, error, model.id).to_dict()
            bar.advance()
            tally.count(request.file, error.code)
            continue
        _draw(model, timeline, settings)
        yield timeline.to_dict(threshold=settings.threshold)
        bar.advance()
        refused = dict(timeline.refusals)
        all_refused = 0 < len(refused) == len(timeline.starts_s)
        tally.count(request.file, refused[0].code if all_refused else "")


def _draw(model: Model, timeline: Timeline, settings: PredictSettings) -> None:
    threshold, video = settings.threshold, Path(timeline.file)
    if settings.html is not None:
        from moodfuse.timeline.page import make_poster, write_timeline_page

        poster = make_poster(video, timeline.duration_s)
        write_timeline_page(
            timeline, settings.html, video=video, threshold=threshold, model=model.name, poster=poster
        )
    if settings.plot is not None:
        from moodfuse.timeline.plot import write_timeline_plot

        write_timeline_plot(timeline, settings.plot, threshold=threshold)


# Inputs


def expand(inputs: Sequence[str], *, echo: Echo) -> list[LabelRequest]:
    """Return every file to label, in the order of the inputs.

    Inputs are files; folders, for their media files at any depth; ``.txt`` lists with one path per line; and
    ``.csv`` or ``.tsv`` tables with a column ``path`` and optionally ``start_s`` and ``end_s``. Paths in a
    list are relative to its folder. `echo` receives warnings, and what is ignored in folders.
    """
    requests: list[LabelRequest] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            requests += _folder(path, echo)
        elif path.suffix.lower() in LISTS:
            listed = list(_lines(path) if path.suffix.lower() == ".txt" else _table(path))
            if not listed:
                raise InputError(f"{path}: the list is empty; expected a path in each line")
            requests += listed
        else:
            requests.append(LabelRequest(name))
    for line in describe_long_windows((request.start_s, request.end_s) for request in requests):
        echo(line)
    return requests


def _folder(folder: Path, echo: Echo) -> list[LabelRequest]:
    files = find_media(folder)
    ignored = describe_ignored(folder, files.ignored)
    if not files.media:
        message = f"{folder}: no media files; expected names that end in {', '.join(sorted(MEDIA_SUFFIXES))}"
        raise InputError("\n".join([message, *ignored]))
    for line in ignored:
        echo(line)
    return [LabelRequest(str(file)) for file in files.media]


def _lines(path: Path) -> Iterator[LabelRequest]:
    if not path.is_file():
        raise InputError(f"{path}: the list cannot be read; expected a regular file")
    check_encoding(path.read_bytes(), path)
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield LabelRequest(str(path.parent / read_listed_path(path, line, f"{path}, line {number}")))


def _table(path: Path) -> Iterator[LabelRequest]:
    for line, cells in read_records(path, ["path"], ["start_s", "end_s"]):
        where = f"{path}, line {line}"
        start_s, end_s = (read_number(where, name, cells[name]) for name in ("start_s", "end_s"))
        yield LabelRequest(
            str(path.parent / read_listed_path(path, cells["path"], where)), start_s or 0.0, end_s
        )
