"""Group-shared prefix: the G completions of a prompt are scored in one row, in which prompt and picture stand once.

A group [prompt, c1], …, [prompt, cG] becomes one row

    prompt[:-1] | prompt[-1] c1[:-1] | prompt[-1] c2[:-1] | …

Each completion starts with its own copy of the last prompt token, so the token at a place is followed by that place's
label, and no token is computed that is not needed. Positions restart after the prompt, and attention is split exactly:
the prompt attends to itself, a completion to the prompt and to itself, siblings never to each other. What comes out is
what the ordinary forward gives, up to the order of floating-point sums; it costs (P+V+G·T) tokens instead of G·(P+V+T),
and the vision tower runs once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right

from emor3_trl.groups.attention import GroupSpan, Layout


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
