"""EMO-R3: GRPO with structured emotional thinking and the reflective reward (paper, Sec. 3.2 to 3.4).

    python recipes/grpo.py --config recipes/configs/demo/emo_r3.yaml
    accelerate launch --config_file recipes/accelerate/zero2.yaml recipes/grpo.py \
        --config recipes/configs/qwen2_5_vl_3b/emoset_emo_r3.yaml

A YAML is one complete run; flags override it (`--learning_rate 1e-6`). `--plan` prints what would run and stops. The
same command again resumes a stopped run from its last checkpoint. Without --config: the demo on a machine without a
GPU, EmoSet on a machine with one.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoProcessor
from trl import ModelConfig, get_peft_config

from emor3_trl.checkpoints import check_model_path
from emor3_trl.config import EmoR3Config
from emor3_trl.context_length import check_context
from emor3_trl.data import load_split
from emor3_trl.demo.model import ensure_demo
from emor3_trl.groups.batching import count_batches
from emor3_trl.launch import check_reference, gpu_available, weights_sharded, world_size
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import cli, model_options, parse, user_errors
from emor3_trl.run.folder import RunFolder, sources
from emor3_trl.run.plan import plan
from emor3_trl.run.progress import show_compactly

if TYPE_CHECKING:
    from emor3_trl import EmoR3Trainer

CONFIGS = Path(__file__).parent / "configs"
DEMO_COLD_START = Path("runs/demo/cold_start")


def main() -> None:
    parsed = parse((RunArguments, ModelConfig, EmoR3Config), default_config())
    run, model, args = parsed.arguments
    with user_errors():
        if run.plan:
            print(plan(parsed.values, count_samples(run), run.processes or world_size()))
            return
        check_reference(args.beta, model.use_peft)
        ensure_demo(run.data, model.model_name_or_path)
        check_model_path(model.model_name_or_path)
        folder = RunFolder(
            args.output_dir, parsed.values, run.overwrite, sources(model.model_name_or_path, run.data, run.train_split)
        )
        if folder.finished:
            folder.say_finished()
            return
        train = load_split(run.data, run.train_split, run.prompt_style, max_samples=run.max_samples, seed=args.seed)
        count_batches(parsed.values, len(train), world_size())  # refuses fewer rows than one rollout takes
        evaluation = load_split(run.data, run.eval_split, run.prompt_style) if run.eval_split else None
        # TRL's multimodal token types need padding on the left. Pictures come in their final size from the data
        # preparation, so that this processor and vLLM's have nothing left to resize.
        processor = AutoProcessor.from_pretrained(
            model.model_name_or_path, revision=model.model_revision, padding_side="left"
        )
        check_context(train, processor, args, model.model_name_or_path)

    from emor3_trl import EmoR3Trainer

    folder.begin()
    args.model_init_kwargs = model_options(model, args.model_init_kwargs)
    trainer = EmoR3Trainer(
        model=model.model_name_or_path,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=processor,
        peft_config=get_peft_config(model),
    )
    show_compactly(trainer)
    result = trainer.train(resume_from_checkpoint=folder.checkpoint)
    save(trainer, processor, model.use_peft)
    rewards = reward_quarters(trainer.state.log_history)
    folder.finish({**result.metrics, **rewards})
    if rewards and trainer.accelerator.is_main_process:
        first, last = rewards.values()
        print(
            f"Saved in {args.output_dir}. Mean reward: {first:.2f} in the first quarter of the steps, "
            f"{last:.2f} in the last"
        )


def default_config() -> Path | None:
    """Return the configuration of a bare call, and say which: by what the machine has and what was run before."""
    if any(item == "--config" or item.startswith("--config=") for item in sys.argv) or "--help" in sys.argv:
        return None
    if gpu_available():
        several = torch.cuda.device_count() > 1
        name = "emoset_emo_r3.yaml" if several else "emoset_emo_r3_lora_24gb.yaml"
        config, why = CONFIGS / "qwen2_5_vl_3b" / name, f"this machine has {'several GPUs' if several else 'one GPU'}"
    elif (DEMO_COLD_START / "metrics.json").is_file():
        config, why = CONFIGS / "demo" / "emo_r3_cold_start.yaml", f"no GPU here, and {DEMO_COLD_START} is finished"
    else:
        config, why = CONFIGS / "demo" / "emo_r3.yaml", "no GPU here"
    print(f"No --config given: using {os.path.relpath(config)} ({why})", flush=True)
    return config


def count_samples(run: RunArguments) -> int:
    """Return the number of training samples; where the data is not prepared yet, as many as max_samples says."""
    if run.max_samples and not Path(run.data).exists():
        return run.max_samples
    return len(load_split(run.data, run.train_split, run.prompt_style, max_samples=run.max_samples))


def save(trainer: "EmoR3Trainer", processor: Any, lora: bool) -> None:
    """Save the model (of LoRA also merged, ready for vLLM, where one process has it whole), processor and log."""
    folder = Path(trainer.args.output_dir)
    trainer.save_model()
    trainer.save_state()
    if trainer.accelerator.is_main_process:
        processor.save_pretrained(folder)
        if lora and weights_sharded():
            print(f"{folder} holds the adapter alone: recipes/evaluate.py merges it")
        elif lora:
            merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
            merged.save_pretrained(folder / "merged")
            processor.save_pretrained(folder / "merged")


def reward_quarters(log_history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean overall reward of the first and of the last quarter of the logged steps."""
    rewards = [entry["reward"] for entry in log_history if "reward" in entry]
    if not rewards:
        return {}
    quarter = max(1, len(rewards) // 4)
    first, last = rewards[:quarter], rewards[-quarter:]
    return {"reward/first_quarter": sum(first) / len(first), "reward/last_quarter": sum(last) / len(last)}


if __name__ == "__main__":
    cli(main)
