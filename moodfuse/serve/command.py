"""`moodfuse serve`: a model as a web service."""

import importlib.util
import ipaddress
import logging
import os
import re
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from moodfuse.cache.console import printable
from moodfuse.cache.errors import InputError
from moodfuse.cache.terminal import ProgressBar, report
from moodfuse.extract.options import decoding_limits, limit_options
from moodfuse.options import device_option

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

REQUIRED = ("starlette", "uvicorn", "python_multipart")
MAX_CONNECTIONS = 128
SHUTDOWN_S = 5


@click.command("serve")
@click.option(
    "--model", "folder", type=click.Path(path_type=Path), required=True, help="Model folder of an export."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--max-upload",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="MB",
    help="Largest upload.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400, min_open=True),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds from the end of an upload to the answer, times the files of a batch.",
)
@click.option(
    "--at-once", type=click.IntRange(1), default=2, show_default=True, help="Files to label at once."
)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="Allow this host name, which a reverse proxy passes on; repeatable.",
)
@click.option(
    "--waiting",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="Further requests that may upload or wait.",
)
@click.option(
    "--access-log/--no-access-log", default=True, show_default=True, help="Log a line for each request."
)
@click.option("--metrics", is_flag=True, help="Serve counts and times at /metrics, for Prometheus.")
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
    access_log: bool,
    metrics: bool,
    device: str | None,
    **decoding: Any,
) -> None:
    """Label videos over HTTP, and in a browser: drop a video on the page, or POST it to /predict.

    Needs the extra: pip install 'moodfuse[serve]'. docs/serve.md describes answers and limits.

    Example: moodfuse serve --model model --port 8000
    """
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} cannot be imported; run: pip install 'moodfuse[serve]'")
    from moodfuse.model.model import Model
    from moodfuse.serve.app import LOOPBACK_NAMES, make_app
    from moodfuse.serve.messages import MIB, Limits

    limits = Limits(upload_bytes=max_upload * MIB, request_s=timeout, at_once=at_once, waiting=waiting)
    local = _is_loopback(host)
    for name in allowed:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise InputError(
                f"--allow-host {name!r}: expected a host name such as mood.example.org, without http:// and "
                "port"
            )
    names = {f"[{host}]" if ":" in host else host.lower(), *(name.lower() for name in allowed)}
    with _listen(host, port) as listener:
        with ProgressBar("Loading the model", transient=True):
            model = Model.load(folder, device=device, limits=decoding_limits(decoding))
        hosts = LOOPBACK_NAMES | names if local or allowed else None
        app = make_app(model, limits=limits, hosts=hosts, access_log=access_log, show_metrics=metrics)
        if not local:
            report(
                f"WARNING {host} can be reached from other machines, and there is no login: anyone who "
                "reaches it may upload files. Remove --host, or use a reverse proxy with a login"
            )
        click.echo(f"{printable(model.name)}: {_address(listener)} (Ctrl-C stops it)", err=True)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
            make_server(app).run(sockets=[listener])
        report("stopped")


def make_server(app: "Starlette") -> "uvicorn.Server":
    """Make the uvicorn server of an application of `make_app`."""
    import uvicorn

    from moodfuse.serve.monitoring import ACCESS_LOG

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.jobs.stop()  # answers 503 to waiting requests
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit and sig == signal.SIGINT:  # second Ctrl-C: do not wait for running threads
                if app.state.jobs.folder is not None:
                    shutil.rmtree(app.state.jobs.folder, ignore_errors=True)
                os._exit(130)
            super().handle_exit(sig, frame)

    logging.getLogger(ACCESS_LOG).setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # malformed forms are answered, not logged
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # MonitoringMiddleware has the duration, and no query
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=16 * 1024,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return Server(config)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {host}, port {port} ({cause}); give another --port or --host"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
