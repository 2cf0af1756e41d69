"""Training with a shared prefix is training without one: the same losses, log-probabilities, gradients and weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import WHOLE
from safetensors.torch import load_file
from tiny_model import CHAT_TEMPLATE
from training import fixed_completions, launch_two, logged, tiny_trainer
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2Config

from emor3_trl import EmoR3Trainer

TOLERANCE = 1e-5  # relative, float32
OPTIONS: dict[str, Any] = {
    "use_vllm": False,
    "beta": 0.04,
    "learning_rate": 1e-4,
    "max_steps": 5,
    "lambda1": 0.0,
    "max_grad_norm": 1e9,
    "adam_epsilon": 1e-5,  # a step of Adam divides by the gradient: without it, rounding of a zero would be a full step
}


def train(model_dir: Path, folder: Path, monkeypatch, shared_prefix: bool, **options: Any) -> dict[str, Any]:
    """Take five steps on fixed completions and return what was computed on the way."""
    scored: list[torch.Tensor] = []
    stock = EmoR3Trainer._get_per_token_logps_and_entropies

    def recorded(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        values = stock(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        scored.append((values[0] * attention_mask[:, -logits_to_keep:]).detach().clone())
        return values

    with monkeypatch.context() as patch:
        patch.setattr(EmoR3Trainer, "_get_per_token_logps_and_entropies", recorded)
        patch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
        trainer = tiny_trainer(model_dir, folder, shared_prefix=shared_prefix, **{**OPTIONS, **options})
        start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
    return {
        "trainer": trainer,
        "scored": scored,
        "start": start,
        "parameters": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
    }


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm."""
    return ((found - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def assert_same_run(shared: dict[str, Any], plain: dict[str, Any]) -> None:
    assert shared["trainer"].shares_prefix
    assert not plain["trainer"].shares_prefix
    for name in ("loss", "grad_norm", "kl", "entropy", "reward"):
        found, expected = logged(shared["trainer"], name), logged(plain["trainer"], name)
        assert len(found) >= (3 if name == "reward" else 5)  # completions that are used twice are rewarded once
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=2e-7), name
    assert len(shared["scored"]) == len(plain["scored"]) > 5
    for found, expected in zip(shared["scored"], plain["scored"], strict=True):
        assert relative(found, expected) <= TOLERANCE
    for name, expected in plain["parameters"].items():
        assert relative(shared["parameters"][name], expected) <= TOLERANCE, name


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="full"),
        pytest.param({"lora": True}, id="lora"),
        pytest.param({"freeze_vision_tower": True}, id="frozen-vision-tower"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing", marks=pytest.mark.slow),
        pytest.param({"mask_truncated_completions": True}, id="truncated-masked", marks=pytest.mark.slow),
        pytest.param({"num_iterations": 2}, id="two-iterations", marks=pytest.mark.slow),
        pytest.param({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, id="groups-cut"),
        pytest.param(
            {"gradient_accumulation_steps": 2, "steps_per_generation": 4},
            id="off-policy-minibatches",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            # 8 micro-batches an epoch: three, three, two
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "steps_per_generation": 2},
            id="accumulation-that-ends-early",
            marks=pytest.mark.slow,
        ),
        pytest.param({"pictures": "most"}, id="rows-without-pictures"),
        pytest.param(
            {"pictures": "half", "per_device_train_batch_size": 4},
            id="rollouts-without-pictures",
            marks=pytest.mark.slow,
        ),
        pytest.param({"pictures": "none"}, id="no-pictures", marks=pytest.mark.slow),
    ],
)
def test_five_steps_with_and_without_are_the_same_run(tiny_model_dir, tmp_path, monkeypatch, options):
    shared = train(tiny_model_dir, tmp_path / "shared", monkeypatch, True, **options)
    plain = train(tiny_model_dir, tmp_path / "plain", monkeypatch, False, **options)
    moved = max(relative(plain["parameters"][name], start) for name, start in plain["start"].items())
    assert moved > 100 * TOLERANCE  # there was something to get wrong
    assert_same_run(shared, plain)


@pytest.mark.slow
@pytest.mark.parametrize("family", WHOLE)
def test_other_families_take_the_same_five_steps(tmp_path, monkeypatch, family):
    model_dir = WHOLE[family](tmp_path / "model")
    shared = train(model_dir, tmp_path / "shared", monkeypatch, True, pictures="most")
    plain = train(model_dir, tmp_path / "plain", monkeypatch, False, pictures="most")
    for name in [name for name in plain["parameters"] if name.endswith("k_proj.bias")]:
        del plain["parameters"][name]  # of CLIP: it starts at zero, and its gradient is zero but for rounding
    moved = max(relative(weight, plain["start"][name]) for name, weight in plain["parameters"].items())
    assert moved > 100 * TOLERANCE
    assert_same_run(shared, plain)


@pytest.mark.slow
def test_a_text_model_takes_the_same_five_steps(tiny_model_dir, tmp_path, monkeypatch):
    tokenizer = AutoProcessor.from_pretrained(tiny_model_dir).tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(vocab_size=len(tokenizer), num_hidden_layers=2, max_position_embeddings=1024, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    shared, plain = (
        train(tmp_path / "model", tmp_path / str(share), monkeypatch, share, pictures="none") for share in (True, False)
    )
    assert_same_run(shared, plain)


def test_evaluation_with_and_without_is_the_same(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    options = {**OPTIONS, "eval_strategy": "steps", "eval_steps": 100, "per_device_eval_batch_size": 8}
    found, expected = (
        tiny_trainer(tiny_model_dir, tmp_path / str(share), shared_prefix=share, **options).evaluate()
        for share in (True, False)
    )
    assert found["eval_shared_prefix/token_share"] < 0.5
    for key in ("eval_loss", "eval_kl", "eval_entropy", "eval_reward"):
        assert found[key] == pytest.approx(expected[key], rel=TOLERANCE, abs=2e-7), key


@pytest.mark.parametrize(
    ("how", "weights"),
    [
        pytest.param({"num_generations": 8}, "model.safetensors", id="full-groups-cut", marks=pytest.mark.long),
        pytest.param(
            {"lora": True, "pictures": "half"},
            "adapter_model.safetensors",
            id="lora-pictures-on-one-process-only",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_with_and_without_are_the_same_run(tiny_model_dir, tmp_path, how, weights):
    histories = {}
    for name, shared_prefix in (("shared", True), ("plain", False)):
        options = {**OPTIONS, "per_device_train_batch_size": 4, "shared_prefix": shared_prefix, **how}
        histories[name] = launch_two(tiny_model_dir, tmp_path / name, {**options, "fixed": True})
    assert histories["shared"]["processes"] == 2
    for step, (found, expected) in enumerate(
        zip(histories["shared"]["log"][:5], histories["plain"]["log"][:5], strict=True)
    ):
        assert found["shared_prefix/token_share"] < 0.5
        for key in ("loss", "grad_norm", "kl", "entropy"):
            assert found[key] == pytest.approx(expected[key], rel=TOLERANCE, abs=2e-7), (step, key)
    found, expected = (load_file(tmp_path / name / weights) for name in ("shared", "plain"))
    for name, parameter in expected.items():
        assert relative(found[name], parameter) <= TOLERANCE, name
