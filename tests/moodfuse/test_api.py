"""The documented Python API: names that `moodfuse` imports lazily, and declares to type checkers."""

import ast
from pathlib import Path

import pytest

import moodfuse


def test_names_are_imported_when_they_are_used() -> None:
    """Each name of `__all__` exists; an unknown one is an AttributeError."""
    assert set(moodfuse.__all__) >= {"FeatureCache", "Model", "Prediction", "Refusal", "compare", "score"}
    assert all(hasattr(moodfuse, name) for name in moodfuse.__all__)
    assert set(moodfuse.__all__) <= set(dir(moodfuse))
    with pytest.raises(AttributeError, match="'moodfuse' has no attribute 'Modell'"):
        _ = moodfuse.Modell  # type: ignore[attr-defined]


def test_type_checkers_see_what_is_imported() -> None:
    """The imports under TYPE_CHECKING are those of the lazy names, and the package is marked as typed."""
    folder = Path(moodfuse.__file__).parent
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and "not" not in ast.unparse(node.test)
    )
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == moodfuse._MODULES and (folder / "py.typed").exists()
