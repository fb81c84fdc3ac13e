"""Settings of the documentation site (`make docs`), and the parts of its pages that the code gives.

A page marks such a part with a comment: ``<!-- commands -->`` or ``<!-- api PACKAGE -->``.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moodfuse import __version__
from moodfuse.cli import group

project, author, release = "moodfuse", "The moodfuse authors", __version__
copyright = "The moodfuse authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["conf.py"]
nitpicky = False
default_role = "literal"
smartquotes = False  # it would join the hyphens of options

html_theme = "furo"
html_title = "moodfuse"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f4e79", "color-brand-content": "#1f5f9e"},
    "dark_css_variables": {"color-brand-primary": "#9cc4ea", "color-brand-content": "#9cc4ea"},
}
# Prompts and output are not copied.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
add_module_names = False
python_maximum_signature_line_length = 80

PAGES = {"../cache/FORMAT.md": "format.md", "../CHANGELOG.md": "changelog.md"}
"""Files of the repository that a page of the site includes."""


STAGES = tuple(f"moodfuse.{stage}" for stage in ("extract", "cache", "fuse", "evaluate"))


def setup(app: Any) -> None:
    """Register the generated parts."""
    app.connect("source-read", fill_in)


def fill_in(app: Any, page: str, source: list[str]) -> None:
    """Replace the comments of a page, and links to files that other pages include."""
    text = source[0]
    for path, included in PAGES.items():
        text = text.replace(f"({path}", f"({included}")
    sections = command_sections(click.Context(group, info_name="moodfuse"))
    text = text.replace("<!-- commands -->", "\n\n".join(sections))
    source[0] = re.sub("<!-- api (.+?) -->", lambda mark: api_entries(mark[1]), text)


def command_sections(context: click.Context) -> Iterator[str]:
    """Yield the help of a command and of its subcommands, each as a section of Markdown."""
    command = context.command
    yield command_section(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            assert subcommand is not None
            yield from command_sections(click.Context(subcommand, info_name=name, parent=context))


def command_section(command: click.Command, context: click.Context) -> str:
    """Return usage, description, options and epilog of a command."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## `{context.command_path}`", f"```text\n{usage}\n```"]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append(f"```text\n{paragraph.removeprefix(chr(8)).strip(chr(10))}\n```")
        elif paragraph.startswith("Example: "):
            parts.append(f"Example:\n\n```text\n{paragraph.removeprefix('Example: ')}\n```")
        else:
            parts.append(escaped(paragraph))
    if isinstance(command, click.Group):
        names = command.list_commands(context)
        links = (f"[`{name}`](#{context.command_path.replace(' ', '-')}-{name})" for name in names)
        parts.append("Commands: " + ", ".join(links) + ".")
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    parts += [f"`{names}`\n: {escaped(text)}" for names, text in filter(None, records) if text]
    formatter = context.make_formatter()
    command.format_epilog(context, formatter)
    if epilog := formatter.getvalue().strip("\n"):
        parts.append(f"```text\n{epilog}\n```")
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """Return the text of a help on one line, with the characters that Markdown would interpret escaped."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))


def api_entries(package: str) -> str:
    """Return an entry of autodoc for every public class and function that no deeper package exports."""
    module = import_module(package)
    deeper = {name for stage in STAGES if package == "moodfuse" for name in import_module(stage).__all__}
    entries = [f".. py:currentmodule:: {package}\n"]
    for name in module.__all__:
        item = getattr(module, name)
        if not name.startswith("_") and name not in deeper:
            entries.append(f".. auto{'class' if isinstance(item, type) else 'function'}:: {name}\n")
    return "\n".join(["```{eval-rst}", *entries, "```"])
