"""`moodfuse fuse` as the front door offers it: stage two, and the export of a model, which needs other rooms too."""

import shlex
from pathlib import Path
from typing import Any

import click

from moodfuse.cache.console import printable
from moodfuse.fuse.cli import ablation_settings
from moodfuse.fuse.cli import fuse_command as stage_two
from moodfuse.options import refuse_given

_EXPORT = (
    click.Option(
        ["--export", "wanted"],
        metavar="best|RESULT",
        help="Write the model of a result, such as 'c3d+i3d softmax logits', or of the best: the smallest that is not "
        "significantly worse than the one of the least log loss. With the --run of one that exists, nothing is fused.",
    ),
    click.Option(
        ["--model", "folder"],
        type=click.Path(path_type=Path),
        help="Folder of the model.  [default: <cache>/runs/<run>/model]",
    ),
    click.Option(
        ["--missing"],
        type=click.Choice(["impute", "refuse"]),
        help="Whether the model labels files without sound or picture.  [default: impute, if extract did]",
    ),
)


_OF_A_FIT = ("combine", "heads", "levels", "protocol", "repeats", "jobs", "scheduler")


def _fuse(*, wanted: str | None, folder: Path | None, missing: str | None, **options: Any) -> None:
    ctx = click.get_current_context()
    assert stage_two.callback is not None
    if wanted is None:
        refuse_given(
            ctx, ("folder", "missing"), "belongs to --export; add --export best, or the name of a result"
        )
        stage_two.callback(**options)
        return
    from moodfuse.cache.runs import check_new_name, read_run, run_names
    from moodfuse.cache.store import FeatureCache
    from moodfuse.export import ExportSettings, check_planned, export_model, model_folder

    cache, name = FeatureCache(options["cache_path"]), options["run_name"]
    impute = None if missing is None else missing == "impute"

    def settings(run: str) -> ExportSettings:
        return ExportSettings(wanted, folder or model_folder(cache, run), impute)

    if name in run_names(cache):
        refuse_given(
            ctx, _OF_A_FIT, f"changes nothing of {name}, which is there already; leave it, or --run, out"
        )
        run = read_run(cache, name)
    else:
        check_planned(cache, ablation_settings(options), settings(check_new_name(cache, name)))
        run = stage_two.callback(**options)
    done = export_model(
        cache, run, settings(run.name), echo=lambda line: click.echo(printable(line), err=True)
    )
    if done.why:
        click.echo(printable(done.why), err=True)
    expected = done.card.expected
    click.echo(
        f"model: {done.folder} ({printable(done.card.name)}; cross-validated accuracy {expected['accuracy']:.3f})"
    )
    click.echo(f"next: moodfuse predict --model {shlex.quote(str(done.folder))} FILE...")


fuse_command = click.Command(
    "fuse",
    callback=_fuse,
    params=[*stage_two.params, *_EXPORT],
    help=(stage_two.help or "") + "\n\nThen: moodfuse fuse --cache work --run run-1 --export best",
)
