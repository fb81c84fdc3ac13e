"""`moodfuse predict`: parse, load the model, print."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from moodfuse.cache.console import printable
from moodfuse.extract.options import reading_options, reading_rules
from moodfuse.options import device_option, refuse_given


@click.command("predict")
@click.argument("inputs", nargs=-1, required=True, metavar="FILE|FOLDER|LIST...")
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model folder that `moodfuse fuse --export` wrote."
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Cache folder: the model that its newest run exported."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv", "parquet"]),
    help="[default: by the name of --output, else table]",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write to; what is in it already is skipped."
)
@click.option(
    "--retry", is_flag=True, help="Try again what --output has as refused; its new rows come at the end."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Predictions of less confidence are uncertain.",
)
@click.option(
    "--why", is_flag=True, help="In the table: what each source says, and what the answer is without it."
)
@click.option(
    "--timeline", is_flag=True, help="The emotion over time: a window of 30 s slides over each whole file."
)
@click.option(
    "--hop", "hop_s", type=float, default=5.0, show_default=True, help="Seconds between two windows."
)
@click.option("--html", type=click.Path(path_type=Path), help="A page of one video with its time line.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="A figure of one video's time line: PNG, SVG or PDF."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=min(2, os.cpu_count() or 1), help="Decoding processes."
)
@device_option
@reading_options
@click.pass_context
def predict_command(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: Path | None,
    cache: Path | None,
    form: str | None,
    output: Path | None,
    retry: bool,
    threshold: float,
    why: bool,
    timeline: bool,
    hop_s: float,
    html: Path | None,
    plot: Path | None,
    jobs: int,
    device: str | None,
    **reading: Any,
) -> int:
    """Tell the emotion of videos with an exported model.

    Files that cannot be labelled are named with the reason, and the exit code is 3 then.

    Example: moodfuse predict --model model song.mp4 --format jsonl
    """
    from moodfuse.predict.batch import Wish, label_all

    form = form or _format_of(output)
    timeline = timeline or html is not None or plot is not None
    _refuse_ignored(ctx, form, timeline=timeline)
    wish = Wish(
        inputs=inputs,
        format=form,
        output=output,
        threshold=threshold,
        why=why,
        timeline=timeline,
        hop_s=hop_s,
        html=html,
        plot=plot,
        jobs=jobs,
        rules=reading_rules(reading),
        retry=retry,
        device=device,
    )
    folder = _model_folder(model, cache)
    try:
        return label_all(
            folder, wish, stream=sys.stdout, say=lambda line: click.echo(printable(line), err=True)
        )
    except KeyboardInterrupt as error:
        kept = "the rows written so far are kept, run the command again to go on"
        raise click.Abort(
            kept if output else "nothing is kept; with --output FILE a stopped run can go on"
        ) from error


def _refuse_ignored(ctx: click.Context, form: str, *, timeline: bool) -> None:
    if timeline:
        refuse_given(
            ctx, ("jobs",), "changes nothing of a time line, whose file one process decodes; leave it out"
        )
        refuse_given(
            ctx, ("why",), "is of whole files, not of the windows of a time line; leave one of them out"
        )
    else:
        refuse_given(
            ctx, ("hop_s",), "belongs to --timeline, --html and --plot; add one of them, or leave it out"
        )
    if form != "table":
        refuse_given(
            ctx, ("why",), f"is of --format table; {form} says it of every source anyway: leave it out"
        )


def _format_of(output: Path | None) -> str:
    endings = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    if output is None:
        return "table"
    if output.suffix.lower() not in endings:
        raise click.UsageError(
            f"--output {output}: give --format, or a name that ends in {', '.join(endings)}"
        )
    return endings[output.suffix.lower()]


def _model_folder(model: Path | None, cache: Path | None) -> Path:
    if (model is None) == (cache is None):
        raise click.UsageError("give one of --model DIR and --cache DIR")
    if model is not None:
        return model
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.runs import run_names
    from moodfuse.cache.store import FeatureCache
    from moodfuse.export import model_folder
    from moodfuse.model.folder import CARD

    assert cache is not None
    found = FeatureCache(cache)
    for name in reversed(run_names(found)):
        if (model_folder(found, name) / CARD).is_file():
            return model_folder(found, name)
    raise InputError(f"{cache}: no run has a model; run: moodfuse fuse --cache {cache} --export best")
