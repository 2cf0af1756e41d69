"""Cold-Start-Emo (paper, Sec. 3.4): a short SFT on answers alone, before EMO-R3.

    python recipes/cold_start.py                                                  # the demo, on a CPU
    accelerate launch --config_file recipes/accelerate/zero2.yaml recipes/cold_start.py \
        --config recipes/configs/qwen2_5_vl_3b/emoset_cold_start.yaml

Saves a whole checkpoint (LoRA is merged), which recipes/grpo.py takes as --model_name_or_path. Format under the
structured prompt, and accuracy with and without steps, are measured before and after, on training pictures that the
cold start does not use or on another split (--eval_split); a cold start that unteaches the steps is reported. A YAML is
one complete run; flags override it.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import Dataset
from trl import ModelConfig, SFTTrainer, get_peft_config

from emor3_trl.cold_start import (
    ColdStartConfig,
    build_cold_start_trainer,
    describe_cold_start,
    describe_format_loss,
    draw_balanced_sample,
    probe_checkpoint,
    select_unused_rows,
)  # fmt: skip
from emor3_trl.config_checks import check_adapter
from emor3_trl.data import load_split
from emor3_trl.demo import default_config
from emor3_trl.demo.model import ensure_demo
from emor3_trl.engines.adapters import save_merged
from emor3_trl.launch import weights_sharded, world_size
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.help import COLD_START_OPTIONS
from emor3_trl.run.progress import show_compactly
from emor3_trl.run.recipe import run_recipe, user_errors
from emor3_trl.run.start import count_samples, open_run
from emor3_trl.run.stopping import train_until_stopped
from emor3_trl.run.tracking import finish_tracking, start_tracking


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
    classes = (ColdStartArguments, ModelConfig, ColdStartConfig)
    parsed = parse_arguments(classes, default_config(__file__), about=__doc__, groups=COLD_START_OPTIONS)
    run, model, args = parsed.arguments
    with user_errors():
        if run.plan:
            name = f"{model.model_name_or_path}, {f'LoRA r={model.lora_r}' if model.use_peft else 'all weights'}"
            train = f"{run.data}/{run.train_split}"
            rest = f"{train} that are not drawn" if args.num_samples else None
            measured = f"{run.data}/{run.eval_split}" if run.eval_split else rest
            samples = count_samples(run) if args.num_samples is None else args.num_samples
            print(describe_cold_start(args, name, train, measured, samples, run.processes or world_size()))
            return
        if model.use_peft and weights_sharded():
            raise ValueError(
                "use_peft is true, but this launch shards the weights (ZeRO-3, FSDP) into which the cold start merges "
                "its adapter. Launch with recipes/accelerate/ddp.yaml or zero2.yaml, or train all weights."
            )
        ensure_demo(run.data, model.model_name_or_path)
        opened = open_run(parsed)
        if opened is None:
            return
        draw_balanced_sample(opened.train, args.num_samples, args.seed)  # refuses more rows than there are
        held_out = load_held_out(run, args, opened.train)
        adapter = get_peft_config(model)
        check_adapter(adapter, args, model.model_name_or_path)

    with user_errors():
        opened.folder.begin()
        start_tracking(opened.folder, args)
    path, processor = model.model_name_or_path, opened.processor
    before = probe_checkpoint(path, args.model_init_kwargs, processor, held_out, args)
    trainer = build_cold_start_trainer(path, args, opened.train, processor, peft_config=adapter)
    show_compactly(trainer)
    result = train_until_stopped(trainer, opened.folder.checkpoint)
    save_model(trainer, processor, model.use_peft)
    after = probe_checkpoint(args.output_dir, {"dtype": model.dtype}, processor, held_out, args)
    samples = len(trainer.train_dataset)
    metrics = {**result.metrics, "num_samples": samples, "probe_samples": len(held_out or ())}
    metrics |= {f"{name}_before": value for name, value in before.items()}
    metrics |= {f"{name}_after": value for name, value in after.items()}
    trainer.create_model_card(opened.folder.path.name, metrics=metrics)
    opened.folder.write_metrics(metrics)  # the run is finished
    finish_tracking()
    if trainer.accelerator.is_main_process:
        print_change(before, after, args)


def load_held_out(run: ColdStartArguments, args: ColdStartConfig, train: Dataset) -> Dataset | None:
    """Return the rows that format is measured on; None where all are trained on and no other split is named."""
    if run.eval_split:
        return load_split(run.data, run.eval_split, "set", args.probe_samples, args.seed)
    if args.num_samples is None:
        return None
    return select_unused_rows(train, args.num_samples, args.probe_samples, args.seed)


def save_model(trainer: SFTTrainer, processor: Any, lora: bool) -> None:
    """Save a whole checkpoint, the processor and the trainer's log."""
    folder = trainer.args.output_dir
    if not lora:
        trainer.save_model()
    elif trainer.accelerator.is_main_process:
        save_merged(trainer.accelerator.unwrap_model(trainer.model), folder)
    trainer.save_state()
    if trainer.accelerator.is_main_process:
        processor.save_pretrained(folder)


def print_change(before: dict[str, float], after: dict[str, float], args: ColdStartConfig) -> None:
    """Print what changed, and warn when the steps were untaught."""
    if not after:
        print(f"Format was not measured (no rows, or ZeRO-3): python recipes/evaluate.py --model {args.output_dir} …")
    for name, value in after.items():
        print(f"{name}: {before[name]:.3f} -> {value:.3f}")
    message = describe_format_loss(before, after, args.min_format_rate)
    if message:
        warnings.warn(message, stacklevel=2)


if __name__ == "__main__":
    run_recipe(main)
