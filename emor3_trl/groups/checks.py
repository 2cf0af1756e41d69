"""What GRPO and the model itself must allow, asked of their configurations alone: no weights are loaded."""

import copy
import difflib
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl import GRPOConfig

from emor3_trl.engines.opening import engine_options
from emor3_trl.engines.policy import settle_vision_tower
from emor3_trl.groups.images import count_images
from emor3_trl.groups.quantization import check_quantization
from emor3_trl.launch import building_whole

# Words that would else be looked at after a model has loaded and a rollout has been made
CHOICES: dict[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "dynamic_sampling": ("none", "spread", "reward", "accuracy"),
    "dynamic_sampling_starved": ("keep", "stop"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}

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


def check_choices(args: GRPOConfig) -> None:
    """Check the words that choose a loss.

    Raises:
        ValueError: naming the field, and the words that it takes.
    """
    for name, choices in CHOICES.items():
        if getattr(args, name, choices[0]) not in choices:
            raise ValueError(f"{name} is {getattr(args, name)!r}. Expected one of {', '.join(choices)}.")


def explain_whole_batch(args: GRPOConfig) -> str | None:
    """Return why the loss needs the forward of completions without an advantage, too; None if it does not."""
    reasons = {
        "entropy_coef rewards the entropy of every completion": args.entropy_coef or args.use_adaptive_entropy,
        "top_entropy_quantile ranks the tokens of every completion": args.top_entropy_quantile < 1,
        "router_aux_loss_coef balances the tokens of every completion": args.router_aux_loss_coef,
        "loss_type vespo logs a weight of every completion": args.loss_type == "vespo",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def check_skipping(args: Any) -> None:
    """Check that `skip_flat_groups` has an effect that is right.

    Raises:
        ValueError: naming the setting that it does not go with.
    """
    if not args.skip_flat_groups:
        return
    reason = explain_whole_batch(args)
    if not args.shared_prefix:
        reason = "shared_prefix is false, so nothing is left out of a forward"
    elif args.multi_objective_aggregation == "normalize_then_sum":
        reason = "multi_objective_aggregation normalize_then_sum compares groups, so a flat one has an advantage"
    if reason:
        raise ValueError(f"skip_flat_groups is true, but {reason}. Leave skip_flat_groups false, or change the other.")


def check_model_settings(
    model: str | PreTrainedModel, args: Any, adapter: PeftConfig | None = None, quantization: Any = None
) -> None:
    """Check what a trainer asks of a model that it will load, from the model's configuration.

    Args:
        model: the model's folder or name; of a loaded one only whether its weights can be trained.
        args: the trainer's configuration.
        adapter: the adapter that the trainer adds; None for none.
        quantization: the trainer's argument `quantization_config`.

    Raises:
        ValueError: for weights of few bits that cannot be trained, an attention that does not exist, an adapter that
            matches no layer, a vision tower that cannot be frozen, or an engine that cannot divide the model's heads.
        OSError: if the configuration is on no disk and cannot be downloaded.
    """
    if not isinstance(model, str):
        check_quantization(model, model.config, args, adapter)
        return
    given = args.model_init_kwargs or {}
    check_attention(given.get("attn_implementation"))
    trusted = given.get("trust_remote_code", getattr(args, "trust_remote_code", False))
    config = AutoConfig.from_pretrained(model, revision=given.get("revision"), trust_remote_code=trusted)
    check_quantization(model, config, args, adapter, quantization)
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
    check_parts(config, adapter, getattr(args, "freeze_vision_tower", False))


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


def check_parts(config: Any, adapter: PeftConfig | None, freeze: bool = False) -> None:
    """Check that a model has the parts that an adapter trains, or that are to be frozen.

    Args:
        config: the model's configuration, of which the model is built without memory for its weights.
        adapter: the adapter's configuration; None for none.
        freeze: whether the vision tower is to stay untrained.

    Raises:
        ValueError: naming what matches nothing.
    """
    mapping = AutoModelForImageTextToText._model_mapping
    if type(config) not in mapping or not (adapter or freeze):
        return
    probe = copy.deepcopy(adapter)  # PEFT writes into it
    if probe is not None and hasattr(probe, "init_lora_weights"):
        probe.init_lora_weights = False  # some ways to begin read the weights, which are not here
    with building_whole(), torch.device("meta"):
        model = mapping[type(config)](config)
        try:
            model = model if probe is None else get_peft_model(model, probe)
        except (ValueError, AttributeError, KeyError) as error:
            raise ValueError(
                f"LoRA does not fit the model: {str(error).rstrip('.')}. Set --lora_target_modules all-linear, or a "
                "pattern such as '.*language_model.*\\.(q|k|v|o|gate|up|down)_proj'."
            ) from None
    if freeze:
        settle_vision_tower(model, freeze)


def choose_engine_options(model: str | PreTrainedModel, args: GRPOConfig, train_dataset: Any) -> dict[str, Any]:
    """Return what vLLM needs beyond TRL's options, so that it computes what the trainer does.

    Args:
        model: the policy or its path.
        args: the configuration; its `vllm_engine_options` win.
        train_dataset: tells how many images a prompt has at most.
    """
    options = {"limit_mm_per_prompt": {"image": count_images(train_dataset), "video": 0}}
    return engine_options(_compute_dtype(model, args), options | (getattr(args, "vllm_engine_options", None) or {}))


def _compute_dtype(model: str | PreTrainedModel, args: GRPOConfig) -> str:
    """Return the type that the trainer's forward computes in, by its name in torch."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    dtype = (args.model_init_kwargs or {}).get("dtype", "float32") if isinstance(model, str) else model.dtype
    return str(dtype).removeprefix("torch.")
