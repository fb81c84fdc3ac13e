"""The tables in the documentation are those that the code gives."""

import runpy
from dataclasses import MISSING, fields
from pathlib import Path

from moodfuse.cache.recipe import Tuning

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
