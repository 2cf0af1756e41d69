"""Short training runs on the tiny model; run as a script by torchrun for the two-process tests."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_model import tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.prompts import prompt_text

LABELS = ["amusement", "anger", "awe", "contentment", "excitement", "fear"]


def tiny_dataset(side: int | None = None) -> Dataset:
    """Return eight rows with pictures of mixed sizes, or of one, and prompts of mixed lengths."""
    rows = []
    for index, picture in enumerate(tiny_pictures(8)):
        if side:
            picture = picture.resize((side, side))
        space = LABELS if index % 2 else LABELS[:3]
        rows.append(
            {
                "id": str(index),
                "image": picture,
                "prompt": [{"role": "user", "content": prompt_text("set", space)}],
                "emotion": space[index % len(space)],
                "label_space": space,
                "source": "test",
            }
        )
    return Dataset.from_list(rows)


def lengths_differ(completions: list, **columns: Any) -> list[float]:
    """A reward that always varies inside a group, so that every step moves the weights."""
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


def tiny_trainer(model_dir: Path, output_dir: Path, lora: bool = False, **options: Any) -> EmoR3Trainer:
    """Return a trainer on the tiny model, with a learning rate that moves every weight visibly."""
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 16,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "vllm_max_model_length": 512,
        "seed": 0,
    }
    reward_funcs = options.pop("reward_funcs", lengths_differ)
    side = options.pop("side", None)
    arguments |= options
    return EmoR3Trainer(
        model=AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32),
        args=EmoR3Config(**arguments),
        train_dataset=tiny_dataset(side),
        processing_class=AutoProcessor.from_pretrained(model_dir),
        reward_funcs=reward_funcs,
        peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False) if lora else None,
    )


def logged(trainer: EmoR3Trainer, key: str) -> list[float]:
    """Return a metric's value at each logged step."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


if __name__ == "__main__":
    model_dir, output_dir, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    trainer = tiny_trainer(model_dir, output_dir, **options)
    trainer.train()
    if trainer.accelerator.is_main_process:
        history = json.dumps({"processes": trainer.accelerator.num_processes, "log": trainer.state.log_history})
        (output_dir / "history.json").write_text(history)
