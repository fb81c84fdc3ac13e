"""The network of one source with its inputs and features. Clips pass a network alone, on the recipe's threads."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moodfuse.cache.digests import derived_seed
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.media.preprocess import InputMaker
from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.hardware import check_compiler
from moodfuse.extract.runtime import keep_freed_memory

_WAVEFORMS_KEPT = 256
_FRAMES_KEPT = 16
Rows = dict[str, np.ndarray]
"""Arrays of one clip: ``embedding``, ``logits``, ``activation``."""


class MediaReader(Protocol):
    """Where decoded clips are read, such as a `MediaStore`."""

    def read(self, digest: str) -> Media:
        """The frames or the audio of a clip."""


def make_network(recipe: Recipe, weights: str | None, num_classes: int) -> Network:
    """The untuned network of a recipe, in eval mode; its trunk does not depend on the number of classes."""
    devices = [torch.cuda.current_device()] if recipe.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(recipe.seed, recipe.network, "trunk"))
        network = create_network(recipe.network, num_classes=2, weights=weights)
        torch.manual_seed(derived_seed(recipe.seed, recipe.network, "classifier"))
        network.reset_classifier(num_classes)
    return place_network(recipe, network)


def place_network(recipe: Recipe, network: Network) -> Network:
    """The network in eval mode, on the recipe's device and in its memory layout."""
    keep_freed_memory()
    if recipe.device == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # or float32 would be rounded to 10 bits in every convolution
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    if recipe.precision == "bf16" and network.spec.modality == "video":
        network = network.to(memory_format=torch.channels_last_3d)
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
    """The network of a source, applied to clips.

    Parameters
    ----------
    recipe : Recipe
    network : Network
        From `make_network`, or with stored weights.
    media : MediaReader, optional
        Not needed for clips in memory.

    Attributes
    ----------
    tuned : torch.nn.Module
        The part that is tuned at the recipe's depth: the head, or the whole network.
    """

    def __init__(self, recipe: Recipe, network: Network, media: MediaReader | None = None) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe, self.network, self.media = recipe, network, media
        self.head = nn.ModuleDict({"replaced": network.replaced, "classifier": network.classifier})
        self.tuned: nn.Module = self.head if recipe.depth == "head" else network
        initial = {} if recipe.depth == "frozen" else self.tuned.state_dict()
        self._initial = {name: value.clone() for name, value in initial.items()}
        self._trunk: Callable[[Tensor], Tensor] = network.trunk
        self._whole: Callable[[Tensor], tuple[Tensor, Tensor]] = network
        if recipe.compile:
            check_compiler(
                recipe.device,
                asked=f"{recipe.source}: its recipe compiles",
                otherwise="use one that does not",
            )
            # With fullgraph, torch raises an error where it cannot compile, instead of running that part eagerly.
            self._trunk = torch.compile(network.trunk, dynamic=False, fullgraph=True)
            self._whole = torch.compile(network, dynamic=False, fullgraph=True)
        kept = _WAVEFORMS_KEPT if network.spec.modality == "audio" else _FRAMES_KEPT
        self._read = lru_cache(kept)(self._read_media)
        crop_s, gain_db = (recipe.tuning.crop_s, recipe.tuning.gain_db) if recipe.tuning else (0.0, 0.0)
        self.make_input = InputMaker(network.preprocessing, crop_s=crop_s, gain_db=gain_db)

    def _read_media(self, digest: str) -> Media:
        assert self.media is not None
        return self.media.read(digest)

    def reset(self) -> None:
        """Set the tuned part back to its initial weights."""
        self.tuned.load_state_dict(self._initial)
        self.tuned.eval()

    def whole_input(self, digest: str) -> Tensor:
        """The input from which a clip is embedded, without the batch axis."""
        return self.make_input(self._read(digest))

    def train_input(self, digest: str, generator: torch.Generator) -> Tensor:
        """An augmented input, without the batch axis."""
        return self.make_input(self._read(digest), generator=generator)

    def frozen_rows(self, digest: str) -> Rows:
        """Embedding at depth ``frozen`` and, if it is another array, the activation that heads are tuned on."""
        return self.frozen_rows_of(self._read_media(digest))

    @torch.inference_mode()
    def frozen_rows_of(self, media: Media) -> Rows:
        """`frozen_rows` of a clip in memory."""
        batch = self._batch(media)
        with autocast(self.recipe):
            activation = self._trunk(batch).float()
            embedding = self.network.pool_frozen(activation).float()
        rows = {"embedding": embedding[0].cpu().numpy()}
        if self.network.spec.has_replaced_layers:
            rows["activation"] = activation[0].cpu().numpy()
        return rows

    def full_rows(self, digest: str) -> Rows:
        """Embedding and logits of the tuned network."""
        return self.full_rows_of(self._read(digest))

    @torch.inference_mode()
    def full_rows_of(self, media: Media) -> Rows:
        """`full_rows` of a clip in memory."""
        batch = self._batch(media)
        with autocast(self.recipe):
            embedding, logits = self._whole(batch)
        return _rows(embedding, logits)

    @torch.inference_mode()
    def head_rows(self, activation: np.ndarray) -> Rows:
        """Embedding and logits of the tuned head, from an activation [A]."""
        embedding = self.network.embed(torch.from_numpy(activation)[None].to(self.recipe.device))
        return _rows(embedding, self.network.classifier(embedding))

    def _batch(self, media: Media) -> Tensor:
        torch.set_num_threads(self.recipe.threads)  # networks of other sources may run between clips
        return place_batch(self.recipe, self.make_input(media)[None])


def _rows(embedding: Tensor, logits: Tensor) -> Rows:
    return {"embedding": embedding[0].float().cpu().numpy(), "logits": logits[0].float().cpu().numpy()}
