"""LoRA on its way to an engine that holds whole weights: merged aside, so that the frozen base is never written to.

PEFT's `merge_adapter` adds the delta to the base in the base's own type, and `unmerge_adapter` subtracts it again: in
bfloat16 the base is not what it was. After 20 steps 26 of 56 frozen weights had moved, and neither the saved adapter
nor the reference model belonged to the policy any more.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import nn
from transformers import AutoConfig, PreTrainedModel

ENDS = ("lm_head", "model.language_model.embed_tokens")  # of a language model; one weight where they are tied


def merged_weights(model: PeftModel, device: torch.device | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of the model that an adapter makes of its base, one after the other, under the base's names.

    Args:
        model: the adapted model, gathered where ZeRO-3 shards it; it is the same afterwards, bit by bit. FSDP2 may
            shard it: then all processes iterate together.
        device: where the shards of FSDP2 meet.

    Yields:
        Name and weight; a weight that the adapter changes is in float32, to be rounded once, by who takes it.
    """
    for name, parameter in model.named_parameters():
        path = name.removeprefix("base_model.model.").split(".")
        if model.prefix in name or "original_module" in path:
            continue
        if "base_layer" in path:
            with merged_aside(model.get_submodule(name.split(".base_layer.")[0]), device) as base:
                yield ".".join(part for part in path if part != "base_layer"), base.get_parameter(path[-1]).data
        elif "modules_to_save" in path:  # a copy of the module for each adapter, trained whole
            start = path.index("modules_to_save")
            if path[start + 1] in model.active_adapters:
                yield ".".join(path[:start] + path[start + 2 :]), _whole(parameter, device)
        else:
            yield ".".join(path), _whole(parameter, device)


def save_merged(model: PeftModel, folder: str | Path) -> None:
    """Save the whole model that an adapter makes of its base; the adapted model is the same afterwards, bit by bit.

    Args:
        model: the adapted model, not sharded.
        folder: where to save it, in the base's type.
    """
    base = model.get_base_model()
    weights = {name: weight.to(base.dtype).cpu() for name, weight in merged_weights(model)}
    base.save_pretrained(folder, state_dict=weights)


def check_adapted_ends(
    adapter: PeftConfig | None, model: str | PreTrainedModel, trust_remote_code: bool = False
) -> None:
    """Make sure that an adapter can be trained and sampled from, before a model loads.

    Args:
        adapter: the adapter's configuration, None to train all weights.
        model: a loaded model, or the path that it will be loaded from.
        trust_remote_code: whether code of that folder may run.

    Raises:
        ValueError: if it trains a head that is also the embedding, apart from it, or a head whose adapter is not read.
    """
    if adapter is None:
        return
    config = (
        AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        if isinstance(model, str)
        else model.config
    )
    whole = getattr(adapter, "modules_to_save", None) or ()
    whole = [end for end in ENDS if any(re.match(rf"(^|.*\.){module}($|\..*)", end) for module in whole)]
    targets = hasattr(adapter, "target_modules")
    adapted = [end for end in ENDS if targets and check_target_module_exists(adapter, end)]
    if getattr(adapter, "trainable_token_indices", None):
        raise ValueError("trainable_token_indices is set, which vLLM does not take. Leave it out.")
    if config.get_text_config().tie_word_embeddings and (whole or adapted):
        raise ValueError(
            f"{'lora_modules_to_save' if whole else 'lora_target_modules'} names {(whole or adapted)[0]}, but lm_head "
            "and embed_tokens of this model are one weight (tie_word_embeddings): trained apart, they fit neither vLLM "
            "nor a saved model. Leave it out."
        )
    if ENDS[0] in adapted:
        raise ValueError(
            "lora_target_modules matches lm_head, whose weight TRL reads without its adapter, so it would learn "
            "nothing. Leave it out, or train the head whole: lora_modules_to_save: [lm_head]."
        )


@contextmanager
def merged_aside(layer: nn.Module, device: torch.device | None = None) -> Iterator[nn.Module]:
    """Give the base of an adapted layer with its adapters merged into it, in float32; the layer is the same afterwards.

    Args:
        layer: a layer of PEFT.
        device: where the shards of FSDP2 meet.
    """
    parts = [part for part in layer.modules() if isinstance(part, BaseTunerLayer)]
    originals = [
        (module, name, parameter)
        for module in layer.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    try:
        for module, name, parameter in originals:
            copied = _whole(parameter, device).to(torch.float32, copy=True)
            module._parameters[name] = nn.Parameter(copied, requires_grad=False)
        for part in parts:
            part.merge()
        yield parts[0].get_base_layer()
    finally:
        for module, name, parameter in originals:
            module._parameters[name] = parameter
        for part in parts:
            part.merged_adapters.clear()
            getattr(part, "_caches", {}).clear()  # what DoRA keeps to take the merge back


def _whole(parameter: Any, device: torch.device | None) -> torch.Tensor:
    """Return the whole of a weight of which FSDP2 keeps a shard; on a CPU, a shard is offloaded."""
    if not hasattr(parameter, "full_tensor"):
        return parameter.data
    return (parameter.to(device) if device is not None and parameter.is_cpu else parameter).full_tensor()
