"""`moodfuse evaluate` as the front door offers it: the report of a run, or a model on a test set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from moodfuse.cache.console import printable
from moodfuse.evaluate.cli import evaluate_command as stage_three
from moodfuse.options import refuse_given

_MODEL = (
    click.Argument(["data"], required=False, type=click.Path(path_type=Path)),
    click.Option(
        ["--model"], type=click.Path(path_type=Path), help="Score this model on DATA, which it never saw."
    ),
    click.Option(["--group-pattern"], help="With --model: as for extract."),
    click.Option(["--jobs"], type=click.IntRange(min=1), default=2, help="With --model: decoding processes."),
    click.Option(["--device"], help="With --model: as for predict."),
)


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
        assert stage_three.callback is not None
        stage_three.callback(cache_path=cache_path, **options)
        return None
    of_a_run = ("run", "compare", "inflation", "no_thumbnails")
    refuse_given(
        ctx, of_a_run, "belongs to --cache; a model is scored on its own, and its report has no pictures"
    )
    return _test(TestWish(model, data, group_pattern, jobs, device), options)


@dataclass(frozen=True)
class TestWish:
    """A model, and what it is tested on: as the command's options say."""

    model: Path
    data: Path
    group_pattern: str | None
    jobs: int
    device: str | None


def _test(wish: TestWish, options: dict[str, Any]) -> int:
    from moodfuse.evaluate.cli import progress, write_all
    from moodfuse.evaluate.evaluation import evaluate_run
    from moodfuse.evaluate.report.terminal import print_table
    from moodfuse.model.model import Model
    from moodfuse.predict.batch import REFUSED
    from moodfuse.test_set import read_clips, run_test

    def say(line: str) -> None:
        click.echo(printable(line), err=True)

    clips = read_clips(wish.data, wish.group_pattern, say=say)
    model = Model.load(wish.model, device=wish.device)
    found = run_test(model, clips, jobs=wish.jobs, say=say)
    with progress("Scoring") as tick:
        evaluation = evaluate_run(found.run, draws=options["draws"], seed=options["seed"], tick=tick)
    print_table(evaluation)
    write_all(evaluation, options["output"] or Path("test-report"))
    return REFUSED if found.refused else 0


evaluate_command = click.Command(
    "evaluate",
    callback=_evaluate,
    params=[*(item for item in stage_three.params if item.name != "cache_path"), *_MODEL],
    help=(stage_three.help or "")
    + "\n\nOr, of a model: moodfuse evaluate --model model test.csv --output test-report",
)
evaluate_command.params.insert(
    0, click.Option(["--cache", "cache_path"], type=click.Path(path_type=Path), help="Cache folder.")
)
