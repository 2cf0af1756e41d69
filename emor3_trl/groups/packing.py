"""Group-shared prefix: the G completions of a prompt are scored in one row, in which prompt and image stand once.

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
        shift_labels: the token that follows each place of the completions' parts, shape (1, C), -100 where none is
            scored; the model returns these places alone.
        images: `pixel_values` and `image_grid_thw` of the distinct images; empty without images.
        layout: for the attention layers.
        rows, columns, places: completion token (rows[i], columns[i]) of the micro-batch is scored at places[i] of C.
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
        """Return values of shape (1, C) in the micro-batch's shape (B, T); zero where nothing is scored."""
        return values.new_zeros(self.shape).index_put((self.rows, self.columns), values[0, self.places])


@dataclass
class _Group:
    """Rows of a micro-batch with the same prompt and the same images."""

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
    skipped: Sequence[bool] | None = None,
) -> PackedRow:
    """Pack a micro-batch into one row, in which each distinct prompt and its images stand once.

    Args:
        input_ids: prompts, padded on the left, and completions, padded on the right; shape (B, P + T).
        attention_mask: 1 for tokens, shape (B, P + T). A completion without any is not scored.
        logits_to_keep: T.
        rope_index: the model's `get_rope_index`, None for a text model.
        image_token_id: the placeholder of image tokens; -1 for a text model.
        pixel_values: patches of all images, shape (patches, values per patch), or a tensor of them for each row.
        image_grid_thw: patches of each image by time, height and width, shape (images, 3).
        num_images: images of each row.
        skipped: rows to leave out, of which nothing is scored; not all of them.

    Raises:
        ValueError: if a prompt is empty or ends with a picture.
    """
    device = input_ids.device
    prompt_length = input_ids.shape[1] - logits_to_keep
    lengths = attention_mask[:, prompt_length:].sum(dim=1).tolist()
    groups = _find_groups(input_ids, attention_mask, prompt_length, pixel_values, image_grid_thw, num_images, skipped)
    parts = _Parts()
    for group in groups:
        if not group.prompt or group.prompt[-1] == image_token_id:
            raise ValueError(
                f"A prompt {'is empty' if not group.prompt else 'ends with a picture'}. Expected a prompt that ends "
                "with text, such as the chat template's start of the assistant's turn."
            )
        prompt = torch.tensor(group.prompt, device=device)
        completions = [input_ids[row, prompt_length : prompt_length + lengths[row]] for row in group.rows]
        positions = _positions(prompt, group.grids, rope_index, image_token_id)  # (axes, P)
        parts.add_group(prompt, positions, group.rows, completions)
    position_ids = torch.cat(parts.positions, dim=1)
    scored = torch.tensor(parts.scored, dtype=torch.long, device=device).reshape(-1, 3)  # (tokens, 3)
    return PackedRow(
        input_ids=torch.cat(parts.tokens).unsqueeze(0),
        position_ids=position_ids if rope_index is None else position_ids.unsqueeze(1),
        shift_labels=torch.cat(parts.labels).unsqueeze(0),
        images=_join_images(groups),
        layout=Layout(parts.spans, torch.tensor(parts.completions, device=device)),
        rows=scored[:, 0],
        columns=scored[:, 1],
        places=scored[:, 2],
        shape=(len(input_ids), logits_to_keep),
        ordinary_tokens=sum(len(group.prompt) + lengths[row] for group in groups for row in group.rows),
    )


@dataclass
class _Parts:
    """What a packed row is put together from, group after group.

    Args:
        tokens: shape (n,) each; in the end they make (L,).
        labels: shape (n,) each; in the end they make (C,).
        positions: shape (axes, n) each; in the end they make (axes, L).
        spans: the groups.
        completions: places of the completions' parts, C in the end.
        scored: row, column and place among C of each completion token.
        length: tokens so far.
    """

    tokens: list[torch.Tensor] = field(default_factory=list)
    labels: list[torch.Tensor] = field(default_factory=list)
    positions: list[torch.Tensor] = field(default_factory=list)
    spans: list[GroupSpan] = field(default_factory=list)
    completions: list[int] = field(default_factory=list)
    scored: list[tuple[int, int, int]] = field(default_factory=list)
    length: int = 0

    def add_group(
        self, prompt: torch.Tensor, positions: torch.Tensor, rows: Sequence[int], completions: Sequence[torch.Tensor]
    ) -> None:
        """Add a prompt of shape (P,) without its last token, then each completion behind a copy of that token."""
        prefix = len(prompt) - 1
        self.tokens.append(prompt[:-1])
        self.positions.append(positions[:, :-1])
        place, lengths = self.length + prefix, []
        for row, completion in zip(rows, completions, strict=True):
            length = max(len(completion), 1)  # an empty one keeps its first place, so that the graph stays connected
            self.tokens += [prompt[-1:], completion[: length - 1]]
            self.positions.append(positions[:, -1:] + torch.arange(length, device=prompt.device))
            self.labels.append(completion if len(completion) else prompt.new_full((1,), -100))
            self.scored += [(row, column, len(self.completions) + column) for column in range(len(completion))]
            self.completions += range(place, place + length)
            lengths.append(length)
            place += length
        self.spans.append(_span(prefix, tuple(lengths), prompt.device))
        self.length = place


def _join_images(groups: Sequence[_Group]) -> dict[str, torch.Tensor]:
    """Return `pixel_values` and `image_grid_thw` of the groups' images, nothing if they have none."""
    pixels = [group.pixels for group in groups if group.pixels is not None]
    grids = [group.grids for group in groups if group.grids is not None]
    if not grids:
        return {}
    return {"pixel_values": pixels[0] if len(pixels) == 1 else torch.cat(pixels), "image_grid_thw": torch.cat(grids)}


def pack_rows(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    rope_index: Callable | None,
    batch_size: int | None = None,
    pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
    image_grid_thw: torch.Tensor | None = None,
    num_images: Sequence[int] | None = None,
    skipped: Sequence[bool] | None = None,
    **options: Any,
) -> Iterator[PackedRow]:
    """Yield a micro-batch as packed rows of up to `batch_size` completions; the arguments are those of `pack`."""
    size = batch_size or len(input_ids)
    if pixel_values is not None and image_grid_thw is not None and num_images is not None:
        pixel_values = _by_row(pixel_values, image_grid_thw, num_images)
    for start in range(0, len(input_ids), size):
        part = slice(start, start + size)
        images: dict[str, Any] = {}
        if pixel_values is not None and image_grid_thw is not None and num_images is not None:
            first, last = sum(num_images[:start]), sum(num_images[: start + size])
            images = {
                "pixel_values": pixel_values[part],
                "image_grid_thw": image_grid_thw[first:last],
                "num_images": num_images[part],
            }
        images["skipped"] = None if skipped is None else skipped[part]
        yield pack(input_ids[part], attention_mask[part], logits_to_keep, rope_index, **images, **options)


def _by_row(
    pixel_values: torch.Tensor | Sequence[torch.Tensor], image_grid_thw: torch.Tensor, num_images: Sequence[int]
) -> Sequence[torch.Tensor]:
    """Return the patches of each row's images."""
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
    skipped: Sequence[bool] | None,
) -> list[_Group]:
    """Gather the rows with the same prompt and the same images, wherever in the micro-batch they are."""
    grids: Sequence[torch.Tensor | None] = [None] * len(input_ids)
    pixels: Sequence[torch.Tensor | None] = [None] * len(input_ids)
    if pixel_values is not None and image_grid_thw is not None and num_images is not None:
        per_row = image_grid_thw.split(list(num_images))
        grids = [grid if len(grid) else None for grid in per_row]
        patches = _by_row(pixel_values, image_grid_thw, num_images)
        pixels = [patch if len(grid) else None for patch, grid in zip(patches, per_row, strict=True)]
    ids = input_ids[:, :prompt_length].tolist()
    masks = attention_mask[:, :prompt_length].tolist()
    candidates: dict[tuple, list[_Group]] = {}
    groups = []
    for row, (row_ids, row_mask) in enumerate(zip(ids, masks, strict=True)):
        if skipped is not None and skipped[row]:
            continue
        prompt = [token for token, kept in zip(row_ids, row_mask, strict=True) if kept]
        grid, pixel = grids[row], pixels[row]
        key = (tuple(prompt), None if grid is None else tuple(grid.flatten().tolist()))
        # Every image is asked about in the same words: only the pixels tell two groups apart.
        for group in candidates.setdefault(key, []):
            if pixel is None or group.pixels is None or torch.equal(pixel, group.pixels):
                break
        else:
            group = _Group(prompt, grid, pixel)
            candidates[key].append(group)
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


def _span(prefix: int, lengths: tuple[int, ...], device: torch.device) -> GroupSpan:
    longest = max(lengths)
    index, order, place = [], [], 0
    for number, length in enumerate(lengths):
        index.append([place + min(i, length - 1) for i in range(longest)])
        order += [number * longest + i for i in range(length)]
        place += length
    mask: Any
    if device.type == "cuda":
        mask = causal_lower_right(longest, prefix + longest)
    else:
        mask = torch.ones(longest, prefix + longest, dtype=torch.bool, device=device).tril(diagonal=prefix)
    return GroupSpan(prefix, lengths, torch.tensor(index, device=device), mask, torch.tensor(order, device=device))
