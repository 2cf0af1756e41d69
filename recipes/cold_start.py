"""Cold-Start-Emo (paper, Sec. 3.4): a short SFT on answers alone, before EMO-R3.

    python recipes/cold_start.py                                                  # the demo, on a CPU
    accelerate launch --config_file recipes/accelerate/zero2.yaml recipes/cold_start.py \
        --config recipes/configs/qwen2_5_vl_3b/emoset_cold_start.yaml

Saves a whole checkpoint (LoRA is merged), which recipes/grpo.py takes as --model_name_or_path. Format under the
structured prompt, and accuracy with and without steps, are measured before and after, on training pictures that the
cold start does not use or on another split (--eval_split); a cold start that unteaches the steps is reported. A YAML is
one complete run; flags override it.
"""

import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import AutoProcessor
from trl import ModelConfig, SFTTrainer, get_peft_config

from emor3_trl.checkpoints import check_model_path
from emor3_trl.cold_start import (
    ColdStartConfig,
    balanced_sample,
    build_cold_start_trainer,
    format_warning,
    plan,
    probe_checkpoint,
    unused_rows,
)  # fmt: skip
from emor3_trl.data import load_split
from emor3_trl.demo.model import ensure_demo
from emor3_trl.launch import gpu_available, weights_sharded, world_size
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import cli, model_options, parse, user_errors
from emor3_trl.run.folder import RunFolder, sources
from emor3_trl.run.progress import show_compactly

CONFIGS = Path(__file__).parent / "configs"


@dataclass
class ColdStartArguments(RunArguments):
    """`RunArguments` of a cold start: what format is measured on, and that the question is the direct one."""

    eval_split: str | None = field(
        default=None,
        metadata={"help": "Split that format is measured on; by default, training rows that are not drawn."},
    )
    prompt_style: Literal["direct"] = field(
        default="direct", metadata={"help": "The direct question; answers alone under another one unteach its steps."}
    )


def main() -> None:
    """Parse, load, build, measure, train, measure again, save."""
    parsed = parse((ColdStartArguments, ModelConfig, ColdStartConfig), default_config())
    run, model, args = parsed.arguments
    with user_errors():
        if run.plan:
            name = f"{model.model_name_or_path}, {f'LoRA r={model.lora_r}' if model.use_peft else 'all weights'}"
            train = f"{run.data}/{run.train_split}"
            held_out = f"{run.data}/{run.eval_split}" if run.eval_split else f"{train} that are not drawn"
            print(plan(args, name, train, held_out, run.processes or world_size()))
            return
        if model.use_peft and weights_sharded():
            raise ValueError(
                "use_peft is true, but this launch shards the weights (ZeRO-3, FSDP) into which the cold start merges "
                "its adapter. Launch with recipes/accelerate/ddp.yaml or zero2.yaml, or train all weights."
            )
        ensure_demo(run.data, model.model_name_or_path)
        check_model_path(model.model_name_or_path)
        folder = RunFolder(
            args.output_dir, parsed.values, run.overwrite, sources(model.model_name_or_path, run.data, run.train_split)
        )
        if folder.finished:
            folder.say_finished()
            return
        train = load_split(run.data, run.train_split, run.prompt_style, run.max_samples, args.seed)
        balanced_sample(train, args.num_samples, args.seed)  # refuses more rows than there are
        if run.eval_split:
            held_out = load_split(run.data, run.eval_split, "set", args.probe_samples, args.seed)
        else:
            held_out = unused_rows(train, args.num_samples, args.probe_samples, args.seed)
        # Pictures come in their final size from the data preparation, so the processor has nothing left to resize.
        processor = AutoProcessor.from_pretrained(
            model.model_name_or_path, revision=model.model_revision, padding_side="left"
        )

    folder.begin()
    args.model_init_kwargs = model_options(model, args.model_init_kwargs)
    before = probe_checkpoint(model.model_name_or_path, args.model_init_kwargs, processor, held_out, args)
    trainer = build_cold_start_trainer(
        model.model_name_or_path, args, train, processor, peft_config=get_peft_config(model)
    )
    show_compactly(trainer)
    result = trainer.train(resume_from_checkpoint=folder.checkpoint)
    save(trainer, processor, model.use_peft)
    after = probe_checkpoint(args.output_dir, {"dtype": model.dtype}, processor, held_out, args)
    metrics = {**result.metrics, "num_samples": args.num_samples, "probe_samples": len(held_out)}
    metrics |= {f"{name}_before": value for name, value in before.items()}
    metrics |= {f"{name}_after": value for name, value in after.items()}
    folder.finish(metrics)
    if trainer.accelerator.is_main_process:
        tell(before, after, args)


def default_config() -> Path | None:
    """Return the configuration of a bare call, and say which."""
    if any(item == "--config" or item.startswith("--config=") for item in sys.argv) or "--help" in sys.argv:
        return None
    gpu = gpu_available()
    config = CONFIGS / ("qwen2_5_vl_3b/emoset_cold_start.yaml" if gpu else "demo/cold_start.yaml")
    why = "this machine has a GPU" if gpu else "no GPU here"
    print(f"No --config given: using {os.path.relpath(config)} ({why})", flush=True)
    return config


def save(trainer: SFTTrainer, processor: Any, lora: bool) -> None:
    """Save a whole checkpoint, the processor and the trainer's log."""
    folder = trainer.args.output_dir
    if not lora:
        trainer.save_model()
    elif trainer.accelerator.is_main_process:
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(folder)
    trainer.save_state()
    if trainer.accelerator.is_main_process:
        processor.save_pretrained(folder)


def tell(before: dict[str, float], after: dict[str, float], args: ColdStartConfig) -> None:
    """Print what changed, and warn when the steps were untaught."""
    if not after:
        print(f"Format was not measured, under ZeRO-3: python recipes/evaluate.py --model {args.output_dir} --data …")
    for name, value in after.items():
        print(f"{name}: {before[name]:.3f} -> {value:.3f}")
    message = format_warning(before, after, args.min_format_rate)
    if message:
        warnings.warn(message, stacklevel=2)


if __name__ == "__main__":
    cli(main)
