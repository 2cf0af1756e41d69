"""The first screen of a recipe: the options that people change, in groups, each with its default and its source."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

# Title of a group: its options, each with what to say of it; "" says the first sentence of the option's own help
OptionGroups = Mapping[str, Mapping[str, str]]

WIDTH, REQUIRED = 112, "required"
_SOURCE = re.compile(r"\([^)]*\b(paper|reference|this project)\b")  # as in "(paper, Sec. 4.1)"

_BATCHES = {
    "per_device_train_batch_size": "Rows of one forward and backward, of each process",
    "gradient_accumulation_steps": "Forwards of one optimiser step, of each process",
    "num_train_epochs": "Passes over the samples",
    "max_steps": "Optimiser steps; more than 0 wins over the epochs",
}
_MODEL = {
    "model_name_or_path": "Checkpoint folder, or a model's name on the Hub",
    "dtype": "Type of the weights: float32, bfloat16, float16 or auto",
    "bf16": "Compute in bfloat16; none stands for true",
    "use_peft": "Train LoRA adapters, not all weights",
    "lora_r": "Rank of the adapters",
    "lora_target_modules": "Layers that get adapters: all-linear, or a pattern",
    "lora_dropout": "Must be 0 for GRPO, which samples without dropout",
    "freeze_vision_tower": "",
}
_OUTPUT = {
    "output_dir": "Folder of the run; none stands for trainer_output",
    "save_steps": "Optimiser steps from checkpoint to checkpoint",
    "report_to": "'wandb' logs there too (offline without a key)",
    "plan": "",
    "overwrite": "",
}

GRPO_OPTIONS: OptionGroups = {
    "Data": {"data": "", "train_split": "", "eval_split": "", "prompt_style": "", "max_samples": ""},
    "Model": _MODEL,
    "Reward": {"reward_variant": "", "lambda1": "", "lambda2": ""},
    "Batches": {
        "processes": "",
        "num_generations": "",
        **_BATCHES,
        "steps_per_generation": "Forwards of one rollout; none: those of one optimiser step",
        "shared_prefix": "",
    },
    "Optimisation": {
        "learning_rate": "",
        "beta": "",
        "gradient_checkpointing": "Save memory for a fifth more time",
        "seed": "",
    },
    "Generation": {
        "temperature": "Temperature of rollouts",
        "max_completion_length": "",
        "use_vllm": "",
        "vllm_gpu_memory_utilization": "Share of the memory that the engine takes",
        "vllm_max_model_length": "Longest prompt and completion together, in tokens",
        "vllm_engine_options": "",
        "parity_warn": "",
        "parity_stop": "",
        "parity_patience": "",
    },
    "Output": _OUTPUT,
}
COLD_START_OPTIONS: OptionGroups = {
    "Data": {
        "data": "",
        "train_split": "",
        "eval_split": "",
        "prompt_style": "",
        "max_samples": "",
        "num_samples": "",
    },
    "Model": _MODEL,
    "Batches": {"processes": "", **_BATCHES},
    "Optimisation": {
        "learning_rate": "",
        "max_length": "",
        "completion_only_loss": "",
        "gradient_checkpointing": "Save memory for a fifth more time",
        "seed": "",
    },
    "Measurement": {"probe_samples": "", "probe_max_tokens": "", "min_format_rate": ""},
    "Output": _OUTPUT,
}


def describe_options(about: str, dataclass_types: Sequence[type], groups: OptionGroups | None = None) -> str:
    """Return the first screen of a recipe.

    Args:
        about: the recipe's docstring; its first line is shown.
        dataclass_types: the argument classes.
        groups: what to show; by default every option, with its whole help.
    """
    options = {option.name: (cls, option) for cls in dataclass_types for option in dataclasses.fields(cls)}
    shown = groups or {"Options": dict.fromkeys(options, "")}
    names = [name for group in shown.values() for name in group]
    defaults = {name: show_default(options[name][1]) for name in names}
    name_width, default_width = max(map(len, names)), max(map(len, defaults.values()))
    lines = [f"usage: python {sys.argv[0]} [--config FILE] [--OPTION VALUE ...]", "", about.split("\n")[0]]
    if groups:
        lines.append(
            f"--config FILE is one complete run, and options override it. Here are {len(names)} of {len(options)}."
        )
    source = " (where the default comes from)" if groups else ""
    lines += ["", f"{'':<{name_width + 5}}{'default':<{default_width + 1}}what it is{source}"]
    for title, texts in shown.items():
        lines.append(title)
        for name in texts:
            start = f"  --{name:<{name_width}} {defaults[name]:<{default_width}} "
            text = _describe_option(*options[name], texts[name]) if groups else _read_help(options[name][1])
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


def _describe_option(cls: type, option: dataclasses.Field, text: str) -> str:
    """Return one sentence that ends with the default's source; `text` stands in for the help of a library's option."""
    declares = next(base for base in cls.__mro__ if option.name in vars(base).get("__annotations__", {}))
    library = declares.__module__.split(".")[0] in ("trl", "transformers")
    if not library or not text:
        text = re.split(r"\. (?=[A-Z'])", _read_help(option))[0]
    if _SOURCE.search(text) or show_default(option) == REQUIRED:
        return text
    return f"{text} ({'TRL' if library else 'this project'})"


def _read_help(option: dataclasses.Field) -> str:
    return " ".join(str(option.metadata.get("help", "")).split()).removesuffix(".")
