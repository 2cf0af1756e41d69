"""Emotion data as the recipes read it: one Parquet file per split, pictures resized once, everything checked on load.

A data set's module (`demo.py`, …) turns what people download into rows and hands them to `write_split`; training and
evaluation read them with `load_split`. A row is `id`, `image` (PNG), `emotion`, `label_space` (list of labels) and
`source`. Pictures are resized here and nowhere else, so that the trainer's processor and vLLM see the same pixels.
"""

import hashlib
import io
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from emor3_trl.emotions import LabelSpace
from emor3_trl.prompts import PromptStyle, prompt_text

COLUMNS = ("id", "image", "emotion", "label_space", "source")
FULL_CHECK_LIMIT = 5_000  # up to so many pictures are decoded when a split is loaded; of more, only checksums are read

_STORED = Features(
    {
        "id": Value("string"),
        "image": ImageFeature(),
        "emotion": Value("string"),
        "label_space": List(Value("string")),
        "source": Value("string"),
    }
)
_PROMPT = List({"role": Value("string"), "content": Value("string")})
_ROW_GROUP = 256


def load_split(
    data_dir: str | Path,
    split: str,
    prompt_style: PromptStyle = "set",
    max_samples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read and check a split, and give each row its prompt.

    Every label is checked. Pictures are decoded once each, up to `FULL_CHECK_LIMIT` of them; of a larger split, header
    and checksums are. Only rows that are asked for are held in memory, and nothing is written to a cache.

    Args:
        data_dir: folder that holds `<split>.parquet`.
        split: name of the split.
        prompt_style: "set" (Structured Emotional Thinking), "think" or "direct", see `prompts.prompt_text`.
        max_samples: number of rows to draw at random; they keep their order. None or a larger number takes all.
        seed: seed of that draw.

    Returns:
        Columns `id`, `image` (decoded when accessed), `prompt` (a conversation of one user turn, whose picture TRL puts
        in front), `emotion`, `label_space` (list of labels) and `source`.

    Raises:
        FileNotFoundError: if the folder or the split does not exist.
        ValueError: if the split is empty or no such Parquet file, a label is unknown, a picture cannot be read, or an
            argument is out of range.
    """
    prompt_text(prompt_style, ())  # an unknown style fails before any file is read
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}. Expected 1 or more, or None for all rows.")
    path = _split_path(Path(data_dir), split)
    try:
        with pq.ParquetFile(path) as file:
            absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if absent:
                raise ValueError(
                    f"{path} has no column {', '.join(absent)}. Expected {', '.join(COLUMNS)}, as "
                    "emor3_trl.data.write_split writes them; prepare the data again."
                )
            texts = file.read(columns=[name for name in COLUMNS if name != "image"])
            _check_labels(texts.to_pylist(), path)
            chosen = _choose(texts.num_rows, max_samples, seed)
            table = texts.take(chosen).append_column("image", _read_images(file, chosen))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}). Prepare the data again.") from error
    _check_pictures(table, chosen, path)

    prompts = [
        [{"role": "user", "content": prompt_text(prompt_style, labels)}] for labels in table["label_space"].to_pylist()
    ]
    features = Features({**_STORED, "prompt": _PROMPT})
    table = table.append_column("prompt", pa.array(prompts, features.arrow_schema.field("prompt").type))
    order = ["id", "image", "prompt", "emotion", "label_space", "source"]
    features = Features({name: features[name] for name in order})
    table = table.select(order).replace_schema_metadata(None).cast(features.arrow_schema)
    return Dataset(table, info=DatasetInfo(features=features))


def write_split(data_dir: str | Path, split: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Check the labels of `rows` and write them to `<data_dir>/<split>.parquet`, whole or not at all.

    Args:
        data_dir: folder to write to; it is made if need be. A split of that name is replaced.
        split: name of the split.
        rows: `id` (unique), `image` (an RGB picture that `to_pixel_budget` returned, or the bytes of a PNG file),
            `emotion`, `label_space` (labels) and `source`.

    Returns:
        The path of the file.

    Raises:
        ValueError: if there are no rows, an id comes twice, or a label is unknown.
    """
    path = Path(data_dir) / f"{split}.parquet"
    stored = [
        {
            **{name: row[name] for name in COLUMNS},
            "label_space": list(row["label_space"]),
            "image": {"bytes": _png(row["image"]), "path": None},
        }
        for row in rows
    ]
    _check_labels(stored, path)
    table = pa.Table.from_pylist(stored, schema=_STORED.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary, row_group_size=_ROW_GROUP)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def content_hash(data_dir: str | Path, split: str) -> str:
    """Return a SHA-256 of what a split holds, the same however its Parquet file was compressed."""
    digest = hashlib.sha256()
    with pq.ParquetFile(_split_path(Path(data_dir), split)) as file:
        for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=list(COLUMNS)):
            for row in batch.to_pylist():
                parts = [row["id"], row["emotion"], *row["label_space"], row["source"]]
                for part in (*(part.encode() for part in parts), row["image"]["bytes"]):
                    digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def to_pixel_budget(image: Image.Image, min_pixels: int, max_pixels: int, multiple_of: int = 1) -> Image.Image:
    """Return an upright RGB copy of a picture whose width times height lies within the budget.

    The EXIF orientation is applied, transparency is laid on white, the aspect ratio is kept as far as whole multiples
    allow. In a budget too narrow for whole pixels, `max_pixels` wins.

    Args:
        image: any picture that Pillow reads: grey, 16-bit, palette, CMYK, with alpha, …
        min_pixels: smallest width times height, in pixels.
        max_pixels: largest width times height, in pixels.
        multiple_of: width and height are multiples of this (28 for Qwen2.5-VL: patches of 14, merged 2 x 2).

    Raises:
        ValueError: if the bounds leave no picture.
    """
    if multiple_of < 1 or not 1 <= min_pixels <= max_pixels or multiple_of**2 > max_pixels:
        raise ValueError(
            f"min_pixels is {min_pixels}, max_pixels is {max_pixels} and multiple_of is {multiple_of}. Expected "
            "1 <= min_pixels <= max_pixels, and room for one square of multiple_of within max_pixels."
        )
    upright = _to_rgb(ImageOps.exif_transpose(image))
    size = _size_within(upright.size, min_pixels, max_pixels, multiple_of)
    return upright if size == upright.size else upright.resize(size, Image.Resampling.BICUBIC)


def _size_within(size: tuple[int, int], min_pixels: int, max_pixels: int, unit: int) -> tuple[int, int]:
    """Return (width, height) within the budget, in whole units."""
    largest = max_pixels // unit**2  # area, in units
    width, height = (max(1, round(side / unit)) for side in size)
    if width * height > largest:
        scale = math.sqrt(max_pixels / (size[0] * size[1])) / unit
        width, height = (max(1, math.floor(side * scale)) for side in size)
    elif width * height * unit**2 < min_pixels:
        scale = math.sqrt(min_pixels / (size[0] * size[1])) / unit
        width, height = (math.ceil(side * scale) for side in size)
    # A very long picture, whose short side cannot shrink further, or a budget too narrow for its aspect ratio
    while width * height > largest:
        if width >= height:
            width = largest // height if width > largest // height else width - 1
        else:
            height = largest // width if height > largest // width else height - 1
    return width * unit, height * unit


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits per pixel, of which a plain conversion would clip all but the darkest
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGB")


def _png(image: Image.Image | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _split_path(data_dir: Path, split: str) -> Path:
    path = data_dir / f"{split}.parquet"
    if path.is_file():
        return path
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"There is no data folder {data_dir}. Give the folder that holds the splits, or make the demo's with "
            "`python recipes/prepare_data.py`."
        )
    splits = ", ".join(sorted(file.stem for file in data_dir.glob("*.parquet")))
    allowed = f"Expected one of: {splits}" if splits else "The folder holds no split; prepare the data first"
    raise FileNotFoundError(f"There is no split '{split}' in {data_dir}. {allowed}.")


def _check_labels(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise for the first row whose emotion is none of its label space, or whose id came before."""
    if not rows:
        raise ValueError(f"{path} has no rows. Prepare the data again; a split needs at least one.")
    spaces: dict[tuple[str, ...], LabelSpace] = {}
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        name, labels = row["id"], tuple(row["label_space"] or ())
        if not isinstance(name, str) or name in seen:
            first = f" of row {seen[name]}" if name in seen else ""
            raise ValueError(f"The id {name!r}{first} comes again in row {number} of {path}. Expected unique strings.")
        seen[name] = number
        if labels not in spaces:
            try:
                spaces[labels] = LabelSpace("of the row", labels)
            except ValueError as error:
                raise ValueError(f"Row {number} of {path} has no usable label space. {error}") from error
        if row["emotion"] not in labels:
            meant = spaces[labels].normalise(row["emotion"])
            hint = f"Write it as '{meant}'" if meant else "Map it to one of these, or give the row another label space"
            raise ValueError(
                f"Unknown emotion {row['emotion']!r} in row {number} (id '{name}') of column 'emotion' in {path}. "
                f"Expected one of {', '.join(labels)}. {hint}, and prepare the data again."
            )


def _choose(rows: int, max_samples: int | None, seed: int) -> list[int]:
    if max_samples is None or max_samples >= rows:
        return list(range(rows))
    return sorted(random.Random(seed).sample(range(rows), max_samples))


def _read_images(file: pq.ParquetFile, chosen: Sequence[int]) -> pa.ChunkedArray:
    """Return the images of the chosen rows (ascending), one batch of the file in memory at a time."""
    chunks, first, position = [], 0, 0
    for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=["image"]):
        end = position
        while end < len(chosen) and chosen[end] < first + batch.num_rows:
            end += 1
        if end > position:
            chunks.append(batch.column(0).take(pa.array([row - first for row in chosen[position:end]])))
        first, position = first + batch.num_rows, end
    return pa.chunked_array(chunks)


def _check_pictures(table: pa.Table, numbers: Sequence[int], path: Path) -> None:
    """Raise for the first picture that Pillow cannot read."""
    decode = table.num_rows <= FULL_CHECK_LIMIT

    def fault(row: int) -> str | None:
        picture = table["image"][row].as_py() or {}
        try:
            with Image.open(io.BytesIO(picture["bytes"])) as image:
                image.load() if decode else image.verify()
        except Exception as error:  # Pillow's plug-ins raise almost anything for a broken file
            return f"{type(error).__name__}: {error}"
        return None

    # Pillow lets go of the interpreter lock while it decodes
    with ThreadPoolExecutor() as pool:
        for row, problem in enumerate(pool.map(fault, range(table.num_rows))):
            if problem:
                raise ValueError(
                    f"The picture in row {numbers[row]} (id '{table['id'][row].as_py()}') of {path} cannot be read "
                    f"({problem}). Replace or remove its file, and prepare the data again."
                )
