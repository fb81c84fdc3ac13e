"""The command line: a group that imports each command when it is called, and errors as exit codes.

Exit codes: 0 done; 1 failed; 2 wrong usage or input; 3 done, but some clips were refused; 130 interrupted.
"""

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
from moodfuse.cache.errors import MoodfuseError

log = logging.getLogger(__name__)
INTERRUPTED = 130
COMMANDS: dict[str, tuple[str, str]] = {
    "check": (
        "moodfuse.extract.cli:check_command",
        "Report what would be read, refused, grouped and duplicated.",
    ),
    "extract": (
        "moodfuse.extract.cli:extract_command",
        "Decode clips, fine-tune networks, cache embeddings.",
    ),
    "fuse": ("moodfuse.fuse_command:fuse_command", "Train fusion heads on cached features; export a model."),
    "evaluate": (
        "moodfuse.evaluate_command:evaluate_command",
        "Report the scores of a run, or test a model.",
    ),
    "predict": ("moodfuse.predict.command:predict_command", "Label videos with an exported model."),
    "cache": ("moodfuse.cache.cli:cache_group", "List, verify and prune a cache; exchange features."),
    "weights": ("moodfuse.extract.cli:weights_group", "List, fetch and convert pretrained weights."),
    "serve": ("moodfuse.serve.command:serve_command", "Label videos over HTTP and in a browser."),
    "demo": ("moodfuse.demo:demo_command", "Run all three stages on a synthetic dataset."),
}
"""Name of a command -> where it is defined, and its line in the help."""


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
        help="TOML file with options of this command; options on the command line override it.",
    )


def _read_config(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    try:
        values = tomllib.loads(value.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value}: not TOML in UTF-8 ({error})") from error
    except OSError as error:
        raise click.BadParameter(f"{value}: cannot be read ({error.strerror or error})") from error
    top_level = {key: item for key, item in values.items() if not isinstance(item, dict)}
    section = values.get(ctx.info_name or "", top_level)
    if not isinstance(section, dict):
        raise click.BadParameter(
            f"{value}: {ctx.info_name} is {section!r}; expected a table, [{ctx.info_name}]"
        )
    options = {
        flag.lstrip("-").replace("-", "_"): option for option in ctx.command.params for flag in option.opts
    }
    defaults = {}
    for key, item in section.items():
        option = options.get(key.replace("-", "_"))
        if option is None:
            known = ", ".join(sorted(name.replace("_", "-") for name in options if name != "config"))
            raise click.BadParameter(f"{value}: unknown option {key!r}; known: {known}")
        one_of_many = isinstance(item, str) and getattr(option, "multiple", False)
        defaults[str(option.name)] = [item] if one_of_many else item
    ctx.default_map = defaults


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
    """Let standard output and standard error accept any text.

    Characters that a stream cannot encode, and bytes of file names that are not UTF-8, are escaped. A stream
    that is closed is replaced by the null device.
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
    verbose = arguments[:1] in (["-v"], ["--verbose"])
    prepare_streams()
    try:
        code = group.main(arguments, prog_name="moodfuse", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        what = "what was finished is in the cache, run the command again to continue"
        _exit(INTERRUPTED, f"interrupted; {error.args[0] if error.args else what}")
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _exit(error.exit_code, printable_lines(shown.getvalue().rstrip("\n")))
    except BrokenPipeError:
        _exit(1)
    except MoodfuseError as error:
        if verbose:
            log.exception("failed")
        _exit(error.exit_code, f"Error: {printable_lines(str(error))}")
    except OSError as error:
        if verbose:
            log.exception("failed")
        reason = printable_lines(f"{error.filename or 'the output'}: {error.strerror or error}")
        _exit(
            1, f"Error: cannot read or write {reason}; check the disk and its permissions (-v: a traceback)"
        )
    _exit(code if isinstance(code, int) else 0)


def _exit(code: int, message: str = "") -> NoReturn:
    with suppress(OSError):
        if message:
            click.echo(message, err=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # drop the rest, or the interpreter would fail on it when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
