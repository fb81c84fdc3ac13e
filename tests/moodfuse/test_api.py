"""The documented Python API: names that `moodfuse` imports lazily, and declares to type checkers."""

from pathlib import Path

import pytest

import moodfuse


def test_names_are_imported_when_they_are_used() -> None:
    """Each name of `__all__` exists and is declared to type checkers; an unknown one is an AttributeError."""
    assert set(moodfuse.__all__) >= {
        "FeatureCache",
        "LabelRequest",
        "Model",
        "Prediction",
        "Refusal",
        "Timeline",
        "compare",
        "score",
        "to_dataframe",
    }
    folder = Path(moodfuse.__file__).parent
    declarations = (folder / "__init__.py").read_text(encoding="utf-8").partition("__all__")[0]
    for name in moodfuse.__all__:
        assert hasattr(moodfuse, name) and name in dir(moodfuse) and name in declarations
    with pytest.raises(AttributeError, match="'moodfuse' has no attribute 'Modell'"):
        _ = moodfuse.Modell  # type: ignore[attr-defined]
    assert (folder / "py.typed").exists()
