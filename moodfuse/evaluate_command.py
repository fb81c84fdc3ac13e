"""`moodfuse evaluate`: the report of a run, or of a model on a test set."""

from pathlib import Path
from typing import Any

import click

from moodfuse.cache.console import printable
from moodfuse.evaluate.cli import evaluate_command as run_command
from moodfuse.options import refuse_given

_CACHE = click.Option(["--cache", "cache_path"], type=click.Path(path_type=Path), help="Cache folder.")
_MODEL_PARAMETERS = (
    click.Argument(["data"], required=False, type=click.Path(path_type=Path)),
    click.Option(
        ["--model"],
        type=click.Path(path_type=Path),
        help="Score this model on DATA, which it was not trained on.",
    ),
    click.Option(["--group-pattern"], help="With --model: as for extract."),
    click.Option(["--jobs"], type=click.IntRange(min=1), default=2, help="With --model: decoding processes."),
    click.Option(["--device"], help="With --model: as for predict."),
)
_RUN_ONLY = ("run", "compare", "inflation", "no_thumbnails")


def _evaluate(
    *,
    data: Path | None,
    model: Path | None,
    group_pattern: str | None,
    jobs: int,
    device: str | None,
    cache_path: Path | None,
    **options: Any,
) -> int | None:
    if (model is None) != (data is None) or (model is None) == (cache_path is None):
        raise click.UsageError(
            "give --cache DIR for the report of a run, or --model DIR and DATA to test a model"
        )
    ctx = click.get_current_context()
    if model is None or data is None:
        refuse_given(
            ctx,
            ("group_pattern", "jobs", "device"),
            "belongs to --model; a run has its groups and predictions already",
        )
        assert run_command.callback is not None
        run_command.callback(cache_path=cache_path, **options)
        return None
    refuse_given(
        ctx, _RUN_ONLY, "belongs to --cache; the report of a test set has one model and no thumbnails"
    )
    return _test_model(model, data, group_pattern, jobs, device, options)


def _test_model(
    folder: Path,
    data: Path,
    group_pattern: str | None,
    jobs: int,
    device: str | None,
    options: dict[str, Any],
) -> int:
    from moodfuse.evaluate.cli import present, progress
    from moodfuse.evaluate.evaluation import evaluate_run
    from moodfuse.model.model import Model
    from moodfuse.predict.batch import REFUSED
    from moodfuse.test_set import read_clips, run_test

    def report(line: str) -> None:
        click.echo(printable(line), err=True)

    clips = read_clips(data, group_pattern, report=report)
    test = run_test(Model.load(folder, device=device), clips, jobs=jobs, report=report)
    with progress("Scoring") as tick:
        evaluation = evaluate_run(test.run, draws=options["draws"], seed=options["seed"], tick=tick)
    present(evaluation, options["output"] or Path("test-report"))
    return REFUSED if test.refused else 0


evaluate_command = click.Command(
    "evaluate",
    callback=_evaluate,
    params=[_CACHE, *(item for item in run_command.params if item.name != "cache_path"), *_MODEL_PARAMETERS],
    help=f"{run_command.help}\n\nOr, for a model: moodfuse evaluate --model model test.csv --output test-report",
)
