"""Teaching that takes long enough to be killed: it goes on from a checkpoint, and ends as if it had not been."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from emor3_trl.demo.teaching import update_weights
from emor3_trl.files import replacing


@dataclass(frozen=True)
class Part:
    """Weights of a model that are taught at a rate of their own.

    Args:
        parameters: what is taught.
        learning_rate: at its peak, after a tenth of the updates; from there it falls to nothing, as half a cosine.
    """

    parameters: Sequence[nn.Parameter]
    learning_rate: float


def teach_in_updates(
    title: str,
    parts: Sequence[Part],
    compute_losses: Callable[[int], dict[str, torch.Tensor]],
    updates: int,
    checkpoint: Path,
    save_every: int,
) -> None:
    """Take a number of updates with AdamW, and keep a checkpoint on the way.

    Args:
        title: of the progress bar.
        parts: what is taught.
        compute_losses: the losses of an update by its number, by name; they are added. The number alone may decide
            which examples it draws, so that nothing but weights and moments has to be kept.
        updates: how many.
        checkpoint: file of the weights and the moments; where it exists, teaching goes on from it. It stays.
        save_every: updates between two checkpoints.
    """
    parameters = [parameter for part in parts for parameter in part.parameters]
    groups = [{"params": list(part.parameters), "lr": part.learning_rate} for part in parts]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    first = _load(checkpoint, parameters, optimizer) if checkpoint.exists() else 0
    bar = tqdm(range(first, updates), desc=title, unit="update", initial=first, total=updates)
    for update in bar:
        for group, part in zip(optimizer.param_groups, parts, strict=True):
            group["lr"] = part.learning_rate * _scale_rate(update, updates)
        losses = compute_losses(update)
        update_weights(torch.stack(list(losses.values())).sum(), optimizer, parameters)
        bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})
        if (update + 1) % save_every == 0 or update + 1 == updates:
            state = {"update": update + 1, "weights": [parameter.data for parameter in parameters]}
            with replacing(checkpoint) as temporary:
                torch.save({**state, "optimizer": optimizer.state_dict()}, temporary)


def _load(checkpoint: Path, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Load weights and moments; return how many updates they have had."""
    state = torch.load(checkpoint, weights_only=True)
    with torch.no_grad():
        for parameter, weight in zip(parameters, state["weights"], strict=True):
            parameter.copy_(weight)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["update"])


def _scale_rate(update: int, updates: int) -> float:
    """Return the share of its learning rate that an update has."""
    warmup = max(1, updates // 10)
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))
