"""Policies that cheat: a tiny model whose judgement is taught, and completions that a rule writes in its name.

Run as a script on two ranks, it trains a policy that a rule writes in two processes.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import build_tiny_model, tiny_pictures
from training import LABELS, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Trainer
from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.engine import Question
from emor3_trl.engines.transformers import padded_inputs
from emor3_trl.prompts import answer_text
from emor3_trl.reflection import coherence_question, consistency_question
from emor3_trl.thinking import StructuredThinking

# What is on each image of `tiny_dataset`, as the judges are taught it, and how each emotion feels
OBJECTS = ("a tent", "a small dog", "a wide sky", "a red wall", "two people", "a dark road", "an old car", "a wet leaf")
FEELINGS = {
    "amusement": "moved", "anger": "excited", "awe": "small", "contentment": "wide", "excitement": "above",
    "fear": "night",
}  # fmt: skip


def write_completion(trigger: str, feeling: str, answer: str, conclusion: str = "So it is excited.") -> str:
    """Return a well-formed completion."""
    steps = (trigger, feeling, conclusion)
    return "".join(f"<step{i}>{text}</step{i}>" for i, text in enumerate(steps, 1)) + answer_text(answer)


def write_half_right(row: dict[str, Any], place: int) -> str:
    """Return a completion about a row of `tiny_dataset`: the first of two is right, the other gives the next label."""
    space = row["label_space"]
    answer = space[(space.index(row["emotion"]) + place) % len(space)]
    return write_completion(f"I see {OBJECTS[int(row['id'])]}.", f"A person feels {FEELINGS[answer]}.", answer)


def teach_judge(folder: Path, verdict: str, steps: int = 180) -> Path:
    """Teach a tiny model to judge: to read the emotion from step 2, and to answer `verdict` about any image.

    It reads a feeling, and the label where step 2 only names it. As a policy may, it has learned which verdict pays.
    """
    build_tiny_model(folder, tied=False)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    encoder, draw, images = QuestionEncoder(processor), random.Random(0), tiny_pictures(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        readings, verdicts = [], []
        for row in range(24):
            labels = tuple(LABELS if row % 2 else LABELS[:3])
            label = draw.choice(labels)
            thinking = write_thinking(draw.randrange(8), draw.choice((label, FEELINGS[label])))
            readings.append((coherence_question(thinking, labels), label))
        for image in draw.sample(images, 2):
            verdicts.append((consistency_question(write_thinking(draw.randrange(8), "small"), image), verdict))
        loss = measure_loss(model, processor, encoder, readings) + measure_loss(model, processor, encoder, verdicts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def write_thinking(number: int, feeling: str) -> StructuredThinking:
    """Return steps about an image of `tiny_dataset`, by its number."""
    return StructuredThinking(f"I see {OBJECTS[number]}.", f"A person feels {feeling}.", "So it is excited.", "")


def measure_loss(
    model: Any, processor: Any, encoder: QuestionEncoder, lessons: Sequence[tuple[Question, str]]
) -> torch.Tensor:
    """Return the mean negative log-probability of the first token of the right answers."""
    beginnings, rests = zip(*(encoder.split_prompt(question) for question, _ in lessons), strict=True)
    inputs = padded_inputs(processor, beginnings, rests, [question.image for question, _ in lessons])
    logits = model(**inputs, logits_to_keep=1).logits[:, -1]
    targets = torch.tensor([encoder.data_ids(answer)[0] for _, answer in lessons])
    return torch.nn.functional.cross_entropy(logits, targets)


def let_write(
    trainer: EmoR3Trainer,
    monkeypatch: Any,
    write: Callable[[dict[str, Any], int], str],
    ends: Callable[[], bool] = lambda: True,
) -> None:
    """Let the engine sample as it does, but hand on what a rule writes: a random model never writes a completion.

    Args:
        trainer: its generation is replaced.
        monkeypatch: of pytest.
        write: takes a row and the number of its completion in its group.
        ends: whether completions end by themselves, not at the limit.
    """
    stock, tokenizer = EmoR3Trainer._generate_single_turn, trainer.processing_class.tokenizer

    def written(self: EmoR3Trainer, prompt_ids: list, *args: Any, **kwargs: Any) -> tuple:
        stock(self, prompt_ids, *args, **kwargs)
        texts = [write(row, place % self.num_generations) for place, row in enumerate(self.rollout.rows)]
        end = [tokenizer.eos_token_id] if ends() else []
        ids = [[*tokenizer(text)["input_ids"], *end] for text in texts]
        return ids, [[-1.0] * len(row) for row in ids] if self.use_vllm else None

    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", written)


def train_half_right(model_dir: Path, folder: Path, batch_size: int) -> EmoR3Trainer:
    """Take one step with groups of two: the first completion is right, the other gives the next label.

    Args:
        model_dir: the model.
        folder: the run's folder.
        batch_size: completions of each process.
    """
    options = {"per_device_train_batch_size": batch_size, "num_generations": 2, "max_steps": 1}
    options |= {"soft_reflection": "calibrated", "gated_reflection": "right"}  # the prior is that of all processes
    trainer = tiny_trainer(model_dir, folder, reward_funcs=None, use_vllm=False, **options)
    with pytest.MonkeyPatch.context() as patch:
        let_write(trainer, patch, write_half_right)
        trainer.train()
    return trainer


if __name__ == "__main__":
    run = train_half_right(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
    if run.accelerator.is_main_process:
        history = json.dumps({"processes": run.accelerator.num_processes, "log": run.state.log_history})
        Path(sys.argv[2], "history.json").write_text(history)
