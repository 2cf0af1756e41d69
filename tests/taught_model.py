"""A tiny model that has learnt by heart to write one completion about a tiny picture."""

from pathlib import Path

import torch
from tiny_model import build_tiny_model, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.transformers import padded_inputs
from emor3_trl.prompts import prompt_text, render


def teach_tiny_model(folder: Path, completion: str, labels: list[str]) -> Path:
    """Build a tiny model, and teach its language model to write a completion about a picture, and to end there."""
    build_tiny_model(folder)
    processor = AutoProcessor.from_pretrained(folder, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    completion_ids = [*QuestionEncoder(processor).data_ids(completion), processor.tokenizer.eos_token_id]
    prompt = render(processor, prompt_text("set", labels))
    inputs = padded_inputs(processor, [prompt], [completion_ids], tiny_pictures(1))
    targets = inputs["input_ids"].clone()
    targets[:, : -len(completion_ids)] = -100
    weights = list(model.model.language_model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=(0.9, 0.95))
    for _ in range(150):
        loss = model(**inputs, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if loss.item() < 0.02:
            break
    model.save_pretrained(folder)
    return folder
