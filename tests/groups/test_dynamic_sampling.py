"""Groups that teach nothing make room for further prompts; a pool that starves is said, and never waited for."""

import json
import logging

import pytest
import torch
from datasets import Dataset
from training import (
    SAVING,
    fixed_completions,
    launch_two,
    lengths_differ,
    logged,
    spread_only_on,
    tiny_dataset,
    tiny_trainer,
    watch_batches,
)

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.groups.dynamic_sampling import RULES
from emor3_trl.rewards import accuracy_reward

PLAIN = {"use_vllm": False, "beta": 0.04}


def read_groups(batch, size):
    """Return the prompts of a batch's groups, which are whole, and the largest advantage of each."""
    ids, advantages = batch
    groups = [ids[start : start + size] for start in range(0, len(ids), size)]
    assert [len(set(group)) for group in groups] == [1] * len(groups)
    largest = [max(map(abs, advantages[start : start + size])) for start in range(0, len(ids), size)]
    return ids[::size], largest


def weights(trainer):
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


def assert_equal_weights(left, right):
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize(
    ("rule", "rewards", "kept"),
    [
        pytest.param("spread", [0.0, 0.0, 0.0, 1.0], True, id="spread"),
        pytest.param("spread", [0.9, 0.9, 0.9, 0.9], False, id="all-alike"),
        pytest.param("spread", [float("nan"), 0.9, 0.9, 0.9], False, id="all-that-are-judged-alike"),
        pytest.param("spread", [float("nan")] * 4, False, id="none-judged"),
        pytest.param("reward", [0.1] * 4, True, id="all-wrong-and-well-formed-is-kept-by-the-reference"),
        pytest.param("reward", [1.0] * 4, False, id="all-right"),
        pytest.param("reward", [0.0] * 4, False, id="all-wrong-and-malformed"),
        pytest.param("reward", [1.0, 1.0, 1.0, 0.97], False, id="mean-above-the-limit-in-spite-of-spread"),
        pytest.param("reward", [float("nan")] * 4, False, id="none-judged-by-mean"),
        pytest.param("accuracy", [1.0, 0.0, 0.0, 0.0], True, id="one-right"),
        pytest.param("accuracy", [0.0] * 4, False, id="none-right"),
    ],
)
def test_a_rule_keeps_what_it_says(rule, rewards, kept):
    assert RULES[rule](torch.tensor([rewards])).tolist() == [kept]


def test_a_run_whose_groups_all_spread_is_the_same_with_and_without(tiny_model_dir, tmp_path):
    runs = []
    for rule in ("none", "spread"):
        trainer = tiny_trainer(tiny_model_dir, tmp_path / rule, dynamic_sampling=rule, **PLAIN)
        trainer.train()
        runs.append(trainer)
    assert_equal_weights(*map(weights, runs))
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    assert logged(runs[1], "rollout/dropped_share") == [0.0] * 4
    assert logged(runs[1], "rollout/tries") == [1.0] * 4
    assert logged(runs[0], "rollout/tries") == []


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "ordinary"])
@pytest.mark.parametrize("pictures", ["all", "half"])
def test_groups_without_spread_never_train_while_others_have_it(tiny_model_dir, tmp_path, pictures, shared):
    good = ("0", "3", "6", "7")
    options = {**PLAIN, "reward_funcs": spread_only_on(*good), "pictures": pictures, "shared_prefix": shared}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, dynamic_sampling="spread", **options)
    batches = watch_batches(trainer)
    trainer.train()
    for ids, advantages in (read_groups(batch, 4) for batch in batches):
        assert len(set(ids)) == 2  # no prompt twice
        assert set(ids) <= set(good)
        assert min(advantages) > 0.1
    assert len(batches) == 4
    assert logged(trainer, "rollout/starved_share") == [0.0] * 4
    assert max(logged(trainer, "rollout/tries")) > 1
    assert max(logged(trainer, "rollout/dropped_share")) >= 0.5
    off = tiny_trainer(tiny_model_dir, tmp_path / "off", **options)
    batches = watch_batches(off)
    off.train()
    assert any(not set(ids) <= set(good) for ids, _ in batches)  # what the filter was for


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def test_a_refilled_batch_is_the_batch_of_its_groups(tiny_model_dir, tmp_path, monkeypatch, engine):
    """Each row of it: prompt, picture, completion, log-probabilities and advantage belong together."""
    if engine == "transformers":
        monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)  # of many lengths
    options = {"reward_funcs": spread_only_on("0", "3", "6"), "use_vllm": engine == "vllm", "pictures": "most"}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, dynamic_sampling="spread", beta=0.04, max_steps=2, **options)
    prepare, compared = trainer._prepare_inputs, []

    def compare(rows):
        inputs = prepare(rows)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        fields = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        with torch.no_grad():
            again, *_ = trainer._get_per_token_logps_and_entropies(
                trainer.ref_model, ids, mask, inputs["completion_ids"].shape[1],
                **{name: inputs[name] for name in fields if name in inputs},
            )  # fmt: skip
        seen = inputs["completion_mask"].bool()
        torch.testing.assert_close(again[seen], inputs["ref_per_token_logps"][seen], atol=1e-5, rtol=0)
        assert inputs["num_items_in_batch"] == inputs["completion_mask"].sum()
        texts = trainer.processing_class.batch_decode(inputs["completion_ids"], skip_special_tokens=True)
        rewards = torch.tensor(lengths_differ([[{"content": text}] for text in texts])).view(-1, 4)
        expected = (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4)
        torch.testing.assert_close(inputs["advantages"], expected.flatten(), atol=1e-5, rtol=0)
        assert len({tuple(row) for row in ids.tolist()}) == 8
        compared.append(inputs)
        return inputs

    trainer._prepare_inputs = compare
    trainer.train()
    assert len(compared) == 2
    assert max(logged(trainer, "rollout/tries")) > 1


def test_a_prompt_that_is_drawn_twice_is_used_once(tiny_model_dir, tmp_path):
    rows = tiny_dataset()
    rows = Dataset.from_list([*(rows[place] for place in range(1, 5)), *[rows[0]] * 4])
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, rows=rows, reward_funcs=spread_only_on("0"), dynamic_sampling="spread", max_steps=1,
        num_generations=2, shuffle_dataset=False, dynamic_sampling_tries=3, **PLAIN,
    )  # fmt: skip
    batches = watch_batches(trainer)
    trainer.train()
    assert sorted(read_groups(batches[0], 2)[0]) == ["0", "2", "3", "4"]
    assert logged(trainer, "rollout/starved_share") == [0.75]


def test_images_of_a_step_are_counted_over_its_tries(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=spread_only_on("9"), dynamic_sampling="spread", max_steps=1,
        dynamic_sampling_tries=3, **PLAIN,
    )  # fmt: skip
    trainer.train()
    assert logged(trainer, "rollout/tries") == [3.0]
    assert logged(trainer, "images/processed") == [6]  # two groups in each of three tries, each picture once
    assert logged(trainer, "images/decoded") == [6]


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_a_pool_that_starves_is_said_once_and_the_run_goes_on(tiny_model_dir, tmp_path, caplog, tries):
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=spread_only_on("3"), dynamic_sampling="spread",
        dynamic_sampling_tries=tries, num_generations=2, beta=0.0, use_vllm=False,
    )  # fmt: skip
    batches = watch_batches(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 4
    assert max(logged(trainer, "rollout/tries")) == tries
    lines = [record.message for record in caplog.records if "starves" in record.message]
    assert len(lines) == 1
    assert f"of 4 groups were kept (dynamic_sampling: spread, tries: {tries})" in lines[0]
    for ids, advantages in (read_groups(batch, 2) for batch in batches):
        assert [row for row, advantage in zip(ids, advantages, strict=True) if advantage] in (["3"], [])
    shares = logged(trainer, "rollout/starved_share")
    assert set(shares) <= {0.75, 1.0}
    if tries == 5:
        assert shares == [0.75] * 4  # the whole pool was tried, and its one group found


def test_dropped_groups_that_stay_teach_nothing(tiny_model_dir, tmp_path):
    """Even where they spread: the rule is on accuracy, and a second reward differs."""

    def accuracy_of_none(completions, **columns):
        return [0.0] * len(completions)

    accuracy_of_none.__name__ = accuracy_reward.__name__
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=[accuracy_of_none, lengths_differ], dynamic_sampling="accuracy",
        dynamic_sampling_tries=2, beta=0.0, use_vllm=False,
    )  # fmt: skip
    before = weights(trainer)
    trainer.args.weight_decay = 0.0
    trainer.train()
    assert logged(trainer, "grad_norm") == [0.0] * 4
    assert_equal_weights(before, weights(trainer))
    assert logged(trainer, "rollout/dropped_share") == [1.0] * 4


def test_a_pool_that_starves_stops_a_run_with_a_checkpoint(tiny_model_dir, tmp_path, caplog):
    options = {"reward_funcs": spread_only_on("3"), "dynamic_sampling": "spread", "dynamic_sampling_tries": 2, **PLAIN}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, dynamic_sampling_starved="stop", **options)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 1
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").is_file()
    assert "saves a checkpoint and ends after this step (dynamic_sampling_starved: stop)" in caplog.text
    # Nothing is lost: it goes on from there as a run that was told to keep
    kept = tiny_trainer(tiny_model_dir, tmp_path / "kept", max_steps=3, **options, **SAVING)
    kept.train()
    resumed = tiny_trainer(tiny_model_dir, tmp_path / "resumed", max_steps=3, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_equal_weights(weights(kept), weights(resumed))


def test_a_pool_of_one_prompt_ends_before_its_tries(tiny_model_dir, tmp_path):
    rows = Dataset.from_list([tiny_dataset()[0]] * 8)
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, rows=rows, reward_funcs=first_group_spreads(), dynamic_sampling="spread", max_steps=1,
        **PLAIN,
    )  # fmt: skip
    trainer.train()
    assert logged(trainer, "rollout/tries") == [1.0]  # its only prompt stands in the batch
    assert logged(trainer, "rollout/starved_share") == [0.5]


def first_group_spreads():
    def reward(completions, **columns):
        lengths = lengths_differ(completions)
        return [*lengths[:4], *[1.0] * (len(lengths) - 4)]

    return reward


def test_a_dropped_prompt_may_come_again_after_all_others(tiny_model_dir, tmp_path):
    asked = []

    def spreads_late(completions, **columns):
        asked.append(columns["id"][::4])
        lengths = lengths_differ(completions)
        return lengths if len(asked) >= 5 else [1.0] * len(lengths)

    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=spreads_late, dynamic_sampling="spread", max_steps=1, **PLAIN
    )
    trainer.train()
    assert sorted(row for rows in asked[:4] for row in rows) == [str(row) for row in range(8)]  # each prompt once
    assert len(asked) == 5
    assert logged(trainer, "rollout/starved_share") == [0.0]


def test_a_refill_asks_for_as_many_as_it_expects_to_need(tiny_model_dir, tmp_path):
    sizes = []

    def reward(completions, **columns):
        sizes.append(len(completions) // 2)
        return spread_only_on(*map(str, range(6)))(completions, **columns)

    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=reward, dynamic_sampling="spread", num_generations=2, max_steps=4,
        **PLAIN,
    )  # fmt: skip
    trainer.train()
    assert sizes.count(4) >= 4
    assert max(sizes) == 4
    assert min(sizes) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"dynamic_sampling": "std"}, "dynamic_sampling is 'std'. Expected one of none, spread", id="rule"),
        pytest.param({"dynamic_sampling_starved": "x"}, "dynamic_sampling_starved is 'x'", id="starved"),
        pytest.param({"dynamic_sampling_tries": 0}, "dynamic_sampling_tries is 0. Expected 1 or more", id="tries"),
        pytest.param({"dynamic_sampling": "spread", "scale_rewards": "batch"}, "scale_rewards is 'batch'", id="batch"),
        pytest.param({"overlong_buffer": -1}, "overlong_buffer is -1. Expected 0 or more", id="negative-buffer"),
        pytest.param(
            {"dynamic_sampling": "accuracy", "rewards": ["format"]}, "without accuracy", id="no-accuracy-among-rewards"
        ),
        pytest.param({"overlong_buffer": 8, "rewards": ["format"]}, "overlong_buffer 8 chooses", id="other-rewards"),
        pytest.param({"overlong_buffer": 4096}, "at most max_completion_length", id="buffer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        EmoR3Config(str(tmp_path), use_cpu=True, bf16=False, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"rows": tiny_dataset().to_iterable_dataset()}, "is a stream", id="stream"),
        pytest.param({"dynamic_sampling": "accuracy"}, "no reward is named accuracy_reward", id="no-accuracy"),
        pytest.param({"overlong_buffer": 8}, "overlong_buffer is 8, and reward_funcs is given", id="other-rewards"),
    ],
)
def test_what_cannot_be_drawn_or_judged_is_refused(tiny_model_dir, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_trainer(tiny_model_dir, tmp_path, **{"dynamic_sampling": "spread", **PLAIN, **options})


def test_overlong_completions_cost_reward(tiny_model_dir, tmp_path):
    options = {"reward_funcs": None, "reward_variant": "plain", "max_completion_length": 16, **PLAIN}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, overlong_buffer=8, max_steps=1, **options)
    punish = trainer.reward_funcs[-1]
    assert trainer.reward_weights.tolist()[-1] == 1.0
    assert punish(completion_ids=[[1] * length for length in (8, 12, 16)]) == [0.0, -0.5, -1.0]
    trainer.train()
    (mean,) = logged(trainer, "rewards/soft_overlong_punishment_reward/mean")
    assert -1.0 <= mean < 0.0


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(4, id="whole-groups", marks=pytest.mark.long),
        pytest.param(8, id="groups-cut-between-processes", marks=pytest.mark.slow),
    ],
)
def test_two_processes_wait_for_each_other_where_one_drops_its_groups(tiny_model_dir, tmp_path, monkeypatch, group):
    """The longest wait ends the test: `launch_two` has a limit of its own."""
    options = {
        "per_device_train_batch_size": 4, "num_generations": group, "max_steps": 3, "fixed": True, "use_vllm": False,
        "dynamic_sampling": "spread", "spread_only_on": ["1", "2", "5"], "dynamic_sampling_tries": 12,
    }  # fmt: skip
    result = launch_two(tiny_model_dir, tmp_path / "two", options)
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    options |= {"per_device_train_batch_size": 8, "reward_funcs": spread_only_on(*options.pop("spread_only_on"))}
    options.pop("fixed")
    alone = tiny_trainer(tiny_model_dir, tmp_path / "one", **options)
    expected = watch_batches(alone)
    alone.train()
    assert result["processes"] == 2
    steps = [entry for entry in result["log"] if "rollout/tries" in entry]
    assert len(steps) == 3
    assert max(entry["rollout/tries"] for entry in steps) > 1
    ranks = [json.loads((tmp_path / "two" / f"batches_{rank}.json").read_text()) for rank in range(2)]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        ids, advantages = read_groups(([*parts[0][0], *parts[1][0]], [*parts[0][1], *parts[1][1]]), group)
        assert set(ids) <= {"1", "2", "5"}
        assert len(set(ids)) == 8 // group
        assert min(advantages) > 0.1
        if group == 8:  # one prompt in each try, whether one process asks or two do
            assert ids == expected[step][0][::8]
    assert {entry["rollout/starved_share"] for entry in steps} == {0.0}
