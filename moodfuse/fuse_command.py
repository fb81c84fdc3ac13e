"""`moodfuse fuse` with `--export`: stage two, then the model of a result."""

import shlex
from pathlib import Path
from typing import Any

import click

from moodfuse.cache.console import printable
from moodfuse.fuse.cli import ablation_settings
from moodfuse.fuse.cli import fuse_command as stage_two
from moodfuse.options import refuse_given

_EXPORT_OPTIONS = (
    click.Option(
        ["--export", "result"],
        metavar="best|RESULT",
        help="Write the model of a result, such as 'c3d+i3d softmax logits', or of the best: the smallest "
        "that is not significantly worse than the one of the least log loss. With the --run of one that "
        "exists, nothing is fused.",
    ),
    click.Option(
        ["--model", "folder"],
        type=click.Path(path_type=Path),
        help="Folder of the model.  [default: <cache>/runs/<run>/model]",
    ),
    click.Option(
        ["--missing"],
        type=click.Choice(["impute", "refuse"]),
        help="Whether the model labels files without audio or video.  [default: impute, if extract did]",
    ),
)
_FIT_OPTIONS = ("combine", "heads", "levels", "protocol", "repeats", "jobs", "scheduler")


def _fuse(*, result: str | None, folder: Path | None, missing: str | None, **options: Any) -> None:
    ctx = click.get_current_context()
    assert stage_two.callback is not None
    if result is None:
        refuse_given(
            ctx, ("folder", "missing"), "belongs to --export; add --export best, or the name of a result"
        )
        stage_two.callback(**options)
        return
    from moodfuse.cache.runs import check_new_name, read_run, run_names
    from moodfuse.cache.store import FeatureCache
    from moodfuse.export import ExportSettings, check_planned, export_model
    from moodfuse.model.folder import model_folder

    cache, name = FeatureCache(options["cache_path"]), options["run_name"]
    impute = None if missing is None else missing == "impute"

    def settings(run: str) -> ExportSettings:
        return ExportSettings(result, folder or model_folder(cache, run), impute)

    if name in run_names(cache):
        refuse_given(ctx, _FIT_OPTIONS, f"has no effect on {name}, which exists; remove it, or --run")
        run = read_run(cache, name)
    else:
        check_planned(cache, ablation_settings(options), settings(check_new_name(cache, name)))
        run = stage_two.callback(**options)
    export = settings(run.name)
    card = export_model(cache, run, export, echo=lambda line: click.echo(printable(line), err=True))
    accuracy = card.expected["accuracy"]
    click.echo(f"model: {export.folder} ({printable(card.name)}; cross-validated accuracy {accuracy:.3f})")
    click.echo(f"next: moodfuse predict --model {shlex.quote(str(export.folder))} FILE...")


fuse_command = click.Command(
    "fuse",
    callback=_fuse,
    params=[*stage_two.params, *_EXPORT_OPTIONS],
    help=(stage_two.help or "") + "\n\nThen: moodfuse fuse --cache work --run run-1 --export best",
)
