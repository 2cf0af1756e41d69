"""The rows of a rollout as TRL's step wants them: taken apart, put in another order, and put together again.

TRL keeps the patches of all images in one tensor, and pads prompts to the left and completions to the right. Rows of
several rollouts make one batch here (`merge_rows`), for `dynamic_sampling`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from trl.trainer.utils import pad, split_pixel_values_by_grid, unsplit_pixel_values_by_grid

Batch = dict[str, Any]  # a tensor or a list with one entry per row, by name; a tensor without rows is of all of them

PADDED_LEFT = {"prompt_ids", "prompt_mask"}
TOKEN_TYPES = {"token_type_ids", "mm_token_type_ids"}  # of prompt and completion
OF_IMAGES = {"pixel_values", "image_grid_thw", "num_images", "num_tiles", "pixel_attention_mask", "spatial_shapes"}
OF_IMAGES |= {"image_sizes", "image_position_ids", *TOKEN_TYPES}
# What stands where a completion has ended: no token that a loss reads, and a ratio that changes no product
PADDING = {"importance_sampling_ratio": 1.0, "tool_mask": 1}


def split_rows(batch: Batch) -> Batch:
    """Return a batch whose images stand by row, whether the patches of each row do already or not."""
    if isinstance(batch.get("pixel_values"), list):
        return {**batch, "image_grid_thw": list(batch["image_grid_thw"].split(batch["num_images"]))}
    return split_pixel_values_by_grid(batch)


def join_rows(batch: Batch, apart: bool) -> Batch:
    """Return what `split_rows` took apart.

    Args:
        batch: rows.
        apart: whether the patches of each row stay apart.
    """
    if apart and "image_grid_thw" in batch:
        return {**batch, "image_grid_thw": torch.cat(batch["image_grid_thw"])}
    return unsplit_pixel_values_by_grid(batch)


def take_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch in the given order; what has no rows is returned as it is."""

    def take(values: Any) -> Any:
        if isinstance(values, torch.Tensor):
            return values[torch.tensor(rows, dtype=torch.long, device=values.device)] if values.ndim else values
        return values if values is None else [values[row] for row in rows]

    return {name: take(values) for name, values in batch.items()}


def copy_images(batch: Batch) -> Batch:
    """Return a batch whose images need no memory of the rollout that they were taken from; siblings share theirs."""
    copies: dict[tuple, torch.Tensor] = {}

    def copy(row: Any) -> Any:
        if not isinstance(row, torch.Tensor):
            return row
        return copies.setdefault((row.data_ptr(), row.shape), row.clone())

    return {name: [copy(row) for row in value] if isinstance(value, list) else value for name, value in batch.items()}


def merge_rows(parts: Sequence[Batch], places: Sequence[tuple[int, int]], pad_token_id: int) -> Batch:
    """Return one batch of the rows of several, padded to the longest prompt and to the longest completion.

    Args:
        parts: batches by row, see `split_rows`. One without any image may lack what images need.
        places: the part of each row, and its row there.
        pad_token_id: the token after a completion and before a prompt.

    Returns:
        The batch; tensors without rows are those of the first part. Where no row has an image, nothing is said of any.
    """
    merged: Batch = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        like = next((part[name] for part in parts if part.get(name) is not None), None)
        if like is None or (isinstance(like, torch.Tensor) and not like.ndim):
            merged[name] = like
            continue
        rows = [_take_row(parts[part], name, row, like) for part, row in places]
        padding = pad_token_id if name in ("prompt_ids", "completion_ids") else PADDING.get(name, 0)
        if isinstance(like, list):
            merged[name] = rows
        elif like.ndim == 1:
            merged[name] = torch.stack(rows)
        elif name in TOKEN_TYPES:
            widths = [parts[part]["prompt_ids"].shape[1] for part, _ in places]
            prompts = [types[:width] for types, width in zip(rows, widths, strict=True)]
            completions = [types[width:] for types, width in zip(rows, widths, strict=True)]
            merged[name] = torch.cat([pad(prompts, padding_side="left"), pad(completions)], dim=1)
        else:
            merged[name] = pad(rows, padding, "left" if name in PADDED_LEFT else "right")
    if "num_images" in merged and not any(merged["num_images"]):
        return {name: values for name, values in merged.items() if name not in OF_IMAGES}
    return merged


def _take_row(part: Mapping[str, Any], name: str, row: int, like: Any) -> Any:
    """Return an entry of a row; of a part without images, what a row without an image has."""
    if part.get(name) is not None:
        return part[name][row]
    if name in TOKEN_TYPES:
        return like.new_zeros(part["prompt_ids"].shape[1] + part["completion_ids"].shape[1])
    if isinstance(like, torch.Tensor):
        return torch.zeros_like(like[0])
    return like[0][:0] if isinstance(like[0], torch.Tensor) else 0  # a number of images
