"""Recipes: depths, settings of tuning, and digests that stay as versions add settings."""

import json
from dataclasses import replace

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Recipe, Tuning, last_blocks, recipe_from_mapping

TUNING = Tuning("adam", 1e-3, 3)
RECIPE = Recipe("net", "net", 1, "random", "{}", "full", TUNING, True)
SETTINGS = {
    "layer_decay": 0.8,
    "warmup_epochs": 2,
    "schedule": "cosine",
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "spec_augment": 0.3,
    "gradient_checkpointing": True,
}
"""Settings that older versions did not have, none at its default."""


def test_settings_at_their_defaults_leave_the_digest() -> None:
    """It is the one that versions without them gave, and the record has none of them."""
    assert RECIPE.digest16 == "6f427af85d522c13"
    assert not set(SETTINGS) & set(json.loads(RECIPE.to_json())["tuning"])


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_is_stored_and_changes_the_digest(name: str) -> None:
    """A recipe is read back as it was written."""
    recipe = replace(RECIPE, tuning=replace(TUNING, **{name: SETTINGS[name]}))  # type: ignore[arg-type]
    assert recipe.digest16 != RECIPE.digest16
    assert recipe_from_mapping(json.loads(recipe.to_json())) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_decay": 0}, "layer_decay is 0; expected more than 0, at most 1"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1; expected more than 0, at most 1"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1; expected 0 or more"),
        ({"warmup_epochs": 3}, "warmup_epochs is 3; expected less than epochs, 3"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected one of: constant, cosine"),
        ({"label_smoothing": 1}, "label_smoothing is 1; expected 0 or more, less than 1"),
        ({"mixup": -0.1}, "mixup is -0.1; expected 0 or more"),
        ({"spec_augment": 1.0}, "spec_augment is 1.0; expected 0 or more, less than 1"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing is 1; expected true or false"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    """One line names the setting, its value and the range."""
    with pytest.raises(InputError, match=message) as caught:
        replace(TUNING, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_depths_of_last_blocks() -> None:
    """``last:N`` with N of 1 or more tunes the trunk, as ``full`` does."""
    assert [last_blocks(depth) for depth in ("last:1", "last:12", "full")] == [1, 12, None]
    depths = {"full": True, "last:2": True, "head": False}
    assert {depth: replace(RECIPE, depth=depth).tunes_trunk for depth in depths} == depths
    for depth in ("last:0", "last:", "last:-1", "last:2 ", "last"):
        with pytest.raises(InputError, match="is unknown; known: frozen, head, full, imported, last:N"):
            replace(RECIPE, depth=depth)
