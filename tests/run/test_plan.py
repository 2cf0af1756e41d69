"""--plan's arithmetic by hand."""

from pathlib import Path

import pytest

from emor3_trl.run.memory import KNOWN, estimate_memory, read_shape
from emor3_trl.run.plan import describe_run, list_files

VALUES = {
    "model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct",
    "data": "data/none",
    "train_split": "train",
    "output_dir": "runs/x",
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 32,
    "steps_per_generation": 64,
    "num_train_epochs": 20,
    "max_steps": -1,
    "max_completion_length": 2048,
    "save_strategy": "steps",
    "save_steps": 10,
    "save_total_limit": 2,
    "dtype": "float32",
    "bf16": True,
    "beta": 0.01,
    "use_vllm": True,
    "gradient_checkpointing": True,
    "lambda1": 0.1,
}


def test_memory_of_full_float32_training() -> None:
    rows = {part: numbers for part, *numbers in estimate_memory(VALUES, KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"], 8)}
    billion = KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"].parameters / 2**30
    assert rows["weights"] == pytest.approx([4 * billion, 2 * billion, 2 * billion / 8])
    assert rows["optimizer (AdamW)"] == pytest.approx([8 * billion, 12 * billion / 8, 12 * billion / 8])


def test_lora_needs_no_reference_model_and_small_states() -> None:
    values = {**VALUES, "use_peft": True, "lora_r": 16, "dtype": "bfloat16"}
    rows = {part: alone for part, alone, *_ in estimate_memory(values, KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"], 1)}
    assert rows["reference model (beta > 0)"] == 0
    assert rows["optimizer (AdamW)"] < 0.05 * rows["weights"]


@pytest.mark.parametrize(
    ("changes", "prompts"),
    [
        pytest.param({}, 1, id="a whole group"),
        pytest.param({"per_device_train_batch_size": 16}, 2, id="two groups"),
        pytest.param({"per_device_train_batch_size": 4}, 1, id="half a group"),
        pytest.param({"per_device_train_batch_size": 12}, 3, id="a group and two parts"),
        pytest.param({"per_device_train_batch_size": 3}, 2, id="parts of two groups"),
        pytest.param({"shared_prefix": False}, 8, id="not shared"),
        pytest.param({"attn_implementation": "flash_attention_2"}, 8, id="cannot be shared"),
    ],
)
def test_activations_count_a_shared_prompt_once(changes: dict, prompts: int) -> None:
    values = {**VALUES, "max_completion_length": 512, **changes}
    shape = KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"]
    rows = {part: alone for part, alone, *_ in estimate_memory(values, shape, 1)}
    tokens = prompts * 2048 + values["per_device_train_batch_size"] * 512
    layer = tokens * (12 * shape.hidden + 3 * shape.intermediate) * 2
    tile = 4 * min(values["per_device_train_batch_size"] * 512, 4096) * 32768
    kept = tokens * shape.hidden * 2 * shape.layers
    assert rows["activations, at most"] == pytest.approx((kept + layer + tile) / 2**30)


def test_a_rollout_given_in_completions_needs_the_cache_of_one_given_in_steps() -> None:
    shape = KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"]
    by_hand = {**VALUES, "steps_per_generation": None, "generation_batch_size": 8 * 8 * 64}
    in_steps, in_completions = (
        {part: alone for part, alone, *_ in estimate_memory(values, shape, 8)} for values in (VALUES, by_hand)
    )
    assert in_completions["vLLM KV of one rollout"] == in_steps["vLLM KV of one rollout"]


@pytest.mark.parametrize("changes", [{"lambda1": 0.0}, {"reward_variant": "plain"}], ids=["set-ablation", "plain-grpo"])
def test_plan_counts_no_questions_where_none_are_asked(changes: dict) -> None:
    assert "reflection   none" in describe_run({**VALUES, **changes}, 2000, 8)


@pytest.mark.parametrize(
    ("changes", "rewards", "reflection"),
    [
        pytest.param({}, "0.8 accuracy + 0.05 consistency + 0.05 coherence + 0.1 format (paper)", "8,192 questions"),
        pytest.param({"reward_variant": "plain"}, "0.9 accuracy + 0.1 think_format (plain)", "none"),
        pytest.param({"rewards": ["accuracy", "format"]}, "1 accuracy + 1 format", "none"),
        pytest.param(
            {"rewards": ["accuracy", "coherence", "own.py:brief"], "reward_weights": [0.8, 0.1, 0.1]},
            "0.8 accuracy + 0.1 coherence + 0.1 brief (own.py:brief)",
            "8,192 questions",
        ),
        pytest.param({"rewards": ["own.py:sure"], "reward_weights": [2]}, "2 sure (own.py:sure)", "8,192 questions"),
        pytest.param(
            {"contrastive_consistency": True, "soft_reflection": "none"},
            "0.8 accuracy + 0.05 consistency + 0.05 coherence + 0.1 format (paper)",
            "12,288 questions",
            id="contrastive",
        ),
    ],
)
def test_plan_names_the_rewards_and_what_they_weigh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, rewards: str, reflection: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "def brief(completions, **columns): ...\ndef sure(completions, consistency_answer, **columns): ..."
    )
    lines = dict(
        line.split(maxsplit=1) for line in describe_run({**VALUES, **changes}, 2000, 8).splitlines()[:10] if line
    )
    assert lines["rewards"] == rewards
    assert lines["reflection"].startswith(reflection)
    assert lines.get("measured") == ("with contrastive_consistency" if "contrastive_consistency" in changes else None)


def test_plan_names_what_refills_a_rollout_and_what_length_costs() -> None:
    options = {"dynamic_sampling": "accuracy", "dynamic_sampling_tries": 7, "overlong_buffer": 64}
    text = describe_run({**VALUES, **options}, 2000, 8)
    assert "sampling     a rollout is refilled by accuracy in at most 7 tries" in text
    assert "0.1 format - up to 1 for the last 64 tokens (paper)" in text
    assert "sampling " not in describe_run({**VALUES, "dynamic_sampling": "none"}, 2000, 8)


def test_plan_names_what_would_run() -> None:
    text = describe_run(VALUES, 2000, 8)
    for part in ("512 prompts x 8 completions", "120 steps", "8,192 questions", "checkpoint-N every 10 steps (2 kept)"):
        assert part in text


@pytest.mark.parametrize("max_steps", [-1, 24], ids=["epochs", "max_steps"])
def test_plan_of_too_few_samples_is_an_error(max_steps: int) -> None:
    with pytest.raises(ValueError, match=r"100 samples do not fill one rollout of 512 prompts \(8 process.* 8 .* 64 "):
        describe_run({**VALUES, "max_steps": max_steps}, 100, 8)


def test_unknown_model_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Qwen2\.5-VL-3B-Instruct"):
        read_shape("somebody/something")


def test_local_model_is_counted_without_its_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    from transformers import AutoModelForImageTextToText

    real = sum(p.numel() for p in AutoModelForImageTextToText.from_pretrained(tiny_model_dir).parameters())
    assert read_shape(str(tmp_path)).parameters == real


def test_files_of_a_lora_run() -> None:
    assert any("adapter_model.safetensors" in name for name in list_files({**VALUES, "use_peft": True}, 20))
