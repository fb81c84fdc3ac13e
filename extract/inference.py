"""A source at work from shipped files: its body passes a clip once, and each of its tuned networks says what it makes
of that. The same code, precision and thread count as in training, so a clip gets the features that the cache holds; on
another device its numbers are those but for their last digits.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.embed import Rows, SourceWorker
from moodfuse.extract.media.renditions import preprocessing_of
from moodfuse.extract.networks import bn_eps_of, input_size, network_spec
from moodfuse.extract.networks.hardware import has_bfloat16
from moodfuse.extract.recipe_files import resolve_device
from moodfuse.extract.training.trunk_weights import network_from_files, tuned_arrays

log = logging.getLogger(__name__)
MOST_THREADS = 1024


def check_shipped_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that this version cannot follow, before a network is made by it.

    Raises
    ------
    InputError
    """
    for name in ("network_version", "batch", "threads", "seed"):
        if type(getattr(recipe, name)) is not int:
            raise InputError(f"{recipe.source}: {name} is {getattr(recipe, name)!r}; expected a whole number")
    for name in ("source", "network", "weights", "preprocessing", "precision", "device"):
        if not isinstance(getattr(recipe, name), str):
            raise InputError(f"recipe: {name} is {getattr(recipe, name)!r}; expected text")
    try:
        spec = network_spec(recipe.network)
        wanted, found = input_size(spec.preprocessing), input_size(preprocessing_of(recipe))
        bn_eps_of(recipe.weights)
    except (UnknownNameError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{recipe.source}: its recipe cannot be followed ({error})") from error
    if recipe.network_version != spec.version:
        raise InputError(
            f"{recipe.source}: made with version {recipe.network_version} of {spec.name}, here is version "
            f"{spec.version}; export the model again, or install the moodfuse that its model.json names"
        )
    if wanted != found:
        raise InputError(f"{recipe.source}: input {found} for a network that reads {wanted}")
    if not 1 <= recipe.threads <= MOST_THREADS or recipe.batch != 1 or type(recipe.compile) is not bool:
        raise InputError(
            f"{recipe.source}: {recipe.threads} threads, batch {recipe.batch}, compile {recipe.compile}"
        )
    if recipe.precision not in ("fp32", "bf16") or recipe.device not in ("cpu", "cuda"):
        raise InputError(f"{recipe.source}: precision {recipe.precision!r} on {recipe.device!r}")


def recipe_here(recipe: Recipe, device: str | None) -> Recipe:
    """The recipe as it is followed on this machine, with a warning where its numbers are not those of its maker.

    Parameters
    ----------
    recipe : Recipe
    device : str or None
        ``cpu``, ``cuda`` or ``auto``; `None` for the one that the recipe names.

    Raises
    ------
    InputError
        If the device is not there, or unknown.
    """
    if device is None and recipe.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{recipe.source}: made on a GPU, and torch finds none here; give --device cpu (Model.load(..., "
            'device="cpu")) to label on the CPU, where probabilities differ in their last digits'
        )
    chosen = recipe.device if device is None else resolve_device(device)
    if chosen != recipe.device:
        digits = "from the third digit on" if recipe.precision == "bf16" else "in their last digits"
        log.warning(
            "%s: made on %s, used on %s; numbers may differ %s", recipe.source, recipe.device, chosen, digits
        )
        # What was compiled for one device may take longer compiled on another, or have no compiler there.
        recipe = replace(recipe, device=chosen, compile=False)
    if recipe.precision == "bf16" and not has_bfloat16(chosen):
        log.warning(
            "%s: made in bfloat16, which the %s here has no instructions for; it computes in float32, and numbers "
            "differ from the third digit on",
            recipe.source,
            chosen,
        )
        recipe = replace(recipe, precision="fp32")
    return recipe


class ShippedSource:
    """One source of a model.

    Parameters
    ----------
    recipe : Recipe
    num_classes : int
    body : Path or None
        As for `moodfuse.extract.training.trunk_weights.network_from_files`.
    networks : sequence of Path
        Tuned heads, or whole networks at depth ``full``; none for a frozen source.
    device : str or None
        As for `recipe_here`.

    Raises
    ------
    InputError
        If the files are not those of the recipe's network, or the device is not there.
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
        recipe = recipe_here(recipe, device)
        if (recipe.depth == "full") != (body is None) or (recipe.depth == "frozen") != (not networks):
            raise InputError(f"{recipe.source}: body and networks do not fit its depth, {recipe.depth!r}")
        self.recipe = recipe
        self._worker = SourceWorker(recipe, network_from_files(recipe, num_classes, body), _NoStore())
        own = self._worker.tuned.state_dict()
        self._networks = [tuned_arrays(path, own) for path in networks]

    def says(self, media: Media) -> list[Rows]:
        """Embedding and logits by each network, in their order; of a frozen source its one embedding."""
        threads = torch.get_num_threads()
        try:
            return self._rows(media)
        finally:
            torch.set_num_threads(threads)

    def _rows(self, media: Media) -> list[Rows]:
        worker = self._worker
        if self.recipe.depth == "full":
            return [worker.full_rows_of(media) for _ in self._each_network()]
        rows = worker.frozen_rows_of(media)
        if self.recipe.depth == "frozen":
            return [rows]
        activation = rows.get("activation", rows["embedding"])
        return [worker.head_rows(activation) for _ in self._each_network()]

    def _each_network(self) -> Iterator[None]:
        for arrays in self._networks:
            self._worker.tuned.load_state_dict(arrays)
            self._worker.tuned.eval()
            yield


class _NoStore:
    """Clips are given in memory."""

    def read(self, digest: str) -> Media:
        raise InputError(f"clip {digest}: a shipped source reads no store")
