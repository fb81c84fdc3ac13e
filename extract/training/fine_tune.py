"""Fine-tuning: one network, the clips it may see, and a checkpoint from which a killed run goes on.

All randomness of an epoch derives from the recipe's seed, `trained16` and the epoch, so that a resumed run takes the
very steps of an unbroken one.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moodfuse.cache.digests import derived_seed, trained_digest16
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.extract.networks import load_weights_file, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningData:
    """What a tuning run sees.

    Attributes
    ----------
    roles : tuple of (clip digest, label, role)
    classes : tuple of str
        Sorted labels.
    train_input : callable
        ``(digest, generator) -> Tensor``: one augmented input without the batch axis.
    whole_input : callable
        ``digest -> Tensor``: the input as embedded.
    score : callable
        ``batch -> logits [N, C]``.
    parameters : list of Parameter
        What is tuned.
    """

    roles: tuple[tuple[str, str, str], ...]
    classes: tuple[str, ...]
    train_input: Callable[[str, torch.Generator], Tensor]
    whole_input: Callable[[str], Tensor]
    score: Callable[[Tensor], Tensor]
    parameters: list[nn.Parameter]

    def clips(self, role: str) -> list[tuple[str, int]]:
        """(digest, class index) of the clips of a role."""
        return [(digest, self.classes.index(label)) for digest, label, found in self.roles if found == role]


@dataclass
class _State:
    """Where a tuning run stands; everything a checkpoint holds beside tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")


def optimizer_for(tuning: Tuning, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that a recipe names."""
    if tuning.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=tuning.learning_rate, momentum=tuning.momentum, weight_decay=tuning.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[tuning.optimizer]
    return kind(parameters, lr=tuning.learning_rate, weight_decay=tuning.weight_decay)


def class_weights(targets: Sequence[int], classes: int) -> Tensor:
    """Balanced class weights N / (C * count), float32 [C]; 0 for a class without a clip."""
    counts = torch.bincount(torch.tensor(targets), minlength=classes).float()
    return torch.where(counts > 0, len(targets) / (classes * counts.clamp(min=1)), torch.zeros(classes))


def tune(network: nn.Module, data: TuningData, recipe: Recipe, *, checkpoint: Path | None = None) -> int:
    """Tune `network` in place and leave it in eval mode with the best epoch's weights.

    Parameters
    ----------
    network : Module
        Its tuned state is what `checkpoint` keeps.
    data : TuningData
    recipe : Recipe
        Its `tuning` and `seed` are used.
    checkpoint : Path, optional
        Written after every epoch, read at the start, left for the caller to remove.

    Returns
    -------
    int
        Number of the epoch whose weights were kept, from 1.
    """
    tuning = recipe.tuning
    if tuning is None:
        raise ValueError(f"{recipe.source}: a frozen recipe is not tuned")
    seed = derived_seed(recipe.seed, trained_digest16(data.roles))
    optimizer = optimizer_for(tuning, data.parameters)
    stop = data.clips("stop")
    weight = class_weights([target for _, target in data.clips("tune")], len(data.classes)).to(
        _device(data.parameters)
    )
    loss = nn.CrossEntropyLoss(weight=weight)
    state, best = _resume(checkpoint, network, optimizer)
    while state.epoch < tuning.epochs and not (stop and state.epoch - state.best_epoch >= tuning.patience):
        _train_epoch(network, data, optimizer, loss, tuning, derived_seed(seed, state.epoch))
        state.epoch += 1
        stop_loss = _stop_loss(network, data, loss, stop) if stop else float("-inf")
        if stop_loss < state.best_loss or not stop:
            state.best_loss, state.best_epoch = stop_loss, state.epoch
            best = (
                {name: value.detach().clone() for name, value in network.state_dict().items()}
                if stop
                else None
            )
        if checkpoint is not None:
            _save_checkpoint(checkpoint, network, best, optimizer, state)
    if best is not None:
        network.load_state_dict(best)
    network.eval()
    return state.best_epoch


def _device(parameters: list[nn.Parameter]) -> torch.device:
    return parameters[0].device


def _train_epoch(
    network: nn.Module,
    data: TuningData,
    optimizer: torch.optim.Optimizer,
    loss: nn.Module,
    tuning: Tuning,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(derived_seed(seed, "dropout"))
    network.train()
    clips = data.clips("tune")
    order = torch.randperm(len(clips), generator=generator).tolist()
    device = _device(data.parameters)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(order), tuning.batch):
            chosen = [clips[index] for index in order[start : start + tuning.batch]]
            inputs = torch.stack([data.train_input(digest, generator) for digest, _ in chosen])
            yield inputs, torch.tensor([target for _, target in chosen])

    for batch, targets in ahead(batches()) if device.type == "cuda" else batches():
        optimizer.zero_grad(set_to_none=True)
        value = loss(data.score(batch.to(device, non_blocking=True)), targets.to(device, non_blocking=True))
        value.backward()
        optimizer.step()


def ahead(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in their order, the next one made in a thread while one is at work, in memory that a GPU copies from."""
    pins = torch.cuda.is_available()

    def following() -> tuple[Tensor, Tensor] | None:
        batch = next(batches, None)
        return batch if batch is None or not pins else (batch[0].pin_memory(), batch[1].pin_memory())

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(following)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(following)
            yield batch


@torch.inference_mode()
def _stop_loss(network: nn.Module, data: TuningData, loss: nn.Module, stop: list[tuple[str, int]]) -> float:
    network.eval()
    device = _device(data.parameters)
    logits = torch.cat([data.score(data.whole_input(digest)[None].to(device)) for digest, _ in stop])
    return float(loss(logits, torch.tensor([target for _, target in stop], device=device)))


def _save_checkpoint(
    path: Path,
    network: nn.Module,
    best: dict[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
    state: _State,
) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": value for key, value in values.items() if isinstance(value, Tensor)
        }
    finite = None if state.best_loss in (float("inf"), float("-inf")) else state.best_loss
    save_weights(path, tensors, {"epoch": state.epoch, "best_epoch": state.best_epoch, "best_loss": finite})


def _resume(
    path: Path | None, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[_State, dict[str, Tensor] | None]:
    if path is None or not path.is_file():
        return _State(), None
    from safetensors import SafetensorError

    try:
        tensors, values = load_weights_file(path)
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, rest = name.split(".", 1)
            if kind == "optimizer":
                number, key = rest.split(".", 1)
                moments.setdefault(int(number), {})[key] = value
            else:
                groups[kind][rest] = value
        network.load_state_dict(groups["network"])
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
    ) as error:  # costs the epochs in it, no more
        log.warning(
            "%s: checkpoint cannot be read (%s); tuning starts again from the first epoch", path, error
        )
        return _State(), None
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    best_loss = float("inf") if values["best_loss"] is None else values["best_loss"]
    log.info("%s: tuning resumes after epoch %d", path.name, values["epoch"])
    return _State(values["epoch"], values["best_epoch"], best_loss), groups["best"] or None
