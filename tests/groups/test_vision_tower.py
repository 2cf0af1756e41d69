"""A blank image brings the vision tower into a forward without images, and changes no number."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.groups.vision_tower import compute_tower_together, needs_gradients


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A launch of one process."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("always", [True, False])
def test_the_tower_takes_part_with_gradients_of_zero(tiny_model_dir: Path, alone: None, always: bool) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    ids = torch.arange(10, 30).unsqueeze(0)
    expected = model(input_ids=ids).logits
    compute_tower_together(model, AutoProcessor.from_pretrained(tiny_model_dir), sharded=False, always=always)
    logits = model(input_ids=ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    logits.sum().backward()
    gradients = [parameter.grad for parameter in model.model.visual.parameters()]
    if always:
        assert all(gradient is not None and not gradient.any() for gradient in gradients)
    else:  # no process has an image, so it is as in one process
        assert gradients == [None] * len(gradients)


def test_generation_and_forwards_without_gradients_are_left_alone(
    tiny_model_dir: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    compute_tower_together(model, AutoProcessor.from_pretrained(tiny_model_dir), sharded=False, always=True)
    monkeypatch.setattr(model.model, "get_image_features", lambda **_: pytest.fail("it ran the tower"))
    ids = torch.arange(10, 30).unsqueeze(0)
    model(input_ids=ids, use_cache=True)
    with torch.no_grad():
        model(input_ids=ids)


@pytest.mark.parametrize(
    ("deepspeed", "finds_unused", "checkpointing", "needed"),
    [
        pytest.param(False, None, True, True, id="ddp-checkpointing"),
        pytest.param(False, None, False, False, id="ddp"),
        pytest.param(False, False, False, True, id="ddp-told-that-all-are-used"),
        pytest.param(True, None, True, False, id="deepspeed"),
    ],
)
def test_ddp_needs_a_gradient_of_every_parameter_unless_it_looks_for_unused_ones(
    deepspeed: bool, finds_unused: bool | None, checkpointing: bool, needed: bool
) -> None:
    args = SimpleNamespace(ddp_find_unused_parameters=finds_unused, gradient_checkpointing=checkpointing)
    assert needs_gradients(SimpleNamespace(is_deepspeed_enabled=deepspeed, args=args)) is needed
