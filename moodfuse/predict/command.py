"""The command `moodfuse predict`."""

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from moodfuse.cache.errors import InputError
from moodfuse.cache.terminal import report, wide_option
from moodfuse.extract.options import reading_options, reading_rules
from moodfuse.options import check_no_effect, device_option
from moodfuse.predict import PredictSettings

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
PATH = click.Path(path_type=Path)


@click.command("predict")
@click.argument("inputs", nargs=-1, required=True, metavar="FILE|FOLDER|LIST...")
@click.option("--model", type=PATH, help="Model folder, written by moodfuse fuse --export.")
@click.option("--cache", type=PATH, help="Cache folder; use the model of its newest run that has one.")
@click.option(
    "--format",
    type=click.Choice(["table", "jsonl", "csv", "parquet"]),
    help="How to write predictions.  [default: by the name of --output, else table]",
)
@click.option("--output", type=PATH, help="File to write to. Files that it already has are skipped.")
@click.option("--retry", is_flag=True, help="Try the refused files of --output again.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Mark predictions with a lower confidence as uncertain.",
)
@click.option("--why", is_flag=True, help="Show the contribution of each source in the table.")
@wide_option
@click.option("--timeline", is_flag=True, help="Label a window of 30 s that moves over each whole file.")
@click.option(
    "--hop",
    "hop_s",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds between two windows.",
)
@click.option("--html", type=PATH, help="Write a page that shows one video with its timeline.")
@click.option("--plot", type=PATH, help="Draw one video's timeline: PNG, SVG or PDF.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=min(2, os.cpu_count() or 1),
    show_default="at most 2",
    help="Decoding processes.",
)
@device_option
@reading_options
@click.pass_context
def predict_command(ctx: click.Context, model: Path | None, cache: Path | None, **options: Any) -> int:
    """Classify the emotion of videos with an exported model.

    Files that cannot be labelled are listed with the reason, and the exit code is 3.

    Example: moodfuse predict --model model song.mp4 --format jsonl
    """
    from moodfuse.predict.batch import label_all
    from moodfuse.predict.outputs import lock_output

    options["format"] = options["format"] or _format_of(options["output"])
    options["timeline"] |= options["html"] is not None or options["plot"] is not None
    _check_usage(ctx, options)
    names = {field.name for field in fields(PredictSettings)} - {"rules"}
    settings = PredictSettings(rules=reading_rules(options), **{name: options[name] for name in names})
    folder = _model_folder(model, cache)
    try:
        with lock_output(settings.output):
            return label_all(folder, settings, stream=sys.stdout, echo=report)
    except KeyboardInterrupt as error:
        hint = "the rows written so far are kept, run the command again to continue"
        if settings.output is None:
            hint = "nothing is kept; with --output FILE a stopped run can continue"
        raise click.Abort(hint) from error


def _format_of(output: Path | None) -> str:
    if output is None:
        return "table"
    if output.suffix.lower() not in FORMATS:
        raise click.UsageError(
            f"--output {output}: give --format, or a name that ends in {', '.join(FORMATS)}"
        )
    return FORMATS[output.suffix.lower()]


def _check_usage(ctx: click.Context, options: dict[str, Any]) -> None:
    """Raise UsageError for options that contradict each other or would have no effect."""
    form, output = options["format"], options["output"]
    if options["timeline"]:
        check_no_effect(ctx, ["jobs"], "has no effect on a timeline, which one process decodes; leave it out")
        check_no_effect(ctx, ["why"], "is for whole files, not for a timeline; leave one of them out")
        check_no_effect(ctx, ["allow_partial"], "cannot be used with a timeline: unreadable parts are gaps")
    else:
        check_no_effect(ctx, ["hop_s"], "belongs to --timeline, --html and --plot; add one, or leave it out")
    if form != "table":
        check_no_effect(ctx, ["why"], f"is for --format table; {form} always has it: leave it out")
        check_no_effect(ctx, ["wide"], f"is for --format table, not for {form}; leave it out")
    if output is None:
        check_no_effect(ctx, ["retry"], "tries the refused files of an --output again; give --output FILE")
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet is binary; give --output FILE.parquet")
    if form == "table" and output is not None:
        raise click.UsageError("--format table is for reading; use jsonl, csv or parquet with --output")


def _model_folder(model: Path | None, cache: Path | None) -> Path:
    if model is not None and cache is None:
        return model
    if cache is not None and model is None:
        return _newest_model(cache)
    raise click.UsageError("give one of --model DIR and --cache DIR")


def _newest_model(folder: Path) -> Path:
    from moodfuse.cache.runs import run_names
    from moodfuse.cache.store import FeatureCache
    from moodfuse.model.folder import CARD, model_folder

    cache = FeatureCache(folder)
    for run in reversed(run_names(cache)):
        if (model_folder(cache, run) / CARD).is_file():
            return model_folder(cache, run)
    raise InputError(f"{folder}: no run has a model; run: moodfuse fuse --cache {folder} --export best")
