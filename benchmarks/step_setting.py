"""What the arms of `step_cost.py` share: a random Qwen2.5-VL, pictures, the prompt, and completions of one length."""

import statistics
from pathlib import Path
from typing import Any

TEXT, COMPLETION, GROUP, IMAGE = 120, 160, 8, 676
SIDES = {64: (8, 8), 256: (16, 16), 676: (26, 26), 1300: (26, 50)}  # image tokens, of 28 x 28 pixels each
LABELS = ["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"]


def build_model(folder: Path, hidden: int = 512, layers: int = 9, vision_hidden: int = 320) -> None:
    """Save a random Qwen2.5-VL and its processor; of 37 M parameters, unless it is told otherwise."""
    import torch

    from emor3_trl.demo.processor import train_demo_tokenizer
    from emor3_trl.demo.untrained import build_processor, build_untrained_model

    torch.manual_seed(0)
    text = {
        "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64, "num_key_value_heads": max(hidden // 256, 1),
        "max_position_embeddings": 4096,
    }  # fmt: skip
    vision = {
        "depth": 6, "hidden_size": vision_hidden, "intermediate_size": 768, "num_heads": 8,
        "fullatt_block_indexes": [2, 5],
    }  # fmt: skip
    processor = build_processor(train_demo_tokenizer(), min_pixels=28 * 28, max_pixels=28 * 28 * 1400)
    build_untrained_model(processor, text, vision).save_pretrained(folder)
    processor.save_pretrained(folder)


def prompt(processor: Any) -> str:
    """Return the structured prompt, brought to `TEXT` tokens with its chat template and without the picture's own."""
    from emor3_trl.prompts import messages, prompt_text

    words = prompt_text("set", LABELS).split(" ")

    def tokens(text: str) -> int:
        conversation = messages(text, image=True)
        conversation[0]["content"][0] = {"type": "image"}
        rendered = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        return len(processor.tokenizer(rendered)["input_ids"]) - 1

    while tokens(" ".join(words)) > TEXT:
        words.pop(-2)
    while tokens(" ".join(words)) < TEXT:
        words.insert(-1, "a")
    return " ".join(words)


def completion_ids(processor: Any, number: int) -> list[int]:
    """Return a well-formed completion of `COMPLETION` tokens, distinct for each number; a third of it in each step."""
    import random

    from emor3_trl.demo.texts import list_phrases

    rng = random.Random(number)
    words = " ".join(list_phrases()).split()
    steps: list[list[str]] = [[], [], []]
    ids: list[int] = []
    for turn in range(10 * COMPLETION):
        added = [*steps]
        added[turn % 3] = [*steps[turn % 3], rng.choice(words) if len(ids) < COMPLETION - 8 else "a"]
        parts = [f"<step{i}>{' '.join(text) or 'so'}</step{i}>" for i, text in enumerate(added, start=1)]
        text = "\n".join(parts) + f"\n\\boxed{{{LABELS[number % len(LABELS)]}}}"
        longer = [*processor.tokenizer(text)["input_ids"], processor.tokenizer.eos_token_id]
        if len(longer) > COMPLETION:
            break
        steps, ids = added, longer
    return ids + ids[-1:] * (COMPLETION - len(ids))


def rows(text: str, count: int) -> Any:
    """Return rows with noisy pictures of `IMAGE` tokens, stored as PNG."""
    import numpy as np
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    height, width = (28 * side for side in SIDES[IMAGE])
    generator = np.random.default_rng(0)
    small = [generator.integers(0, 255, (height // 14, width // 14, 3), dtype=np.uint8) for _ in range(count)]
    features = Features(
        {
            "image": ImageFeature(),
            "prompt": List({"role": Value("string"), "content": Value("string")}),
            "emotion": Value("string"),
            "label_space": List(Value("string")),
        }
    )
    data = [
        {
            "image": Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC),
            "prompt": [{"role": "user", "content": text}],
            "emotion": LABELS[number % len(LABELS)],
            "label_space": LABELS,
        }
        for number, pixels in enumerate(small)
    ]
    return Dataset.from_list(data, features=features)


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }
