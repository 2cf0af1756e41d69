"""What is done to the policy's model before it is trained: tokens it must never write, parts that stay as they are."""

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from transformers import PreTrainedModel

# Added to the logits of image tokens; exp(-100) is below the resolution of float32 next to any real probability.
SUPPRESSED_LOGIT = -100.0


def image_token_ids(processor: Any) -> list[int]:
    """Return the ids of the tokens that stand for image or video patches, which a policy must never write.

    Args:
        processor: a processor; a plain tokenizer has none.
    """
    token_ids: list[int | None] = []
    for kind in ("image", "video"):  # Gemma 3 writes an image as one token, which it replaces with others
        token_ids += [getattr(processor, f"{kind}_token_id", None), *getattr(processor, f"{kind}_token_ids", ())]
    return [token_id for token_id in dict.fromkeys(token_ids) if token_id is not None]


def suppress_image_tokens(model: PreTrainedModel, processor: Any) -> None:
    """Give the model's head the same bias on image tokens that vLLM's sampler gets, in place.

    The bias is made when it is read: it is neither trained, nor saved, nor synchronised, nor sharded.
    Log-probabilities, entropies and `generate` then all use the distribution that rollouts are sampled from.
    """
    token_ids = image_token_ids(processor)
    for head in _heads(model) if token_ids else ():
        if hasattr(head, "suppressed_token_ids"):  # it has the bias already
            continue
        head.suppressed_token_ids = token_ids
        if isinstance(head.bias, torch.nn.Parameter):
            # A trained bias has to stay one; add to it instead (no model of the Qwen-VL family has one).
            head.bias.data[token_ids] += SUPPRESSED_LOGIT
            continue
        head.__class__ = type(f"Suppressing{type(head).__name__}", (type(head),), {"bias": property(_suppressing_bias)})


def _heads(model: PreTrainedModel) -> list[Any]:
    """Return the head; with LoRA's `modules_to_save`, its copy for each adapter and the original."""
    head = model.get_output_embeddings()
    if isinstance(head, ModulesToSaveWrapper):
        return [head.original_module, *head.modules_to_save.values()]
    return [head]


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


def settle_vision_tower(model: torch.nn.Module, freeze: bool) -> str | None:
    """Freeze the vision tower, in place, or see whether it is trained.

    Args:
        model: the policy, before a launcher places it. Its vision tower is all but the language model and the head, so
            it includes what joins the two.
        freeze: leave it untrained; with LoRA, its adapters too.

    Returns:
        What to tell a user who did not freeze a tower that nothing trains.

    Raises:
        ValueError: if there is nothing to freeze.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    parts = [part for part in (base.get_decoder(), base.get_output_embeddings()) if part is not None]
    language = {id(parameter) for part in parts for parameter in part.parameters()}
    tower = [parameter for parameter in model.parameters() if id(parameter) not in language]
    if freeze and not tower:
        raise ValueError(
            f"freeze_vision_tower is true, but {type(base).__name__} has nothing beside its language model. Set it to "
            "false."
        )
    if not freeze:
        if not tower or any(parameter.requires_grad for parameter in tower):
            return None
        return (
            "freeze_vision_tower is false, but no weight of the vision tower is trained: lora_target_modules matches "
            "none of its modules. Set lora_target_modules: all-linear to train it, or freeze_vision_tower: true."
        )
    for parameter in tower:
        parameter.requires_grad_(False)
    for layer in base.modules():
        if language & {id(parameter) for parameter in layer.parameters()}:
            continue
        if isinstance(layer, ModulesToSaveWrapper):
            raise ValueError(
                "freeze_vision_tower is true, but lora_modules_to_save names a part of the vision tower, to be trained "
                "whole. Leave it out, or set freeze_vision_tower: false."
            )
        if isinstance(layer, BaseTunerLayer):
            # PEFT turns the gradients of these on again, each time that the adapter was off for the reference
            layer.adapter_layer_names = ()
    return None


def image_token_bias(processor: Any) -> dict[int, float]:
    """Return the vLLM `logit_bias` that keeps image tokens from being sampled."""
    return dict.fromkeys(image_token_ids(processor), SUPPRESSED_LOGIT)
