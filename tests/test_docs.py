"""The documentation agrees with the code: tables, quoted messages, examples of settings, and links."""

import ast
import re
import runpy
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import click

from moodfuse.cache.recipe import Tuning
from moodfuse.cli import group
from moodfuse.fuse.settings import resolve_heads

ROOT = Path(__file__).resolve().parents[1]


def test_tables_of_networks_and_weights_are_those_of_the_registry() -> None:
    """Layers, shapes, parameters and weights in docs/networks.md; trunks have their published sizes."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "network_tables.py"))
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    layers = {name: script["layer_table"](name) for name in script["NAMES"]}
    assert [name for name, table in layers.items() if table not in page] == []
    assert script["weights_table"]() in page
    assert "| **trunk** | | **27,655,936** |" in layers["c3d"]
    assert "| **trunk** | | **12,287,264** |" in layers["i3d"]
    assert "| **trunk** | | **777,109** |" in layers["musicnn"]  # of 787,159, with 10,050 of the 50 tags


def test_recipes_have_every_key_with_its_default() -> None:
    """docs/recipes.md has a row for each setting of tuning."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for setting in fields(Tuning):
        default = "required" if setting.default is MISSING else str(setting.default).removesuffix(".0")
        assert rows[setting.name].rstrip(" |`").endswith(default.replace("False", "false")), setting.name


def message_texts() -> list[str]:
    """Every string of the code, with `...` for values in f-strings."""
    texts = []
    for folder in ("cache", "extract", "fuse", "evaluate", "moodfuse"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    """Each message of docs/troubleshooting.md is a part of a message in the code, with `...` for values."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted, texts = re.findall(r"^`(.+)`$", page, re.MULTILINE), message_texts()
    assert len(quoted) >= 25
    assert [message for message in quoted if not any(message in text for text in texts)] == []


def test_example_of_the_configuration_file_is_valid(tmp_path: Path) -> None:
    """Every table of docs/configuration.md is accepted by its command."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    file = tmp_path / "moodfuse.toml"
    file.write_text(re.findall(r"^```toml\n(.+?)^```", page, re.MULTILINE | re.DOTALL)[0], encoding="utf-8")
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    assert len(resolve_heads(tables["fuse"]["head"], tables["heads"])) == len(tables["fuse"]["head"])
    for name in tables.keys() - {"heads"}:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        files = [
            option for option in command.params if isinstance(option, click.Argument) and option.required
        ]
        context = command.make_context(name, ["clips" for _ in files] + ["--config", str(file)])
        assert context.default_map


def test_links_of_pages_outside_the_site() -> None:
    """Links of README.md and the other pages at the top lead to files and headings that exist."""
    pages = [*ROOT.glob("*.md"), ROOT / "cache" / "FORMAT.md", ROOT / "benchmarks" / "README.md"]
    broken = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            if re.match(r"https?://[\w.-]+(/|$)", link):
                continue
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a Markdown file, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
