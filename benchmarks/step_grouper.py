"""The third arm of the curves of `step_cost.py`: `prefix-grouper` (PyPI, MIT) in the same model, with the same head.

    pip install prefix-grouper

The package has the attention: it takes a row of a prompt and its completions apart before each attention and puts it
together after. The rest is the caller's, and is given to it at its best here: the picture once a group, as in the
package's own test of Qwen2.5-VL (its copy of the model is for an older Transformers and needs FlashAttention, so
Transformers' own model is used); positions that restart after the prompt; the last prompt token in front of each
completion; TRL's fused head; SDPA, whose masks it does not make (they are on its list of plans), once a forward.
"""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "prefix_grouper_sdpa"


def is_installed() -> bool:
    """Return whether the package is there."""
    return find_spec("prefix_grouper") is not None


def grouped_attention(
    module: torch.nn.Module, query: Any, key: Any, value: Any, _mask: Any, prefix_grouper: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Return what the package makes of two calls of Transformers' SDPA attention."""

    def attend(query: Any, key: Any, value: Any, _padding: Any) -> torch.Tensor:
        # What the package says of padding, shape (rows, keys), is not needed: completions have one length
        if query.shape[2] == key.shape[2]:
            return sdpa_attention_forward(module, query, key, value, None, is_causal=True, **kwargs)[0]
        if not hasattr(prefix_grouper, "causal"):
            length, keys = query.shape[2], key.shape[2]
            prefix_grouper.causal = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)[None, None]
        return sdpa_attention_forward(module, query, key, value, prefix_grouper.causal, is_causal=False, **kwargs)[0]

    kwargs.pop("is_causal", None)
    return prefix_grouper.forward(attend, query, key, value), None


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def score_grouped(model: Any, prompt: torch.Tensor, completions: torch.Tensor, images: dict[str, Any]) -> torch.Tensor:
    """Return the log-probabilities of a group's completions, shape (G, T).

    Args:
        model: with TRL's fused head.
        prompt: shape (P,).
        completions: shape (G, T), all of that length.
        images: `pixel_values` and `image_grid_thw` of the prompt; empty without.
    """
    from prefix_grouper import PrefixGrouper

    model.config.get_text_config()._attn_implementation = ATTENTION
    count, length = completions.shape
    prefix = len(prompt) - 1
    grouper = PrefixGrouper(group_info=[[prefix, *[length] * count]], padding_mode="right")
    suffixes = torch.cat([prompt[-1:].expand(count, 1), completions[:, :-1]], dim=1)
    ones, ids = torch.ones_like, prompt[None, :-1]
    input_ids = grouper.concat_input(ids, ones(ids), suffixes, ones(suffixes))
    labels = grouper.concat_input(ones(ids) * -100, ones(ids), completions, ones(suffixes))
    if images:
        kinds = torch.eq(prompt, model.config.image_token_id).int().unsqueeze(0)
        grid = images["image_grid_thw"]
        positions, _ = model.model.get_rope_index(prompt.unsqueeze(0), mm_token_type_ids=kinds, image_grid_thw=grid)
    else:
        positions = torch.arange(len(prompt)).expand(3, 1, -1)
    after = positions[:, :, -1:] + torch.arange(length)  # (3, 1, T)
    position_ids = torch.cat([positions[:, :, :-1], after.repeat(1, 1, count)], dim=2)
    output = model(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=torch.zeros(1, 1, 1, 1),  # four axes: no mask is built
        shift_labels=labels,
        prefix_grouper=grouper,
        fused_lm_head=True,
        **images,
    )
    return grouper.split_output(output.log_probs.unsqueeze(-1))[2].squeeze(-1)
