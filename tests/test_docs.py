"""The tables in the documentation are those that the code gives."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> dict:
    """The functions of the script that makes the tables."""
    return runpy.run_path(str(ROOT / "benchmarks" / "network_tables.py"))


@pytest.fixture(scope="module")
def layers(script: dict) -> dict[str, str]:
    """The layer table of each network."""
    return {name: script["layer_table"](name) for name in ("onedmcnn", "twodmcnn", "c3d", "i3d")}


def test_layer_tables_are_those_of_the_networks(layers: dict[str, str]) -> None:
    """Layers, shapes, parameters and multiply-adds in docs/networks.md are counted from the code."""
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    assert [name for name, table in layers.items() if table not in page] == []


def test_the_table_of_weights_is_that_of_the_registry(script: dict) -> None:
    """Names, checks and preprocessing of known weights in docs/networks.md are the registry's."""
    assert script["weights_table"]() in (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")


def test_published_sizes(layers: dict[str, str]) -> None:
    """C3D has 27.66 million parameters in its convolutions, I3D 12.29 million before its classifier."""
    assert (
        "| **trunk** | | **27,655,936** |" in layers["c3d"]
        and "| **trunk** | | **12,287,264** |" in layers["i3d"]
    )
