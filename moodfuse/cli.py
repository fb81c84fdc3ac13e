"""The command line: a group that imports each command when it is called, and errors as exit codes.

Exit codes: 0 done; 1 failed; 2 wrong usage or input; 3 done, but some clips were refused; 130 interrupted.
"""

import io
import logging
import os
import sys
import tomllib
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from moodfuse._version import __version__
from moodfuse.cache.console import printable_lines
from moodfuse.cache.errors import MoodfuseError
from moodfuse.options import HEADS_TABLE

log = logging.getLogger(__name__)
INTERRUPTED = 130
COMMANDS = {
    "check": ("extract.cli:check_command", "Report what would be read, refused, grouped and duplicated."),
    "extract": ("extract.cli:extract_command", "Decode clips, fine-tune networks, cache embeddings."),
    "fuse": ("fuse_command:fuse_command", "Train fusion heads on cached features; export a model."),
    "evaluate": ("evaluate_command:evaluate_command", "Report the scores of a run, or test a model."),
    "predict": ("predict.command:predict_command", "Label videos with an exported model."),
    "cache": ("cache.cli:cache_group", "List, verify and prune a cache; exchange features."),
    "weights": ("extract.cli:weights_group", "List, fetch and convert pretrained weights."),
    "networks": ("extract.cli:networks_command", "List the networks that can be sources."),
    "serve": ("serve.command:serve_command", "Label videos over HTTP and in a browser."),
    "demo": ("demo:demo_command", "Run all three stages on a synthetic dataset."),
}
"""Name of a command -> where it is defined in `moodfuse`, and its line in the help."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command and add `--config` to it."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"moodfuse.{module}"), attribute)
        if not any(parameter.name == "config" for parameter in command.params):
            option = click.Option(
                ["--config"],
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                is_eager=True,
                expose_value=False,
                callback=_read_config,
                help="TOML file with options of this command; options on the command line override it.",
            )
            command.params.append(option)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _read_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise click.BadParameter(f"{path}: not TOML in UTF-8 ({error})") from error
    ctx.meta[HEADS_TABLE] = values.get("heads", {})
    section = values.get(ctx.info_name or "")
    if not isinstance(section, dict):
        section = {key: value for key, value in values.items() if not isinstance(value, dict)}
    options = {max(option.opts, key=len).lstrip("-"): option for option in ctx.command.params}
    ctx.default_map = {}
    for key, value in section.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            known = ", ".join(sorted(options.keys() - {"config"}))
            raise click.BadParameter(f"{path}: unknown option {key!r}; known: {known}")
        texts = [_as_typed(element) for element in value] if isinstance(value, list) else _as_typed(value)
        is_one_of_many = isinstance(texts, str) and getattr(option, "multiple", False)
        ctx.default_map[str(option.name)] = [texts] if is_one_of_many else texts


def _as_typed(value: object) -> str:
    """A TOML value as it would be typed on the command line, so that click checks its type."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moodfuse")
@click.option("--verbose", "-v", is_flag=True, help="Log progress, and show tracebacks.")
def group(verbose: bool) -> None:
    """Classify the emotion of music videos by late fusion.

    \b
    Run the three stages in sequence:
      moodfuse extract clips --cache work
      moodfuse fuse --cache work
      moodfuse evaluate --cache work
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # joblib warns when it is imported; `fuse` reports it with its remedy.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")


class LogFormatter(logging.Formatter):
    """Escape control characters of file names and labels, which a terminal would interpret."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return printable_lines(super().format(record))


def prepare_streams() -> None:
    """Let standard output and standard error escape what they cannot encode, such as bytes of file names.

    A stream that is closed is replaced by the null device.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until exit
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_streams()
    try:
        code = group.main(arguments, prog_name="moodfuse", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        hint = "what was finished is in the cache, run the command again to continue"
        _exit(INTERRUPTED, f"interrupted; {error.args[0] if error.args else hint}")
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _exit(error.exit_code, shown.getvalue().rstrip("\n"))
    except BrokenPipeError:
        _exit(1)
    except (MoodfuseError, OSError) as error:
        if arguments[:1] in (["-v"], ["--verbose"]):
            log.exception("failed")
        if isinstance(error, MoodfuseError):
            _exit(error.exit_code, f"Error: {error}")
        reason = (
            f"{error.filename or 'the output'}: {error.strerror or error}; check the disk and its permissions"
        )
        _exit(1, f"Error: cannot read or write {reason} (-v: a traceback)")
    _exit(code if isinstance(code, int) else 0)


def _exit(code: int, message: str = "") -> NoReturn:
    with suppress(OSError):
        if message:
            click.echo(printable_lines(message), err=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # drop the rest, or the interpreter would fail on it when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
