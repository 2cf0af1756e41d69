"""The builder of an untrained model, at the demo's size."""

import torch

from emor3_trl.demo.model import TEXT_SIZES, VISION_SIZES
from emor3_trl.demo.untrained import build_untrained_model
from emor3_trl.demo.worlds import SKETCHES
from emor3_trl.prompts import messages, prompt_text


def test_untrained_model_is_small_tied_and_runs(processor, pictures):
    model = build_untrained_model(processor, TEXT_SIZES, VISION_SIZES)
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 8e6
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    inputs = processor(
        text=[processor.apply_chat_template(messages(prompt_text("set", SKETCHES.labels), 1), tokenize=False)] * 2,
        images=[image for image, _ in pictures[:2]],
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    assert torch.isfinite(logits).all()
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
