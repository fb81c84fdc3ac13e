"""The front door: a click group whose commands load when called, and one place where errors become exit codes.

Exit codes: 0 done; 1 failed; 2 wrong usage or input; 3 done, but some clips were refused; 130 interrupted.
"""

import errno
import importlib
import io
import logging
import os
import sys
import tomllib
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from moodfuse._version import __version__
from moodfuse.cache.console import printable_lines
from moodfuse.cache.csv_rows import check_encoding
from moodfuse.cache.errors import MoodfuseError

INTERRUPTED = 130
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
COMMANDS: dict[str, tuple[str, str]] = {
    "check": (
        "moodfuse.extract.cli:check_command",
        "Say what would be read, refused, grouped and duplicated.",
    ),
    "extract": (
        "moodfuse.extract.cli:extract_command",
        "Decode clips, tune networks, cache their embeddings.",
    ),
    "fuse": (
        "moodfuse.fuse_command:fuse_command",
        "Train fusion heads on the cached features; export a model.",
    ),
    "evaluate": (
        "moodfuse.evaluate_command:evaluate_command",
        "Report what the heads are worth, or test a model.",
    ),
    "predict": ("moodfuse.predict.command:predict_command", "Label videos with an exported model."),
    "cache": (
        "moodfuse.cache.cli:cache_group",
        "Look into a cache, check it, free space, and exchange features.",
    ),
    "weights": ("moodfuse.extract.cli:weights_group", "List, fetch and convert pretrained weights."),
    "serve": ("moodfuse.serve.command:serve_command", "Label videos over HTTP and in a browser."),
    "demo": ("moodfuse.demo:demo_command", "Make a synthetic corpus and run all three stages on it."),
}
"""Command name -> where it lives, and its line in the help."""

_OURS = "moodfuse"


class LazyGroup(click.Group):
    """A group that imports a command only when it is called; help is printed from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command and give it `--config`."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if not any(parameter.name == "config" for parameter in command.params):
            command.params.append(_config_option())
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _config_option() -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file with options of this command; flags win over it.",
    )


def _read_config(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    try:
        data = value.read_bytes()
        check_encoding(data, value)
        values = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.BadParameter(f"{value}: not TOML ({error})") from error
    except OSError as error:
        raise click.BadParameter(f"{value}: cannot be read ({error.strerror or error})") from error
    section = values.get(
        ctx.info_name or "", {key: item for key, item in values.items() if not isinstance(item, dict)}
    )
    if not isinstance(section, dict):
        raise click.BadParameter(
            f"{value}: {ctx.info_name} is {section!r}; expected a table, [{ctx.info_name}]"
        )
    names, repeated = {}, set()
    for option in ctx.command.params:
        for flag in option.opts:
            names[flag.lstrip("-").replace("-", "_")] = option.name
        if getattr(option, "multiple", False):
            repeated.add(option.name)
    unknown = sorted(key for key in section if key.replace("-", "_") not in names)
    if unknown:
        known = ", ".join(sorted(name.replace("_", "-") for name in names if name != "config"))
        raise click.BadParameter(f"{value}: unknown option {unknown[0]!r}; known: {known}")
    given = {names[key.replace("-", "_")]: item for key, item in section.items()}
    ctx.default_map = {
        name: [item] if name in repeated and isinstance(item, str) else item for name, item in given.items()
    }


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moodfuse")
@click.option("--verbose", "-v", is_flag=True, help="Log what is done, and show tracebacks.")
def group(verbose: bool) -> None:
    """Tell the emotion of music videos by late fusion.

    \b
    Run the three stages in sequence:
      moodfuse extract clips --cache work
      moodfuse fuse --cache work
      moodfuse evaluate --cache work
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # Said once on importing joblib; `fuse` itself says what follows from it, and what to do.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")


class LogFormatter(logging.Formatter):
    """Log records as text that is safe on a terminal: control characters of file names and labels are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return printable_lines(super().format(record))


def prepare_streams() -> None:
    """Make standard output and standard error accept any text.

    Characters that the encoding of a stream does not have, and bytes of file names that are not UTF-8, are written as
    escapes such as ``\\u5feb``. A stream that was closed before the start is replaced by the null device.
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
    verbose = any(argument in ("-v", "--verbose") for argument in arguments[:1])
    prepare_streams()
    try:
        code = group.main(arguments, prog_name="moodfuse", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        left = (
            error.args[0]
            if error.args
            else "what was finished is in the cache, run the command again to go on"
        )
        _leave(INTERRUPTED, f"interrupted; {left}")
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _leave(error.exit_code, printable_lines(shown.getvalue().rstrip("\n")))
    except BrokenPipeError:
        _leave(1)
    except MoodfuseError as error:
        if verbose:
            logging.getLogger(__name__).exception("failed")
        _leave(error.exit_code, f"Error: {printable_lines(str(error))}")
    except OSError as error:
        if error.filename is None and "No usable temporary directory" in str(error):
            _leave(1, "Error: no folder for temporary files can be written; set TMPDIR to one that can")
        if error.errno not in _NOT_WRITTEN:
            raise
        if error.filename is None:
            _leave(
                1, f"Error: the output cannot be written ({error.strerror}); make room, or write elsewhere"
            )
        _leave(1, f"Error: {error.filename}: {error.strerror}; make room, or check the disk")
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int, message: str = "") -> NoReturn:
    """Print a message and exit; text that a stream cannot take is dropped, or the interpreter would try it again."""
    with suppress(OSError):
        if message:
            click.echo(message, err=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
