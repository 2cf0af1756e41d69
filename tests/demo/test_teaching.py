"""What the demo's base model is taught: each task its completion only, and thinking in form."""

import random

import pytest
import torch

from emor3_trl.demo.model import TEXT_SIZES, VISION_SIZES
from emor3_trl.demo.teaching import Tasks, compute_completion_loss
from emor3_trl.demo.untrained import build_untrained_model
from emor3_trl.thinking import parse


@pytest.mark.parametrize(
    "task", ["statements", "unasked_thinking", "thinking", "plain_thinking", "direct", "consistency", "coherence"]
)
def test_each_task_teaches_its_completion_only(processor, pictures, task):
    torch.manual_seed(0)
    model = build_untrained_model(processor, TEXT_SIZES, VISION_SIZES).eval()
    examples = getattr(Tasks(processor, pictures, random.Random(0)), task)(4)
    with torch.no_grad():
        loss = compute_completion_loss(model, processor, examples)
        alone = torch.stack([compute_completion_loss(model, processor, [example]) for example in examples])
    lengths = torch.tensor([float(len(processor.tokenizer(completion)["input_ids"])) for _, completion, _ in examples])
    # Padding and the other rows change nothing
    torch.testing.assert_close(loss, (alone * lengths).sum() / lengths.sum(), rtol=1e-4, atol=1e-4)
    assert (examples[0][2] is None) == (task == "coherence")


def test_thinking_examples_are_well_formed(processor, pictures):
    for _, completion, _ in Tasks(processor, pictures, random.Random(0)).thinking(8):
        assert parse(completion.removesuffix("<|im_end|>")) is not None
