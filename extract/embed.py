"""One source at work: its network, its inputs, its features. Clips pass the network alone, on the recipe's threads."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moodfuse.cache.digests import derived_seed
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.media.preprocess import InputMaker
from moodfuse.extract.networks import AudioPreprocessing, create_network, network_spec
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.hardware import check_compiler
from moodfuse.extract.runtime import keep_freed_memory
from moodfuse.extract.training.fine_tune import TuningData

log = logging.getLogger(__name__)
_WAVEFORMS_KEPT = 256
_FRAMES_KEPT = 16
Rows = dict[str, np.ndarray]


class MediaReader(Protocol):
    """Where clips are read; a `MediaStore`, or a clip in memory."""

    def read(self, digest: str) -> Media:
        """The frames of a clip, or its sound."""


def make_network(recipe: Recipe, weights: str | None, num_classes: int) -> Network:
    """The untuned network of a recipe, in eval mode; its trunk does not depend on the number of classes."""
    devices = [torch.cuda.current_device()] if recipe.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(recipe.seed, recipe.network, "trunk"))
        network = create_network(recipe.network, num_classes=2, weights=weights)
        torch.manual_seed(derived_seed(recipe.seed, recipe.network, "classifier"))
        network.reset_classifier(num_classes)
    return placed(recipe, network)


def placed(recipe: Recipe, network: Network) -> Network:
    """A network in eval mode on the device, and in the memory layout, of a recipe."""
    keep_freed_memory()
    if recipe.device == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # or float32 would be rounded to 10 bits in every convolution
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    if recipe.precision == "bf16" and network.spec.modality == "video":
        network = network.to(memory_format=torch.channels_last_3d)
    return network.to(recipe.device).eval()


def autocast(recipe: Recipe) -> AbstractContextManager[object]:
    """The precision of a recipe."""
    return (
        torch.autocast(recipe.device, dtype=torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
    )


def laid_out(recipe: Recipe, batch: Tensor) -> Tensor:
    """A batch on the device, and in the memory layout, of a recipe."""
    batch = batch.to(recipe.device)
    if recipe.precision == "bf16" and batch.ndim == 5:
        return batch.contiguous(memory_format=torch.channels_last_3d)
    return batch


def _compiled(recipe: Recipe, pass_through: Callable[..., Any]) -> Callable[..., Any]:
    """What a clip passes, compiled where the recipe says so; that happens when the first does.

    As one graph: where torch could compile only parts it says so, and does not compute the rest eagerly.
    """
    if not recipe.compile:
        return pass_through
    check_compiler(
        recipe.device, asked=f"{recipe.source}: its recipe compiles", otherwise="use one that does not"
    )
    return torch.compile(pass_through, dynamic=False, fullgraph=True)


class SourceWorker:
    """A source's network with its inputs.

    Parameters
    ----------
    recipe : Recipe
    network : Network
        As `make_network` gives it, or with a body that was kept.
    media : MediaReader
        Where decoded clips are read from.
    """

    def __init__(self, recipe: Recipe, network: Network, media: MediaReader) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe = recipe
        self.media = media
        self.network = network
        self.head = nn.ModuleDict({"replaced": self.network.replaced, "classifier": self.network.classifier})
        tuned = self.head if recipe.depth == "head" else self.network
        resettable = {} if recipe.depth == "frozen" else tuned.state_dict()
        self._initial = {name: value.clone() for name, value in resettable.items()}
        self.tuned: nn.Module = tuned
        self._audio = isinstance(network_spec(recipe.network).preprocessing, AudioPreprocessing)
        self._trunk: Callable[[Tensor], Tensor] = _compiled(recipe, network.trunk)
        self._whole: Callable[[Tensor], tuple[Tensor, Tensor]] = _compiled(recipe, network)
        self._media_of = lru_cache(_WAVEFORMS_KEPT if self._audio else _FRAMES_KEPT)(media.read)
        tuning = recipe.tuning
        self.make_input = InputMaker(
            self.network.preprocessing,
            crop_s=tuning.crop_s if tuning else 0.0,
            gain_db=tuning.gain_db if tuning else 0.0,
        )

    def reset(self) -> None:
        """Take the tuned part back to its initial weights."""
        self.tuned.load_state_dict(self._initial)
        self.tuned.eval()

    def whole_input(self, digest: str) -> Tensor:
        """The input as embedded, without the batch axis."""
        return self.make_input(self._media_of(digest))

    def train_input(self, digest: str, generator: torch.Generator) -> Tensor:
        """An augmented input."""
        return self.make_input(self._media_of(digest), generator=generator)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the recipe."""
        return autocast(self.recipe)

    def _batch(self, whole: Tensor) -> Tensor:
        return laid_out(self.recipe, whole[None])

    def frozen_rows(self, digest: str) -> Rows:
        """Embedding at frozen depth and, where it is another array, the activation that heads are tuned on."""
        return self.frozen_rows_of(self.media.read(digest))

    @torch.inference_mode()
    def frozen_rows_of(self, media: Media) -> Rows:
        """`frozen_rows` of a clip in memory."""
        torch.set_num_threads(self.recipe.threads)  # other sources' networks may work between its clips
        batch = self._batch(self.make_input(media))
        with self.autocast():
            activation = self._trunk(batch).float()
            embedding = self.network.pool_frozen(activation).float()
        rows = {"embedding": embedding[0].cpu().numpy()}
        if self.network.spec.has_replaced_layers:
            rows["activation"] = activation[0].cpu().numpy()
        return rows

    def full_rows(self, digest: str) -> Rows:
        """Embedding and logits of the tuned network."""
        return self.full_rows_of(self._media_of(digest))

    @torch.inference_mode()
    def full_rows_of(self, media: Media) -> Rows:
        """`full_rows` of a clip in memory."""
        torch.set_num_threads(self.recipe.threads)
        with self.autocast():
            embedding, logits = self._whole(self._batch(self.make_input(media)))
        return {"embedding": embedding[0].float().cpu().numpy(), "logits": logits[0].float().cpu().numpy()}

    @torch.inference_mode()
    def head_rows(self, activation: np.ndarray) -> Rows:
        """Embedding and logits of the tuned head, from an activation [A]."""
        embedding = self.network.embed(torch.from_numpy(activation)[None].to(self.recipe.device))
        logits = self.network.classifier(embedding)
        return {"embedding": embedding[0].float().cpu().numpy(), "logits": logits[0].float().cpu().numpy()}

    def full_data(self, roles: Sequence[tuple[str, str, str]], classes: tuple[str, ...]) -> TuningData:
        """What tuning the whole network sees."""

        def score(batch: Tensor) -> Tensor:
            with self.autocast():
                return self.network(batch)[1].float()

        return TuningData(
            tuple(roles), classes, self.train_input, self.whole_input, score, list(self.network.parameters())
        )

    def head_data(
        self,
        roles: Sequence[tuple[str, str, str]],
        classes: tuple[str, ...],
        activations: dict[str, np.ndarray],
    ) -> TuningData:
        """What tuning the head sees: cached activations, standardised over the clips that it tunes on.

        `fold_standardisation` takes the head back to raw activations afterwards.
        """
        tuned_on = np.stack([activations[digest] for digest, _, role in roles if role == "tune"])
        mean, scale = tuned_on.mean(axis=0), tuned_on.std(axis=0)
        scale = np.maximum(
            scale, np.median(scale)
        )  # a column that hardly varies here must not blow up elsewhere
        scale = np.where(scale > 1e-6, scale, np.inf).astype(np.float32)
        self._standardisation = torch.from_numpy(mean), torch.from_numpy(scale)
        tensors = {digest: torch.from_numpy((row - mean) / scale) for digest, row in activations.items()}
        whole: Callable[[str], Tensor] = tensors.__getitem__
        return TuningData(
            tuple(roles),
            classes,
            train_input=lambda digest, generator: tensors[digest],
            whole_input=whole,
            score=lambda batch: self.network.classifier(self.network.embed(batch)),
            parameters=list(self.network.head_parameters()),
        )

    @torch.no_grad()
    def fold_standardisation(self) -> None:
        """Fold the standardisation of `head_data` into the head's first linear layer; its output stays."""
        first = next(module for module in self.head.modules() if isinstance(module, nn.Linear))
        mean, scale = (value.to(first.weight.device) for value in self._standardisation)
        first.weight.div_(scale)
        first.bias.sub_(first.weight @ mean)
