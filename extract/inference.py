"""Networks applied to clips: of `extract`, from recipes, and of exported models, from the files in their
folder.

An exported model runs the code, precision and thread count of training, so a clip gets the features that the
cache holds; on another device they differ in the last digits. Clips pass a network alone, on the recipe's
threads.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from moodfuse.cache.digests import derived_seed
from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.cache.media import Media, MediaStore
from moodfuse.cache.recipe import Recipe, last_blocks
from moodfuse.cache.records import SAMPLE_RATE_HZ
from moodfuse.extract.media.preprocess import InputMaker
from moodfuse.extract.networks import (
    AudioPreprocessing,
    WeightsError,
    bn_eps_of,
    create_network,
    load_weights_file,
    trunk_names,
)
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.hardware import check_compiler, has_bfloat16, resolve_device
from moodfuse.extract.networks.inputs import input_size
from moodfuse.extract.networks.registry import network_spec
from moodfuse.extract.recipe_files import check_network_version, check_registered, read_preprocessing
from moodfuse.extract.runtime import keep_freed_memory

log = logging.getLogger(__name__)
_WAVEFORMS_KEPT = 256  # at 16 kHz, 490 MB
_FRAMES_KEPT = 16
_MAX_THREADS = 1024
Rows = dict[str, np.ndarray]
"""Arrays of one clip: ``embedding``, ``logits``, ``activation``."""


def make_network(recipe: Recipe, weights: str | None, num_classes: int) -> Network:
    """The untuned network of a recipe, in eval mode; its trunk does not depend on the number of classes."""
    devices = [torch.cuda.current_device()] if recipe.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(recipe.seed, recipe.network, "trunk"))
        network = create_network(
            recipe.network, num_classes=2, weights=weights, architecture=recipe.architecture
        )
        torch.manual_seed(derived_seed(recipe.seed, recipe.network, "classifier"))
        network.reset_classifier(num_classes)
    network.preprocessing = read_preprocessing(recipe)
    if recipe.tunes_trunk:
        prepare_tuning(recipe, network)
    return place_network(recipe, network)


def prepare_tuning(recipe: Recipe, network: Network) -> None:
    """Freeze the layers before the blocks that are tuned, and set how the network trains."""
    assert recipe.tuning is not None
    count = last_blocks(recipe.depth)
    for parameter, number in network.number_parameters():
        parameter.requires_grad_(count is None or number <= count)
    network.spec_augment = recipe.tuning.spec_augment
    if recipe.tuning.gradient_checkpointing:
        network.checkpoint_blocks()


def place_network(recipe: Recipe, network: Network) -> Network:
    """The network in eval mode, on the recipe's device and in its memory layout."""
    keep_freed_memory()
    if recipe.device == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # or float32 would be rounded to 10 bits in every convolution
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    if recipe.precision == "bf16" and network.spec.modality == "video":
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
    return network.to(recipe.device).eval()


def place_batch(recipe: Recipe, batch: Tensor) -> Tensor:
    """A batch on the recipe's device and in its memory layout."""
    batch = batch.to(recipe.device)
    if recipe.precision == "bf16" and batch.ndim == 5:
        return batch.contiguous(memory_format=torch.channels_last_3d)
    return batch


def autocast(recipe: Recipe) -> AbstractContextManager[object]:
    """A context that computes in the recipe's precision."""
    return (
        torch.autocast(recipe.device, dtype=torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
    )


class SourceWorker:
    """The network of a source, applied to clips; `media` is not needed for clips in memory.

    Attributes
    ----------
    tuned : torch.nn.Module
        The part that each tuned network stores: the head, or the whole network.
    read : callable
        Gives the media of a clip by digest, the last ones from memory.
    """

    def __init__(self, recipe: Recipe, network: Network, media: MediaStore | None = None) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe, self.network, self.media = recipe, network, media
        self.head = nn.ModuleDict({"replaced": network.replaced, "classifier": network.classifier})
        self.tuned: nn.Module = self.head if recipe.depth == "head" else network
        initial = {} if recipe.depth == "frozen" else self.tuned.state_dict()
        self._initial = {name: value.clone() for name, value in initial.items()}
        self._trunk: Callable[[Tensor], Tensor] = network.activations
        self._whole: Callable[[Tensor], tuple[Tensor, Tensor]] = network
        if recipe.compile:
            check_compiler(
                recipe.device,
                asked=f"{recipe.source}: its recipe compiles",
                otherwise="use one that does not",
            )
            # With fullgraph, torch raises an error where it cannot compile, instead of running it eagerly.
            self._trunk = torch.compile(network.activations, dynamic=False, fullgraph=True)
            self._whole = torch.compile(network, dynamic=False, fullgraph=True)
        kept = _FRAMES_KEPT
        if isinstance(network.preprocessing, AudioPreprocessing):
            kept = _WAVEFORMS_KEPT * SAMPLE_RATE_HZ // network.preprocessing.sample_rate_hz
        self.read = lru_cache(kept)(self._read)
        crop_s, gain_db = (recipe.tuning.crop_s, recipe.tuning.gain_db) if recipe.tuning else (0.0, 0.0)
        self.make_input = InputMaker(network.preprocessing, crop_s=crop_s, gain_db=gain_db)

    def _read(self, digest: str) -> Media:
        assert self.media is not None
        return self.media.read(digest)

    def reset(self) -> None:
        """Set the tuned part back to its initial weights."""
        self.tuned.load_state_dict(self._initial)
        self.tuned.eval()

    def whole_input(self, digest: str) -> Tensor:
        """The input from which a clip is embedded, without the batch axis."""
        return self.make_input(self.read(digest))

    def train_input(self, digest: str, generator: torch.Generator) -> Tensor:
        """An augmented input, without the batch axis."""
        return self.make_input(self.read(digest), generator=generator)

    @torch.inference_mode()
    def frozen_rows(self, media: Media) -> Rows:
        """Embedding at depth ``frozen`` and, if that is another array, the activation that heads read."""
        batch = self._batch(media)
        with autocast(self.recipe):
            activation = self._trunk(batch).float()
            embedding = self.network.pool_frozen(activation).float()
        rows = {"embedding": embedding[0].cpu().numpy()}
        if self.network.spec.has_replaced_layers:
            rows["activation"] = activation[0].cpu().numpy()
        return rows

    @torch.inference_mode()
    def full_rows(self, media: Media) -> Rows:
        """Embedding and logits of the tuned network."""
        batch = self._batch(media)
        with autocast(self.recipe):
            return _as_rows(*self._whole(batch))

    @torch.inference_mode()
    def head_rows(self, activation: np.ndarray) -> Rows:
        """Embedding and logits of the tuned head, from an activation [A]."""
        embedding = self.network.embed(torch.from_numpy(activation)[None].to(self.recipe.device))
        return _as_rows(embedding, self.network.classifier(embedding))

    def _batch(self, media: Media) -> Tensor:
        torch.set_num_threads(self.recipe.threads)  # networks of other sources may run between clips
        return place_batch(self.recipe, self.make_input(media)[None])


def _as_rows(embedding: Tensor, logits: Tensor) -> Rows:
    return {"embedding": embedding[0].float().cpu().numpy(), "logits": logits[0].float().cpu().numpy()}


# Sources of exported models


def check_shipped_recipe(recipe: Recipe) -> None:
    """Raise `InputError` for a recipe from a model folder that this version cannot run."""
    check_registered(recipe.source, recipe.network)
    try:
        spec = network_spec(recipe.network, recipe.architecture)
        size = input_size(read_preprocessing(recipe))
        is_usable = (
            size == input_size(spec.preprocessing)
            and recipe.threads in range(1, _MAX_THREADS + 1)
            and recipe.device in ("cpu", "cuda")
            and recipe.precision in ("fp32", "bf16")
            and (recipe.batch, type(recipe.compile)) == (1, bool)
        )
        bn_eps_of(recipe.weights)
    except (UnknownNameError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{recipe.source}: its recipe cannot be used ({error})") from error
    check_network_version(recipe)
    if not is_usable:
        raise InputError(
            f"{recipe.source}: cannot run on {recipe.threads!r} threads of {recipe.device!r} in precision "
            f"{recipe.precision!r}, batch {recipe.batch!r}, compile {recipe.compile!r}, with input {size}"
        )


def local_recipe(recipe: Recipe, device: str | None) -> Recipe:
    """The recipe as it runs on this machine; logs a warning if its numbers differ from those in training."""
    if device is None and recipe.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{recipe.source}: made on a GPU, and torch finds none here; give --device cpu (Model.load(..., "
            'device="cpu")) to predict on the CPU, where probabilities differ in their last digits'
        )
    chosen = recipe.device if device is None else resolve_device(device)
    if chosen != recipe.device:
        digits = "from the third digit on" if recipe.precision == "bf16" else "in their last digits"
        text = "%s: made on %s, used on %s; numbers may differ %s"
        log.warning(text, recipe.source, recipe.device, chosen, digits)
        # Compiling for another device may take longer, or that device may have no compiler.
        recipe = replace(recipe, device=chosen, compile=False)
    if recipe.precision == "bf16" and not has_bfloat16(chosen):
        text = "%s: made in bfloat16; the %s here computes in float32, so numbers differ from the third digit"
        log.warning(text, recipe.source, chosen)
        recipe = replace(recipe, precision="fp32")
    return recipe


def network_from_files(recipe: Recipe, num_classes: int, body: Path | None) -> Network:
    """The network of a recipe with the body from a file of `save_body`, without tuned arrays."""
    with torch.random.fork_rng(devices=[]):  # random weights are replaced; the caller's random state stays
        network = create_network(recipe.network, num_classes=num_classes, architecture=recipe.architecture)
    network.preprocessing = read_preprocessing(recipe)
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
        own, problem = expected[name], ""
        if (array.shape, array.dtype) != (own.shape, own.dtype):
            problem = f"is {array.dtype} {list(array.shape)}, expected {own.dtype} {list(own.shape)}"
        elif array.is_floating_point() and not torch.isfinite(array).all():
            problem = "holds NaN or infinity"
        if problem:
            raise WeightsError(f"{path}: {name} {problem}; export the model again")
    return arrays


class ShippedSource:
    """A source of an exported model.

    `body` is the file of the layers that are not tuned, `None` where the trunk is tuned; `networks` are the
    files of tuned heads or whole networks, none at depth ``frozen``. `device` is ``cpu``, ``cuda`` or
    ``auto``, `None` for the recipe's own.

    Raises `InputError`, `WeightsError` or `DamagedPartError` if the files do not fit the recipe, or are
    damaged; if the device is not available.
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
        if recipe.tunes_trunk != (body is None) or (recipe.depth == "frozen") != (not networks):
            raise InputError(f"{recipe.source}: body and networks do not fit its depth, {recipe.depth!r}")
        self._worker = SourceWorker(recipe, network_from_files(recipe, num_classes, body))
        own = self._worker.tuned.state_dict()
        self._networks = [load_arrays(path, own) for path in networks]

    def embed(self, media: Media) -> list[Rows]:
        """Embedding and logits of a clip from each network in order; one embedding from a frozen source."""
        threads = torch.get_num_threads()
        try:
            return list(self._rows(media))
        finally:
            torch.set_num_threads(threads)

    def _rows(self, media: Media) -> Iterator[Rows]:
        worker, recipe = self._worker, self.recipe
        rows = {} if recipe.tunes_trunk else worker.frozen_rows(media)
        if recipe.depth == "frozen":
            yield rows
        for arrays in self._networks:
            worker.tuned.load_state_dict(arrays)
            worker.tuned.eval()
            if recipe.tunes_trunk:
                yield worker.full_rows(media)
            else:
                yield worker.head_rows(rows.get("activation", rows["embedding"]))
