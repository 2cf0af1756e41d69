"""Optimizers of 8 bits and weights of 4 bits train, where bitsandbytes is installed (no requirement names it)."""

from pathlib import Path

import pytest
import torch
from training import SAVING, fixed_completions, tiny_trainer
from transformers import AutoModelForImageTextToText

from emor3_trl import EmoR3Trainer

pytest.importorskip("bitsandbytes", reason="bitsandbytes, an option for GPUs, is not installed")
OPTIONS = {"use_vllm": False, "lambda1": 0.0}


def test_a_resumed_run_with_an_8_bit_optimizer_ends_as_an_uninterrupted_one(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    options = {**OPTIONS, **SAVING, "optim": "adamw_bnb_8bit"}
    whole, resumed = (tiny_trainer(tiny_model_dir, tmp_path / name, **options) for name in ("whole", "resumed"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    start = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype="float32").state_dict()
    expected, weights = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert any(not torch.equal(start[name], expected[name]) for name in start)


def test_lora_trains_on_weights_of_four_bits(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BitsAndBytesConfig

    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    few = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype="bfloat16", quantization_config=few)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, model=model, lora=True, bf16=True, max_steps=2, **OPTIONS)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
