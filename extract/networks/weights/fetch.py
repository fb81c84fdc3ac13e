"""Fetching named weights into the user's cache folder: checked before they are used, continued where they were cut off.

The folder is pooch's cache folder for moodfuse, or the one that the variable MOODFUSE_HOME names.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from moodfuse.extract.networks.weights.files import WeightsError, file_kind
from moodfuse.extract.networks.weights.known import KnownWeights

HOME_VARIABLE = "MOODFUSE_HOME"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30


def weights_folder() -> Path:
    """Where fetched weights are kept."""
    import pooch

    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else Path(pooch.os_cache("moodfuse"))) / "weights"


def fetch_weights(known: KnownWeights, *, folder: Path | None = None) -> Path:
    """The checked file of named weights, fetched if it is not there yet.

    Parameters
    ----------
    known : KnownWeights
        An entry of the table.
    folder : Path, optional
        Where to keep it; by default `weights_folder()`.

    Raises
    ------
    WeightsError
        If the address cannot be reached, with the address and the place to put the file at, or if the file fails its
        check: what was fetched is dropped then, what was there before is left where it is.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    folder = folder or weights_folder()
    target = folder / known.file
    if not target.exists():
        try:
            pooch.retrieve(
                known.url,
                known_hash=None,
                fname=known.file,
                path=folder,
                downloader=_ResumingDownloader(known),
            )
        except (requests.exceptions.RequestException, OSError) as error:
            raise WeightsError(
                f"{known.name} of {known.network}: {known.url} cannot be fetched ({_reason(error)}); run again "
                f"to go on from where it stopped, or put the file by hand at {target}"
            ) from error
    check_file(known, target)
    return target


def _reason(error: Exception) -> str:
    """The server's answer where there was one, else the kind of failure."""
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"the server answers {response.status_code}"


def check_file(known: KnownWeights, path: Path) -> None:
    """Compare a file with what its publisher says of it.

    Raises
    ------
    WeightsError
        If the check gives something else.
    """
    file_kind(path)
    found = known.check.found(path)
    if found != known.check.value:
        raise WeightsError(
            f"{path}: not the published {known.name}: {known.check.kind} is {found}, expected {known.check.value}; "
            f"delete it and fetch it again from {known.url}"
        )


class _ResumingDownloader:
    """A downloader for pooch that keeps what a broken connection left, and asks the server for the rest.

    What arrives is checked before it gets its place; what fails the check is dropped.
    """

    def __init__(self, known: KnownWeights) -> None:
        self.known = known

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        part = (
            Path(output_file).parent
            / f"{self.known.file}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
        )
        have = part.stat().st_size if part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, stream=True, timeout=_TIMEOUT_S, headers=headers) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink(missing_ok=True)
                raise requests.exceptions.ConnectionError("the part that was there is longer than the file")
            response.raise_for_status()
            resumed = response.headers.get("content-range", "").startswith(f"bytes {have}-")
            if response.status_code == requests.codes.partial_content and not resumed:
                part.unlink(missing_ok=True)
                raise requests.exceptions.ConnectionError(
                    "the server sent another part than it was asked for"
                )
            total = int(response.headers.get("content-length", 0)) + (have if resumed else 0)
            with open(part, "ab" if resumed else "wb") as stream:
                pieces = response.iter_content(chunk_size=_CHUNK_BYTES)
                for piece in _progress(pieces, have if resumed else 0, total, url):
                    stream.write(piece)
        if total and part.stat().st_size != total:
            raise requests.exceptions.ConnectionError(f"got {part.stat().st_size} of {total} bytes")
        try:
            check_file(self.known, part)
        except WeightsError:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, output_file)


def _progress(pieces: Iterator[bytes], have: int, total: int, url: str) -> Iterator[bytes]:
    if not sys.stderr.isatty():
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"Fetching {url.rsplit('/', 1)[-1]}", total=total or None, completed=have)
        for piece in pieces:
            yield piece
            bar.advance(task, len(piece))
