"""Emotion data as the recipes read it: one Parquet file per split, images resized once, everything checked on load.

A row is `id`, `image` (PNG or JPEG), `emotion`, `label_space` (labels), `source` and, where people voted, `votes` (the
share of each label). Images are resized when data is prepared (`resizing`) and nowhere else, so that the trainer's
processor and vLLM see the same pixels.
"""

import hashlib
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from emor3_trl.data.resizing import to_pixel_budget, to_upright_rgb
from emor3_trl.data.split_checks import VOTES, check_images, check_labels, check_votes
from emor3_trl.emotions import LabelSpace
from emor3_trl.files import replacing
from emor3_trl.prompts import PromptStyle, prompt_text

__all__ = ["COLUMNS", "SplitWriter", "content_hash", "count_rows", "load_split", "to_pixel_budget", "write_split"]

COLUMNS = ("id", "image", "emotion", "label_space", "source")
FULL_CHECK_LIMIT = 5_000  # up to so many images are decoded when a split is loaded; of more, checksums are read

_STORED = Features(
    {
        "id": Value("string"),
        "image": ImageFeature(),
        "emotion": Value("string"),
        "label_space": List(Value("string")),
        "source": Value("string"),
    }
)
_SHARES = List(Value("float64"))
_PROMPT = List({"role": Value("string"), "content": Value("string")})
# How much is held in memory when a split is written: so many rows, or so many bytes. More bytes are slower: an image
# takes 1.6 ms at 32 MiB and 0.5 ms here, where buffers are used again and stay in the cores' caches.
_ROW_GROUP, _ROW_GROUP_BYTES = 256, 4 * 2**20
_ROWS_READ = 32  # at a time


def load_split(
    data_dir: str | Path,
    split: str,
    prompt_style: PromptStyle = "set",
    max_samples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read and check a split, and give each row its prompt.

    Every label is checked. Each image is decoded once in a split of up to `FULL_CHECK_LIMIT` rows; in a larger split,
    headers and checksums are read. Only the chosen rows are held in memory, and nothing is written to a cache.

    Args:
        data_dir: folder that holds `<split>.parquet`.
        split: name of the split.
        prompt_style: "set" (Structured Emotional Thinking), "think" or "direct", see `prompts.prompt_text`.
        max_samples: number of rows to draw at random; they keep their order. None or a larger number takes all.
        seed: seed of that draw.

    Returns:
        Columns `id`, `image` (decoded when accessed), `prompt` (a conversation of one user turn; TRL puts the image in
        front), `emotion`, `label_space` (list of labels), `source` and, where the file has it, `votes` (the share of
        each label, in the order of `label_space`).

    Raises:
        FileNotFoundError: if the folder or the split does not exist.
        ValueError: if the split is empty or no Parquet file, a label is unknown, an image cannot be read, or an
            argument is out of range.
    """
    prompt_text(prompt_style, ())  # an unknown style fails before any file is read
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}. Expected 1 or more, or None for all rows.")
    path = _find_split(Path(data_dir), split)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if absent:
                raise ValueError(
                    f"{path} has no column {', '.join(absent)}. Expected {', '.join(COLUMNS)}, as "
                    "emor3_trl.data.write_split writes them; prepare the data again."
                )
            names = _list_columns(file.schema_arrow)
            texts = _expand_label_spaces(file.read(columns=[name for name in names if name != "image"]))
            check_labels(rows := texts.to_pylist(), path)
            check_votes(rows, VOTES in names, path)
            chosen = _choose_rows(texts.num_rows, max_samples, seed)
            table = texts.take(chosen).append_column("image", _read_images(file, chosen))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}). Prepare the data again.") from error
    check_images(table, chosen, path, decode=len(chosen) <= FULL_CHECK_LIMIT)

    prompts = [
        [{"role": "user", "content": prompt_text(prompt_style, labels)}] for labels in table["label_space"].to_pylist()
    ]
    known = {**_STORED, "prompt": _PROMPT, VOTES: _SHARES}
    features = Features({name: known[name] for name in [*names[:2], "prompt", *names[2:]]})
    table = table.append_column("prompt", pa.array(prompts, features.arrow_schema.field("prompt").type))
    table = table.select(list(features)).replace_schema_metadata(None).cast(features.arrow_schema)
    return Dataset(table, info=DatasetInfo(features=features))


def count_rows(data_dir: str | Path, split: str) -> int:
    """Return the number of rows of a split, from the footer of its file: no row is read and no image decoded.

    Raises:
        FileNotFoundError: if the folder or the split does not exist.
        ValueError: if it is no Parquet file.
    """
    path = _find_split(Path(data_dir), split)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}). Prepare the data again.") from error


def write_split(data_dir: str | Path, split: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Check the labels of `rows` and write them to `<data_dir>/<split>.parquet`, whole or not at all.

    Args:
        data_dir: folder to write to; it is made if it does not exist. A split of that name is replaced.
        split: name of the split.
        rows: `id` (unique), `image` (an image of the size that `to_pixel_budget` returns, or the bytes of an image
            file), `emotion`, `label_space` (labels, or the name of a known space), `source` and, in all rows or none,
            `votes` (the share of each label; they sum to 1). An image is stored as upright RGB.

    Returns:
        The path of the file.

    Raises:
        ValueError: if there are no rows, an id comes twice, a label is unknown, votes do not fit, or an image cannot be
            stored.
    """
    with SplitWriter(data_dir, split) as writer:
        for row in rows:
            writer.add(row)
    return writer.path


class SplitWriter:
    """Writes a split row by row, with a few hundred rows in memory. The file appears when all rows are written.

    Args:
        data_dir: folder to write to; it is made if it does not exist. A split of that name is replaced.
        split: name of the split.
    """

    def __init__(self, data_dir: str | Path, split: str) -> None:
        self.path = Path(data_dir) / f"{split}.parquet"
        self._whole = ExitStack()  # closes the file, then puts it in its place
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._seen: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._file: pq.ParquetWriter | None = None
        self._schema: pa.Schema = _STORED.arrow_schema

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; its fields are those of `write_split`.

        Raises:
            ValueError: at the latest when the writer is left, for the reasons of `write_split`.
        """
        image = _encode_image(row["image"], row["id"])
        stored = {name: row[name] for name in COLUMNS}
        if row.get(VOTES) is not None:
            stored[VOTES] = list(row[VOTES])
        stored |= {"label_space": _list_labels(row["label_space"]), "image": {"bytes": image, "path": None}}
        self._rows.append(stored)
        self._bytes += len(image)
        if len(self._rows) == _ROW_GROUP or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def content_hash(self) -> str:
        """Return the `content_hash` of the split after it is written."""
        return self._digest.hexdigest()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            self._whole.__exit__(kind, *error)
            return
        with self._whole:
            if self._rows or not self._seen:
                self._flush()

    def _flush(self) -> None:
        check_labels(self._rows, self.path, self._seen)
        for row in self._rows:
            _hash_row(self._digest, row)
        if self._file is None:
            temporary = self._whole.enter_context(replacing(self.path))
            # Images are compressed already
            if VOTES in self._rows[0]:
                self._schema = Features({**_STORED, VOTES: _SHARES}).arrow_schema
            options = {"compression": "none", "write_page_checksum": True}
            writer = pq.ParquetWriter(temporary, self._schema, **options)
            self._file = self._whole.enter_context(writer)
        check_votes(self._rows, VOTES in self._schema.names, self.path)
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


def content_hash(data_dir: str | Path, split: str) -> str:
    """Return a SHA-256 of what a split holds, the same however its Parquet file was compressed."""
    digest = hashlib.sha256()
    with pq.ParquetFile(_find_split(Path(data_dir), split)) as file:
        for batch in file.iter_batches(batch_size=_ROWS_READ, columns=_list_columns(file.schema_arrow)):
            for row in batch.to_pylist():
                _hash_row(digest, row)
    return digest.hexdigest()


def _list_columns(schema: pa.Schema) -> list[str]:
    return [*COLUMNS, VOTES] if VOTES in schema.names and pa.types.is_list(schema.field(VOTES).type) else [*COLUMNS]


def _hash_row(digest: Any, row: Mapping[str, Any]) -> None:
    shares = [repr(share) for share in row.get(VOTES) or ()]
    texts = [row["id"], row["emotion"], *row["label_space"], row["source"], *shares]
    for part in (*((text or "").encode() for text in texts), row["image"]["bytes"]):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)


def _list_labels(space: str | Sequence[str] | None) -> list[str]:
    return list(LabelSpace.of(space).labels if isinstance(space, str) else space or ())


def _expand_label_spaces(table: pa.Table) -> pa.Table:
    """Return a table whose column `label_space` holds labels; other programs may have written a space's name."""
    column = table["label_space"]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return table
    labels = pa.array(map(_list_labels, column.to_pylist()), _STORED.arrow_schema.field("label_space").type)
    return table.set_column(table.schema.get_field_index("label_space"), "label_space", labels)


def _encode_image(image: Image.Image | bytes, name: str) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    try:
        to_upright_rgb(image).save(buffer, format="PNG")
    except ValueError as error:
        raise ValueError(f"The image of row '{name}' cannot be stored: {error}. Convert it to 8 bits.") from error
    return buffer.getvalue()


def _find_split(data_dir: Path, split: str) -> Path:
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


def _choose_rows(rows: int, max_samples: int | None, seed: int) -> list[int]:
    if max_samples is None or max_samples >= rows:
        return list(range(rows))
    return sorted(random.Random(seed).sample(range(rows), max_samples))


def _read_images(file: pq.ParquetFile, chosen: Sequence[int]) -> pa.ChunkedArray:
    """Return the images of the chosen rows (ascending). One batch of the file is in memory at a time."""
    chunks, first, position = [], 0, 0
    for batch in file.iter_batches(batch_size=_ROWS_READ, columns=["image"]):
        end = position
        while end < len(chosen) and chosen[end] < first + batch.num_rows:
            end += 1
        if end > position:
            chunks.append(batch.column(0).take(pa.array([row - first for row in chosen[position:end]])))
        first, position = first + batch.num_rows, end
    return pa.chunked_array(chunks)
