"""A tiny model that has learnt by heart to write one completion about any of the tiny pictures."""

from pathlib import Path

import torch
from tiny_model import build_tiny_model, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.transformers import padded_inputs
from emor3_trl.prompts import prompt_text, render


def teach_tiny_model(folder: Path, completion: str, labels: list[str], steps: int = 120) -> Path:
    """Build a tiny model, and teach it to write a completion and end there, under the structured prompt."""
    build_tiny_model(folder)
    processor = AutoProcessor.from_pretrained(folder, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    images = tiny_pictures(3)
    completion_ids = [*QuestionEncoder(processor).data_ids(completion), processor.tokenizer.eos_token_id]
    prompts = [render(processor, prompt_text("set", labels))] * len(images)
    inputs = padded_inputs(processor, prompts, [completion_ids] * len(images), images)
    targets = inputs["input_ids"].clone()
    targets[:, : -len(completion_ids)] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        loss = model(**inputs, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            break
    model.save_pretrained(folder)
    return folder
