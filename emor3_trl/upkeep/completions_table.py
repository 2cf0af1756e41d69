"""A table of completions for W&B and trackio: siblings together, small images, a bounded size. It needs no TRL."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image

BACKENDS = ("wandb", "trackio")
IMAGE_SIDE = 224  # pixels; with 256 colours a PNG of this size has at most 52 kB


def choose_rows(groups: Sequence[int], limit: int) -> list[int]:
    """Return the first rows that make whole groups, at most `limit`; of a larger group, its first rows.

    >>> choose_rows([0, 0, 0, 1, 1, 1, 2, 2, 2], 7)
    [0, 1, 2, 3, 4, 5]
    >>> choose_rows([0, 0, 0], 2)
    [0, 1]
    """
    chosen: list[int] = []
    for _, rows in groupby(range(len(groups)), lambda row: groups[row]):
        siblings = list(rows)
        if chosen and len(chosen) + len(siblings) > limit:
            break
        chosen += siblings[:limit]
    return chosen


def shrink_image(image: Image.Image) -> Image.Image:
    """Return a copy with 256 colours and at most `IMAGE_SIDE` pixels a side, whose PNG is small."""
    small = image.convert("RGB")
    small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    return small.quantize(256)


def build_table(backend: Any, columns: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> Any:
    """Return a table of W&B or trackio. Siblings share one image.

    Args:
        backend: the module `wandb` or `trackio`.
        columns: values by name; `image` holds PIL images.
        rows: which values to show.
    """
    shared: dict[int, Any] = {}
    data = []
    for row in rows:
        values = {name: column[row] for name, column in columns.items()}
        image = values.get("image")
        if image is not None:
            if id(image) not in shared:
                small = shrink_image(image)
                # trackio would give the image an alpha channel and all colours back
                shared[id(image)] = backend.Image(small if backend.__name__ == "wandb" else small.convert("RGB"))
            values["image"] = shared[id(image)]
        data.append(list(values.values()))
    return backend.Table(columns=list(columns), data=data)
