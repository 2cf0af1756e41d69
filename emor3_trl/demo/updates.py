"""Teaching that takes long enough to be killed: it goes on from a checkpoint, and ends as if it had not been."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Checkpoint:
    """The file that a stage goes on from.

    Args:
        path: the file.
        every: updates between two checkpoints.
        settings: what decides the stage; a checkpoint of other settings is refused.
    """

    path: Path
    every: int
    settings: dict[str, Any]

    def save(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, update: int) -> None:
        """Write weights and moments after so many updates."""
        state = {"settings": json.dumps(self.settings), "update": update, "optimizer": optimizer.state_dict()}
        with replacing(self.path) as temporary:
            torch.save({**state, "weights": [parameter.data for parameter in parameters]}, temporary)

    def load(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Load weights and moments; return how many updates they have had.

        Raises:
            FileExistsError: if they were made with other settings.
        """
        state = torch.load(self.path, weights_only=True)
        if state["settings"] != json.dumps(self.settings):
            raise FileExistsError(f"'{self.path}' was left by a stage of other settings. Delete it, or set them again.")
        with torch.no_grad():
            for parameter, weight in zip(parameters, state["weights"], strict=True):
                parameter.copy_(weight)
        optimizer.load_state_dict(state["optimizer"])
        return int(state["update"])


def teach_in_updates(
    title: str,
    parts: Sequence[Part],
    compute_losses: Callable[[int], dict[str, torch.Tensor]],
    updates: int,
    checkpoint: Checkpoint,
) -> None:
    """Take a number of updates with AdamW, and keep a checkpoint on the way.

    Args:
        title: of the progress bar.
        parts: what is taught.
        compute_losses: the losses of an update by its number, by name; they are added. The number alone may decide
            which examples it draws, so that nothing but weights and moments has to be kept.
        updates: how many.
        checkpoint: where it exists, teaching goes on from it. It stays.

    Raises:
        FileExistsError: if the checkpoint was made with other settings.
    """
    parameters = [parameter for part in parts for parameter in part.parameters]
    groups = [{"params": list(part.parameters), "lr": part.learning_rate} for part in parts]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    first = checkpoint.load(parameters, optimizer) if checkpoint.path.exists() else 0
    bar = tqdm(range(first, updates), desc=title, unit="update", initial=first, total=updates)
    for update in bar:
        for group, part in zip(optimizer.param_groups, parts, strict=True):
            group["lr"] = part.learning_rate * _scale_rate(update, updates)
        losses = compute_losses(update)
        update_weights(torch.stack(list(losses.values())).sum(), optimizer, parameters)
        bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})
        if (update + 1) % checkpoint.every == 0 or update + 1 == updates:
            checkpoint.save(parameters, optimizer, update + 1)


def _scale_rate(update: int, updates: int) -> float:
    """Return the share of its learning rate that an update has."""
    warmup = max(1, updates // 10)
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))
