"""Rules about a configuration that both trainers share: each refuses in one line, before a model loads."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Numbers that nothing else looks at before a model has loaded
IN_RANGE: dict[str, Callable[[float], bool]] = {
    "0 or more": lambda value: value >= 0,
    "1 or more": lambda value: value >= 1,
    "more than 0": lambda value: value > 0,
    "0 to 1": lambda value: 0 <= value <= 1,
    "0 or more, and less than 1": lambda value: 0 <= value < 1,
    "more than 0, and at most 1": lambda value: 0 < value <= 1,
}
LIMITS = {
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "neftune_noise_alpha"), "0 or more"),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), "1 or more"),
    **dict.fromkeys(("per_device_eval_batch_size", "dataloader_prefetch_factor"), "1 or more"),
    **dict.fromkeys(("num_train_epochs", "adam_epsilon", "ddp_timeout", "ddp_bucket_cap_mb"), "more than 0"),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "0 or more, and less than 1"),
    **dict.fromkeys(("save_steps", "eval_steps", "logging_steps", "eval_delay"), "0 or more"),
    **dict.fromkeys(("dataloader_num_workers", "seed", "data_seed", "save_total_limit"), "0 or more"),
}
GROUP_LIMITS = {
    **dict.fromkeys(("steps_per_generation", "generation_batch_size", "num_iterations"), "1 or more"),
    **dict.fromkeys(("num_generations_eval", "ref_model_sync_steps", "vllm_tensor_parallel_size"), "1 or more"),
    **dict.fromkeys(("vllm_max_model_length", "pad_to_multiple_of", "parity_patience"), "1 or more"),
    **dict.fromkeys(("temperature", "max_completion_length", "delta", "off_policy_mask_threshold"), "more than 0"),
    **dict.fromkeys(("sapo_temperature_neg", "sapo_temperature_pos"), "more than 0"),
    **dict.fromkeys(("beta", "epsilon", "epsilon_high", "parity_warn", "parity_stop"), "0 or more"),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), "0 or more"),
    **dict.fromkeys(("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"), "0 or more"),
    **dict.fromkeys(("entropy_coef_delta", "entropy_target", "num_completions_to_print"), "0 or more"),
    **dict.fromkeys(("overlong_buffer", "probe_steps"), "0 or more"),
    "polarity_credit": "0 or more, and less than 1",
    **dict.fromkeys(("top_entropy_quantile", "vllm_gpu_memory_utilization"), "more than 0, and at most 1"),
    "ref_model_mixup_alpha": "0 to 1",
}


def check_ranks(ranks: int, processes: int) -> None:
    """Check that engines which `ranks` processes hold together divide the processes of a launch.

    Raises:
        ValueError: if they do not.
    """
    if ranks > 0 and processes % ranks:
        raise ValueError(
            f"vllm_tensor_parallel_size is {ranks}, which does not divide the {processes} process(es). Set it to a "
            "divisor, 1 for an engine in each process."
        )


def check_numbers(args: Any, limits: Mapping[str, str] = LIMITS) -> None:
    """Check the numbers of a configuration that nothing else looks at before a model has loaded.

    Args:
        args: the configuration; fields that it does not have, or that are None or text, are skipped.
        limits: a key of `IN_RANGE`, by field.

    Raises:
        ValueError: naming the number and its limit.
    """
    for name, limit in limits.items():
        value = getattr(args, name, None)
        if value is not None and not isinstance(value, str) and not IN_RANGE[limit](value):
            raise ValueError(f"{name} is {value}. Expected {limit}.")
    steps = getattr(args, "max_steps", -1)
    if steps < 1 and steps != -1:
        raise ValueError(f"max_steps is {steps}. Expected 1 or more, or -1 to train num_train_epochs epochs.")


def check_evaluation(args: "TrainingArguments") -> None:
    """Check that what depends on an evaluation has one, and a metric that it returns.

    Raises:
        ValueError: naming the setting, and what to set.
    """
    metric = args.metric_for_best_model
    needing = {
        "save_strategy is 'best'": args.save_strategy == "best",
        "load_best_model_at_end is true": args.load_best_model_at_end,
        f"metric_for_best_model is '{metric}'": metric is not None,
    }
    for setting, needs_evaluation in needing.items():
        if needs_evaluation and args.eval_strategy == "no":
            raise ValueError(
                f"{setting}, but eval_strategy is 'no', so no model would ever be the best. Set --eval_strategy steps "
                "--eval_split validation, or save without comparing: --save_strategy steps."
            )
    if args.save_strategy == "best" and metric is None:
        raise ValueError("save_strategy is 'best', but metric_for_best_model is not set. Set it: loss.")
    if metric is not None and not metric.removeprefix("eval_").endswith("loss"):
        raise ValueError(
            f"metric_for_best_model is '{metric}', which an evaluation while training does not return: it returns the "
            "loss and logs the rest. Set metric_for_best_model: loss, or compare checkpoints with recipes/evaluate.py."
        )


def check_adapter(peft_config: Any, args: Any, model: Any = None) -> None:
    """Check that an adapter has layers to train and that GRPO trains it on-policy, before a model loads.

    Args:
        peft_config: the adapter that the trainer adds, as `trl.get_peft_config` returns it; None for none.
        args: the trainer's configuration.
        model: the policy; if it is loaded, it may bring adapters.

    Raises:
        ValueError: if the adapter names no layers, drops activations that rollouts keep, or trains a head or an
            embedding in a way that vLLM does not take.
    """
    adapters = [peft_config] if peft_config else (getattr(model, "peft_config", None) or {}).values()
    if adapters and getattr(args, "sync_ref_model", False):
        raise ValueError(
            "sync_ref_model is true, but with LoRA the reference is the policy without its adapter, and there is no "
            "model to update. Leave sync_ref_model false, or train all weights."
        )
    if adapters and getattr(args, "ref_model_dtype", None):
        raise ValueError(
            f"ref_model_dtype is '{args.ref_model_dtype}', but with LoRA the reference is the policy without its "
            "adapter, which dtype sets. Leave ref_model_dtype unset, and set dtype: bfloat16."
        )
    for adapter in adapters:
        if not getattr(adapter, "target_modules", True) and not getattr(adapter, "target_parameters", None):
            raise ValueError(
                "The adapter has no lora_target_modules, and PEFT has no default for Qwen2.5-VL. Set "
                "--lora_target_modules all-linear, or '.*language_model.*\\.(q|k|v|o|gate|up|down)_proj' for the "
                'language model alone (in Python: LoraConfig(target_modules="all-linear")).'
            )
        dropout = getattr(adapter, "lora_dropout", 0)
        if dropout and not getattr(args, "disable_dropout", True):  # SFT has no such field, and no rollouts
            raise ValueError(
                f"lora_dropout is {dropout} (the default of TRL's command line is 0.05). Rollouts are sampled without "
                "dropout, so training with it would be off-policy: set --lora_dropout 0 (in Python: "
                "LoraConfig(lora_dropout=0))."
            )
    if model is not None:
        from emor3_trl.engines.adapters import check_adapted_ends

        check_adapted_ends(peft_config, model, bool(getattr(args, "trust_remote_code", False)))
