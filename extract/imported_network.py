"""Imported features in exported models: the network that makes them, built and checked against them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.media.decode import SHORT_SIDE_PX, make_media, read_clip
from moodfuse.extract.recipe_files import (
    RecipeChoice,
    build_recipe,
    check_registered,
    find_extra_media,
    name_hf_sources,
)
from moodfuse.extract.training.tune_networks import save_body

CHECKED_CLIPS = 3
MAX_RELATIVE_ERROR = 1e-2
"""Largest accepted difference of a clip's features, relative to their largest value."""


def store_network(cache: FeatureCache, source: str) -> Recipe:
    """Store the network that made an imported source as its body, and return the network's recipe.

    The network is named by `Recipe.made_by`. Its features of a few clips are compared with the imported ones.

    Raises
    ------
    InputError
        If no installed package registers the network, the clips have no files here, or the network makes
        other features.
    """
    imported = cache.recipe(source)
    network_name, _, weights = imported.made_by.partition("=")
    check_registered(source, network_name)
    given = {network_name: weights} if weights else {}
    (name,), choice = name_hf_sources(
        [network_name], RecipeChoice(depth="frozen", device="cpu", weights=given)
    )
    recipe = build_recipe(choice.source(name), choice)
    network = make_network(recipe, choice.weights_of(name), num_classes=2)
    worker, block = SourceWorker(recipe, network), cache.block(source, "*")
    extra = find_extra_media([recipe])
    for status in cache.clips_with(recipe)[:CHECKED_CLIPS]:
        clip = status.clip
        if not Path(clip.path).is_file():
            raise InputError(f"{source}: {clip.id} has no file here, so its features cannot be checked")
        decoded = read_clip(
            clip.path,
            start_s=clip.start_s,
            end_s=clip.end_s,
            short_side_px=SHORT_SIDE_PX,
            other_rates_hz=extra.rates_hz,
            other_frames=extra.frames,
        )
        computed = worker.frozen_rows(make_media(decoded))["embedding"]
        imported_row = block.embedding[block.ids.index(clip.id)]
        error = _relative_error(computed, imported_row)
        if error > MAX_RELATIVE_ERROR:
            raise InputError(
                f"{source}: {imported.made_by} makes other features of {clip.id}: {len(computed)} columns "
                f"and a relative error of {error:.2g}, expected {len(imported_row)} and at most "
                f"{MAX_RELATIVE_ERROR:g}; import them with the --made-by that made them, or extract that "
                "network"
            )
    save_body(cache.network_path(imported, None), recipe, network)
    return replace(recipe, source=source)


def _relative_error(values: np.ndarray, expected: np.ndarray) -> float:
    if values.shape != expected.shape:
        return float("inf")
    return float(np.abs(values - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
