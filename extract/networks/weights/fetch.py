"""Fetch published weights into the user's weights folder, and list what is there.

The folder is `weights` in the folder that the variable MOODFUSE_HOME names, by default in the user's cache
folder for moodfuse.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from pathlib import Path

from moodfuse.cache.terminal import Column, ProgressBar, print_table
from moodfuse.extract.networks.weights.files import WeightsError, file_kind
from moodfuse.extract.networks.weights.published import STRENGTHS, KnownWeights, all_weights

HOME_VARIABLE = "MOODFUSE_HOME"
MIB = 2**20  # a power of two, so that sums of fractions are exact
_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30


def weights_folder() -> Path:
    """The folder of fetched weights."""
    import pooch

    return Path(os.environ.get(HOME_VARIABLE) or pooch.os_cache("moodfuse")) / "weights"


def _torch_hub_folder() -> Path:
    """The folder into which torchvision and torchaudio download weights."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def fetch_weights(known: KnownWeights, *, folder: Path | None = None) -> Path:
    """The checked file of published weights in `folder` or `weights_folder()`, fetched if it is missing.

    A file that torch has downloaded is used as well.

    Raises
    ------
    WeightsError
        If the file cannot be fetched, or if it fails its check; a fetched file that fails is removed.
    """
    import requests

    path = (folder or weights_folder()) / known.file
    for present in (path, _torch_hub_folder() / known.file):
        if present.exists():
            _check_file(known, present)
            return present
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(known.url, part)
    except (requests.RequestException, OSError) as error:
        response = getattr(error, "response", None)
        reason = type(error).__name__ if response is None else f"status {response.status_code}"
        raise WeightsError(
            f"{known.name} of {known.network}: {known.url} cannot be fetched ({reason}); run again "
            f"to resume the download, or put the file by hand at {path}"
        ) from error
    try:
        if known.member:
            _extract_member(part, known.member)
        _check_file(known, part)
    except WeightsError:
        part.unlink()
        raise
    part.replace(path)
    return path


def _extract_member(archive: Path, member: str) -> None:
    """Replace a tar archive by one of its files."""
    target = archive.with_suffix(".member")
    try:
        with tarfile.open(archive) as tar, open(target, "wb") as stream:
            source = tar.extractfile(member)
            if source is None:
                raise KeyError(f"{member} is not a file")
            shutil.copyfileobj(source, stream)
    except (tarfile.TarError, zlib.error, EOFError, KeyError, OSError) as error:
        target.unlink(missing_ok=True)
        raise WeightsError(f"{archive}: {member} cannot be extracted ({error}); fetch it again") from error
    target.replace(archive)


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

    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    with requests.get(url, stream=True, timeout=_TIMEOUT_S, headers=headers) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)  # the part is longer than the file
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0
        total = int(response.headers.get("Content-Length", 0)) + start
        with (
            open(part, "ab" if start else "wb") as stream,
            ProgressBar(f"Fetching {part.stem} (MiB)", total=total / MIB or None) as bar,
        ):
            bar.advance(start / MIB)
            for chunk in response.iter_content(chunk_size=_CHUNK_BYTES):
                stream.write(chunk)
                bar.advance(len(chunk) / MIB)
    if part.stat().st_size < total:
        raise requests.ConnectionError("the connection ended early")


def print_weights(network: str | None, *, long: bool, wide: bool) -> None:
    """Print the published weights of one or all networks as a table, or with `long` all facts of each."""
    folder = weights_folder()
    listed = all_weights(network)
    if network is not None and not listed:
        print(f"{network}: no published weights to list; those of a hub's network are found by its name")
        return
    fetched = {known.full_name: (folder / known.file).is_file() for known in listed}
    if long:
        for known in listed:
            _print_facts(known, fetched=fetched[known.full_name])
    else:
        columns = [Column("name", narrow=48), Column("MB", number=True, drop=1), Column("check", drop=3)]
        columns += [Column("trained on", drop=2), Column("fetched")]
        rows = [
            (
                known.full_name,
                f"{known.size_mb:.1f}",
                known.check.kind,
                known.trained_on,
                "yes" if fetched[known.full_name] else "no",
            )
            for known in listed
        ]
        print_table(columns, [rows], wide=wide)
    print(f"kept in {folder}\nuse: moodfuse extract DATA --cache DIR --weights SOURCE=NAME")


def _print_facts(known: KnownWeights, *, fetched: bool) -> None:
    facts = {
        "network": known.network,
        "file": f"{known.file}, {known.size_mb:.1f} MB{', fetched' if fetched else ''}",
        "address": f"{known.url} ({known.member})" if known.member else known.url,
        "check": f"{known.check} ({STRENGTHS[known.check.kind]})",
        "licence": known.licence,
        "trained on": known.trained_on,
        "layout": f"{known.layout}; not loaded: {', '.join(known.drops)}",
        "input": str(known.preprocessing),
    }
    if known.bn_eps is not None:
        facts["BatchNorm"] = f"epsilon {known.bn_eps:g}"
    print(known.full_name)
    for title, text in facts.items():
        print(f"  {title:<11} {text}")
    print()
