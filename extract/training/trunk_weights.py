"""The body of a network: what no tuning of its head changes. It is kept beside the tuned heads, and shipped with them.

A body and a head, or the whole of a network that was tuned whole, are all that its recipe cannot give: a network is
made from its recipe, and then every array is taken from these files, so that neither the pretrained weights' own file
nor the library version that drew random ones is needed again.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.extract.embed import placed
from moodfuse.extract.media.renditions import preprocessing_of
from moodfuse.extract.networks import (
    WeightsError,
    bn_eps_of,
    create_network,
    load_weights_file,
    save_weights,
    trunk_names,
)
from moodfuse.extract.networks.base import Network


def keep_body(path: Path, recipe: Recipe, network: Network) -> None:
    """Write the body of an untuned network of a recipe."""
    arrays = network.state_dict()
    metadata = {"format": "moodfuse-body", "recipe": frozen_counterpart(recipe).digest16}
    save_weights(path, {name: arrays[name] for name in trunk_names(network)}, metadata)


def network_from_files(recipe: Recipe, num_classes: int, body: Path | None) -> Network:
    """The network of a recipe with a kept body; tuned arrays are still to be loaded.

    Parameters
    ----------
    recipe : Recipe
    num_classes : int
        Width of the classifier.
    body : Path or None
        A file that `keep_body` wrote; `None` where the whole network was tuned.

    Raises
    ------
    WeightsError
        If the file is not the body of this network.
    DamagedPartError
        If it is not what was written.
    """
    with torch.random.fork_rng(devices=[]):  # what it draws is replaced; the caller's random state stays
        network = create_network(recipe.network, num_classes=num_classes)
    network.preprocessing = preprocessing_of(recipe)
    eps = bn_eps_of(recipe.weights)
    if eps is not None:
        network.set_bn_eps(eps)
    if body is not None:
        arrays, own = load_weights_file(body)[0], network.state_dict()
        check_arrays(body, arrays, {name: own[name] for name in trunk_names(network)})
        network.load_state_dict({**own, **arrays})
    return placed(recipe, network)


def tuned_arrays(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays of a tuned head, or of a network tuned whole, held to the names, shapes and types of `wanted`.

    Raises
    ------
    WeightsError, DamagedPartError
    """
    arrays = load_weights_file(path)[0]
    check_arrays(path, arrays, wanted)
    return arrays


def check_arrays(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse arrays that are not, by name, shape, type and finiteness, those of a network.

    Raises
    ------
    WeightsError
    """
    for name in sorted(found.keys() ^ wanted.keys()):
        state = "is missing" if name in wanted else "belongs to no layer"
        raise WeightsError(f"{path}: not the arrays of this network: {name} {state}; export the model again")
    for name, array in found.items():
        if array.shape != wanted[name].shape or array.dtype != wanted[name].dtype:
            raise WeightsError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}, expected {wanted[name].dtype} "
                f"{list(wanted[name].shape)}; export the model again"
            )
        if array.is_floating_point() and not torch.isfinite(array).all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity; export the model again")
