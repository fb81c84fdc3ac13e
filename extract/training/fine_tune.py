"""Fine-tune one network on its training clips, with checkpoints from which an interrupted run continues.

The randomness of an epoch derives from the recipe's seed, the training clips and the epoch, so that a resumed
run takes the same steps as an uninterrupted one.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from moodfuse.cache.digests import derived_seed, training_digest16
from moodfuse.cache.errors import CacheError
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.extract.networks import load_weights_file, save_weights

log = logging.getLogger(__name__)
State = dict[str, Tensor]
OnEpoch = Callable[[int, float], object]
"""Called after each epoch with its number, from 1, and its loss: of early stopping or the last batch."""


@dataclass(frozen=True)
class TuningData:
    """What a tuning run reads; inputs are without the batch axis."""

    training_clips: tuple[
        tuple[str, str, str], ...
    ]  # digest and label of the training clips, and "tune" or "stop"
    classes: tuple[str, ...]  # sorted labels
    train_input: Callable[[str, torch.Generator], Tensor]  # an augmented input of a clip
    whole_input: Callable[[str], Tensor]  # the input from which a clip is embedded
    score: Callable[[Tensor], Tensor]  # logits [N, C] of a batch
    parameters: list[tuple[nn.Parameter, int]]  # to be tuned, numbered as by `Network.number_parameters`
    output_bias: nn.Parameter  # of the last layer, [C]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters[0][0].device

    def clips(self, role: str) -> list[tuple[str, int]]:
        """(digest, class index) of the clips with a role."""
        return [
            (digest, self.classes.index(label))
            for digest, label, clip_role in self.training_clips
            if clip_role == role
        ]


@dataclass
class _Progress:
    """The scalars of a checkpoint; the best loss is `None` before the first one."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float | None = None


def make_optimizer(tuning: Tuning, parameters: Sequence[tuple[nn.Parameter, int]]) -> torch.optim.Optimizer:
    """The optimizer of a recipe, for parameters numbered as by `Network.number_parameters`."""
    values: dict[float, list[nn.Parameter]] = defaultdict(list)
    for parameter, number in parameters:
        values[tuning.learning_rate * tuning.layer_decay**number].append(parameter)
    groups = [{"params": group, "lr": rate, "initial_lr": rate} for rate, group in values.items()]
    decay = tuning.weight_decay
    if tuning.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=tuning.momentum, weight_decay=decay)
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[tuning.optimizer](groups, weight_decay=decay)


def rate_factor(tuning: Tuning, epochs: float) -> float:
    """Factor of the learning rate after so many epochs: linear warm-up, then constant or half a cosine."""
    if epochs < tuning.warmup_epochs:
        return epochs / tuning.warmup_epochs
    if tuning.schedule == "constant":
        return 1.0
    done = (epochs - tuning.warmup_epochs) / (tuning.epochs - tuning.warmup_epochs)
    return (1 + math.cos(math.pi * done)) / 2


def compute_class_weights(targets: Sequence[int], classes: int) -> Tensor:
    """Balanced class weights N / (C * count), float32 [C]; 0 for a class without clips."""
    counts = torch.bincount(torch.tensor(targets), minlength=classes).float()
    return torch.where(counts > 0, len(targets) / (classes * counts.clamp(min=1)), torch.zeros(classes))


def correct_logits(bias: nn.Parameter, targets: Sequence[int]) -> None:
    """Add the log frequencies of the classes among `targets` to the bias [C] of the last layer, in place.

    This corrects the logits of a network that was tuned with balanced class weights (logit adjustment: Menon
    et al. 2021, arXiv:2007.07314). A class without targets counts as if it had one.
    """
    counts = torch.bincount(torch.tensor(targets), minlength=len(bias)).clamp(min=1)
    with torch.no_grad():
        bias.add_(torch.log(counts / len(targets)).to(bias))


def tune(
    network: nn.Module,
    data: TuningData,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> int:
    """Tune `network` in place and return the number of its best epoch, from 1.

    The network is left in eval mode with the weights of that epoch. The checkpoint is written after every
    epoch and read at the start; the caller removes it.
    """
    tuning = recipe.tuning
    assert tuning is not None
    seed = derived_seed(recipe.seed, training_digest16(data.training_clips))
    optimizer = make_optimizer(tuning, data.parameters)
    stop = data.clips("stop")
    targets, weight = [target for _, target in data.clips("tune")], None
    if tuning.class_weight != "none":
        weight = compute_class_weights(targets, len(data.classes)).to(data.device)
    loss = nn.CrossEntropyLoss(weight=weight)
    progress, best = _resume(checkpoint, network, optimizer)
    while progress.epoch < tuning.epochs:
        if stop and progress.epoch - progress.best_epoch >= tuning.patience:
            break
        epoch_loss = _train_epoch(network, data, optimizer, weight, tuning, seed, progress.epoch)
        progress.epoch += 1
        if not stop:
            progress.best_epoch = progress.epoch
        else:
            epoch_loss = _stop_loss(network, data, loss, stop)
            if epoch_loss < (math.inf if progress.best_loss is None else progress.best_loss):
                progress.best_loss, progress.best_epoch = epoch_loss, progress.epoch
                best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if checkpoint is not None:
            _save_checkpoint(checkpoint, network, best, optimizer, progress)
        if on_epoch is not None:
            on_epoch(progress.epoch, epoch_loss)
    if best is not None:
        network.load_state_dict(best)
    if tuning.class_weight == "balanced":
        correct_logits(data.output_bias, targets)
    network.eval()
    return progress.best_epoch


def _train_epoch(
    network: nn.Module,
    data: TuningData,
    optimizer: torch.optim.Optimizer,
    weight: Tensor | None,
    tuning: Tuning,
    network_seed: int,
    epoch: int,
) -> float:
    """Take the steps of an epoch, and return the loss of its last batch."""
    seed = derived_seed(network_seed, epoch)
    generator = torch.Generator().manual_seed(seed)
    mixing = np.random.default_rng(derived_seed(seed, "mixup"))
    torch.manual_seed(derived_seed(seed, "dropout"))  # and masks of SpecAugment
    np.random.seed(derived_seed(seed, "numpy") % 2**32)  # of masks inside speech models of transformers
    network.train()
    clips = data.clips("tune")
    batches_of_clips = torch.randperm(len(clips), generator=generator).split(tuning.batch)
    loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=tuning.label_smoothing)
    batch_loss = torch.tensor(math.nan)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches_of_clips:
            chosen = [clips[index] for index in batch.tolist()]
            inputs = torch.stack([data.train_input(digest, generator) for digest, _ in chosen])
            yield inputs, torch.tensor([target for _, target in chosen])

    prepared = prefetch(batches()) if data.device.type == "cuda" else batches()
    for step, (inputs, targets) in enumerate(prepared):
        factor = rate_factor(tuning, epoch + (step + 0.5) / len(batches_of_clips))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.zero_grad(set_to_none=True)
        inputs, targets = inputs.to(data.device), targets.to(data.device)
        if tuning.mixup:
            share, order = mixing.beta(tuning.mixup, tuning.mixup), mixing.permutation(len(targets))
            logits = data.score(share * inputs + (1 - share) * inputs[order])
            batch_loss = share * loss(logits, targets) + (1 - share) * loss(logits, targets[order])
        else:
            batch_loss = loss(data.score(inputs), targets)
        batch_loss.backward()
        optimizer.step()
    return float(batch_loss.detach())


def prefetch(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in order; the next one is prepared in a thread while a batch is in use."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(next, batches, None)
            yield batch


@torch.inference_mode()
def _stop_loss(network: nn.Module, data: TuningData, loss: nn.Module, stop: list[tuple[str, int]]) -> float:
    network.eval()
    logits = [data.score(data.whole_input(digest)[None].to(data.device)) for digest, _ in stop]
    return float(loss(torch.cat(logits), torch.tensor([target for _, target in stop], device=data.device)))


def _save_checkpoint(
    path: Path, network: nn.Module, best: State | None, optimizer: torch.optim.Optimizer, progress: _Progress
) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    for number, values in optimizer.state_dict()["state"].items():
        moments = {key: value for key, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    save_weights(path, tensors, asdict(progress))


def _resume(
    path: Path | None, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[_Progress, State | None]:
    """Load a checkpoint into network and optimizer; without an undamaged one, tuning starts from epoch 0."""
    if path is None or not path.is_file():
        return _Progress(), None
    try:
        tensors, values = load_weights_file(path)
    except CacheError as error:
        log.warning("%s: checkpoint cannot be read (%s); tuning restarts from the first epoch", path, error)
        return _Progress(), None
    moments: dict[int, State] = defaultdict(dict)
    for name, value in _with_prefix(tensors, "optimizer.").items():
        number, key = name.split(".", 1)
        moments[int(number)][key] = value
    network.load_state_dict(_with_prefix(tensors, "network."))
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    log.info("%s: tuning resumes after epoch %d", path.name, values["epoch"])
    progress = _Progress(**{name: values[name] for name in asdict(_Progress())})
    return progress, _with_prefix(tensors, "best.") or None


def _with_prefix(tensors: State, prefix: str) -> State:
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in names}
