"""Configuration of EMO-R3 training: only the fields that `trl.GRPOConfig` does not have, and the paper's defaults."""

from dataclasses import dataclass, field
from typing import Any

from emor3_trl.config_checks import GROUP_LIMITS, LIMITS, check_evaluation, check_numbers, check_ranks
from emor3_trl.config_switches import check_switches
from emor3_trl.groups.batching import check_batch
from emor3_trl.groups.config import GroupConfig
from emor3_trl.groups.quantization import QUANTIZED
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
    vllm_mode: str = field(default="colocate", metadata={"help": "colocate: in this process; server: docs/SERVER.md."})
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
    soft_reflection: str = field(
        default="none",
        metadata={
            "help": "P(Yes), P(label) for 0 or 1: none, raw, calibrated (paper: none). From the same constrained "
            "decode (VQAScore, arXiv 2404.01291; RLPR, 2506.18254); calibrated: by the batch's mean (2309.17249)."
        },
    )
    contrastive_consistency: bool = field(
        default=False,
        metadata={
            "help": "The judge must also say No to another image of the batch (paper: false). One of the same emotion "
            "where there is one; one more question for each completion."
        },
    )
    masked_coherence: bool = field(
        default=False,
        metadata={
            "help": "Mask labels and their kin before the coherence question (paper: false). As leaks are told from "
            "reasons (arXiv 2010.04119)."
        },
    )
    gated_reflection: str = field(
        default="none",
        metadata={
            "help": "Where reflection counts: none, unseparated, right (paper: none). 'none': everywhere; in groups "
            "that accuracy does not separate (which DAPO drops); for right answers (GRPO-CARE, arXiv 2506.16141)."
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
        check_switches(self)
        _check_engine(self)
        _check_sampling(self)
        _check_without_effect(self)


def _check_engine(args: EmoR3Config) -> None:
    """Check what vLLM is asked to do."""
    if args.vllm_mode not in ("colocate", "server"):
        raise ValueError(f"vllm_mode is '{args.vllm_mode}'. Expected colocate or server (docs/SERVER.md).")
    served = args.use_vllm and args.vllm_mode == "server"
    if served and args.vllm_enable_sleep_mode:
        raise ValueError(
            "vllm_enable_sleep_mode is true and vllm_mode is 'server', but a server has its memory to itself and never "
            "sleeps. Set vllm_enable_sleep_mode: false."
        )
    if served and args.vllm_engine_options:
        raise ValueError(
            "vllm_engine_options are set and vllm_mode is 'server', whose engine has started with its own. Leave them "
            "unset, and give recipes/serve.py vLLM's options after '--'."
        )
    if args.use_vllm and not args.vllm_importance_sampling_correction:
        raise ValueError(
            "vllm_importance_sampling_correction is false, so nothing would compare vLLM's log-probabilities with "
            "the trainer's, and off-policy rollouts would go unnoticed. Leave it true."
        )
    if args.use_vllm and isinstance(args.model_init_kwargs, dict) and args.model_init_kwargs.get("quantization_config"):
        raise ValueError(QUANTIZED.format("model_init_kwargs holds a quantization_config"))
    if args.use_vllm and not served:
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
