"""The first screen of a recipe: the options that people change, in groups, each with its default and its source."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

OptionGroups = Mapping[str, Sequence[str]]  # title of a group: its options

WIDTH, REQUIRED = 112, "required"
_SOURCE = re.compile(r"\([^)]*\b(paper|reference|this project)\b")  # as in "(paper, Sec. 4.1)"

_MODEL = [
    "model_name_or_path",
    "dtype",
    "bf16",
    "use_peft",
    "lora_target_modules",
    "freeze_vision_tower",
]
_BATCHES = ["per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"]
_VALIDATION = ["validation_splits", "validation_steps", "validation_samples", "validation_patience"]
_OUTPUT = ["output_dir", "report_to", "plan", "overwrite"]
_DYNAMIC = ["dynamic_sampling", "dynamic_sampling_tries", "dynamic_sampling_starved"]
_REFLECTION = ["soft_reflection", "contrastive_consistency", "masked_coherence", "gated_reflection"]
GRPO_OPTIONS: OptionGroups = {
    "Data": ["data", "train_split", "eval_split", "prompt_style", "max_samples", *_VALIDATION],
    "Model": ["model_name_or_path", "use_peft", "freeze_vision_tower"],
    "Reward": ["reward_variant", "lambda1", "lambda2", "rewards", *_REFLECTION, "overlong_buffer", "probe_steps"],
    "Batches": ["processes", "num_generations", *_BATCHES[::2], "shared_prefix", "skip_flat_groups", *_DYNAMIC],
    "Optimisation": ["learning_rate", "beta", "ref_model_dtype"],
    "Generation": [
        "max_completion_length",
        "use_vllm",
        "vllm_engine_options",
        "parity_warn",
        "parity_stop",
        "parity_patience",
    ],
    "Output": [*_OUTPUT, "log_completions_steps"],
}
COLD_START_OPTIONS: OptionGroups = {
    "Data": ["data", "train_split", "eval_split", "prompt_style", "max_samples", "num_samples"],
    "Model": _MODEL,
    "Batches": ["processes", *_BATCHES, "max_steps"],
    "Optimisation": ["learning_rate", "max_length", "completion_only_loss", "gradient_checkpointing", "seed"],
    "Measurement": ["probe_samples", "probe_max_tokens", "min_format_rate"],
    "Output": _OUTPUT,
}
# What the libraries say of their options fills screens
LIBRARY_OPTIONS = {
    "model_name_or_path": "Checkpoint folder, or a model's name on the Hub",
    "dtype": "Type of the weights: float32, bfloat16, float16 or auto",
    "bf16": "Compute in bfloat16; none stands for true",
    "use_peft": "Train LoRA adapters, not all weights",
    "lora_target_modules": "Layers that get adapters: all-linear, or a pattern",
    "per_device_train_batch_size": "Rows of one forward and backward, of each process",
    "gradient_accumulation_steps": "Forwards of one optimiser step, of each process",
    "num_train_epochs": "Passes over the samples",
    "max_steps": "Optimiser steps; more than 0 wins over the epochs",
    "gradient_checkpointing": "Save memory for a fifth more time",
    "output_dir": "Folder of the run; none stands for trainer_output",
    "report_to": "'wandb' (offline without a key) or 'trackio', a local page",
}


def describe_options(about: str, dataclass_types: Sequence[type], groups: OptionGroups | None = None) -> str:
    """Return the first screen of a recipe.

    Args:
        about: the recipe's docstring; its first line is shown.
        dataclass_types: the argument classes.
        groups: what to show; by default every option, with its whole help.
    """
    options = {option.name: (cls, option) for cls in dataclass_types for option in dataclasses.fields(cls)}
    shown = groups or {"Options": list(options)}
    defaults = {name: show_default(options[name][1]) for names in shown.values() for name in names}
    name_width, default_width = max(map(len, defaults)), max(map(len, defaults.values()))
    lines = [f"usage: python {sys.argv[0]} [--config FILE] [--OPTION VALUE ...]", "", about.split("\n")[0]]
    if groups:
        lines.append("--config FILE is one complete run, and options override it. The options that people change:")
    source = " (where the default comes from)" if groups else ""
    lines += [f"{'':<{name_width + 5}}{'default':<{default_width + 1}}what it is{source}"]
    for title, names in shown.items():
        lines.append(title)
        for name in names:
            start = f"  --{name:<{name_width}} {defaults[name]:<{default_width}} "
            text = _describe_option(*options[name]) if groups else _read_help(options[name][1])
            lines += textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
    lines.append("--help_all shows every option and all that its library says of it; --debug shows tracebacks.")
    return "\n".join(lines)


def show_default(option: dataclasses.Field) -> str:
    """Return a default as the first screen shows it: "required" where there is none, lists with spaces."""
    default: Any = option.default
    if option.default_factory is not dataclasses.MISSING:
        default = option.default_factory()
    if default is dataclasses.MISSING:
        return REQUIRED
    if isinstance(default, list):
        return " ".join(map(str, default))
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def _describe_option(cls: type, option: dataclasses.Field) -> str:
    """Return one sentence on an option, which ends with the source of its default."""
    declares = next(base for base in cls.__mro__ if option.name in vars(base).get("__annotations__", {}))
    library = declares.__module__.split(".")[0] in ("trl", "transformers")
    text = LIBRARY_OPTIONS[option.name] if library else re.split(r"\. (?=[A-Z'])", _read_help(option))[0]
    if _SOURCE.search(text) or show_default(option) == REQUIRED:
        return text
    return f"{text} ({'TRL' if library else 'this project'})"


def _read_help(option: dataclasses.Field) -> str:
    return " ".join(str(option.metadata.get("help", "")).split()).removesuffix(".")
