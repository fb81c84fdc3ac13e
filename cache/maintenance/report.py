"""What `cache verify` and `cache prune` say, and their bar of progress."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.filesize import decimal as size
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from moodfuse.cache.console import printable
from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.maintenance.printing import TABLE_WIDTH
from moodfuse.cache.maintenance.prune import Pruning
from moodfuse.cache.maintenance.repair import Repair
from moodfuse.cache.maintenance.verify import Verification
from moodfuse.cache.storage.layout import BAD, TEMPORARY, UNKNOWN
from moodfuse.cache.store import FeatureCache

MOST_SHOWN = 20
"""Of files that are not bad so many of each kind are listed."""
_OTHERS = {BAD: "set aside earlier", TEMPORARY: "temporary", UNKNOWN: "unknown"}


@dataclass
class Bar:
    """A bar that counts bytes; without a terminal it is silent."""

    progress: Progress | None = None
    task: Any = None

    def begin(self, total: int) -> None:
        """Say how many bytes there are."""
        if self.progress is not None:
            self.progress.update(self.task, total=total)

    def tick(self, count: int) -> None:
        """Count bytes that are done."""
        if self.progress is not None:
            self.progress.advance(self.task, count)


@contextmanager
def byte_progress(what: str) -> Iterator[Bar]:
    """A bar on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield Bar()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress, progress.add_task(what, total=None))


def print_verification(root: Path, found: Verification) -> None:
    """Print a line for each bad file, what else should be known, and the counts."""
    for fault in found.faults:
        click.echo(f"bad: {printable(fault.place)}: {printable(fault.reason)}")
    for sentence in found.disagreements:
        click.echo(f"nondeterminism: {printable(sentence.removeprefix(f'{root}/'))}")
    for kind, word in _OTHERS.items():
        for place in found.others[kind][:MOST_SHOWN]:
            click.echo(f"{word}: {printable(place)}")
        if (more := len(found.others[kind]) - MOST_SHOWN) > 0:
            click.echo(f"{word}: and {more} more")
    if found.stale_view:
        click.echo(
            "note: clips.csv is not what the plan in force gives; nothing reads it, and extract writes it anew"
        )
    if outputs := len(found.others["output"]):
        click.echo(f"not checked: {outputs} files of reports and models, which carry no digest")
    click.echo(f"{found.checked} files, {size(found.bytes)} checked: {len(found.faults) or 'none'} bad")


def print_repair(root: Path, done: Repair) -> None:
    """Print what was set aside and written anew, what could not be, and which commands make the rest again."""
    for place in done.set_aside:
        click.echo(f"set aside: {printable(place)}.bad")
    for place in done.rewritten:
        click.echo(f"written anew: {printable(place)}")
    for sentence in done.failed:
        click.echo(f"failed: {printable(sentence)}")
    if done.remedies:
        click.echo("what makes again what was lost:")
        for command in done.remedies:
            click.echo(f"  {printable(command)}")
        if commands := _commands(root):
            click.echo("the commands that filled this cache:")
            for command in commands:
                click.echo(f"  {printable(command)}")


def _commands(root: Path) -> tuple[str, ...]:
    try:
        return FeatureCache(root).commands
    except MoodfuseError:
        return ()


def print_pruning(root: Path, pruning: Pruning, failed: Sequence[str], *, dry: bool) -> None:
    """Print what goes or went, by reason, what stays, and the space that this frees."""
    table = Table(box=SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("file or folder", "why"):
        table.add_column(name, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for removal in pruning.removals:
        table.add_row(printable(removal.place), printable(removal.why), size(removal.bytes))
    if pruning.removals:
        Console(width=max(Console().width, TABLE_WIDTH), highlight=False, markup=False, emoji=False).print(
            table
        )
    for sentence in pruning.kept:
        click.echo(f"kept: {printable(sentence)}")
    for sentence in failed:
        click.echo(f"failed: {printable(sentence)}")
    total = size(sum(removal.bytes for removal in pruning.removals))
    if not pruning.removals:
        click.echo("nothing to prune")
    elif dry:
        click.echo(f"{total} would be freed; to remove it, run the same command with --yes")
    else:
        click.echo(f"{total} freed" if not failed else f"of {total} not everything was freed")
