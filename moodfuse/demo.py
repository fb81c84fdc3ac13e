"""`moodfuse demo`: all three stages on a synthetic dataset."""

import csv
from pathlib import Path
from random import Random

import click


@click.command("demo")
@click.option(
    "--output", type=click.Path(path_type=Path), default="demo", show_default=True, help="Output folder."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the dataset and the fold plan.")
@click.option(
    "--shuffle-labels", type=int, help="Permute the labels of groups with this seed, to measure chance level."
)
@click.pass_context
def demo_command(ctx: click.Context, output: Path, seed: int, shuffle_labels: int | None) -> None:
    """Make 48 synthetic music videos and run extract, fuse and evaluate on them with the recipe demo.

    Example: moodfuse demo --output demo
    """
    from moodfuse.cache.runs import LEAKY, run_names
    from moodfuse.cache.store import FeatureCache
    from moodfuse.cache.terminal import ProgressBar, report
    from moodfuse.cli import group
    from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

    report(f"making a synthetic dataset in {output / 'corpus'}")
    settings = CorpusSettings(clips_per_group=(2, 1, 1), clip=ClipSettings(seed=seed))
    with ProgressBar("Making clips", transient=True):
        table = make_corpus(output / "corpus", settings=settings)
    if shuffle_labels is not None:
        table = shuffle_table(table, seed=shuffle_labels)
    cache = output / "cache"
    report("recipe: demo (few epochs, frozen video networks); the default recipe fine-tunes longer")
    common = ["--cache", str(cache)]
    heads = ["--head", "softmax", "--head", "mean"]
    for arguments in (
        ["extract", str(table), *common, "--seed", str(seed), "--recipe", "demo", "--leaky"],
        ["fuse", *common, *heads],
        ["fuse", *common, *heads, "--protocol", LEAKY],
        ["evaluate", *common, "--inflation"],
    ):
        report("")
        report(f"$ moodfuse {' '.join(arguments)}")
        code = group.main(arguments, prog_name="moodfuse", standalone_mode=False)
        if isinstance(code, int) and code:
            ctx.exit(code)
    run = [name for name in run_names(FeatureCache(cache)) if not name.startswith(LEAKY)][-1]
    page = cache / "runs" / run / "report" / "report.html"
    click.echo(f"\nclips: {table}\ncache: {cache}\nrecipe: demo\nreport: {page}")


def shuffle_table(table: Path, *, seed: int) -> Path:
    """Write a copy of a table of clips with labels permuted between groups, and return its path."""
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    labels = {row["group"]: row["label"] for row in sorted(rows, key=lambda row: row["group"])}
    permuted = list(labels.values())
    Random(seed).shuffle(permuted)
    new_labels = dict(zip(labels, permuted, strict=True))
    shuffled = table.with_name(f"{table.stem}-shuffled-{seed}.csv")
    with shuffled.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "label": new_labels[row["group"]]} for row in rows)
    return shuffled
