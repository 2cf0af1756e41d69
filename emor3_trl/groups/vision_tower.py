"""Processes compute the vision tower together: one whose rows have no image takes part when another's have some.

Processes exchange the tower's gradients, and where they shard it (ZeRO-3, FSDP) its weights, layer by layer. One that
leaves the tower out lets the others wait, or answers with the bytes of another layer: ZeRO-2 ends with "collective
mismatch", DistributedDataParallel with "expected to have finished reduction" where gradients are checkpointed. A small
blank image, whose features count zero times, keeps them in step.
"""

from typing import Any

import torch
from PIL import Image
from torch.utils._pytree import tree_leaves

from emor3_trl.launch import weights_sharded

UNUSED = ("last_hidden_state", "hidden_states", "attentions")  # of a vision tower's outputs
SIDE = 56  # pixels of the blank image, which image processors may enlarge


def compute_tower_together(model: Any, processor: Any, sharded: bool, always: bool = False) -> None:
    """Let a model's forward compute its vision tower for a blank image where it is given none and another process one.

    A forward that keeps a cache, as generation does, is left as it is.

    Args:
        model: the policy or the reference model, with or without an adapter; a text model is left alone.
        processor: the model's processor.
        sharded: whether the processes share the weights. Else only a forward with gradients needs the tower.
        always: also where no process has an image, for a launcher that takes no parameter without a gradient.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner: Any = getattr(base, "model", None)
    if not hasattr(inner, "language_model") or not hasattr(processor, "image_processor"):
        return
    blank = processor.image_processor(images=[Image.new("RGB", (SIDE, SIDE))], return_tensors="pt")
    missing = False

    def look_for_image(_module: Any, _arguments: tuple, inputs: dict[str, Any]) -> None:
        nonlocal missing
        missing = False
        if inputs.get("use_cache") or not (sharded or torch.is_grad_enabled()):
            return
        has_image = inputs.get("pixel_values") is not None
        needed = always
        if not always:  # where no process has one, the tower gets no gradient, as in one process
            device = next(value.device for value in inputs.values() if isinstance(value, torch.Tensor))
            some = torch.tensor(int(has_image), device=device)
            torch.distributed.all_reduce(some, op=torch.distributed.ReduceOp.MAX)
            needed = bool(some)
        missing = needed and not has_image

    def add_blank_image(_module: Any, arguments: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        nonlocal missing
        if not missing:
            return None
        missing = False
        embeddings = inputs["inputs_embeds"]
        features = inner.get_image_features(**{name: value.to(embeddings.device) for name, value in blank.items()})
        # Only what the model would use: ZeRO-3 counts each output that a gradient reaches
        features = {name: part for name, part in features.items() if name not in UNUSED}
        sums = [part.sum().to(embeddings.dtype) for part in tree_leaves(features) if isinstance(part, torch.Tensor)]
        return arguments, {**inputs, "inputs_embeds": embeddings + 0.0 * torch.stack(sums).sum()}

    inner.register_forward_pre_hook(look_for_image, with_kwargs=True)
    # Where features of images are put in, so that all processes call their layers in one order: also before the hook
    # by which ZeRO-3, which has wrapped a reference model by now, sees that the language model is called
    inner.language_model.register_forward_pre_hook(add_blank_image, with_kwargs=True, prepend=True)


def needs_gradients(trainer: Any) -> bool:
    """Whether this launch takes no parameter without a gradient: DistributedDataParallel as Trainer sets it up."""
    if weights_sharded() or trainer.is_deepspeed_enabled:
        return False
    finds_unused = trainer.args.ddp_find_unused_parameters
    return not finds_unused if finds_unused is not None else bool(trainer.args.gradient_checkpointing)
