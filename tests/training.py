"""Short training runs on the tiny model; run as a script by each rank of the two-process tests."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from forking import start_forked, wait_for
from peft import LoraConfig
from ports import find_free_port
from tiny_model import tiny_pictures
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.cold_start import ColdStartConfig, build_cold_start_trainer
from emor3_trl.evaluation import validation
from emor3_trl.prompts import prompt_text

SAVING = {"save_strategy": "steps", "save_steps": 1}
LABELS = ["amusement", "anger", "awe", "contentment", "excitement", "fear"]


def tiny_dataset(side: int | None = None, pictures: str = "all") -> Dataset:
    """Return eight rows with pictures of mixed sizes, or of one, and prompts of mixed lengths.

    Args:
        side: of all pictures, in pixels.
        pictures: which rows have one: "all", "most" (six), "half" or "none".
    """
    rows, absent = [], {"all": (), "most": (3,), "half": (2, 3), "none": range(4)}[pictures]
    for index, picture in enumerate(tiny_pictures(8)):
        if side:
            picture = picture.resize((side, side))
        space = LABELS if index % 2 else LABELS[:3]
        rows.append(
            {
                "id": str(index),
                "image": None if index % 4 in absent else picture,
                "prompt": [{"role": "user", "content": prompt_text("set", space)}],
                "emotion": space[index % len(space)],
                "label_space": space,
                "source": "test",
            }
        )
    dataset = Dataset.from_list(rows)
    return dataset.remove_columns("image") if pictures == "none" else dataset


def lengths_differ(completions: list, **columns: Any) -> list[float]:
    """A reward that always varies inside a group, so that every step moves the weights."""
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


def spread_only_on(*ids: str) -> Callable:
    """Return a reward that differs inside the groups of these rows alone."""

    def reward(completions: list, **columns: Any) -> list[float]:
        lengths = lengths_differ(completions)
        return [length if row in ids else 1.0 for length, row in zip(lengths, columns["id"], strict=True)]

    return reward


def watch_batches(trainer: EmoR3Trainer) -> list[tuple[list[str], list[float]]]:
    """Return a list that gets, of each batch, the rows' ids of this process and their advantages."""
    batches, fill = [], trainer._fill_batch

    def filled(rows: list) -> Any:
        batch = fill(rows)
        batches.append(([row["id"] for row in trainer.rollout.rows], batch["advantages"].tolist()))
        return batch

    trainer._fill_batch = filled
    return batches


def fixed_completions(trainer: EmoR3Trainer, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple:
    """Stand in for generation: ragged completions that depend on prompt, row and step, every third one cut off."""
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    completions = []
    for row, ids in enumerate(prompt_ids):
        draw = torch.Generator().manual_seed(sum(ids) + 1000 * row + trainer.state.global_step)
        length = int(torch.randint(1, trainer.max_completion_length, (), generator=draw))
        written = torch.randint(10, 500, (length,), generator=draw).tolist()
        completions.append(written if row % 3 == 2 else [*written, tokenizer.eos_token_id])
    return completions, None


def tiny_trainer(
    model_dir: Path, output_dir: Path, lora: bool | dict[str, Any] = False, dtype: str = "float32", **options: Any
) -> EmoR3Trainer:
    """Return a trainer on the tiny model, with a learning rate that moves every weight visibly.

    Args:
        model_dir: the model.
        output_dir: the run's folder.
        lora: whether to train an adapter, or the options of its `LoraConfig`.
        dtype: of the model's weights.
        options: fields of `EmoR3Config`, `model`, `reward_funcs`, `rows` or what `tiny_dataset` takes, `eval_rows`.
    """
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
    rows = options.pop("rows", None) or tiny_dataset(options.pop("side", None), options.pop("pictures", "all"))
    eval_rows = options.pop("eval_rows", rows)
    arguments |= options
    vision = hasattr(AutoConfig.from_pretrained(model_dir), "vision_config")
    model = arguments.pop("model", None) or (
        AutoModelForImageTextToText if vision else AutoModelForCausalLM
    ).from_pretrained(model_dir, dtype=dtype)
    adapter = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    return EmoR3Trainer(
        model=model,
        args=EmoR3Config(**arguments),
        train_dataset=rows,
        eval_dataset=eval_rows if arguments.get("eval_strategy") else None,
        processing_class=(AutoProcessor if vision else AutoTokenizer).from_pretrained(model_dir),
        reward_funcs=reward_funcs,
        peft_config=LoraConfig(**adapter | (lora if isinstance(lora, dict) else {})) if lora else None,
    )


def cold_start_trainer(model_dir: Path, output_dir: Path, lora: bool = False, **options):
    """Return a cold start on the tiny model, of three steps an epoch."""
    model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
    arguments = {
        "output_dir": str(output_dir),
        "num_samples": 6,
        "per_device_train_batch_size": 2,
        "max_steps": 5,
        "learning_rate": 1e-3,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return build_cold_start_trainer(
        model,
        ColdStartConfig(**arguments | options),
        tiny_dataset(),
        AutoProcessor.from_pretrained(model_dir),
        peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False) if lora else None,
    )


def even_rows_are_right(engine: Any, rows: Dataset, name: str, *_: Any, **__: Any) -> list[SimpleNamespace]:
    """Stand in for `predict_emotions`."""
    return [SimpleNamespace(correct=int(row) % 2 == 0, well_formed=True) for row in rows["id"]]


def logged(trainer: EmoR3Trainer, key: str) -> list[float]:
    """Return a metric's value at each logged step."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def launch_two(model_dir: Path, folder: Path, options: dict[str, Any], script: str | None = None) -> dict[str, Any]:
    """Train in two processes, with this script or another; return the number of processes and the log."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [str(model_dir), str(folder), json.dumps(options)]
    port = str(find_free_port())
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    outputs = [folder / f"rank{rank}.txt" for rank in range(2)]
    ranks = [
        start_forked(
            script or __file__, arguments, Path.cwd(), {**shared, "RANK": rank, "LOCAL_RANK": rank}, [output] * 2
        )
        for rank, output in zip("01", outputs, strict=True)
    ]
    wait_for(ranks, timeout=600)
    assert [rank.exitcode for rank in ranks] == [0, 0], [output.read_text()[-3000:] for output in outputs]
    return json.loads((folder / "history.json").read_text())


if __name__ == "__main__":
    model_dir, output_dir, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    if options.pop("fixed", False):
        EmoR3Trainer._generate_single_turn = fixed_completions
    checkpoint = options.pop("checkpoint", None)
    validated = options.pop("validated", False)
    spreading = options.pop("spread_only_on", None)
    if spreading:
        options["reward_funcs"] = spread_only_on(*spreading)
    trainer = tiny_trainer(model_dir, output_dir, **options)
    batches = watch_batches(trainer)
    if validated:
        validation.predict_emotions = even_rows_are_right
        trainer.add_callback(validation.Validation(trainer, {"held_out": tiny_dataset()}, steps=2))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(output_dir))
    (output_dir / f"batches_{trainer.accelerator.process_index}.json").write_text(json.dumps(batches))
    if trainer.accelerator.is_main_process:
        history = json.dumps({"processes": trainer.accelerator.num_processes, "log": trainer.state.log_history})
        (output_dir / "history.json").write_text(history)
