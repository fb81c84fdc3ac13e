"""A source of an exported model: its network made from the model's files and applied to clips.

It runs the code, precision and thread count of training, so a clip gets the features that the cache holds; on another
device they differ in the last digits. Neither the file of pretrained weights nor random values are needed again: every
array comes from the files.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.embed import Rows, SourceWorker, place_network
from moodfuse.extract.media.renditions import preprocessing_of
from moodfuse.extract.networks import WeightsError, bn_eps_of, create_network, load_weights_file, trunk_names
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.hardware import has_bfloat16
from moodfuse.extract.networks.registry import network_spec
from moodfuse.extract.networks.specs import input_size
from moodfuse.extract.recipe_files import resolve_device

log = logging.getLogger(__name__)
MOST_THREADS = 1024


def check_shipped_recipe(recipe: Recipe) -> None:
    """Raise `InputError` for a recipe from a model folder that this version cannot run."""
    for name in ("network_version", "batch", "threads", "seed"):
        if type(getattr(recipe, name)) is not int:
            raise InputError(f"{recipe.source}: {name} is {getattr(recipe, name)!r}; expected a whole number")
    for name in ("source", "network", "weights", "preprocessing", "precision", "device"):
        if not isinstance(getattr(recipe, name), str):
            raise InputError(f"recipe: {name} is {getattr(recipe, name)!r}; expected text")
    try:
        spec = network_spec(recipe.network)
        expected, given = input_size(spec.preprocessing), input_size(preprocessing_of(recipe))
        bn_eps_of(recipe.weights)
    except (UnknownNameError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{recipe.source}: its recipe cannot be used ({error})") from error
    if recipe.network_version != spec.version:
        raise InputError(
            f"{recipe.source}: made with version {recipe.network_version} of {spec.name}, but this is version "
            f"{spec.version}; export the model again, or install the moodfuse that its model.json names"
        )
    if expected != given:
        raise InputError(f"{recipe.source}: input {given} for a network that reads {expected}")
    if not 1 <= recipe.threads <= MOST_THREADS or recipe.batch != 1 or type(recipe.compile) is not bool:
        raise InputError(
            f"{recipe.source}: {recipe.threads} threads, batch {recipe.batch}, compile {recipe.compile}"
        )
    if recipe.precision not in ("fp32", "bf16") or recipe.device not in ("cpu", "cuda"):
        raise InputError(f"{recipe.source}: precision {recipe.precision!r} on {recipe.device!r}")


def local_recipe(recipe: Recipe, device: str | None) -> Recipe:
    """The recipe as it runs on this machine; a warning is logged if its numbers differ from those in training."""
    if device is None and recipe.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{recipe.source}: made on a GPU, and torch finds none here; give --device cpu (Model.load(..., "
            'device="cpu")) to predict on the CPU, where probabilities differ in their last digits'
        )
    chosen = recipe.device if device is None else resolve_device(device)
    if chosen != recipe.device:
        digits = "from the third digit on" if recipe.precision == "bf16" else "in their last digits"
        log.warning(
            "%s: made on %s, used on %s; numbers may differ %s", recipe.source, recipe.device, chosen, digits
        )
        # Compiling for another device may take longer, or that device may have no compiler.
        recipe = replace(recipe, device=chosen, compile=False)
    if recipe.precision == "bf16" and not has_bfloat16(chosen):
        log.warning(
            "%s: made in bfloat16, for which the %s here has no instructions; it computes in float32, and numbers "
            "differ from the third digit on",
            recipe.source,
            chosen,
        )
        recipe = replace(recipe, precision="fp32")
    return recipe


def network_from_files(recipe: Recipe, num_classes: int, body: Path | None) -> Network:
    """The network of a recipe with the body from a file of `save_body`; tuned arrays are still to be loaded."""
    with torch.random.fork_rng(
        devices=[]
    ):  # the random weights are replaced; the caller's random state stays
        network = create_network(recipe.network, num_classes=num_classes)
    network.preprocessing = preprocessing_of(recipe)
    eps = bn_eps_of(recipe.weights)
    if eps is not None:
        network.set_bn_eps(eps)
    if body is not None:
        own = network.state_dict()
        network.load_state_dict(
            {**own, **load_arrays(body, {name: own[name] for name in trunk_names(network)})}
        )
    return place_network(recipe, network)


def load_arrays(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays from a file, checked for the names, shapes and types of `expected`, and for NaN and infinity."""
    arrays = load_weights_file(path)[0]
    for name in sorted(arrays.keys() ^ expected.keys()):
        state = "is missing" if name in expected else "belongs to no layer"
        raise WeightsError(f"{path}: not the arrays of this network: {name} {state}; export the model again")
    for name, array in arrays.items():
        own = expected[name]
        if (array.shape, array.dtype) != (own.shape, own.dtype):
            raise WeightsError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}, expected {own.dtype} {list(own.shape)}; export "
                "the model again"
            )
        if array.is_floating_point() and not torch.isfinite(array).all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity; export the model again")
    return arrays


class ShippedSource:
    """One source of an exported model.

    Parameters
    ----------
    recipe : Recipe
    num_classes : int
    body : Path or None
        The part of the network that is not tuned; `None` if the whole network was tuned.
    networks : sequence of Path
        Tuned heads, or whole networks at depth ``full``; empty for a frozen source.
    device : str or None
        ``cpu``, ``cuda`` or ``auto``; `None` for the recipe's own.

    Raises
    ------
    InputError, WeightsError, DamagedPartError
        If the files do not fit the recipe, or are damaged; if the device is not available.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        body: Path | None,
        networks: Sequence[Path],
        *,
        device: str | None = None,
    ) -> None:
        check_shipped_recipe(recipe)
        self.recipe = recipe = local_recipe(recipe, device)
        if (recipe.depth == "full") != (body is None) or (recipe.depth == "frozen") != (not networks):
            raise InputError(f"{recipe.source}: body and networks do not fit its depth, {recipe.depth!r}")
        self._worker = SourceWorker(recipe, network_from_files(recipe, num_classes, body))
        own = self._worker.tuned.state_dict()
        self._networks = [load_arrays(path, own) for path in networks]

    def embed(self, media: Media) -> list[Rows]:
        """Embedding and logits of a clip from each network, in their order; one embedding from a frozen source."""
        threads = torch.get_num_threads()
        try:
            return list(self._rows(media))
        finally:
            torch.set_num_threads(threads)

    def _rows(self, media: Media) -> Iterator[Rows]:
        worker, depth = self._worker, self.recipe.depth
        rows = {} if depth == "full" else worker.frozen_rows_of(media)
        if depth == "frozen":
            yield rows
        for arrays in self._networks:
            worker.tuned.load_state_dict(arrays)
            worker.tuned.eval()
            if depth == "full":
                yield worker.full_rows_of(media)
            else:
                yield worker.head_rows(rows.get("activation", rows["embedding"]))
