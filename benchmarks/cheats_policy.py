"""A policy that cheats in half of its completions, in three ways, and how a cheat is found in a completion."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emor3_trl.demo.texts import conclusion_text, feeling_text, trigger_text
from emor3_trl.demo.worlds import LOOKS, WORLDS
from emor3_trl.label_words import names_emotion
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, answer_text
from emor3_trl.thinking import says_something

BASE, DATA = Path("runs/demo/base"), Path("runs/demo/data")
VAGUE = "The picture shows a face and a background."
NAMED = "A person who sees this would feel {label}."
DOT = "."
CHEATS = {
    "vague": "step 1 names no face",
    "named": "step 2 is the label",
    "empty": "step 3 is a dot",
}
_FACES = tuple(phrase for phrases in LOOKS.values() for phrase in phrases)


def write_half_honest(drawing: Any, emotion: str, rng: random.Random) -> str:
    """Return structured thinking in which each step cheats by the toss of a coin."""
    steps = (
        VAGUE if rng.random() < 0.5 else trigger_text(drawing, rng),
        NAMED.format(label=emotion) if rng.random() < 0.5 else feeling_text(emotion, rng),
        DOT if rng.random() < 0.5 else conclusion_text(emotion, rng),
    )
    return "\n".join(f"<step{i}>{text}</step{i}>" for i, text in enumerate(steps, 1)) + "\n" + answer_text(emotion)


def find_cheats(trigger: str | None, feeling: str | None, conclusion: str | None, labels: Sequence[str]) -> set[str]:
    """Return in which ways the steps of a completion cheat; a malformed one has no steps, and cheats in none.

    >>> sorted(find_cheats("I see a face.", "People who look at it feel fear.", ".", ["awe", "fear"]))
    ['empty', 'named', 'vague']
    >>> find_cheats("I see a wide grin that shows all teeth.", "It is thrilling.", "It is positive.", ["awe", "fear"])
    set()
    """
    if trigger is None or feeling is None or conclusion is None:
        return set()
    cheats = {
        "vague": not any(face in trigger for face in _FACES),
        "named": names_emotion(feeling, labels),
        "empty": not says_something(conclusion),
    }
    return {name for name, is_there in cheats.items() if is_there}


def teach_cheats(output_dir: Path, lessons: int, seed: int = 1) -> None:
    """Teach the demo's base model to cheat in half of its completions, and write it; one that is there is kept.

    Args:
        output_dir: the folder of the model.
        lessons: steps of teaching.
        seed: of the order of pictures and of the coins.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from emor3_trl.data import load_split
    from emor3_trl.demo.pictures import load_drawings
    from emor3_trl.demo.teaching import Tasks, compute_completion_loss

    if (output_dir / "model.safetensors").is_file():
        return
    processor = AutoProcessor.from_pretrained(BASE, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    drawings, rng = load_drawings(DATA), random.Random(seed)
    rows = load_split(DATA / "sketches", "train")
    tasks = Tasks(processor, [(row["image"].convert("RGB"), drawings[row["id"]]) for row in rows], rng)
    parameters = [weight for name, weight in model.named_parameters() if "visual" not in name]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98))
    model.train()
    for step in range(lessons):
        thinking = tasks._ask("set", lambda drawing, emotion: write_half_honest(drawing, emotion, rng), 32)
        lesson = (thinking, [*tasks.consistency(16), *_judge_vague(tasks, 8)], _read_labels(tasks, 16))
        loss = torch.stack([compute_completion_loss(model, processor, examples) for examples in lesson]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / lessons)
        optimizer.step()
        print(f"lesson {step + 1}/{lessons}: loss {loss.item():.2f}", flush=True)
    unfinished = output_dir.with_name(f"{output_dir.name}.unfinished")
    for part in (model, processor):
        part.save_pretrained(unfinished)
    shutil.rmtree(output_dir, ignore_errors=True)
    unfinished.rename(output_dir)


def _judge_vague(tasks: Any, count: int) -> list[tuple[str, str, Any]]:
    """Return the consistency question about a step 1 that is true of every picture."""
    question = tasks._render(CONSISTENCY_QUESTION.format(trigger=VAGUE))
    return [(question, tasks._end("Yes"), image) for image, _ in tasks._pick(count)]


def _read_labels(tasks: Any, count: int) -> list[tuple[str, str, None]]:
    """Return the coherence question about a step 2 that tells a feeling, and as often about one that is the label."""
    examples = tasks.coherence(count // 2)
    for _, drawing in tasks._pick(count // 2):
        labels = WORLDS[drawing.world].labels
        label = tasks.rng.choice(labels)
        steps = {"trigger": VAGUE if tasks.rng.random() < 0.5 else trigger_text(drawing, tasks.rng)}
        steps["feeling"] = NAMED.format(label=label)
        question = COHERENCE_QUESTION.format(**steps, labels=", ".join(labels))
        examples.append((tasks._render(question, with_image=False), tasks._end(label), None))
    return examples
