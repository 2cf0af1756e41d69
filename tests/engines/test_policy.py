"""What is done to the policy before training: image tokens are never written, however a launcher places the weights."""

import copy
import enum
import sys
from types import ModuleType

import pytest
import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
from training import tiny_trainer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    SiglipVisionConfig,
)
from trl.trainer.utils import add_fused_lm_head

from emor3_trl.engines.policy import SUPPRESSED_LOGIT, image_token_ids, settle_vision_tower, suppress_image_tokens


@pytest.fixture
def processor(tiny_model_dir):
    return AutoProcessor.from_pretrained(tiny_model_dir)


def load(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    add_fused_lm_head(model)
    return model


def score(model, processor):
    """Return the log-probabilities of a text and their gradient in the head, as a training step computes them."""
    ids = processor.tokenizer("a picture of the sea", return_tensors="pt")
    scored = model(**ids, labels=ids["input_ids"], fused_lm_head=True).log_probs
    scored.sum().backward()
    return scored.detach(), model.get_output_embeddings().weight.grad


@pytest.fixture
def expected(untied_model_dir, processor):
    """The scores of a model with an ordinary bias, and the gradient."""
    model = load(untied_model_dir)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(head.weight)))
    head.bias.data[image_token_ids(processor)] = SUPPRESSED_LOGIT
    return score(model, processor)


def test_one_process(untied_model_dir, processor, expected):
    model = load(untied_model_dir)
    suppress_image_tokens(model, processor)
    torch.testing.assert_close(score(model, processor), expected)
    torch.testing.assert_close(score(copy.deepcopy(model.eval()), processor)[0], expected[0])


def test_a_head_that_fsdp2_shards(untied_model_dir, processor, expected, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = load(untied_model_dir)
        suppress_image_tokens(model, processor)
        fully_shard(model.get_output_embeddings())  # Accelerate gives an untied head a unit of its own
        scores, gradient = score(model, processor)
        torch.testing.assert_close((scores, gradient.full_tensor()), expected)
        ids = processor.tokenizer("a picture", return_tensors="pt")
        logits = model(**ids).logits  # as `generate` calls it
        assert logits[..., image_token_ids(processor)].max() < logits.min() + 0.5 * abs(SUPPRESSED_LOGIT)
    finally:
        torch.distributed.destroy_process_group()


def test_a_head_that_zero_3_partitions(untied_model_dir, processor, expected, monkeypatch):
    status = enum.Enum("ZeroParamStatus", ["AVAILABLE", "NOT_AVAILABLE"])
    for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.zero"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    partition = ModuleType("deepspeed.runtime.zero.partition_parameters")
    partition.ZeroParamStatus = status  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, partition.__name__, partition)
    monkeypatch.setattr("transformers.integrations.deepspeed.is_deepspeed_zero3_enabled", lambda: True)
    model = load(untied_model_dir)
    suppress_image_tokens(model, processor)
    weight = model.get_output_embeddings().weight
    weight.ds_status, weight.ds_shape = status.AVAILABLE, weight.shape  # gathered, as within its forward
    torch.testing.assert_close(score(model, processor), expected)


def test_the_bias_follows_the_weight(tiny_model_dir, processor):
    model = load(tiny_model_dir)
    suppress_image_tokens(model, processor)
    head = model.get_output_embeddings()
    assert head.bias.dtype == torch.float32
    model.to(torch.bfloat16)  # as DeepSpeed does
    assert head.bias.dtype == torch.bfloat16
    model.to("meta")
    assert head.bias.device.type == "meta"
    assert not [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name == "lm_head.bias"]


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = LlamaConfig(**SIZES, num_key_value_heads=1, vocab_size=64)
CLIP = CLIPVisionConfig(**SIZES, image_size=28, patch_size=14)
FAMILIES = {
    "llava": LlavaConfig(vision_config=CLIP, text_config=TEXT, image_token_index=60),
    "llava-next": LlavaNextConfig(vision_config=CLIP, text_config=TEXT, image_token_index=60),
    "gemma-3": Gemma3Config(
        vision_config=SiglipVisionConfig(**SIZES, image_size=28, patch_size=14),
        text_config={**SIZES, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64},
        mm_tokens_per_image=1,
        image_token_index=60,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_vision_tower_is_frozen_in_any_family(family, lora):
    model = AutoModelForImageTextToText.from_config(FAMILIES[family])
    if lora:
        targets = r".*(vision_tower|language_model).*(q_proj|fc1)"
        model = get_peft_model(model, LoraConfig(target_modules=targets))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("vision_tower" in name for name in trained)
    assert settle_vision_tower(model, freeze=True) is None
    left = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert left == {name for name in trained if "language_model" in name or "lm_head" in name}
    assert left


@pytest.mark.parametrize("beta", [0.0, 0.04], ids=["no-reference", "with-reference"])
def test_a_frozen_tower_s_adapters_stay_frozen_while_the_reference_is_asked(tiny_model_dir, tmp_path, beta):
    options = {"use_vllm": False, "max_steps": 2, "freeze_vision_tower": True}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, lora=True, beta=beta, **options)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        assert weight.requires_grad == ("lora_" in name and "language_model" in name), name
        assert torch.equal(weight, before[name]) or "language_model" in name, name


def test_a_tower_that_nothing_trains_is_said_to_be_untrained(tiny_model_dir):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    assert settle_vision_tower(model, freeze=False) is None
    language = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*_proj"))
    assert "no weight of the vision tower is trained" in settle_vision_tower(language, freeze=False)
    assert settle_vision_tower(language, freeze=True) is None
    everything = get_peft_model(load(tiny_model_dir), LoraConfig(target_modules="all-linear"))
    assert settle_vision_tower(everything, freeze=False) is None


def test_a_tower_that_is_not_there_or_trained_whole_cannot_be_frozen(tiny_model_dir):
    with pytest.raises(ValueError, match="LlamaForCausalLM has nothing beside its language model"):
        settle_vision_tower(AutoModelForCausalLM.from_config(TEXT), freeze=True)
    model = get_peft_model(load(tiny_model_dir), LoraConfig(target_modules=["q_proj"], modules_to_save=["merger"]))
    with pytest.raises(ValueError, match="lora_modules_to_save names a part of the vision tower"):
        settle_vision_tower(model, freeze=True)
