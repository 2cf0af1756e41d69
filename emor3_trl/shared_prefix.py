"""Group-shared prefix: the G completions of a prompt are scored in one row, in which prompt and picture stand once.

A group [prompt, c1], …, [prompt, cG] becomes one row

    prompt[:-1] | prompt[-1] c1[:-1] | prompt[-1] c2[:-1] | …

Each completion starts with its own copy of the last prompt token, so the token at a place is followed by that place's
label, and no token is computed that is not needed. Positions restart after the prompt, and attention is split exactly:
the prompt attends to itself, a completion to the prompt and to itself, siblings never to each other. What comes out is
what the ordinary forward gives, up to the order of floating-point sums; it costs (P+V+G·T) tokens instead of G·(P+V+T),
and the vision tower runs once.

The split needs no mask over the whole row: two calls of `scaled_dot_product_attention` per group, whose memory is
linear in the length where the kernel's is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "emor3_shared_prefix"
# Families whose mask is causal in every layer, and for which exactness is tested
SUPPORTED = ("llama", "qwen2", "qwen3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True)
class GroupSpan:
    """Where one group stands in a packed row.

    Args:
        start: index of its first token.
        prefix: number of prompt tokens that stand once.
        lengths: number of tokens of each completion's part, the copy of the last prompt token included.
        index: places of the completions' tokens, shape (n, T); short completions repeat a place at their end.
        mask: where completion queries look, shape (T, prefix + T), or a lower-right causal bias on a GPU.
        order: where the packed completion tokens are among the n·T attended ones, shape (sum(lengths),).
    """

    start: int
    prefix: int
    lengths: tuple[int, ...]
    index: torch.Tensor
    mask: Any
    order: torch.Tensor


class Layout:
    """The groups of a packed row, in order; `calls` counts the attention layers that have used it.

    Not a dataclass: FSDP2 casts a layer's inputs, for which it copies dataclasses, and a copy's count would be lost.

    Args:
        groups: where they stand.
    """

    def __init__(self, groups: list[GroupSpan]) -> None:
        self.groups = groups
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


@dataclass
class PackedRow:
    """A micro-batch as one row.

    Args:
        input_ids: shape (1, L).
        position_ids: shape (3, 1, L) for a vision-language model, else (1, L).
        shift_labels: the token that follows each place, -100 where none is scored, shape (1, L).
        images: `pixel_values` and `image_grid_thw` of the distinct pictures; empty without pictures.
        layout: for the attention layers.
        rows, columns, places: completion token (rows[i], columns[i]) of the micro-batch is scored at places[i].
        shape: rows and completion tokens of the micro-batch, (B, T).
        ordinary_tokens: how many tokens the ordinary forward would compute, padding left out.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shift_labels: torch.Tensor
    images: dict[str, torch.Tensor]
    layout: Layout
    rows: torch.Tensor
    columns: torch.Tensor
    places: torch.Tensor
    shape: tuple[int, int]
    ordinary_tokens: int

    def inputs(self) -> dict[str, Any]:
        """Return the arguments of the model's forward."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            # Four axes: no mask is built, and none is looked at
            "attention_mask": self.position_ids.new_zeros((1, 1, 1, 1), dtype=torch.float32),
            "shift_labels": self.shift_labels,
            "shared_prefix": self.layout,
            **self.images,
        }

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of shape (1, L) in the micro-batch's shape (B, T); zero where nothing is scored."""
        return values.new_zeros(self.shape).index_put((self.rows, self.columns), values[0, self.places])


@dataclass
class _Group:
    """Rows of a micro-batch with the same prompt and the same pictures."""

    prompt: list[int]
    grids: torch.Tensor | None
    pixels: torch.Tensor | None
    rows: list[int] = field(default_factory=list)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: Layout | None = None,
    scaling: float | None = None,
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
    repeats = query.shape[1] // key.shape[1]
    # Only the flash kernel of a GPU knows grouped queries; CPU kernels that do are slower than repeated keys
    gqa = query.is_cuda and can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, True, True))
    if not gqa:
        key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    outputs = []
    for group in shared_prefix.groups:
        end = group.start + group.prefix
        prefix_key, prefix_value = key[:, :, group.start : end], value[:, :, group.start : end]
        if group.prefix:
            prefix_query = query[:, :, group.start : end]
            attended = scaled_dot_product_attention(
                prefix_query, prefix_key, prefix_value, is_causal=True, scale=scaling, enable_gqa=gqa
            )
            outputs.append(attended[0].transpose(0, 1))  # (prefix, heads, size)
        count = group.index.shape[0]
        own_key, own_value = _completions(key, group), _completions(value, group)
        attended = scaled_dot_product_attention(
            _completions(query, group),
            torch.cat([prefix_key.expand(count, -1, -1, -1), own_key], dim=2),
            torch.cat([prefix_value.expand(count, -1, -1, -1), own_value], dim=2),
            attn_mask=group.mask,
            scale=scaling,
            enable_gqa=gqa,
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1)[group.order])  # (tokens, heads, size)
    return torch.cat(outputs).unsqueeze(0), None


def _completions(states: torch.Tensor, group: GroupSpan) -> torch.Tensor:
    """Return the states of a group's completions, shape (n, heads, T, size)."""
    count, length = group.index.shape
    if all(own == length for own in group.lengths):  # a view, no copy
        start = group.start + group.prefix
        own = states[0, :, start : start + count * length]
        return own.unflatten(1, (count, length)).transpose(0, 1)
    return states[0, :, group.index].transpose(0, 1)


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def why_not(model: PreTrainedModel) -> str | None:
    """Return why a model's groups cannot share their prefix, in words for its user; None if they can."""
    config = model.config
    text = config.get_text_config()
    if config.model_type not in SUPPORTED:
        return f"it is tested for {', '.join(SUPPORTED)}, and this model is of type '{config.model_type}'"
    if text._attn_implementation not in ("sdpa", ATTENTION):
        return f"it needs attn_implementation 'sdpa', and this model has '{text._attn_implementation}'"
    layers = getattr(text, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in layers):
        return f"it needs full attention in every layer, and this model has {sorted(set(layers))}"
    if getattr(text, "attention_dropout", 0.0):
        return f"it does not draw attention dropout, and this model has attention_dropout {text.attention_dropout}"
    peft = getattr(model, "peft_config", {})
    if any(adapter.is_prompt_learning for adapter in peft.values()):
        return "the adapter learns a prompt, which would have to stand in front of every row"
    return None


def install(model: PreTrainedModel) -> None:
    """Let a model's text layers take packed rows; ordinary calls go to Transformers' SDPA attention as before."""
    model.config.get_text_config()._attn_implementation = ATTENTION


def restore(model: PreTrainedModel) -> None:
    """Undo `install`."""
    model.config.get_text_config()._attn_implementation = "sdpa"


def pack(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    rope_index: Callable | None,
    image_token_id: int = -1,
    pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
    image_grid_thw: torch.Tensor | None = None,
    num_images: Sequence[int] | None = None,
) -> PackedRow:
    """Pack a micro-batch into one row, in which each distinct prompt and its pictures stand once.

    Args:
        input_ids: prompts, padded on the left, and completions, padded on the right; shape (B, P + T).
        attention_mask: 1 for tokens, shape (B, P + T). A completion without any is not scored.
        logits_to_keep: T.
        rope_index: the model's `get_rope_index`, None for a text model.
        image_token_id: the placeholder of picture tokens; -1 for a text model.
        pixel_values: patches of all pictures, shape (patches, values per patch), or a tensor of them for each row.
        image_grid_thw: patches of each picture by time, height and width, shape (pictures, 3).
        num_images: pictures of each row.

    Raises:
        ValueError: if a prompt is empty or ends with a picture.
    """
    device = input_ids.device
    prompt_length = input_ids.shape[1] - logits_to_keep
    lengths = attention_mask[:, prompt_length:].sum(dim=1).tolist()
    groups = _find_groups(input_ids, attention_mask, prompt_length, pixel_values, image_grid_thw, num_images)

    tokens: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    spans: list[GroupSpan] = []
    scored: list[tuple[int, int, int]] = []  # row, number of tokens, first place
    start = 0
    for group in groups:
        if not group.prompt or group.prompt[-1] == image_token_id:
            raise ValueError(
                f"A prompt {'is empty' if not group.prompt else 'ends with a picture'}. Expected a prompt that ends "
                "with text, such as the chat template's start of the assistant's turn."
            )
        prompt = torch.tensor(group.prompt, device=device)
        prompt_positions = _positions(prompt, group.grids, rope_index, image_token_id)  # (axes, P)
        prefix = len(prompt) - 1
        tokens.append(prompt[:-1])
        positions.append(prompt_positions[:, :-1])
        labels.append(prompt.new_full((prefix,), -100))
        place, parts = start + prefix, []
        for row in group.rows:
            completion = input_ids[row, prompt_length : prompt_length + lengths[row]]
            part = max(len(completion), 1)  # an empty one keeps its first place, so that the graph stays connected
            tokens += [prompt[-1:], completion[: part - 1]]
            positions.append(prompt_positions[:, -1:] + torch.arange(part, device=device))
            labels.append(completion if len(completion) else prompt.new_full((1,), -100))
            scored.append((row, len(completion), place))
            parts.append(part)
            place += part
        spans.append(_span(start, prefix, tuple(parts), device))
        start = place

    places = [place + i for _, count, place in scored for i in range(count)]
    rows = [row for row, count, _ in scored for _ in range(count)]
    columns = [i for _, count, _ in scored for i in range(count)]
    position_ids = torch.cat(positions, dim=1)
    images = {}
    if image_grid_thw is not None and any(group.grids is not None for group in groups):
        pixels = [group.pixels for group in groups if group.pixels is not None]
        images = {
            "pixel_values": pixels[0] if len(pixels) == 1 else torch.cat(pixels),
            "image_grid_thw": torch.cat([group.grids for group in groups if group.grids is not None]),
        }
    return PackedRow(
        input_ids=torch.cat(tokens).unsqueeze(0),
        position_ids=position_ids if rope_index is None else position_ids.unsqueeze(1),
        shift_labels=torch.cat(labels).unsqueeze(0),
        images=images,
        layout=Layout(spans),
        rows=torch.tensor(rows, dtype=torch.long, device=device),
        columns=torch.tensor(columns, dtype=torch.long, device=device),
        places=torch.tensor(places, dtype=torch.long, device=device),
        shape=(len(input_ids), logits_to_keep),
        ordinary_tokens=sum(len(group.prompt) * len(group.rows) for group in groups) + sum(lengths),
    )


def packed_rows(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    rope_index: Callable | None,
    batch_size: int | None = None,
    pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
    image_grid_thw: torch.Tensor | None = None,
    num_images: Sequence[int] | None = None,
    **options: Any,
) -> Iterator[PackedRow]:
    """Yield a micro-batch as packed rows of up to `batch_size` completions; the arguments are those of `pack`."""
    size = batch_size or len(input_ids)
    if pixel_values is not None and image_grid_thw is not None and num_images is not None:
        pixel_values = _by_row(pixel_values, image_grid_thw, num_images)
    for start in range(0, len(input_ids), size):
        part = slice(start, start + size)
        own: dict[str, Any] = {}
        if pixel_values is not None and image_grid_thw is not None and num_images is not None:
            first, last = sum(num_images[:start]), sum(num_images[: start + size])
            own = {
                "pixel_values": pixel_values[part],
                "image_grid_thw": image_grid_thw[first:last],
                "num_images": num_images[part],
            }
        yield pack(input_ids[part], attention_mask[part], logits_to_keep, rope_index, **own, **options)


def permute_groups(rows: int, first_row: int, group_size: int) -> torch.Tensor:
    """Return a random order of a process's rows in which the completions of a group stay next to each other.

    Args:
        rows: rows of this process.
        first_row: how many rows the processes before it have; groups may be cut where processes meet.
        group_size: G.

    Returns:
        A permutation, shape (rows,).
    """
    groups = torch.div(torch.arange(first_row, first_row + rows), group_size, rounding_mode="floor")
    groups = groups - groups[0]
    rank = torch.randperm(int(groups[-1]) + 1)
    return torch.argsort(rank[groups], stable=True)


def explain_split(group_size: int, per_device: int, accumulation: int) -> str | None:
    """Return what to change where micro-batches cut groups, so that a prompt is computed more than once; else None."""
    if per_device % group_size == 0:
        return None
    text = (
        f"per_device_train_batch_size {per_device} cuts the groups of {group_size} completions, and each part computes "
        "the prompt and its picture again. "
    )
    if group_size % per_device == 0 and accumulation % (group_size // per_device) == 0:
        factor = group_size // per_device
        return text + (
            f"If memory allows, --per_device_train_batch_size {group_size} --gradient_accumulation_steps "
            f"{accumulation // factor} takes steps of the same completions and computes each prompt once, not "
            f"{factor} times."
        )
    if group_size % per_device == 0:
        return text + f"Use a multiple of {group_size} for whole groups."
    return text + f"Use a multiple of {group_size}, or a divisor of it, for whole groups or equal parts."


def explain_dropout(model: torch.nn.Module) -> str | None:
    """Return what is shared beside the prompt where layers, such as LoRA's, drop activations at random; else None."""
    rates = sorted({module.p for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p})
    if not rates:
        return None
    return (
        f"Dropout of {', '.join(map(str, rates))} is drawn once for a group's shared prompt, not once per completion, "
        "and rollouts are sampled without it. Set --lora_dropout 0 for the exact numbers."
    )


def _by_row(
    pixel_values: torch.Tensor | Sequence[torch.Tensor], image_grid_thw: torch.Tensor, num_images: Sequence[int]
) -> Sequence[torch.Tensor]:
    """Return the patches of each row's pictures."""
    if not isinstance(pixel_values, torch.Tensor):
        return pixel_values
    return pixel_values.split([int(grid.prod(dim=-1).sum()) for grid in image_grid_thw.split(list(num_images))])


def _find_groups(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    prompt_length: int,
    pixel_values: torch.Tensor | Sequence[torch.Tensor] | None,
    image_grid_thw: torch.Tensor | None,
    num_images: Sequence[int] | None,
) -> list[_Group]:
    """Gather the rows with the same prompt and the same pictures, wherever in the micro-batch they are."""
    grids: Sequence[torch.Tensor | None] = [None] * len(input_ids)
    pixels: Sequence[torch.Tensor | None] = [None] * len(input_ids)
    if pixel_values is not None and image_grid_thw is not None and num_images is not None:
        per_row = image_grid_thw.split(list(num_images))
        grids = [grid if len(grid) else None for grid in per_row]
        patches = _by_row(pixel_values, image_grid_thw, num_images)
        pixels = [patch if len(grid) else None for patch, grid in zip(patches, per_row, strict=True)]
    ids = input_ids[:, :prompt_length].tolist()
    masks = attention_mask[:, :prompt_length].tolist()
    found: dict[tuple, list[_Group]] = {}
    groups = []
    for row, (own_ids, own_mask) in enumerate(zip(ids, masks, strict=True)):
        prompt = [token for token, kept in zip(own_ids, own_mask, strict=True) if kept]
        grid, pixel = grids[row], pixels[row]
        key = (tuple(prompt), None if grid is None else tuple(grid.flatten().tolist()))
        # Every picture is asked about in the same words: only the pixels tell two groups apart.
        for group in found.setdefault(key, []):
            if pixel is None or group.pixels is None or torch.equal(pixel, group.pixels):
                break
        else:
            group = _Group(prompt, grid, pixel)
            found[key].append(group)
            groups.append(group)
        group.rows.append(row)
    return groups


def _positions(
    prompt: torch.Tensor, grids: torch.Tensor | None, rope_index: Callable | None, image_token_id: int
) -> torch.Tensor:
    """Return a prompt's positions, shape (axes, P): three axes for a vision-language model, else one."""
    if rope_index is None or grids is None:
        return torch.arange(len(prompt), device=prompt.device).expand(1 if rope_index is None else 3, -1)
    kinds = torch.eq(prompt, image_token_id).int().unsqueeze(0)
    positions, _ = rope_index(prompt.unsqueeze(0), mm_token_type_ids=kinds, image_grid_thw=grids)
    return positions[:, 0]


def _span(start: int, prefix: int, lengths: tuple[int, ...], device: torch.device) -> GroupSpan:
    longest = max(lengths)
    index, order, place = [], [], start + prefix
    for number, length in enumerate(lengths):
        index.append([place + min(i, length - 1) for i in range(longest)])
        order += [number * longest + i for i in range(length)]
        place += length
    mask: Any
    if device.type == "cuda":
        mask = causal_lower_right(longest, prefix + longest)
    else:
        mask = torch.ones(longest, prefix + longest, dtype=torch.bool, device=device).tril(diagonal=prefix)
    return GroupSpan(
        start, prefix, lengths, torch.tensor(index, device=device), mask, torch.tensor(order, device=device)
    )
