"""Where advantages come from: which reward causes them, and which groups teach nothing, or reflection alone.

Pure functions over the rewards of one rollout, whose groups are contiguous.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

_EPSILON = 1e-4  # TRL adds it to a standard deviation
_NO_ADVANTAGE = 1e-6  # an advantage is a few tenths; below is what rounding leaves
_NO_SPREAD = 1e-9  # rewards of a group that lie closer are equal but for rounding


def zero_spread_share(rewards: Sequence[float] | np.ndarray, num_generations: int) -> float:
    """Return the share of groups in which all completions earn the same, so that none has an advantage.

    Args:
        rewards: one reward per completion, groups contiguous; shape (P * G,). NaN is a completion that is not rewarded.
        num_generations: G, completions per prompt.

    Raises:
        ValueError: if the rewards do not make whole groups.
    """
    return float(np.mean(_have_no_spread(rewards, num_generations)))


def zero_spreads(
    rewards: np.ndarray,
    names: Sequence[str],
    weights: Sequence[float],
    num_generations: int,
    aggregation: str = "sum_then_normalize",
) -> dict[str, float]:
    """Return the share of dead groups for each reward that trains, and for the weighted sum that advantages are of.

    Args:
        rewards: what each reward function returned for each completion, groups contiguous; shape (P * G, functions).
        names: names of the functions.
        weights: their weights.
        num_generations: G, completions per prompt.
        aggregation: with "normalize_then_sum" the sum is of rewards that are scaled in their group.

    Returns:
        `diagnostics/zero_spread/<reward>` and `diagnostics/zero_spread/overall`; nothing for groups of one.
    """
    if num_generations < 2:
        return {}
    columns = {_title(name): rewards[:, place] for place, name in enumerate(names)}
    scaled = _scale_in_groups(rewards, num_generations) if aggregation == "normalize_then_sum" else rewards
    columns["overall"] = sum_rewards(scaled, weights)
    return {
        f"diagnostics/zero_spread/{name}": zero_spread_share(values, num_generations)
        for name, values in columns.items()
    }


def sum_rewards(rewards: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the weighted sum of each completion's rewards, as TRL adds them: NaN only where no function judges it.

    Args:
        rewards: shape (completions, functions); NaN where a function does not judge a completion.
        weights: one per function.
    """
    unrewarded = np.isnan(rewards).all(axis=1)
    return np.where(unrewarded, np.nan, np.nansum(rewards * np.asarray(weights, dtype=float), axis=1))


@dataclass(frozen=True)
class RewardSum:
    """How a run makes advantages of rewards, as TRL's configuration says it.

    Args:
        names: of the reward functions.
        weights: of the functions.
        group_size: G, completions per prompt.
        reflective: names of the functions that read the reflection's answers (paper, Eq. 5).
        scale: `scale_rewards`: an advantage is divided by the deviation of the "group", of the "batch", or by "none".
        aggregation: `multi_objective_aggregation`: "sum_then_normalize", or "normalize_then_sum", where each reward is
            scaled by its own deviation first, and the sum by that of the batch.
    """

    names: Sequence[str]
    weights: Sequence[float]
    group_size: int
    reflective: Collection[str] = ()
    scale: str = "group"
    aggregation: str = "sum_then_normalize"


def split_advantages(rewards: np.ndarray, how: RewardSum) -> np.ndarray:
    """Return what each reward adds to each completion's advantage; the parts of a row add up to its advantage.

    An advantage is (R - mean of the group) / (std of the group + 1e-4), with R the weighted sum of the rewards r_k. So
    reward k adds c_k = w_k (r_k - mean of r_k in the group) / (std of R in the group + 1e-4). In a group without a
    spread of R, which trains nothing, all parts are 0.

    Args:
        rewards: what each function returned, groups contiguous; shape (P * G, functions). NaN adds nothing.
        how: the run's rewards; G is 2 or more.

    Returns:
        Parts, shape (P * G, functions).
    """
    values, scale, group_size = np.asarray(rewards, dtype=float), how.scale, how.group_size
    unrewarded = np.isnan(values).all(axis=1)
    if how.aggregation == "normalize_then_sum":
        values = _scale_in_groups(values, group_size)
        scale, group_size = "batch", len(values)
    parts = np.nan_to_num(values) * np.asarray(how.weights, dtype=float)
    parts[unrewarded] = np.nan
    groups = parts.reshape(-1, group_size, parts.shape[1])
    totals = groups.sum(axis=2)  # (P, G)
    centred = groups - _mean(groups, axis=1)
    if scale == "group":
        centred /= _deviation(totals, axis=1)[:, :, None] + _EPSILON
    elif scale == "batch":
        centred /= _deviation(totals.reshape(1, -1), axis=1).item() + _EPSILON
    centred[_have_no_spread(totals.ravel(), group_size)] = 0.0
    return np.nan_to_num(centred).reshape(parts.shape)


def measure_advantages(rewards: np.ndarray, how: RewardSum) -> dict[str, float]:
    """Return which reward causes how much of the advantages, and how many groups reflection alone decides.

    Reward k's share is sum of sign(A) c_k / sum of |A| over all completions, with the parts c_k of `split_advantages`.
    A completion that earns its group's mean has no sign, whatever rounding leaves. Shares add up to 1. A negative one
    is a reward that pulls against the others.

    Args:
        rewards: what each function returned, groups contiguous; shape (P * G, functions).
        how: the run's rewards.

    Returns:
        `diagnostics/advantage_share/<reward>`, nothing where no completion has an advantage; and, with a reflective
        reward, `diagnostics/only_reflection_decides`, the share of groups whose other rewards are equal while the
        overall ones differ. There the deviation of the group cancels the weight of the reflective reward; other scales
        keep it, and the share is left out. Nothing for groups of one.
    """
    if how.group_size < 2:
        return {}
    parts = split_advantages(rewards, how)
    advantages = parts.sum(axis=1)
    size = np.abs(advantages).sum()
    signs = np.sign(advantages) * (np.abs(advantages) > _NO_ADVANTAGE)
    causes = signs @ parts
    metrics = {
        f"diagnostics/advantage_share/{_title(name)}": float(cause / size)
        for name, cause in zip(how.names, causes, strict=True)
        if size > 0
    }
    if how.reflective and how.scale == "group" and how.aggregation == "sum_then_normalize":
        decided = ~_have_no_spread(sum_rewards(rewards, how.weights), how.group_size)
        for place, name in enumerate(how.names):
            if name not in how.reflective and how.weights[place]:
                decided &= _have_no_spread(rewards[:, place], how.group_size)
        metrics["diagnostics/only_reflection_decides"] = float(np.mean(decided))
    return metrics


def _scale_in_groups(rewards: np.ndarray, group_size: int) -> np.ndarray:
    """Return each reward less its group's mean, over its group's deviation (GDPO), shape (P * G, functions)."""
    groups = np.asarray(rewards, dtype=float).reshape(-1, group_size, rewards.shape[1])  # (P, G, functions)
    return ((groups - _mean(groups, axis=1)) / (_deviation(groups, axis=1) + _EPSILON)).reshape(rewards.shape)


def _title(name: str) -> str:
    return name.removesuffix("_reward")


def _have_no_spread(rewards: Sequence[float] | np.ndarray, num_generations: int) -> np.ndarray:
    """Return whether all completions of a group earn the same, shape (P,)."""
    if len(rewards) == 0 or len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards do not make whole groups of {num_generations} completions.")
    grouped = np.asarray(rewards, dtype=float).reshape(-1, num_generations)  # (P, G)
    highest = np.where(np.isnan(grouped), -np.inf, grouped).max(axis=1)
    lowest = np.where(np.isnan(grouped), np.inf, grouped).min(axis=1)
    return highest - lowest < _NO_SPREAD


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of what is a number, 0 where nothing is; the axis stays."""
    count = np.maximum((~np.isnan(values)).sum(axis=axis, keepdims=True), 1)
    return np.nansum(values, axis=axis, keepdims=True) / count


def _deviation(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the standard deviation of a sample, as TRL computes it; 0 of fewer than two numbers. The axis stays."""
    count = (~np.isnan(values)).sum(axis=axis, keepdims=True)
    squares = np.nansum((values - _mean(values, axis)) ** 2, axis=axis, keepdims=True)
    return np.sqrt(squares / np.maximum(count - 1, 1))
