"""Checks of a configuration that need neither data nor a model; each names the fix."""

import importlib.util
import netrc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import get_reporting_integration_callbacks

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


FSDP_LOADING = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")  # set by accelerate launch


def gpu_available() -> bool:
    """Whether torch sees an accelerator that bf16 training and vLLM run on."""
    return torch.cuda.is_available() or torch.xpu.is_available()


def check_room(folder: str | Path, needed: int, what: str) -> None:
    """Make sure that a disk has room for what is about to be written.

    Args:
        folder: where it will be written; it need not exist yet.
        needed: bytes.
        what: what needs them, for the message.

    Raises:
        OSError: with what is needed and what is free.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"The disk of '{folder}' has {free / 1e9:,.1f} GB free, but {what} can take {needed / 1e9:,.1f} GB. "
            "Free some space, or write to another disk."
        )


def weights_sharded() -> bool:
    """Whether this launch spreads the weights over its processes (ZeRO-3, FSDP); known once arguments are made."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1")


def check_reference(beta: float, lora: bool) -> None:
    """Check that each process loads the reference model, of which TRL shards what the process has.

    Raises:
        ValueError: if FSDP lets only the main process load weights: KL would be that to an empty model.
    """
    on = [os.environ.get(key, "").lower() in ("true", "1") for key in FSDP_LOADING]
    if beta and not lora and all(on) and world_size() > 1:
        raise ValueError(
            f"fsdp_cpu_ram_efficient_loading is true and beta is {beta}: the reference model would be empty on every "
            "process but the first, and the KL term wrong. Set it to false in Accelerate's file, as "
            "recipes/accelerate/fsdp2.yaml does, or set beta: 0."
        )


def world_size() -> int:
    """Return the number of processes of this launch (torchrun and accelerate set it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_values(values: dict[str, Any], source: Path | None) -> None:
    """Check the resolved values of a recipe; keys that it does not have are skipped.

    Raises:
        ValueError: for groups that do not fit the batch, settings that contradict each other, another number of
            processes than planned, a GPU's configuration without a GPU.
        ImportError: if vLLM or W&B is asked for and not installed.
    """
    planning = bool(values.get("plan"))
    processes = values.get("processes") if planning else None
    check_batch(values, processes or world_size())
    check_combinations(values)
    if not planning:
        check_gpu(values, source)
        check_processes(values, source)
        check_vllm(values)


def check_batch(values: dict[str, Any], processes: int) -> None:
    """Check that a generation batch holds whole groups, as GRPO's advantages need.

    Raises:
        ValueError: with the nearest numbers that divide.
    """
    group = values.get("num_generations")
    if group is None:
        return
    if group < 2:
        raise ValueError(
            f"num_generations is {group}. A group's advantage compares its completions, so it needs 2 or more "
            "(the paper uses 8 and 4): set --num_generations 8."
        )
    per_device = values["per_device_train_batch_size"]
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if values[name] < 1:
            raise ValueError(f"{name} is {values[name]}. Expected 1 or more.")
    steps = values.get("steps_per_generation") or values["gradient_accumulation_steps"]
    batch = values.get("generation_batch_size") or processes * per_device * steps
    if batch % group == 0:
        return
    unit = processes * steps
    sizes = [size for size in range(1, per_device + group + 1) if unit * size % group == 0]
    near = sorted(
        {max((s for s in sizes if s <= per_device), default=sizes[0]), min(s for s in sizes if s > per_device)}
    )
    groups = [divisor for divisor in range(2, batch + 1) if batch % divisor == 0]
    smaller = [divisor for divisor in groups if divisor < group][-1:]
    larger = [divisor for divisor in groups if divisor > group][:1]
    made_of = f"{processes} process(es) x per_device_train_batch_size {per_device} x {steps} step(s) per generation"
    if values.get("generation_batch_size"):
        made_of = "generation_batch_size"
    raise ValueError(
        f"{made_of} = {batch} completions, which do not divide into groups of num_generations = {group}. "
        f"Use --per_device_train_batch_size {' or '.join(map(str, near))}"
        + (f", or --num_generations {' or '.join(map(str, smaller + larger))}." if smaller + larger else ".")
    )


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
    for name, least in (("learning_rate", 0), ("num_train_epochs", 1e-9)):
        if values.get(name) is not None and not values[name] >= least:
            raise ValueError(f"{name} is {values[name]}. Expected {'0 or more' if least == 0 else 'more than 0'}.")
    if values.get("use_peft") and not (values.get("lora_target_modules") or values.get("lora_target_parameters")):
        raise ValueError(
            "use_peft is true, but lora_target_modules is not set, and PEFT has no default for Qwen2.5-VL. Set "
            "--lora_target_modules all-linear, or the language model's alone: "
            "--lora_target_modules '.*language_model.*\\.(q|k|v|o|gate|up|down)_proj'."
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
    if values.get("use_peft") and values.get("lora_dropout") and not values.get("disable_dropout"):
        raise ValueError(
            f"lora_dropout is {values['lora_dropout']} (TRL's default is 0.05). Rollouts are sampled without dropout, "
            "so training with it would be off-policy: set --lora_dropout 0."
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
    planned, found = values.get("processes"), world_size()
    if planned not in (None, found):
        raise ValueError(
            f"'{source}' is written for {planned} process(es), and this launch has {found}. Start it with "
            f"'accelerate launch --config_file recipes/accelerate/{'zero2' if planned > 1 else 'single_gpu'}.yaml "
            f"--num_processes {planned} …', or set --processes {found} and scale gradient_accumulation_steps by "
            f"{planned}/{found} to keep the batch."
        )
    trains = "per_device_train_batch_size" in values and not values.get("use_cpu")
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
    asked = [key for key, needs in NEEDS_GPU.items() if key in values and needs(values[key])]
    if asked:
        raise ValueError(
            f"{', '.join(asked)} need a GPU, and torch sees none on this machine"
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


def check_model_path(path: str | None) -> None:
    """Check that a model that is meant as a folder is there; a name on the Hub is left to the Hub.

    Raises:
        FileNotFoundError: if the folder, or its config.json, does not exist.
        ValueError: if no model is set.
    """
    if not path:
        raise ValueError("No model is set. Give --model_name_or_path a checkpoint folder or a model's name on the Hub.")
    folder = Path(path)
    # "organisation/name" is a name on the Hub, unless it begins like a folder of this project
    local = path.startswith((".", "/", "runs/")) or path.count("/") != 1 or Path(folder.parts[0]).is_dir()
    if local and not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"Model folder '{path}' {what}. Point --model_name_or_path at a finished run, or make it first: "
            "recipes/prepare_data.py builds the demo's base model, recipes/cold_start.py a cold start."
        )
    if local and not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"Model folder '{path}' holds no *.safetensors. Was its run stopped before the end? Weights in other "
            "formats are not loaded: save them with save_pretrained(…, safe_serialization=True)."
        )


def prepare_reporting(values: dict[str, Any]) -> None:
    """Keep W&B from asking anything: offline without a key, its files inside the run's folder.

    Raises:
        ImportError: if W&B is asked for and not installed.
        ValueError: if there is no such integration.
    """
    report_to = values.get("report_to") or []
    report_to = [report_to] if isinstance(report_to, str) else report_to
    get_reporting_integration_callbacks([name for name in report_to if name not in ("none", "all")])
    if "wandb" not in report_to and "all" not in report_to:
        return
    if importlib.util.find_spec("wandb") is None:
        if "wandb" not in report_to:
            return
        raise ImportError(
            "report_to names wandb, which is not installed: 'pip install -e .[wandb]', or --report_to none."
        )
    if "WANDB_API_KEY" not in os.environ and not _wandb_login():
        os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_PROJECT", "emor3_trl")
    if values.get("output_dir"):
        os.environ.setdefault("WANDB_DIR", str(values["output_dir"]))


def _wandb_login() -> bool:
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
