"""Configuration of EMO-R3 training: only the fields that `trl.GRPOConfig` does not have, and the paper's defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from emor3_trl.engines.adapters import check_adapted_ends
from emor3_trl.groups.batching import check_batch
from emor3_trl.groups.config import GroupConfig
from emor3_trl.launch import world_size
from emor3_trl.named_rewards import check_named_rewards
from emor3_trl.rewards import reward_functions

# Options of a sampler that change its distribution, which the trainer does not know of: each with what leaves it alone
RESTRICTING: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1.0),
    "top_k": (None, 0, -1),
    "min_p": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "min_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "do_sample": (None, True),
    "vllm_structured_outputs_regex": (None,),
    "temperature": (None,),  # of generation_kwargs; the trainer knows the field of that name
    **dict.fromkeys(("logit_bias", "bad_words", "allowed_token_ids", "logits_processors"), (None, {}, [])),
    **dict.fromkeys(("structured_outputs", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"), (None, [])),
    **dict.fromkeys(("sequence_bias", "min_length", "min_new_tokens", "typical_p", "epsilon_cutoff"), (None,)),
    **dict.fromkeys(("eta_cutoff", "top_h", "forced_eos_token_id", "encoder_repetition_penalty"), (None,)),
    **dict.fromkeys(("exponential_decay_length_penalty", "guidance_scale", "penalty_alpha"), (None,)),
}

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
    **dict.fromkeys(("top_entropy_quantile", "vllm_gpu_memory_utilization"), "more than 0, and at most 1"),
    "ref_model_mixup_alpha": "0 to 1",
}


@dataclass
class EmoR3Config(GroupConfig):
    """`GroupConfig` with the paper's defaults and the fields that EMO-R3 adds.

    Defaults come from the paper (Sec. 4.1: learning rate, lambda1, lambda2, G = 8) and, where it is silent, from its
    reference implementation; each help text names which.
    """

    # Defaults of inherited fields
    learning_rate: float = field(default=2e-6, metadata={"help": "Peak learning rate (paper, Sec. 4.1)."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule (reference: constant)."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay (reference: 0.01)."})
    num_generations: int | None = field(default=8, metadata={"help": "G, the completions of a prompt (paper: 8 or 4)."})
    max_completion_length: int | None = field(
        default=2048, metadata={"help": "Longest completion in tokens (reference: 2,048)."}
    )
    beta: float = field(default=0.01, metadata={"help": "KL coefficient, k3 estimator (reference: 0.01)."})
    epsilon_high: float | None = field(default=0.3, metadata={"help": "Upper clip range (reference: 0.3)."})
    delta: float | None = field(default=3.0, metadata={"help": "Dual clip (reference: 3.0)."})
    loss_type: str = field(default="bnpo", metadata={"help": "Token-mean loss (reference: token mean)."})
    use_vllm: bool = field(default=True, metadata={"help": "Generate with a vLLM engine in the same process."})
    vllm_mode: str = field(default="colocate", metadata={"help": "EMO-R3 reflects on the colocated engine."})
    seed: int = field(default=1, metadata={"help": "Seed (reference: 1)."})

    # EMO-R3
    reward_variant: str = field(
        default="paper",
        metadata={"help": "'paper': Eq. 5, 6; 'reference': its code's; 'plain': GRPO's (paper)."},
    )
    lambda1: float = field(default=0.1, metadata={"help": "Weight of the reflective reward, Eq. 6 (paper: 0.1)."})
    lambda2: float = field(default=0.1, metadata={"help": "Weight of the format reward, Eq. 6 (paper: 0.1)."})
    rewards: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names or <file>.py:<function>, with reward_weights. In place of reward_variant: accuracy, "
            "consistency, coherence, format, think_format, and functions of your own, whose file is run."
        },
    )
    freeze_vision_tower: bool = field(
        default=False, metadata={"help": "Do not train the vision tower and its merger (reference: trained)."}
    )
    overlong_buffer: int = field(
        default=0,
        metadata={
            "help": "Last tokens of a completion that cost reward; 0: off. They are those before "
            "max_completion_length, and all of them cost 1 (soft overlong punishment, DAPO's Eq. 13)."
        },
    )
    parity_warn: float | None = field(
        default=None,
        metadata={"help": "Warn above this mean |log-prob gap| to vLLM. Default: 1e-4 in float32, 0.03 otherwise."},
    )
    parity_stop: float | None = field(
        default=None,
        metadata={"help": "Stop above this gap in parity_patience steps. Default: 1e-4 in float32, 0.1 otherwise."},
    )
    parity_patience: int | None = field(
        default=None,
        metadata={"help": "Steps in a row above parity_stop that stop. Default: 1 in float32, 3 otherwise."},
    )
    probe_steps: int = field(
        default=10,
        metadata={"help": "Steps from a probe of the judge to the next; 0: none."},
    )

    def __post_init__(self) -> None:
        check_numbers(self, {**LIMITS, **GROUP_LIMITS})
        check_batch(vars(self), world_size())
        super().__post_init__()
        check_evaluation(self)
        # The reward functions know which variants and weights there are; asked here, they refuse before a model loads.
        reward_functions(self.reward_variant, self.lambda1, self.lambda2)
        check_named_rewards(self)
        _check_engine(self)
        _check_sampling(self)
        _check_without_effect(self)


def _check_engine(args: EmoR3Config) -> None:
    """Check what vLLM is asked to do."""
    if args.use_vllm and args.vllm_mode != "colocate":
        raise ValueError(
            f"vllm_mode is '{args.vllm_mode}'. Reflection needs the engine in the same process: "
            "set vllm_mode: colocate, or use_vllm: false."
        )
    if args.use_vllm and not args.vllm_importance_sampling_correction:
        raise ValueError(
            "vllm_importance_sampling_correction is false, so nothing would compare vLLM's log-probabilities with "
            "the trainer's, and off-policy rollouts would go unnoticed. Leave it true."
        )
    if args.use_vllm and isinstance(args.model_init_kwargs, dict) and args.model_init_kwargs.get("quantization_config"):
        raise ValueError(QUANTIZED.format("model_init_kwargs holds a quantization_config"))
    if args.use_vllm:
        check_ranks(args.vllm_tensor_parallel_size, world_size())


def _check_sampling(args: EmoR3Config) -> None:
    """Check that rollouts are drawn from the distribution whose log-probabilities are trained."""
    further = args.generation_kwargs or {}
    if not isinstance(further, dict):
        raise ValueError(f'generation_kwargs is {further!r}. Expected a mapping, as in {{"stop": ["…"]}}.')
    fields = ("repetition_penalty", "top_p", "top_k", "min_p", "vllm_structured_outputs_regex")
    settings = {**{name: getattr(args, name) for name in fields}, **further}
    restricting = {key: settings[key] for key in RESTRICTING if settings.get(key) not in RESTRICTING[key]}
    if restricting:
        raise ValueError(
            f"Sampling is restricted ({', '.join(f'{key} {value}' for key, value in restricting.items())}), but "
            "GRPO's log-probabilities are those of the whole distribution. Leave top_p at 1, top_k at 0, penalties "
            "at 1 or 0, and the others unset; change temperature instead."
        )
    if args.neftune_noise_alpha:
        raise ValueError(
            f"neftune_noise_alpha is {args.neftune_noise_alpha}. Rollouts are sampled without noise, so training with "
            "it would be off-policy: leave it unset."
        )


def _check_without_effect(args: EmoR3Config) -> None:
    """Check for settings that GRPO does not read, or that break its step."""
    if args.overlong_buffer > (args.max_completion_length or 0):
        raise ValueError(
            f"overlong_buffer is {args.overlong_buffer}. Expected at most max_completion_length "
            f"({args.max_completion_length}), of which it is the end."
        )
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, but GRPO's loss has no labels to smooth. Leave "
            "it at 0."
        )
    if args.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns is true, but the rewards and reflection read columns that the model does not. Leave "
            "it false."
        )
    if args.torch_compile and args.shared_prefix:  # also where a backend or a mode is set
        raise ValueError(
            "torch_compile is on (or its backend or mode is set), but each packed row has a length of its own, "
            "and torch cannot compile the model for all of them. Leave all three unset, or set shared_prefix: false."
        )
    if args.sync_ref_model and not args.beta:
        raise ValueError(
            "sync_ref_model is true and beta is 0, so there is no reference model to update. Set beta, or leave "
            "sync_ref_model false."
        )


# What to say of weights in 4 or 8 bits, with what asks for them
QUANTIZED = (
    "{} and use_vllm is true, but vLLM takes whole weights from the trainer and would die at the first of them. Set "
    "use_vllm: false, or train LoRA on weights in bfloat16 (dtype: bfloat16, use_peft: true)."
)


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


def check_evaluation(args: TrainingArguments) -> None:
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
        check_adapted_ends(peft_config, model)
