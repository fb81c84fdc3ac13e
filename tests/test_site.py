"""The documentation site is built without warnings, is complete, and asks no other host for anything."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import click
import pytest

from moodfuse.cli import group

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("moodfuse", "moodfuse.extract", "moodfuse.cache", "moodfuse.fuse", "moodfuse.evaluate")
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Elements whose address a browser loads with the page."""


class Page(HTMLParser):
    """Identifiers of a page, addresses that it links to, and addresses that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    built = subprocess.run(
        [*command, "docs", str(folder / "html")], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert built.returncode == 0, built.stderr
    return {file: Page(file.read_text(encoding="utf-8")) for file in (folder / "html").glob("**/*.html")}


def page(site: dict[Path, Page], name: str) -> Page:
    """The page of a name."""
    return next(page for file, page in site.items() if file.name == name)


def test_links_lead_to_pages_and_headings(site: dict[Path, Page]) -> None:
    """Internal links have a target, and external ones have the form of an address."""
    broken = []
    for file, content in site.items():
        for link in content.links:
            if re.match(r"https?://[\w-]+(\.[\w-]+)+(:\d+)?(/|$)", link):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            exists = target.is_file() and (target not in site or anchor in {"", "top", *site[target].ids})
            if not exists:
                broken.append(f"{file.name}: {link}")
    assert broken == []


def test_pages_load_nothing_from_other_hosts(site: dict[Path, Page]) -> None:
    """Scripts, styles, fonts and images are files of the site."""
    assert [address for content in site.values() for address in content.loaded if "//" in address] == []
    remote = re.compile(r"(@import|url\()\s*['\"]?(https?:)?//")
    styles = {style for file in site for style in file.parent.rglob("*.css")}
    assert styles
    assert [style for style in styles if remote.search(style.read_text(encoding="utf-8"))] == []


def command_names(command: click.Command, context: click.Context) -> Iterator[str]:
    """Names of a command and its subcommands, as they are typed."""
    yield context.command_path
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from command_names(child, click.Context(child, parent=context, info_name=name))


def test_every_command_is_in_the_reference(site: dict[Path, Page]) -> None:
    """commands.html has a section for each command."""
    names = list(command_names(group, click.Context(group, info_name="moodfuse")))
    ids = page(site, "commands.html").ids
    assert len(names) > 10
    assert [name for name in names if name.replace(" ", "-") not in ids] == []


def test_every_public_name_is_in_the_reference(site: dict[Path, Page]) -> None:
    """api.html documents what the packages export."""
    names = {name for package in PACKAGES for name in import_module(package).__all__}
    documented = {identifier.rpartition(".")[2] for identifier in page(site, "api.html").ids}
    assert names - documented == {"__version__"}
