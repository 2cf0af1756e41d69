"""How completions make groups, micro-batches and updates: the one arithmetic of GRPO's batches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batches:
    """The batch arithmetic of GRPO.

    Args:
        completions: completions of one rollout, over all processes.
        prompts: groups of one rollout.
        prompts_per_update: groups of one optimiser step.
        rollouts: rollouts of the run.
        updates: optimiser steps of the run.
    """

    completions: int
    prompts: int
    prompts_per_update: float
    rollouts: int
    updates: int


def divide_rollout(values: Mapping[str, Any], processes: int) -> tuple[int, int]:
    """Return the completions of one rollout over all processes, and the micro-batches that each process makes of it."""
    micro_batch = processes * values["per_device_train_batch_size"]
    steps = values.get("steps_per_generation") or values["gradient_accumulation_steps"]
    completions = values.get("generation_batch_size") or micro_batch * steps
    return completions, completions // micro_batch


def count_batches(values: Mapping[str, Any], samples: int, processes: int) -> Batches:
    """Return the batch arithmetic of a configuration on `samples` prompts and `processes` processes.

    Raises:
        ValueError: if the samples do not fill one rollout: nothing would be trained.
    """
    group, accumulation = values["num_generations"], values["gradient_accumulation_steps"]
    completions, steps = divide_rollout(values, processes)
    prompts = completions // group
    if samples < prompts:
        raise ValueError(
            f"{samples} samples do not fill one rollout of {prompts} prompts "
            f"({processes} process(es) x {values['per_device_train_batch_size']} completions x {steps} step(s) / "
            f"num_generations {group}). Lower per_device_train_batch_size, or steps_per_generation "
            "(gradient_accumulation_steps by default), or train on more samples."
        )
    iterations = values.get("num_iterations", 1)
    rollouts_per_epoch = samples // prompts  # an incomplete last batch is dropped
    updates_per_epoch = -(-rollouts_per_epoch * steps * iterations // accumulation)
    if values.get("max_steps", -1) > 0:
        updates = values["max_steps"]
        rollouts = -(-updates * accumulation // (steps * iterations))
    else:
        updates = round(values["num_train_epochs"] * updates_per_epoch)
        rollouts = round(values["num_train_epochs"] * rollouts_per_epoch)
    completions_per_update = processes * values["per_device_train_batch_size"] * accumulation
    return Batches(completions, prompts, completions_per_update / group, rollouts, updates)


def check_batch(values: Mapping[str, Any], processes: int) -> None:
    """Check that a rollout holds whole groups, as GRPO's advantages need.

    Raises:
        ValueError: with the nearest numbers that divide.
    """
    group, per_device = values["num_generations"], values["per_device_train_batch_size"]
    if group is None or group < 2:
        raise ValueError(
            f"num_generations is {group}. A group's advantage compares its completions, so it needs 2 or more "
            "(the paper uses 8 and 4): set --num_generations 8."
        )
    completions, steps = divide_rollout(values, processes)
    if values.get("generation_batch_size"):
        micro_batch = processes * per_device
        whole_batch = math.lcm(group, micro_batch)
        if completions % whole_batch:
            raise ValueError(
                f"generation_batch_size = {completions} completions, which do not divide into groups of "
                f"num_generations = {group} and micro-batches of {processes} process(es) x "
                f"per_device_train_batch_size {per_device} = {micro_batch}. "
                f"Set --generation_batch_size {whole_batch}, or another multiple of it."
            )
    if completions % group == 0:
        return
    unit = group // math.gcd(group, processes * steps)  # sizes that divide are its multiples
    sizes = sorted({max(per_device // unit, 1) * unit, (per_device // unit + 1) * unit})
    divisors = [divisor for divisor in range(2, completions + 1) if completions % divisor == 0]
    near = [divisor for divisor in divisors if divisor < group][-1:]
    near += [divisor for divisor in divisors if divisor > group][:1]
    raise ValueError(
        f"{processes} process(es) x per_device_train_batch_size {per_device} x {steps} step(s) per generation = "
        f"{completions} completions, which do not divide into groups of num_generations = {group}. "
        f"Use --per_device_train_batch_size {' or '.join(map(str, sizes))}"
        + (f", or --num_generations {' or '.join(map(str, near))}." if near else ".")
    )


def count_prompts_at_once(rows: int, group_size: int) -> int:
    """Return the most groups that one micro-batch of `rows` completions holds, in whole or in part."""
    if rows % group_size == 0 or group_size % rows == 0:
        return -(-rows // group_size)
    return min(rows, rows // group_size + 2)  # a part of a group at either end


def number_groups(rows: int, first_row: int, group_size: int) -> list[int]:
    """Return the number of the group of each row of a process, counted over all processes.

    Args:
        rows: rows of this process.
        first_row: how many rows the processes before it have; groups may be cut where processes meet.
        group_size: G.

    >>> number_groups(rows=4, first_row=4, group_size=3)
    [1, 1, 2, 2]
    """
    return [row // group_size for row in range(first_row, first_row + rows)]


def permute_groups(groups: Sequence[int]) -> "torch.Tensor":
    """Return a random order of rows in which the rows of a group stay next to each other.

    Args:
        groups: the group of each row, ascending; see `number_groups`.

    Returns:
        A permutation, shape (rows,).
    """
    import torch

    numbers = torch.tensor(groups) - groups[0]
    rank = torch.randperm(int(numbers[-1]) + 1)
    return torch.argsort(rank[numbers], stable=True)


def explain_split(group_size: int, per_device: int, accumulation: int) -> str | None:
    """Return what to change where micro-batches cut groups, so that a prompt is computed more than once; else None."""
    if per_device % group_size == 0:
        return None
    text = (
        f"per_device_train_batch_size {per_device} cuts the groups of {group_size} completions, and each part computes "
        "the prompt and its picture again. "
    )
    if group_size % per_device == 0 and accumulation % (group_size // per_device) == 0:
        factor = group_size // per_device
        return text + (
            f"If memory allows, --per_device_train_batch_size {group_size} --gradient_accumulation_steps "
            f"{accumulation // factor} takes steps of the same completions and computes each prompt once, not "
            f"{factor} times."
        )
    if group_size % per_device == 0:
        return text + f"Use a multiple of {group_size} for whole groups."
    return text + f"Use a multiple of {group_size}, or a divisor of it, for whole groups or equal parts."
