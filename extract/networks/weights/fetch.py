"""Fetch published weights into the user's weights folder, and list what is there.

The folder is pooch's cache folder for moodfuse, or `weights` in the folder that the variable MOODFUSE_HOME
names.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from moodfuse.extract.networks.weights.files import WeightsError, file_kind
from moodfuse.extract.networks.weights.published import KnownWeights, all_weights

HOME_VARIABLE = "MOODFUSE_HOME"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30
_MIN_TABLE_WIDTH = 120


def weights_folder() -> Path:
    """The folder of fetched weights."""
    import pooch

    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else Path(pooch.os_cache("moodfuse"))) / "weights"


def fetch_weights(known: KnownWeights, *, folder: Path | None = None) -> Path:
    """The checked file of published weights in `folder` or `weights_folder()`, fetched if it is missing.

    Raises
    ------
    WeightsError
        If the address cannot be reached, or if the file fails its check; a fetched file that fails is
        removed.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    folder = folder or weights_folder()
    target = folder / known.file

    def download(url: str, output_file: str, _pooch: object) -> None:
        part = target.with_name(f"{target.name}.part")
        _download(url, part)
        try:
            _check_file(known, part)
        except WeightsError:
            part.unlink()
            raise
        os.replace(part, output_file)

    if not target.exists():
        try:
            pooch.retrieve(known.url, None, fname=known.file, path=folder, downloader=download)
        except (requests.exceptions.RequestException, OSError) as error:
            response = getattr(error, "response", None)
            reason = type(error).__name__ if response is None else f"status {response.status_code}"
            raise WeightsError(
                f"{known.name} of {known.network}: {known.url} cannot be fetched ({reason}); run again "
                f"to resume the download, or put the file by hand at {target}"
            ) from error
    _check_file(known, target)
    return target


def _check_file(known: KnownWeights, path: Path) -> None:
    """Compare a file with its published digest."""
    file_kind(path)
    digest = known.check.compute(path)
    if digest != known.check.value:
        raise WeightsError(
            f"{path}: not the published {known.name}: {known.check.kind} is {digest}, expected "
            f"{known.check.value}; delete it and fetch it again from {known.url}"
        )


def _download(url: str, part: Path) -> None:
    """Fetch a file, or the rest of it where `part` holds its beginning."""
    import requests
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, stream=True, timeout=_TIMEOUT_S, headers=headers) as response:
        resumed = response.headers.get("content-range", "").startswith(f"bytes {have}-")
        if have and not resumed and response.status_code in (206, 416):
            part.unlink()  # not the requested range, or the file is shorter than the part
            raise requests.exceptions.ConnectionError("the rest of the file is not available")
        response.raise_for_status()
        have = have if resumed else 0
        total = int(response.headers.get("content-length", 0)) + have
        columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
        with (
            open(part, "ab" if resumed else "wb") as stream,
            Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar,
        ):
            task = bar.add_task(f"Fetching {url.rsplit('/', 1)[-1]}", total=total or None, completed=have)
            for piece in response.iter_content(chunk_size=_CHUNK_BYTES):
                stream.write(piece)
                bar.advance(task, len(piece))
    if total and part.stat().st_size != total:
        raise requests.exceptions.ConnectionError(f"got {part.stat().st_size} of {total} bytes")


def print_weights(network: str | None, *, wide: bool) -> None:
    """Print the published weights of one or all networks as a table, or with `wide` all facts of each.

    Raises
    ------
    UnknownNameError
        If no network has this name.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    folder = weights_folder()
    table = Table(box=SIMPLE)
    for title in ("name", "MB", "check", "trained on", "here"):
        table.add_column(title, no_wrap=True, justify="right" if title == "MB" else "left")
    for known in all_weights(network):
        present = (folder / known.file).is_file()
        if wide:
            _print_facts(known, present=present)
        size_mb, here = f"{known.size_mb:.1f}", "yes" if present else ""
        table.add_row(known.full_name, size_mb, known.check.kind, known.trained_on, here)
    if not wide:
        Console(width=max(Console().width, _MIN_TABLE_WIDTH)).print(table)
    print(f"kept in {folder}; use: moodfuse extract DATA --cache DIR --weights SOURCE=NAME")


def _print_facts(known: KnownWeights, *, present: bool) -> None:
    facts = {
        "network": known.network,
        "file": f"{known.file}, {known.size_mb:.1f} MB{', here' if present else ''}",
        "address": known.url,
        "check": f"{known.check} ({known.check.strength})",
        "licence": known.licence,
        "trained on": known.trained_on,
        "layout": f"{known.layout}; not loaded: {', '.join(known.drops)}",
        "input": str(known.preprocessing),
        "BatchNorm": "" if known.bn_eps is None else f"epsilon {known.bn_eps:g}",
    }
    print(known.full_name)
    for title, text in facts.items():
        if text:
            print(f"  {title:<11} {text}")
    print()
