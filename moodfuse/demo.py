"""`moodfuse demo`: a synthetic corpus of real media files, and all three stages on it."""

from pathlib import Path

import click


@click.command("demo")
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Where it goes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the corpus and the fold plan.")
@click.option("--shuffle-labels", type=int, help="Permute labels between groups with this seed: a check that nothing leaks.")
@click.pass_context
def demo_command(ctx: click.Context, output: Path, seed: int, shuffle_labels: int | None) -> None:
    """Make a synthetic corpus of 60 music videos and run extract, fuse and evaluate on it.

    Example: moodfuse demo --output demo
    """
    from moodfuse.cli import group
    from moodfuse.corpus import CorpusSettings, make_corpus, shuffled_labels

    click.echo(f"making a synthetic corpus in {output / 'corpus'}", err=True)
    table = make_corpus(output / "corpus", settings=CorpusSettings(seed=seed))
    cache = output / "cache"
    run = "demo"
    if shuffle_labels is not None:
        table = shuffled_labels(table, seed=shuffle_labels)
        run = f"demo-shuffled-{shuffle_labels}"
    stages = (
        ["extract", str(table), "--cache", str(cache), "--seed", str(seed)],
        ["fuse", "--cache", str(cache), "--run", run, "--combine", "seed"],
        ["evaluate", "--cache", str(cache), "--run", run],
    )
    for arguments in stages:
        click.echo(f"\n$ moodfuse {' '.join(arguments)}", err=True)
        code = group.main(arguments, prog_name="moodfuse", standalone_mode=False)
        if isinstance(code, int) and code:
            ctx.exit(code)
    click.echo(f"\nclips: {table}\ncache: {cache}\nresults: {cache / 'runs' / run / 'report'}")
