"""Configuration of EMO-R3 training: only the fields that `trl.GRPOConfig` does not have, and the paper's defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from emor3_trl.engines.adapters import check_adapted_ends
from emor3_trl.groups.batching import check_batch
from emor3_trl.launch import world_size
from emor3_trl.rewards import reward_functions

# Options of a sampler that change its distribution, which the trainer does not know of: each with what leaves it alone
RESTRICTING: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1.0),
    "top_k": (None, 0, -1),
    "min_p": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "logit_bias": (None, {}),
    "bad_words": (None, []),
    "min_tokens": (None, 0),
    "temperature": (None,),  # of generation_kwargs; the trainer knows the field of that name
}

# What TRL checks at the first loss, after a model has loaded and a rollout has been made
CHOICES: dict[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}

# Numbers that nothing else looks at before a model has loaded
LIMITS = {
    "learning_rate": "0 or more",
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), "1 or more"),
    **dict.fromkeys(("steps_per_generation", "generation_batch_size", "num_iterations"), "1 or more"),
    **dict.fromkeys(("num_train_epochs", "temperature", "max_completion_length"), "more than 0"),
}


@dataclass
class EmoR3Config(GRPOConfig):
    """`trl.GRPOConfig` with the paper's defaults and the fields that EMO-R3 adds.

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
    freeze_vision_tower: bool = field(
        default=False, metadata={"help": "Do not train the vision tower and its merger (reference: trained)."}
    )
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "Compute a group's prompt and image once; same numbers."},
    )
    vllm_engine_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Further options of vllm.LLM, as JSON. They win over what TRL and this project set, e.g. dtype, "
            "enforce_eager, block_size, limit_mm_per_prompt."
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

    # Fields that may be given as JSON on the command line
    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "vllm_engine_options"]

    def __post_init__(self) -> None:
        check_numbers(self)
        check_batch(vars(self), world_size())
        super().__post_init__()
        # The reward functions know which variants and weights there are; asked here, they refuse before a model loads.
        reward_functions(self.reward_variant, self.lambda1, self.lambda2)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}. Expected one of {', '.join(choices)}.")
        if self.vllm_mode != "colocate" and self.use_vllm:
            raise ValueError(
                f"vllm_mode is '{self.vllm_mode}'. Reflection needs the engine in the same process: "
                "set vllm_mode: colocate, or use_vllm: false."
            )
        if self.use_vllm and not self.vllm_importance_sampling_correction:
            raise ValueError(
                "vllm_importance_sampling_correction is false, so nothing would compare vLLM's log-probabilities with "
                "the trainer's, and off-policy rollouts would go unnoticed. Leave it true."
            )
        further = self.generation_kwargs or {}
        if not isinstance(further, dict):
            raise ValueError(f'generation_kwargs is {further!r}. Expected a mapping, as in {{"stop": ["…"]}}.')
        settings = {"repetition_penalty": self.repetition_penalty, "top_p": self.top_p, "top_k": self.top_k}
        settings |= {"min_p": self.min_p, **further}
        restricting = {key: settings[key] for key in RESTRICTING if settings.get(key) not in RESTRICTING[key]}
        if restricting:
            raise ValueError(
                f"Sampling is restricted ({', '.join(f'{key} {value}' for key, value in restricting.items())}), but "
                "GRPO's log-probabilities are those of the whole distribution. Leave top_p at 1, top_k at 0, penalties "
                "at 1 or 0, and the others unset; change temperature instead."
            )


def check_numbers(args: Any, limits: Mapping[str, str] = LIMITS) -> None:
    """Check the numbers of a configuration that nothing else looks at before a model has loaded.

    Args:
        args: the configuration; fields that it does not have, or that are None, are skipped.
        limits: "0 or more", "1 or more" or "more than 0", by field.

    Raises:
        ValueError: naming the number and its limit.
    """
    for name, limit in limits.items():
        value = getattr(args, name, None)
        if value is not None and not (value > 0 or (value == 0 and limit == "0 or more")):
            raise ValueError(f"{name} is {value}. Expected {limit}.")


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
