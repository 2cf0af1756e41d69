"""Switches of the reflection that could not work are refused in one line, before a model loads."""

import pytest
from datasets import Dataset
from training import tiny_dataset
from transformers import AutoProcessor

from emor3_trl import EmoR3Trainer
from emor3_trl.config import EmoR3Config
from emor3_trl.config_switches import check_contrast, check_weighed_labels
from emor3_trl.rewards import accuracy_reward, consistency_reward

CPU = {"bf16": False, "use_cpu": True, "report_to": "none", "use_vllm": False, "per_device_train_batch_size": 16}
ALL = {"soft_reflection": "calibrated", "contrastive_consistency": True, "masked_coherence": True,
       "gated_reflection": "unseparated"}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"soft_reflection": "hard"}, "Expected none, raw, calibrated", id="soft"),
        pytest.param({"gated_reflection": True}, "gated_reflection is True. Expected none, unseparated", id="gate"),
        pytest.param({"soft_reflection": "raw", "lambda1": 0.0}, "soft_reflection is set, and lambda1 is 0.0", id="l1"),
        pytest.param({"masked_coherence": True, "reward_variant": "reference"}, "is 'reference'", id="reference"),
        pytest.param({"gated_reflection": "right", "reward_variant": "plain"}, "reward_variant is 'plain'", id="plain"),
        pytest.param(
            {"contrastive_consistency": True, "rewards": ["accuracy", "coherence"]},
            "no reward reads contrast_answer or contrast_probability",
            id="contrast without consistency",
        ),
        pytest.param(
            {"masked_coherence": True, "rewards": ["accuracy", "consistency"]},
            "Name coherence among the rewards",
            id="mask without coherence",
        ),
        pytest.param({"soft_reflection": "raw", "rewards": ["accuracy"]}, "Name consistency or coh", id="soft alone"),
        pytest.param(
            {"gated_reflection": "unseparated", "dynamic_sampling": "accuracy"},
            "which drops the groups in which reflection would count",
            id="gate against sampling",
        ),
        pytest.param(
            {"contrastive_consistency": True, "dynamic_sampling": "spread"},
            "contrastive_consistency looks at the whole batch, and dynamic_sampling is 'spread'",
            id="contrast in refills",
        ),
        pytest.param(
            {"soft_reflection": "calibrated", "dynamic_sampling": "accuracy"},
            "soft_reflection: calibrated looks at the whole batch",
            id="calibration in refills",
        ),
        pytest.param(
            {"gated_reflection": "right", "rewards": ["consistency", "format"]},
            "it opens by accuracy",
            id="gate without accuracy",
        ),
        pytest.param(
            {"contrastive_consistency": True, "per_device_train_batch_size": 8},
            "rollout of 8 completions is about one image",
            id="one image",
        ),
    ],
)  # fmt: skip
def test_a_switch_that_would_do_nothing_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is read below)
        EmoR3Config(str(tmp_path), **{**CPU, **settings})
    assert message in str(error.value)
    assert len(str(error.value)) <= 300
    assert "\n" not in str(error.value)


def test_all_switches_combine_and_each_has_the_paper_s_default(tmp_path):
    EmoR3Config(str(tmp_path), **CPU, **ALL)
    EmoR3Config(str(tmp_path), **CPU, **ALL, rewards=["accuracy", "consistency", "coherence"])
    args = EmoR3Config(str(tmp_path), **CPU)
    assert [getattr(args, name) for name in ALL] == ["none", False, False, "none"]


@pytest.mark.parametrize(("processes", "is_refused"), [(1, False), (2, False), (4, True)])
def test_a_contrast_is_counted_on_each_process_of_the_launch(processes, is_refused):
    values = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "generation_batch_size": 32}
    values |= {"num_generations": 8, "contrastive_consistency": True}
    if is_refused:
        with pytest.raises(ValueError, match="rollout of 8 completions is about one image"):
            check_contrast(values, processes)
    check_contrast({**values, "contrastive_consistency": False}, processes)
    check_contrast(values, min(processes, 2))


def test_labels_that_more_tokens_tell_apart_than_vllm_returns_are_refused(tiny_model_dir, tmp_path):
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    pairs = [first + second for first in "abcdefghijkl" for second in "abcdefghijkl"]  # 144 labels, few tokens
    rows = Dataset.from_list([{"label_space": ["awe", "fear"]}, {"label_space": pairs}])
    words = sorted({word.lower() for word in processor.tokenizer.get_vocab() if word.isascii() and word.isalpha()})
    many = Dataset.from_list([{"label_space": ["awe", "fear"]}, {"label_space": words}])
    settings = {**CPU, "use_vllm": True, "soft_reflection": "raw"}
    with pytest.raises(ValueError, match=r"tokens tell the \d+ labels of rows in train apart: vLLM returns .* 128"):
        check_weighed_labels({"eval": None, "train": many}, processor, EmoR3Config(str(tmp_path), **settings))
    for changes in ({"use_vllm": False}, {"soft_reflection": "none"}):
        check_weighed_labels({"train": many}, processor, EmoR3Config(str(tmp_path), **{**settings, **changes}))
    check_weighed_labels({"train": rows}, processor, EmoR3Config(str(tmp_path), **settings))


def test_rewards_of_python_must_read_what_a_switch_adds(tmp_path):
    args = EmoR3Config(str(tmp_path), **CPU, masked_coherence=True)
    for functions in (accuracy_reward, [accuracy_reward, consistency_reward]):
        with pytest.raises(ValueError, match="masked_coherence is set, but no reward reads coherence_answer"):
            EmoR3Trainer("no/such/model", functions, args, tiny_dataset())
