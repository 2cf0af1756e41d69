"""Checkpoints: whether one is there, what identifies its weights, and adapters made whole."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.checkpoints import check_checkpoint, check_fit, check_model_path, fingerprint, whole_checkpoint


def test_a_checkpoint_is_checked_before_it_is_loaded(tmp_path, tiny_model_dir):
    check_checkpoint(tiny_model_dir)
    check_checkpoint("Qwen/Qwen2.5-VL-3B-Instruct")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer_config\.json"):
        check_checkpoint(tmp_path / "empty")
    for missing in ("runs/nothing", str(tmp_path / "nothing"), "./nothing", "nothing"):
        with pytest.raises(FileNotFoundError, match="no model at"):
            check_checkpoint(missing)


def test_the_fingerprint_is_that_of_weights_not_of_notes(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(300_000))
    before = fingerprint(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    assert fingerprint(tmp_path) == before
    changed = bytearray(300_000)
    changed[200_000] = 1
    (tmp_path / "model.safetensors").write_bytes(changed)
    assert fingerprint(tmp_path) != before
    assert fingerprint("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_a_lora_adapter_is_evaluated_merged(tmp_path, tiny_model_dir):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    check_checkpoint(tmp_path)
    check_fit(tmp_path)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    with whole_checkpoint(tmp_path) as folder:
        whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()[name]
    expected = adapted.merge_and_unload().state_dict()[name]
    original = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32).state_dict()[name]
    assert torch.allclose(whole, expected)
    assert not torch.allclose(whole, original)


@pytest.mark.parametrize("path", ["runs/nope", "./nope", "/nope/model", "nope"])
def test_missing_model_folder(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="--model_name_or_path"):
        check_model_path(path)


def test_model_folder_without_safe_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        check_model_path(str(tmp_path))


def test_name_on_the_hub_is_no_folder() -> None:
    check_model_path("Qwen/Qwen2.5-VL-3B-Instruct")
