"""The demo: its images, texts and base model, and what a recipe runs when it is told nothing.

A client of everything; recipes, tests and benchmarks alone import it.
"""

import os
import sys
from pathlib import Path

from emor3_trl.launch import count_devices

COLD_START_DONE = Path("runs/demo/cold_start/metrics.json")
# With one of these a call says itself what to run, or runs nothing
_TOLD = {"--config", "--help", "-h", "--help_all"}
_TOLD_MODEL = {"--model", "--models", "--data"}


def default_config(recipe: str | Path) -> Path | None:
    """Return the configuration of a recipe's bare call, and print which and why.

    Args:
        recipe: the recipe's file, beside `configs/`.

    Returns:
        The demo's, or EmoSet's where the machine has a GPU to train on; None for a call that says what to run.
    """
    recipe = Path(recipe)
    flags = {argument.split("=")[0] for argument in sys.argv[1:]}
    if flags & (_TOLD | _TOLD_MODEL if recipe.stem in ("evaluate", "app") else _TOLD):
        return None
    name, reason = _choose_config(recipe.stem)
    config = recipe.parent / "configs" / name
    print(f"No --config given: using {os.path.relpath(config)} ({reason})", flush=True)
    return config


def _choose_config(recipe: str) -> tuple[str, str]:
    """Return the file of a bare call, and the reason: what the machine has, and what ran before."""
    if recipe == "evaluate":
        return "demo/evaluate.yaml", "no --model and no --data given"
    if recipe == "app":
        return "demo/app.yaml", "no --model given"
    gpus = count_devices()
    if gpus:
        reason = f"this machine has {'several GPUs' if gpus > 1 else 'one GPU'}"
        if recipe == "cold_start":
            return "qwen2_5_vl_3b/emoset_cold_start.yaml", reason
        return f"qwen2_5_vl_3b/emoset_emo_r3{'' if gpus > 1 else '_lora_24gb'}.yaml", reason
    if recipe == "cold_start":
        return "demo/cold_start.yaml", "no GPU here"
    if COLD_START_DONE.is_file():
        return "demo/emo_r3_cold_start.yaml", f"no GPU here, and {COLD_START_DONE.parent} is finished"
    return "demo/emo_r3.yaml", "no GPU here"
