"""The command line: a group that imports each command when it is called, and errors as exit codes.

Exit codes: 0 done; 1 failed; 2 wrong usage or input; 3 done, but some clips were refused; 130 interrupted;
143 terminated.
"""

import io
import logging
import os
import signal
import sys
import tomllib
import warnings
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from moodfuse._version import __version__
from moodfuse.cache.console import printable
from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.terminal import LogFormatter, is_quiet, lines_log, set_quiet, terminal_width, wrap_text
from moodfuse.options import HEADS_TABLE

log = logging.getLogger(__name__)
INTERRUPTED, TERMINATED = 130, 143
COMMANDS = {
    "check": ("extract.cli:check_command", "Report what would be read, refused, grouped and duplicated."),
    "extract": ("extract.cli:extract_command", "Decode clips, fine-tune networks, cache embeddings."),
    "fuse": ("fuse_command:fuse_command", "Train fusion heads on cached features; export a model."),
    "evaluate": ("evaluate_command:evaluate_command", "Report the scores of a run, or test a model."),
    "compare": ("compare_command:compare_command", "Compare two results: differences, test, changed clips."),
    "predict": ("predict.command:predict_command", "Label videos with an exported model."),
    "cache": ("cache_command:cache_group", "List, verify and prune a cache; exchange features."),
    "weights": ("extract.cli:weights_group", "List, fetch and convert pretrained weights."),
    "networks": ("extract.cli:networks_command", "List the networks that can be sources."),
    "serve": ("serve.command:serve_command", "Label videos over HTTP and in a browser."),
    "demo": ("demo:demo_command", "Run all three stages on a synthetic dataset."),
}
"""Name of a command -> where it is defined in `moodfuse`, and its line in the help."""
TABLES = (*COMMANDS, "heads")
"""Tables that a file of `--config` may have."""
_TYPES = {bool: "true or false", int: "integer", float: "number", str: "text", list: "list", dict: "table"}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command and add the options that all have."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"moodfuse.{module}"), attribute)
        if not isinstance(command, click.Group):
            option = click.Option(
                ["--config"],
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                is_eager=True,
                expose_value=False,
                callback=_read_config,
                help="TOML file with options of this command; options on the command line override it.",
            )
            _add_options(command, option)
        subcommands = command.commands.values() if isinstance(command, click.Group) else ()
        for target in (command, *subcommands):
            _add_options(target, *map(_verbosity_option, VERBOSITY))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _add_options(command: click.Command, *options: click.Option) -> None:
    """Add options that the command does not have yet."""
    names = {parameter.name for parameter in command.params}
    command.params += [option for option in options if option.name not in names]


def _read_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise click.BadParameter(f"{path}: not TOML in UTF-8 ({error})") from error
    tables = {key for key, value in values.items() if isinstance(value, dict)}
    if unknown := sorted(tables - set(TABLES)):
        near = get_close_matches(unknown[0], TABLES, n=1)
        guess = f"did you mean [{near[0]}]? Known" if near else "known"
        raise click.BadParameter(f"{path}: unknown table [{unknown[0]}]; {guess}: {', '.join(TABLES)}")
    ctx.meta[HEADS_TABLE] = values.get("heads", {})
    section = values.get(ctx.info_name or "")
    if not isinstance(section, dict):
        section = {key: value for key, value in values.items() if key not in tables}
    options = {max(option.opts, key=len).lstrip("-"): option for option in ctx.command.params}
    ctx.default_map = {}
    for key, value in section.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            known = ", ".join(sorted(options.keys() - {"config"}))
            raise click.BadParameter(f"{path}: unknown option {key!r}; known: {known}")
        is_many = getattr(option, "multiple", False) or option.nargs != 1
        for element in value if isinstance(value, list) and is_many else [value]:
            _check_type(path, key, element, option)
        texts = [_as_typed(element) for element in value] if isinstance(value, list) else _as_typed(value)
        ctx.default_map[str(option.name)] = [texts] if is_many and isinstance(texts, str) else texts


def _check_type(path: Path, key: str, value: object, option: click.Parameter) -> None:
    """Check that a TOML value has the type of its option; click checks its range and choices."""
    kind = option.type.name.removesuffix(" range")
    expected = {"boolean": bool, "integer": int, "float": float}.get(kind, str)
    if type(value) is not expected and not (expected is float and type(value) is int):
        type_name = _TYPES.get(type(value), type(value).__name__)
        shown = f" {value}" if isinstance(value, bool | int | float | str) else ""
        raise click.BadParameter(f"{path}: {key}: expected {_TYPES[expected]}, found {type_name}{shown}")


def _as_typed(value: object) -> str:
    """A TOML value as it would be typed on the command line, so that click checks its range."""
    return str(value).lower() if isinstance(value, bool) else str(value)


# Log level


VERBOSITY = ("verbose", "quiet")


class _EchoHandler(logging.Handler):
    """Prints log records on standard error, above a progress bar; lines for the user are there already.

    Our own records are passed from `shown` on, since the log file of a run has more of them. Those of other
    libraries, such as the access log of `serve`, are passed as their loggers do, but under --quiet.
    """

    shown = logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        filtered = is_quiet() or record.name.startswith("moodfuse")
        if record.name != lines_log.name and (record.levelno >= self.shown or not filtered):
            click.echo(self.format(record), err=True)


_stderr = _EchoHandler()
_stderr.setFormatter(LogFormatter("%(levelname)s %(message)s"))


def _verbosity_option(name: str) -> click.Option:
    texts = {"verbose": "Log progress, and show tracebacks.", "quiet": "Print only errors and results."}
    return click.Option(
        [f"--{name}", f"-{name[0]}"],
        is_flag=True,
        expose_value=False,
        callback=_set_verbosity,
        help=texts[name],
    )


def _set_verbosity(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        set_level(logging.INFO if option.name == "verbose" else logging.ERROR)


def set_level(level: int) -> None:
    """Print log records of this level and above; above warnings, print no progress either."""
    logging.getLogger().setLevel(level)
    _stderr.shown = level
    set_quiet(level > logging.WARNING)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moodfuse")
def group() -> None:
    """Classify the emotion of music videos by late fusion.

    \b
    Run the three stages in sequence:
      moodfuse extract clips --cache work
      moodfuse fuse --cache work
      moodfuse evaluate --cache work
    """
    logging.basicConfig(handlers=[_stderr])
    # joblib warns when it is imported; `fuse` reports it with its remedy.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")


_add_options(group, *map(_verbosity_option, VERBOSITY))


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
    """Run the command line and exit with its code; SIGTERM acts as Ctrl-C does."""
    stopped = INTERRUPTED

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = TERMINATED
        raise KeyboardInterrupt

    with suppress(ValueError):  # only the main thread can set it
        signal.signal(signal.SIGTERM, terminate)
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_streams()
    set_level(logging.WARNING)
    try:
        code = group.main(arguments, prog_name="moodfuse", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        hint = "what was finished is in the cache, run the command again to continue"
        _exit(stopped, f"interrupted; {error.args[0] if error.args else hint}")
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _exit(error.exit_code, shown.getvalue().rstrip("\n"))
    except BrokenPipeError:
        _exit(1)
    except (MoodfuseError, OSError) as error:
        if log.isEnabledFor(logging.INFO):
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
        for line in message.split("\n") if message else ():
            click.echo(wrap_text(printable(line), terminal_width(sys.stderr)), err=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # drop the rest, or the interpreter would fail on it when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
