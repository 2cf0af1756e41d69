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

    The bias is a buffer that is neither trained, nor saved, nor synchronised. Log-probabilities, entropies and
    `generate` then all use the distribution that rollouts are sampled from.
    """
    head = model.get_output_embeddings()
    token_ids = image_token_ids(processor)
    if not token_ids or isinstance(head.bias, torch.nn.Parameter):
        # A trained bias cannot be replaced by a buffer; add to it instead (no model of the Qwen-VL family has one).
        if token_ids:
            head.bias.data[token_ids] += SUPPRESSED_LOGIT
        return
    # ZeRO-3 keeps the whole weight's shape apart from the empty local part
    size = getattr(head.weight, "ds_shape", head.weight.shape)[0]
    bias = torch.zeros(size, dtype=head.weight.dtype, device=head.weight.device)
    bias[token_ids] = SUPPRESSED_LOGIT
    head._parameters.pop("bias", None)
    head.register_buffer("bias", bias, persistent=False)


def freeze_vision_tower(model: torch.nn.Module) -> None:
    """Leave the vision tower and its merger untrained, in place; with LoRA, their adapters too."""
    for name, parameter in model.named_parameters():
        if "visual" in name.split("."):
            parameter.requires_grad_(False)
