"""`moodfuse serve`: a model as a web service."""

import importlib.util
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from moodfuse.cache.console import printable
from moodfuse.cache.errors import InputError
from moodfuse.extract.options import decoding_limits, limit_options
from moodfuse.options import device_option

NEEDED = ("starlette", "uvicorn", "python_multipart")


@click.command("serve")
@click.option(
    "--model", "folder", type=click.Path(path_type=Path), required=True, help="Model folder of an export."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; the default is this machine.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--max-upload", type=click.IntRange(1), default=512, show_default=True, metavar="MB", help="Largest file."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400, min_open=True),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds from the end of an upload to its answer.",
)
@click.option(
    "--at-once", type=click.IntRange(1), default=2, show_default=True, help="Files labelled at once."
)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="Name of this service that a proxy in front passes on; repeatable.",
)
@click.option(
    "--waiting", type=click.IntRange(0), default=8, show_default=True, help="Further requests that may wait."
)
@device_option
@limit_options
def serve_command(
    folder: Path,
    host: str,
    port: int,
    max_upload: int,
    timeout: float,
    at_once: int,
    allowed: tuple[str, ...],
    waiting: int,
    device: str | None,
    **decoding: Any,
) -> None:
    """Label videos over HTTP, and in a browser: drop a video on the page, or POST it to /predict.

    Needs the extra: pip install 'moodfuse[serve]'. docs/serve.md describes answers and limits.

    Example: moodfuse serve --model model --port 8000
    """
    _require_extra()
    from moodfuse.model.model import Model
    from moodfuse.serve.app import make_app
    from moodfuse.serve.guard import LOOPBACK_NAMES, host_name
    from moodfuse.serve.limits import MIB, Limits
    from moodfuse.serve.server import Server, address_of, is_loopback, listen

    limits = Limits(upload_bytes=max_upload * MIB, request_s=timeout, at_once=at_once, waiting=waiting)
    local = is_loopback(host)
    for name in allowed:
        if host_name(f"[{name}]" if ":" in name else name) != name.lower():
            raise InputError(
                f"--allow-host {name!r}: expected a host name such as mood.example.org, without http:// and port"
            )
    names = {name.lower() for name in (host, *allowed)}
    # Uploads that are no forms are refused with a sentence; the parser's own complaints would only fill the log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    with listen(host, port) as listener:
        model = Model.load(folder, device=device, limits=decoding_limits(decoding))
        app = make_app(model, limits=limits, hosts=LOOPBACK_NAMES | names if local or allowed else None)
        if not local:
            click.echo(
                f"Warning: {host} can be reached from other machines, and there is no login: whoever reaches it may "
                "upload files. Leave --host out, or put a server with a login in front",
                err=True,
            )
        click.echo(f"{printable(model.name)}: {address_of(listener)} (Ctrl-C stops it)", err=True)
        with suppress(
            KeyboardInterrupt
        ):  # which the server raises again once it has ended, or has not yet begun
            Server(app).run(sockets=[listener])
        click.echo("stopped", err=True)


def _require_extra() -> None:
    """Refuse to start where the extra is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} cannot be imported; install what serve needs: pip install 'moodfuse[serve]'"
        )
