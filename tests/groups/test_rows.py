"""Rows of several rollouts make one batch: padded alike, each with its own picture, and nothing of those left out."""

import pytest
import torch

from emor3_trl.groups.rows import copy_images, join_rows, merge_rows, split_rows, take_rows

PAD = 9


def rollout(prompt: int, completion: int, start: int, patches: list[int]) -> dict:
    """Return two rows whose numbers say where they come from; `patches` of the image of each, 0 for none."""
    rows = torch.tensor([[start], [start + 1]])
    pixels = [torch.full((count, 3), float(start + row)) for row, count in enumerate(patches)]
    batch = {
        "prompt_ids": rows.expand(2, prompt),
        "prompt_mask": torch.ones(2, prompt, dtype=torch.long),
        "completion_ids": rows.expand(2, completion),
        "completion_mask": torch.ones(2, completion, dtype=torch.long),
        "advantages": rows[:, 0].float(),
        "importance_sampling_ratio": rows.float().expand(2, completion),
        "ref_per_token_logps": rows.float().expand(2, completion),
        "num_items_in_batch": torch.tensor(2 * completion),
    }
    if any(patches):
        batch |= {
            "pixel_values": torch.cat(pixels),
            "image_grid_thw": torch.tensor([[1, 1, count] for count in patches if count]),
            "num_images": [int(count > 0) for count in patches],
            "mm_token_type_ids": torch.cat([torch.ones(2, prompt), torch.zeros(2, completion)], dim=1).long(),
        }
    return split_rows(batch)


def test_rows_are_padded_to_the_longest_prompt_and_completion():
    merged = merge_rows([rollout(2, 4, 10, [4, 2]), rollout(3, 1, 20, [1, 3])], [(1, 1), (0, 0)], PAD)
    assert merged["prompt_ids"].tolist() == [[21, 21, 21], [PAD, 10, 10]]
    assert merged["prompt_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert merged["completion_ids"].tolist() == [[21, PAD, PAD, PAD], [10] * 4]
    assert merged["completion_mask"].tolist() == [[1, 0, 0, 0], [1] * 4]
    assert merged["importance_sampling_ratio"].tolist() == [[21, 1, 1, 1], [10] * 4]
    assert merged["ref_per_token_logps"].tolist() == [[21, 0, 0, 0], [10] * 4]
    assert merged["mm_token_type_ids"].tolist() == [[1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0]]
    assert merged["advantages"].tolist() == [21, 10]
    assert [row.tolist() for row in merged["pixel_values"]] == [[[21.0] * 3] * 3, [[10.0] * 3] * 4]
    joined = join_rows(merged, apart=False)
    assert joined["image_grid_thw"].tolist() == [[1, 1, 3], [1, 1, 4]]
    assert joined["pixel_values"][:, 0].tolist() == [21.0] * 3 + [10.0] * 4


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["pictures-first", "text-first"])
def test_a_rollout_without_pictures_mixes_with_one_that_has_some(order):
    parts = [rollout(2, 2, 10, [4, 0]), rollout(3, 1, 20, [0, 0])]
    merged = merge_rows([parts[part] for part in order], [(order.index(0), 0), (order.index(1), 1)], PAD)
    assert merged["num_images"] == [1, 0]
    assert [len(row) for row in merged["pixel_values"]] == [4, 0]
    assert merged["mm_token_type_ids"].tolist() == [[0, 1, 1, 0, 0], [0] * 5]


def test_a_batch_that_is_left_without_pictures_is_one_of_text():
    merged = merge_rows([rollout(2, 2, 10, [4, 0]), rollout(3, 1, 20, [0, 0])], [(0, 1), (1, 1)], PAD)
    assert not {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} & set(merged)


def test_rows_that_are_kept_hold_no_memory_of_the_others():
    pixels = torch.arange(60.0).view(20, 3)
    views = {"pixel_values": [pixels[:2], pixels[:2], pixels[2:5]], "num_images": [1, 1, 1]}
    kept = copy_images(take_rows(views, [0, 1]))["pixel_values"]
    assert [row.untyped_storage().nbytes() for row in kept] == [2 * 3 * 4] * 2
    assert kept[0].data_ptr() == kept[1].data_ptr()  # siblings share theirs
    assert torch.equal(kept[0], pixels[:2])
