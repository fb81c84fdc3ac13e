"""`moodfuse fuse` as the front door offers it: stage two, and the export of a model, which needs other rooms too."""

import shlex
from pathlib import Path
from typing import Any

import click

from fuse.cli import fuse_command as stage_two

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


def _fuse(*, wanted: str | None, folder: Path | None, missing: str | None, **options: Any) -> None:
    from cache.errors import InputError
    from cache.runs import read_run, run_names
    from cache.store import FeatureCache
    from moodfuse.export import export_model, model_folder

    if wanted is None and (folder is not None or missing is not None):
        raise InputError("--model and --missing belong to --export; add --export best, or the name of a result")
    cache = FeatureCache(options["cache_path"])
    there = wanted is not None and options["run_name"] in run_names(cache)
    assert stage_two.callback is not None
    run = read_run(cache, options["run_name"]) if there else stage_two.callback(**options)
    if wanted is None:
        return
    impute = None if missing is None else missing == "impute"
    target = folder or model_folder(cache, run.name)
    done = export_model(cache, run, wanted, target, impute=impute, say=lambda line: click.echo(line, err=True))
    if done.why:
        click.echo(done.why, err=True)
    expected = done.card.expected
    click.echo(f"model: {done.folder} ({done.card.name}; cross-validated accuracy {expected['accuracy']:.3f})")
    click.echo(f"next: moodfuse predict --model {shlex.quote(str(done.folder))} FILE...")


fuse_command = click.Command(
    "fuse",
    callback=_fuse,
    params=[*stage_two.params, *_EXPORT],
    help=(stage_two.help or "") + "\n\nThen: moodfuse fuse --cache work --run run-1 --export best",
)
