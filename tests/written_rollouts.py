"""The files of a run that trained with rewards, as TRL's `log_completions` writes them, made up in a moment."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tiny_model import gold_completion, tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.thinking import parse

LABELS = ["awe", "fear", "joy"]
PAPER = {"reward_variant": "paper", "lambda1": 0.1, "lambda2": 0.1}
REWARDS = ("accuracy_reward", "consistency_reward", "coherence_reward", "format_reward")
SIZE = 4  # completions of a group


def make_rows(step: int, images: Sequence[str], texts: Sequence[str] = (), seed: int = 0) -> list[dict[str, Any]]:
    """Return the rows of a step's file: one group for each image; `texts` take the place of the first completions."""
    rng = random.Random(f"{step} {seed}")
    given, rows = list(texts), []
    for image in images:
        emotion = LABELS[int(image[-1]) % 3]
        for _ in range(SIZE):
            answer = rng.choice(LABELS)
            text = given.pop(0) if given else rng.choice([gold_completion(answer), f"no steps, \\boxed{{{answer}}}"])
            thought = parse(text)
            coherence = rng.choice(LABELS) if thought else None
            values = (answer == emotion, bool(thought) and rng.random() < 0.5, coherence == emotion, bool(thought))
            said = "Yes" if values[1] else "No" if thought else None
            rows.append(
                {
                    "step": step,
                    "prompt": [{"role": "user", "content": "Which emotion?"}],
                    "completion": [{"role": "assistant", "content": text}],
                    **dict(zip(REWARDS, map(float, values), strict=True)),
                    **{name: getattr(thought, name, None) for name in ("answer", "trigger", "feeling", "conclusion")},
                    "coherence_answer": coherence,
                    "consistency_answer": said,
                    "emotion": emotion,
                    "id": image,
                    "advantage": round(rng.gauss(0, 1), 6),
                }
            )
    return rows


def write_step(folder: Path, step: int, rows: list[dict[str, Any]]) -> Path:
    """Write the completions of a step."""
    (folder / "completions").mkdir(parents=True, exist_ok=True)
    path = folder / "completions" / f"completions_{step:05d}.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def write_rollouts(folder: Path, steps: int = 3, seed: int = 0, texts: Sequence[str] = (), **config: Any) -> Path:
    """Write a run of two groups per step, of six images in turn, with its configuration and the images' data.

    Args:
        folder: the run's; its data stand beside it.
        steps: how many.
        seed: decides what is written.
        texts: the first completions of the first step.
        config: in place of the paper's rewards.
    """
    data = folder.parent / "data"
    if not (data / "train.parquet").is_file():
        images = [{"id": f"train-{index}", "image": image, "emotion": LABELS[index % 3], "label_space": LABELS,
                   "source": "made"} for index, image in enumerate(tiny_pictures(6))]  # fmt: skip
        write_split(data, "train", images)
    for step in range(1, steps + 1):
        shown = [f"train-{(2 * step + offset) % 6}" for offset in (0, 1)]
        write_step(folder, step, make_rows(step, shown, texts if step == 1 else (), seed))
    settings = {"data": str(data), "train_split": "train", "num_generations": SIZE, **(config or PAPER)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder
