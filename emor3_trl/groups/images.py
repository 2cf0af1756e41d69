"""Each image is decoded and processed once per step, however many completions are about it.

GRPO repeats every row G times, and TRL hands each copy to the image processor twice: to tokenise the prompt, and for
the forward passes. Here rows with the same image share one decoded object (`share_images`), and the image processor
remembers, for the time of one step, what it has made of each (`process_images_once`). Patches of an image stand once in
memory, too: each row has a view of them (`split_pixels_by_row`).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset, List
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


def list_images(row: Mapping[str, Any]) -> list[Any]:
    """Return the images of a row: those of its column `images`, else the one of `image`, else none."""
    if "images" in row:
        return list(row["images"] or ())
    return [] if row.get("image") is None else [row["image"]]


def count_images(dataset: Any) -> int:
    """Return how many images a row of a data set has at most, 1 at least; of a stream, the first rows tell."""
    features = getattr(dataset, "features", None) or {}
    if "images" not in features:
        return 1
    if isinstance(dataset, Dataset):
        counts = pc.list_value_length(dataset.with_format("arrow")["images"][:])
        return max(pc.max(counts).as_py() or 1, 1)
    return max([len(list_images(row)) for row in leave_encoded(dataset).take(64)] + [1])


def leave_encoded(dataset: Any) -> Any:
    """Return a data set whose images are not decoded when a row is read; `share_images` decodes them.

    Args:
        dataset: a data set, or a dict of them. One without a decoded column `image` or `images` is returned as it is.
    """
    if isinstance(dataset, Mapping):
        return {name: leave_encoded(part) for name, part in dataset.items()}
    features = getattr(dataset, "features", None) or {}
    encoded = ImageFeature(decode=False)
    for column, target in (("image", encoded), ("images", List(encoded))):
        feature = getattr(features.get(column), "feature", features.get(column))
        # One that asks for a mode, such as "L", is left to decode: a row does not say which mode it is to have.
        if isinstance(feature, ImageFeature) and feature.decode and feature.mode is None:
            dataset = dataset.cast_column(column, target)
    return dataset


def share_images(rows: Sequence[dict[str, Any]], counts: ImageCounts) -> list[dict[str, Any]]:
    """Return the rows with decoded images, one object for all rows with the same image.

    Args:
        rows: rows whose `image`, or each of whose `images`, is a PIL image, or the bytes or path of an encoded one.
        counts: `decoded` is added to.
    """
    decoded: dict[Any, Any] = {}

    def share(image: Any) -> Any:
        key = _identity(image)
        if key not in decoded:
            counts.decoded += isinstance(image, dict)
            decoded[key] = ImageFeature().decode_example(image) if isinstance(image, dict) else image
        return decoded[key]

    shared = []
    for row in rows:
        if row.get("image") is not None:
            row = {**row, "image": share(row["image"])}
        if row.get("images"):
            row = {**row, "images": [share(image) for image in row["images"]]}
        shared.append(row)
    return shared


def _identity(image: Any) -> Any:
    """Return what is equal for equal images."""
    if isinstance(image, dict):
        return hashlib.sha256(image["bytes"]).digest() if image.get("bytes") else image["path"]
    if isinstance(image, Image.Image):
        return image.size, image.mode, hashlib.sha256(image.tobytes()).digest()
    return id(image)


def split_pixels_by_row(
    pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, images: Sequence[Sequence[Any]]
) -> list[torch.Tensor]:
    """Return the patches of each row's images; rows with the same images have the same memory.

    Args:
        pixel_values: patches of the rows' images, or of the distinct ones in the order in which they first come; shape
            (patches, values per patch).
        image_grid_thw: patches of each row's images by time, height and width, shape (images, 3).
        images: the image objects of each row.
    """
    lengths = image_grid_thw.prod(dim=-1).tolist()
    keys = [id(image) for row in images for image in row]
    if sum(lengths) == len(pixel_values):
        places, sizes = list(range(len(lengths))), lengths
    else:
        firsts: dict[int, int] = {}
        places = [firsts.setdefault(key, len(firsts)) for key in keys]
        sizes = [lengths[keys.index(key)] for key in firsts]
    patches = pixel_values.split(sizes)
    joined: dict[tuple[int, ...], torch.Tensor] = {(): pixel_values[:0]}
    rows, start = [], 0
    for row in images:
        key = tuple(places[start : start + len(row)])
        if key not in joined:  # one image is a view, several are copied once
            joined[key] = patches[key[0]] if len(key) == 1 else torch.cat([patches[place] for place in key])
        rows.append(joined[key])
        start += len(row)
    return rows


@contextmanager
def process_images_once(processor: Any, counts: ImageCounts, repeated: bool = True) -> Iterator[None]:
    """Let a processor of the Qwen-VL family process each image object once, while in this context.

    Args:
        processor: a processor whose image processor returns `pixel_values` (patches of all images, one after the other)
            and `image_grid_thw`. Any other processor, and a tokenizer, works as it always does.
        counts: `requested` and `processed` are added to.
        repeated: whether the patches of an image are repeated where it comes again in a call, as the processor does it;
            if not, `split_pixels_by_row` reads the result.
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
