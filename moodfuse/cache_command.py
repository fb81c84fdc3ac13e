"""`moodfuse cache`, where `cache import --made-by` is checked: the cache itself knows no networks."""

import click

from moodfuse.cache.cli import cache_group, cache_import_command

__all__ = ["cache_group"]


def _check_made_by(ctx: click.Context, option: click.Parameter, text: str) -> str:
    """Raise UnknownNameError for a network that no exported model could use."""
    if text:
        from moodfuse.extract.recipe_files import check_made_by

        check_made_by(text)
    return text


(_made_by,) = (option for option in cache_import_command.params if option.name == "made_by")
_made_by.callback = _check_made_by
