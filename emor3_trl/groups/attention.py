"""Attention of a packed row: the prompt attends to itself, a completion to the prompt and to itself.

In the last layer, the completions alone attend: their log-probabilities are all that is read.

The split needs no mask over the whole row: two calls of `scaled_dot_product_attention` per group, whose memory is
linear in the length where the kernel's is.
"""

import functools
import types
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from emor3_trl.families import FAMILIES, find_family_of

ATTENTION = "emor3_shared_prefix"


# Families whose mask is causal in every layer, and for which exactness is tested
SUPPORTED = tuple(name for name, family in FAMILIES.items() if family.unshared is None)


@dataclass(frozen=True)
class GroupSpan:
    """A group of a packed row; groups stand one after another, the prefix of each before its completions.

    Args:
        prefix: number of prompt tokens that stand once.
        lengths: number of tokens of each completion's part, the copy of the last prompt token included.
        index: places of the completions' tokens after the prefix, shape (n, T); short ones repeat a place at their end.
        mask: where completion queries look, shape (T, prefix + T), or a lower-right causal bias on a GPU.
        order: where the packed completion tokens are among the n·T attended ones, shape (sum(lengths),).
    """

    prefix: int
    lengths: tuple[int, ...]
    index: torch.Tensor
    mask: Any
    order: torch.Tensor

    @property
    def is_even(self) -> bool:
        """Whether all completions have one length."""
        return min(self.lengths) == self.index.shape[1]


class Layout:
    """The groups of a packed row, in order; `calls` counts the attention layers that have used it.

    Not a dataclass: FSDP2 casts a layer's inputs, for which it copies dataclasses, and a copy's count would be lost.

    Args:
        groups: in order.
        completions: places of the completions' parts in the row, shape (C,).
    """

    def __init__(self, groups: list[GroupSpan], completions: torch.Tensor) -> None:
        self.groups = groups
        self.completions = completions
        self.calls = 0

    def check_used(self, layers: int) -> None:
        """Check that each attention layer has used the layout once.

        Raises:
            RuntimeError: if not, so that siblings may have seen each other.
        """
        if self.calls != layers:
            raise RuntimeError(
                f"{self.calls} of the model's {layers} attention layers took the shared prefix, so its "
                "log-probabilities would be wrong. Something replaced the attention implementation after the trainer "
                "was built; leave it, or set shared_prefix: false."
            )


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: Layout | None = None,
    scaling: float | None = None,
    completions_only: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row; without a layout, Transformers' own SDPA attention.

    Args:
        module: the attention layer.
        query: shape (1, heads, L, head size).
        key, value: shape (1, key-value heads, L, head size).
        attention_mask: used without a layout only.
        shared_prefix: the row's layout.
        scaling: factor of the scores.
        completions_only: whether the prompts attend to nothing, and get zeros.
        kwargs: for Transformers' attention.

    Returns:
        The attended values, shape (1, L, heads, head size), and None.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    shared_prefix.calls += 1
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # Under autocast, rotary embeddings leave queries and keys in float32. SDPA would cast them as well, but for a
        # causal bias it checks their types before.
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    # Only the flash kernel of a GPU knows grouped queries; CPU kernels that do are slower than repeated keys
    gqa = query.is_cuda and can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, True, True))
    if not gqa:
        key, value = (repeat_kv(states, query.shape[1] // states.shape[1]) for states in (key, value))
    outputs = []
    queries, keys, values = (_split_groups(states, shared_prefix) for states in (query, key, value))
    for group, own_query, own_key, own_value in zip(shared_prefix.groups, queries, keys, values, strict=True):
        if completions_only:
            outputs.append(query.new_zeros(group.prefix, query.shape[1], query.shape[3]))
        elif group.prefix:
            attended = scaled_dot_product_attention(
                own_query.prefix, own_key.prefix, own_value.prefix, is_causal=True, scale=scaling, enable_gqa=gqa
            )
            outputs.append(attended[0].transpose(0, 1))  # (prefix, heads, size)
        count = group.index.shape[0]
        attended = scaled_dot_product_attention(
            own_query.completions,
            torch.cat([own_key.prefix.expand(count, -1, -1, -1), own_key.completions], dim=2),
            torch.cat([own_value.prefix.expand(count, -1, -1, -1), own_value.completions], dim=2),
            attn_mask=group.mask,
            scale=scaling,
            enable_gqa=gqa,
        )
        rows = attended.transpose(1, 2).flatten(0, 1)  # (n·T, heads, size)
        outputs.append(rows if group.is_even else rows.index_select(0, group.order))
    return torch.cat(outputs).unsqueeze(0), None


def end_with_completions(layer: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Return what the last decoder layer makes of a packed row's completions: nobody reads its prompts any more.

    It is the arithmetic of the layers of all supported families; what follows attention leaves the prompts out.

    Args:
        layer: the layer.
        hidden_states: shape (1, L, hidden size).
        kwargs: of the layer, with the row's layout as `shared_prefix`.

    Returns:
        Shape (1, C, hidden size), C the length of all completions' parts.
    """
    places = kwargs["shared_prefix"].completions
    normed = layer.input_layernorm(hidden_states)
    attended, _ = layer.self_attn(hidden_states=normed, completions_only=True, **kwargs)
    states = hidden_states[:, places] + attended[:, places]
    return states + layer.mlp(layer.post_attention_layernorm(states))


class _Parts(NamedTuple):
    """States of a group: of its prefix, shape (1, heads, prefix, size), and of its completions, (n, heads, T, size)."""

    prefix: torch.Tensor
    completions: torch.Tensor


def _split_groups(states: torch.Tensor, layout: Layout) -> list[_Parts]:
    """Return the states of each group, from those of a row, shape (1, heads, L, size).

    One split: the backward of many slices would fill a whole row with zeros for each of them.
    """
    lengths = [length for group in layout.groups for length in (group.prefix, sum(group.lengths))]
    pieces = states.split(lengths, dim=2)
    return [
        _Parts(prefix, _take_apart(completions, group))
        for group, prefix, completions in zip(layout.groups, pieces[::2], pieces[1::2], strict=True)
    ]


def _take_apart(states: torch.Tensor, group: GroupSpan) -> torch.Tensor:
    """Return the states of a group's completions, shape (n, heads, T, size), from (1, heads, sum of lengths, size)."""
    count, length = group.index.shape
    if group.is_even:  # a view, no copy
        return states[0].unflatten(1, (count, length)).transpose(0, 1)
    # Selected, not indexed: its backward adds row by row
    return states[0].index_select(1, group.index.flatten()).unflatten(1, (count, length)).transpose(0, 1)


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def explain_refusal(model: PreTrainedModel) -> str | None:
    """Return why a model's groups cannot share their prefix, in words for its user; None if they can."""
    config = model.config
    text = config.get_text_config()
    if unshared := find_family_of(config).unshared:
        return unshared
    if text._attn_implementation not in ("sdpa", ATTENTION):
        return f"it needs attn_implementation 'sdpa', and this model has '{text._attn_implementation}'"
    layers = getattr(text, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in layers):
        return f"it needs full attention in every layer, and this model has {sorted(set(layers))}"
    if getattr(text, "attention_dropout", 0.0):
        return f"it does not draw attention dropout, and this model has attention_dropout {text.attention_dropout}"
    deep = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", ())
    if len(deep) >= text.num_hidden_layers:
        return "features of its vision tower enter its last layer, which computes the completions alone"
    peft = getattr(model, "peft_config", {})
    if any(adapter.is_prompt_learning for adapter in peft.values()):
        return "the adapter learns a prompt, which would have to stand in front of every row"
    return None


def install_attention(model: PreTrainedModel) -> None:
    """Let a model's text layers take packed rows; ordinary calls go to Transformers' SDPA attention as before."""
    model.config.get_text_config()._attn_implementation = ATTENTION
    layer = _last_layer(model)
    whole = type(layer).forward

    @functools.wraps(whole)
    def forward(self: torch.nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("shared_prefix") is None:
            return whole(self, hidden_states, *args, **kwargs)
        return end_with_completions(self, hidden_states, *args, **kwargs)

    layer.forward = types.MethodType(forward, layer)


def remove_attention(model: PreTrainedModel) -> None:
    """Undo `install_attention`."""
    model.config.get_text_config()._attn_implementation = "sdpa"
    vars(_last_layer(model)).pop("forward", None)


def _last_layer(model: Any) -> torch.nn.Module:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer = base.get_decoder().layers[-1]
    for wrapped in ("_fsdp_wrapped_module", "_orig_mod"):  # its wrapper's own forward gathers the weights
        layer = getattr(layer, wrapped, layer)
    return layer


def explain_dropout(model: torch.nn.Module) -> str | None:
    """Return what is shared beside the prompt where layers, such as LoRA's, drop activations at random; else None."""
    rates = sorted({module.p for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p})
    if not rates:
        return None
    return (
        f"Dropout of {', '.join(map(str, rates))} is drawn once for a group's shared prompt, not once per completion, "
        "and rollouts are sampled without it. Set --lora_dropout 0 for the exact numbers."
    )
