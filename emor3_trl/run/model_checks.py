"""What the model itself must allow, asked of its configuration alone: no weights are loaded."""

import difflib
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl import ModelConfig, get_peft_config

# What TRL does for models of text alone: why, and what to do
NOT_FOR_IMAGES = {
    "use_transformers_continuous_batching": (
        "continuous batching takes no images",
        "Leave it (and use_transformers_paged) false; use_vllm: true is the fast way.",
    ),
    "cast_lm_head_to_fp32": (
        "TRL looks for the embedding where a vision-language model has none",
        "Leave it false; dtype: float32 computes the head in float32.",
    ),
}


def check_model_settings(model: ModelConfig, args: Any) -> None:
    """Check what a run asks of its model, from the model's configuration.

    Args:
        model: the model's arguments.
        args: the trainer's configuration.

    Raises:
        ValueError: for an attention that does not exist, an adapter that matches no layer, or an engine that cannot
            divide the model's heads.
        OSError: if the configuration is on no disk and cannot be downloaded.
    """
    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    check_attention(model.attn_implementation or given.get("attn_implementation"))
    config = AutoConfig.from_pretrained(
        model.model_name_or_path, revision=model.model_revision, trust_remote_code=_trusts_remote_code(args)
    )
    text = config.get_text_config()
    for name, (why, instead) in NOT_FOR_IMAGES.items():
        if getattr(args, name, False) and hasattr(config, "vision_config"):
            raise ValueError(f"{name} is true, but {why}. {instead}")
    if getattr(args, "router_aux_loss_coef", None) and not hasattr(text, "output_router_logits"):
        raise ValueError(
            f"router_aux_loss_coef is {args.router_aux_loss_coef}, but the model has no router (it is no mixture of "
            "experts). Leave it unset."
        )
    ranks = getattr(args, "vllm_tensor_parallel_size", 1)
    heads = text.num_attention_heads
    if getattr(args, "use_vllm", False) and heads % ranks:
        raise ValueError(
            f"vllm_tensor_parallel_size is {ranks}, which does not divide the model's {heads} attention heads. Set it "
            "to a divisor of both."
        )
    check_targets(get_peft_config(model), config)


def check_attention(name: str | None) -> None:
    """Check that there is an attention of that name; one of the Hub (organisation/name) is not looked up.

    Raises:
        ValueError: with the nearest name.
    """
    names = ["eager", *(key for key in ALL_ATTENTION_FUNCTIONS.valid_keys() if not key.startswith("paged|"))]
    if name is None or "/" in name or name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    raise ValueError(
        f"attn_implementation is '{name}'."
        + (f" Did you mean '{close[0]}'?" if close else "")
        + f" Expected one of {', '.join(sorted(names))}."
    )


def check_targets(adapter: PeftConfig | None, config: Any) -> None:
    """Check that an adapter matches layers of the model.

    Args:
        adapter: the adapter's configuration; None for none.
        config: the model's configuration, of which the model is built without memory for its weights.

    Raises:
        ValueError: naming what matches nothing.
    """
    if adapter is None or type(config) not in AutoModelForImageTextToText._model_mapping:
        return
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        try:
            get_peft_model(model, adapter)
        except (ValueError, AttributeError, KeyError) as error:
            raise ValueError(
                f"LoRA does not fit the model: {str(error).rstrip('.')}. Set --lora_target_modules all-linear, or a "
                "pattern such as '.*language_model.*\\.(q|k|v|o|gate|up|down)_proj'."
            ) from None


def _trusts_remote_code(args: Any) -> bool:
    return bool(getattr(args, "trust_remote_code", False))
