"""What is done to the policy's model before it is trained: tokens it must never write, parts that stay as they are."""

from typing import Any

import torch
from transformers import PreTrainedModel

# Added to the logits of image tokens; exp(-100) is below the resolution of float32 next to any real probability.
SUPPRESSED_LOGIT = -100.0


def image_token_ids(processor: Any) -> list[int]:
    """Return the ids of the tokens that stand for image or video patches, which a policy must never write.

    Args:
        processor: a processor; a plain tokenizer has none.
    """
    names = ("image_token_id", "video_token_id")
    return [token_id for name in names if (token_id := getattr(processor, name, None)) is not None]


def suppress_image_tokens(model: PreTrainedModel, processor: Any) -> None:
    """Give the model's head the same bias on image tokens that vLLM's sampler gets, in place.

    The bias is made when it is read: it is neither trained, nor saved, nor synchronised, nor sharded.
    Log-probabilities, entropies and `generate` then all use the distribution that rollouts are sampled from.
    """
    head = model.get_output_embeddings()
    token_ids = image_token_ids(processor)
    if not token_ids or hasattr(head, "suppressed_token_ids"):  # it has no image token, or the bias already
        return
    head.suppressed_token_ids = token_ids
    if isinstance(head.bias, torch.nn.Parameter):
        # A trained bias has to stay one; add to it instead (no model of the Qwen-VL family has one).
        head.bias.data[token_ids] += SUPPRESSED_LOGIT
        return
    head.__class__ = type(f"Suppressing{type(head).__name__}", (type(head),), {"bias": property(_suppressing_bias)})


def _suppressing_bias(head: Any) -> torch.Tensor:
    """Return the bias of a head, in its weight's type and on its device, which launchers change."""
    weight = head.weight
    size = getattr(weight, "ds_shape", weight.shape)[0]  # ZeRO-3 keeps the whole shape apart from the empty local part
    bias = head.__dict__.get("_bias")
    if bias is None or (len(bias), bias.dtype, bias.device) != (size, weight.dtype, weight.device):
        with torch.inference_mode(False):
            bias = torch.zeros(size, dtype=weight.dtype, device=weight.device)
            bias[head.suppressed_token_ids] = SUPPRESSED_LOGIT
        head._bias = bias
    # TRL's fused head treats a bias as sharded wherever the weight is: it asks ZeRO-3 whether the bias is there, and
    # FSDP2 for the whole of it.
    if hasattr(weight, "ds_status"):
        bias.ds_status = type(weight.ds_status).AVAILABLE
    if hasattr(weight, "full_tensor"):
        bias.full_tensor = bias.detach
    return bias


def freeze_vision_tower(model: torch.nn.Module) -> None:
    """Leave the vision tower and its merger untrained, in place; with LoRA, their adapters too."""
    for name, parameter in model.named_parameters():
        if "visual" in name.split("."):
            parameter.requires_grad_(False)


def image_token_bias(processor: Any) -> dict[int, float]:
    """Return the vLLM `logit_bias` that keeps image tokens from being sampled."""
    return dict.fromkeys(image_token_ids(processor), SUPPRESSED_LOGIT)
