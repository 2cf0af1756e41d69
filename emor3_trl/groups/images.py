"""Each picture is decoded and processed once per step, however many completions are about it.

GRPO repeats every row G times, and TRL hands each copy to the image processor twice: to tokenise the prompt, and for
the forward passes. Here rows with the same picture share one decoded image (`share_images`), and the image processor
remembers, for the time of one step, what it has made of each (`processed_once`). Patches of a picture stand once in
memory, too: each row has a view of them (`pixels_of_rows`).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Image as ImageFeature
from PIL import Image
from transformers import BatchFeature


@dataclass
class ImageCounts:
    """What was done to images during a step.

    Args:
        requested: images that were asked for, copies included.
        processed: images that the processor worked on.
        decoded: images that were decoded.
    """

    requested: int = 0
    processed: int = 0
    decoded: int = 0


def leave_encoded(dataset: Any) -> Any:
    """Return a data set whose column `image` is not decoded when a row is read; `share_images` decodes it.

    Args:
        dataset: a data set, or a dict of them. One without a decoded image column is returned as it is.
    """
    if isinstance(dataset, Mapping):
        return {name: leave_encoded(part) for name, part in dataset.items()}
    feature = (getattr(dataset, "features", None) or {}).get("image")
    # One that asks for a mode, such as "L", is left to decode: a row does not say which mode it is to have.
    if isinstance(feature, ImageFeature) and feature.decode and feature.mode is None:
        return dataset.cast_column("image", ImageFeature(decode=False))
    return dataset


def share_images(rows: Sequence[dict[str, Any]], counts: ImageCounts) -> list[dict[str, Any]]:
    """Return the rows with decoded images, one object for all rows with the same picture.

    Args:
        rows: rows whose `image` is None, a PIL image, or the bytes or path of an encoded one.
        counts: `decoded` is added to.
    """
    images: dict[Any, Image.Image] = {}
    shared = []
    for row in rows:
        image = row.get("image")
        if image is not None:
            key = _identity(image)
            if key not in images:
                if isinstance(image, dict):
                    image = ImageFeature().decode_example(image)
                    counts.decoded += 1
                images[key] = image
            row = {**row, "image": images[key]}
        shared.append(row)
    return shared


def _identity(image: Any) -> Any:
    """Return what is equal for equal pictures."""
    if isinstance(image, dict):
        return hashlib.sha256(image["bytes"]).digest() if image.get("bytes") else image["path"]
    if isinstance(image, Image.Image):
        return image.size, image.mode, hashlib.sha256(image.tobytes()).digest()
    return id(image)


def pixels_of_rows(
    pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, images: Sequence[Any | None]
) -> list[torch.Tensor]:
    """Return the patches of each row's image, as views: rows with the same image have the same memory.

    Args:
        pixel_values: patches of the rows' images, or of the distinct ones in the order in which they first come; shape
            (patches, values per patch).
        image_grid_thw: patches of each row's image by time, height and width, shape (images, 3).
        images: the image object of each row, None for a row without one.
    """
    lengths = image_grid_thw.prod(dim=-1).tolist()
    present = [id(image) for image in images if image is not None]
    if sum(lengths) == len(pixel_values):
        order, sizes = list(range(len(lengths))), lengths
    else:
        first: dict[int, int] = {}
        order = [first.setdefault(key, len(first)) for key in present]
        sizes = [lengths[present.index(key)] for key in first]
    patches = pixel_values.split(sizes)
    own = iter(order)
    return [pixel_values[:0] if image is None else patches[next(own)] for image in images]


@contextmanager
def processed_once(processor: Any, counts: ImageCounts, repeated: bool = True) -> Iterator[None]:
    """Let a processor of the Qwen-VL family process each image object once, while in this context.

    Args:
        processor: a processor whose image processor returns `pixel_values` (patches of all images, one after the other)
            and `image_grid_thw`. Any other processor, and a tokenizer, works as it always does.
        counts: `requested` and `processed` are added to.
        repeated: whether the patches of an image are repeated where it comes again in a call, as the processor does it;
            if not, `pixels_of_rows` reads the result.
    """
    image_processor: Any = getattr(processor, "image_processor", None)
    if set(getattr(image_processor, "model_input_names", ())) != {"pixel_values", "image_grid_thw"}:
        yield
        return
    stock = image_processor.preprocess
    # The image itself is kept, so that its id stays its own.
    known: dict[Any, tuple[Any, torch.Tensor, torch.Tensor]] = {}

    def preprocess(images: Any, **options: Any) -> BatchFeature:
        flat = list(_flatten(images))
        asked_for = options.pop("return_tensors", None)
        # Equal options are written alike; values that are unequal never are, as no option is an object of a closure.
        keys = [(id(image), repr(sorted(options.items()))) for image in flat]
        new = {key: image for key, image in zip(keys, flat, strict=True) if key not in known}
        counts.requested += len(flat)
        counts.processed += len(new)
        if new:
            made = stock(list(new.values()), return_tensors="pt", **options)
            grids = made["image_grid_thw"]
            patches = made["pixel_values"].split(grids.prod(dim=-1).tolist())
            for (key, image), patch, grid in zip(new.items(), patches, grids, strict=True):
                known[key] = (image, patch, grid)
        parts = [known[key][1] for key in (keys if repeated else dict.fromkeys(keys))]
        result = {
            "pixel_values": parts[0] if len(parts) == 1 else torch.cat(parts),
            "image_grid_thw": torch.stack([known[key][2] for key in keys]),
        }
        return BatchFeature(result, tensor_type=asked_for)

    image_processor.preprocess = preprocess
    try:
        yield
    finally:
        del image_processor.preprocess


def _flatten(images: Any) -> Iterator[Any]:
    """Yield the images of nested lists, None left out."""
    if isinstance(images, list | tuple):
        for part in images:
            yield from _flatten(part)
    elif images is not None:
        yield images
