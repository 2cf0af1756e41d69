"""A reference model in bfloat16: what it computes, what it weighs, and where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from training import fixed_completions, logged, tiny_trainer
from transformers import AutoModelForImageTextToText

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.config_checks import check_adapter


@pytest.fixture(scope="module")
def published_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights that bfloat16 holds exactly, as a checkpoint published in bfloat16 has."""
    folder = tmp_path_factory.mktemp("published")
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype="bfloat16")
    model.float().save_pretrained(folder)
    for file in tiny_model_dir.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def train(model_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **options) -> EmoR3Trainer:
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    trainer = tiny_trainer(model_dir, folder, use_vllm=False, beta=0.1, max_steps=2, lambda1=0.0, **options)
    trainer.train()
    return trainer


def test_under_autocast_a_published_checkpoint_in_bfloat16_trains_as_one_in_float32(
    published_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = [
        train(published_dir, tmp_path / str(dtype), monkeypatch, bf16=True, ref_model_dtype=dtype)
        for dtype in (None, "bfloat16")
    ]
    whole, half = (
        sum(weight.numel() * weight.element_size() for weight in trainer.ref_model.parameters()) for trainer in trainers
    )
    assert whole == 2 * half
    first, second = (logged(trainer, "kl") for trainer in trainers)
    assert first == second
    assert first[0] == 0  # policy and reference are equal until the first step
    assert first[1] > 0
    pairs = zip(trainers[0].model.parameters(), trainers[1].model.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_the_reference_alone_changes_its_type_where_trl_loads_both(
    published_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train(published_dir, tmp_path, monkeypatch, model=str(published_dir), ref_model_dtype="bfloat16")
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert {weight.dtype for weight in trainer.ref_model.parameters()} == {torch.bfloat16}
    assert trainer.shares_prefix
    # float32 computes otherwise than bfloat16, and k3 is never negative: a divergence that is not there
    assert 0 < logged(trainer, "kl")[0] < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"ref_model_dtype": "int8"}, "Expected one of bfloat16, float32", id="type"),
        pytest.param({"ref_model_dtype": "bfloat16", "beta": 0.0}, "no reference model. Set beta", id="beta 0"),
        pytest.param({"ref_model_dtype": "bfloat16", "sync_ref_model": True}, "sync_ref_model is true", id="mixed"),
    ],
)
def test_a_type_that_nothing_would_have_is_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmoR3Config(str(tmp_path), bf16=False, use_cpu=True, use_vllm=False, **options)


def test_lora_has_no_reference_model(tmp_path: Path) -> None:
    args = EmoR3Config(str(tmp_path), bf16=False, use_cpu=True, use_vllm=False, ref_model_dtype="bfloat16")
    with pytest.raises(ValueError, match="with LoRA the reference is the policy without its adapter"):
        check_adapter(LoraConfig(target_modules="all-linear"), args)


@pytest.mark.long
def test_the_benchmark_finds_no_gap_where_there_is_none(tmp_path: Path) -> None:
    import json

    command = [sys.executable, "benchmarks/real_size_reference.py", "--hidden", "128", "--layers", "2"]
    out = tmp_path / "figures.json"
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=300)
    arms = json.loads(out.read_text())["arms"]
    assert len(arms) == 20
    exact = [arm for arm in arms if arm["weights"] == "of a bfloat16 checkpoint" and arm["reference"] == "bfloat16"]
    gaps = {arm["arithmetic"]: arm["log_prob_gap_max"] for arm in exact}
    assert gaps["autocast to bfloat16"] == 0 < gaps["float32"]
