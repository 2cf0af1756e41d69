"""What is done to the policy before training: image tokens are never written, however a launcher places the weights."""

import copy
import enum
import sys
from types import ModuleType

import pytest
import torch
import torch.distributed
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl.trainer.utils import add_fused_lm_head

from emor3_trl.engines.policy import SUPPRESSED_LOGIT, image_token_ids, suppress_image_tokens


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
