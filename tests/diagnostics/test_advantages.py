"""Which reward causes the advantages: parts that add up to what TRL trains on, and groups that reflection decides."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from training import lengths_differ, tiny_trainer

from emor3_trl.diagnostics import RewardSum, measure_advantages, split_advantages, zero_spreads

NAMES = ("accuracy_reward", "coherence_reward")


def judged_now_and_then(completions: list, **columns: Any) -> list[float | None]:
    """A reward that leaves out every third completion."""
    return [None if row % 3 == 2 else row % 5 / 4 for row in range(len(completions))]


def never_judged(completions: list, **columns: Any) -> list[float | None]:
    """A reward that leaves out the first completion of all, which nothing else judges either."""
    return [None if row == 2 else 1.0 for row in range(len(completions))]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"scale_rewards": "group"}, id="group"),
        pytest.param({"scale_rewards": "batch"}, id="batch"),
        pytest.param({"scale_rewards": "none"}, id="none"),
        pytest.param({"multi_objective_aggregation": "normalize_then_sum"}, id="normalize_then_sum"),
    ],
)
def test_parts_add_up_to_the_advantages_that_trl_trains_on(tiny_model_dir, tmp_path, options):
    functions = [judged_now_and_then, lengths_differ, never_judged]
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, max_steps=1, use_vllm=False, log_completions=True, num_completions_to_print=0,
        reward_funcs=functions, reward_weights=[0.7, 0.1, -0.4], **options,
    )  # fmt: skip
    trainer.train()
    table = pd.concat(pd.read_parquet(file) for file in (tmp_path / "completions").glob("*.parquet"))
    names = [function.__name__ for function in functions]
    how = RewardSum(
        names, [0.7, 0.1, -0.4], 4, scale=trainer.scale_rewards, aggregation=trainer.multi_objective_aggregation
    )
    parts = split_advantages(table[names].to_numpy(dtype=float), how)
    assert np.abs(table["advantage"]).max() > 0.1
    assert parts.sum(axis=1) == pytest.approx(table["advantage"].to_numpy(), abs=2e-5)
    logged = trainer.state.log_history[0]
    shares = {name: logged[f"diagnostics/advantage_share/{name}"] for name in names}
    assert sum(shares.values()) == pytest.approx(1.0)
    signs = np.sign(parts.sum(axis=1))
    by_hand = [float((signs * part).sum() / np.abs(table["advantage"]).sum()) for part in parts.T]
    assert list(shares.values()) == pytest.approx(by_hand, abs=1e-4)


def test_a_completion_that_no_function_judges_has_no_part():
    rewards = np.array([[np.nan, np.nan], [1.0, 0.0], [0.0, 0.0], [0.0, np.nan]])
    parts = split_advantages(rewards, RewardSum(NAMES, [1.0, 1.0], 4))
    assert parts[0].tolist() == [0.0, 0.0]
    assert parts[1:].sum() == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("rewards", "shares", "alone"),
    [
        pytest.param([[1, 0], [0, 0], [1, 1], [0, 1]], (1.0, 0.0), 0.0, id="accuracy-causes-all"),
        pytest.param([[1, 0], [1, 1], [0, 0], [0, 1]], (0.0, 1.0), 1.0, id="both-groups-are-reflections"),
        pytest.param([[1, 0], [1, 1], [0, 1], [1, 1]], (0.5, 0.5), 0.5, id="half-of-the-groups"),
        pytest.param([[1, 0], [0, 1], [1, 0], [0, 1]], (0.9 / 0.8, -0.1 / 0.8), 0.0, id="one-pulls-against-the-other"),
        pytest.param([[1, 1], [1, 1], [0, 0], [0, 0]], None, 0.0, id="no-advantage"),
    ],
)
def test_shares_by_hand(rewards, shares, alone):
    """In a group that reflection alone decides, advantages are as large as in one that accuracy decides."""
    weights = [0.9, 0.1]
    how = RewardSum(NAMES, weights, 2, reflective=["coherence_reward"])
    result = measure_advantages(np.array(rewards, dtype=float), how)
    expected = {} if shares is None else dict(zip(("accuracy", "coherence"), shares, strict=True))
    found = {name.split("/")[-1]: value for name, value in result.items() if "share" in name}
    assert found == pytest.approx(expected, abs=2e-3)
    assert result["diagnostics/only_reflection_decides"] == alone


def test_lambda_vanishes_where_reflection_alone_decides():
    """The same rewards with a hundredth of the weight have the same advantages, up to the 1e-4 of TRL."""
    rewards = np.array([[1.0, 0.0], [1.0, 1.0]])
    large, small = (split_advantages(rewards, RewardSum(NAMES, [1.0, w], 2)).sum(axis=1) for w in (1.0, 0.01))
    assert small == pytest.approx(large, rel=0.02)


@pytest.mark.parametrize(
    "how", [{"scale": "none"}, {"scale": "batch"}, {"aggregation": "normalize_then_sum"}], ids=lambda how: str(how)
)
def test_reflection_decides_with_its_weight_alone_where_a_group_is_not_scaled(how):
    """The advice of the alarm, scale_rewards: none, ends it."""
    rewards = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    large, small = (
        np.abs(split_advantages(rewards, RewardSum(NAMES, [1.0, w], 2, **how)).sum(axis=1))[:2].max() for w in (1, 0.01)
    )
    assert small < 0.1 * large
    result = measure_advantages(rewards, RewardSum(NAMES, [1.0, 0.01], 2, reflective=["coherence_reward"], **how))
    assert "diagnostics/only_reflection_decides" not in result


def test_two_rewards_that_cancel_in_a_dead_group_cause_nothing():
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    result = measure_advantages(rewards, RewardSum(NAMES, [0.5, 0.5], 2, reflective=["coherence_reward"]))
    assert result["diagnostics/advantage_share/accuracy"] == 1.0
    assert result["diagnostics/advantage_share/coherence"] == 0.0


def test_a_dead_sum_may_teach_where_each_reward_is_scaled_first():
    rewards = np.array([[1.0, 0.0], [0.0, 4.0], [1.0, 1.0], [1.0, 1.0]])  # weighed, both of the first group earn 0.8
    for aggregation, dead in (("sum_then_normalize", 1.0), ("normalize_then_sum", 0.5)):
        shares = zero_spreads(rewards, NAMES, [0.8, 0.2], 2, aggregation)
        assert shares["diagnostics/zero_spread/overall"] == dead
        parts = split_advantages(rewards, RewardSum(NAMES, [0.8, 0.2], 2, aggregation=aggregation)).sum(axis=1)
        assert (parts != 0).tolist() == [dead < 1] * 2 + [False] * 2


def test_groups_of_one_have_no_advantages():
    assert measure_advantages(np.ones((3, 2)), RewardSum(NAMES, [1.0, 1.0], 1, reflective=NAMES)) == {}


def test_a_completion_that_earns_its_groups_mean_has_no_sign_whatever_rounding_leaves():
    """Four of eight earn the mean of 0.15, in two ways: 0.05 + 0.1 for either reflection."""
    accuracy, form = [0.0] * 8, [1.0] * 7 + [0.0]
    consistency = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    coherence = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    names = ("accuracy_reward", "consistency_reward", "coherence_reward", "format_reward")
    rewards = np.array([accuracy, consistency, coherence, form]).T
    result = measure_advantages(rewards, RewardSum(names, [0.8, 0.05, 0.05, 0.1], 8))
    shares = [
        result[f"diagnostics/advantage_share/{name}"] for name in ("accuracy", "consistency", "coherence", "format")
    ]
    assert shares == pytest.approx([0, 1 / 3, 1 / 4, 5 / 12])
