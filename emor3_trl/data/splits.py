"""Emotion data as the recipes read it: one Parquet file per split, images resized once, everything checked on load.

`write_split` and `SplitWriter` write rows, `load_split` reads them for training and evaluation. A row is `id`, `image`
(PNG or JPEG), `emotion`, `label_space` (labels) and `source`. Images are resized when data is prepared (`resizing`) and
nowhere else, so that the trainer's processor and vLLM see the same pixels.
"""

import hashlib
import io
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from emor3_trl.data.resizing import to_pixel_budget
from emor3_trl.emotions import LabelSpace
from emor3_trl.files import replacing
from emor3_trl.prompts import PromptStyle, prompt_text

__all__ = ["COLUMNS", "SplitWriter", "content_hash", "count_rows", "load_split", "to_pixel_budget", "write_split"]

COLUMNS = ("id", "image", "emotion", "label_space", "source")
FULL_CHECK_LIMIT = (
    5_000  # a split of up to so many images is decoded when it is loaded, of a larger one checksums are read
)

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
        front), `emotion`, `label_space` (list of labels) and `source`.

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
        with pq.ParquetFile(path) as file:
            absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if absent:
                raise ValueError(
                    f"{path} has no column {', '.join(absent)}. Expected {', '.join(COLUMNS)}, as "
                    "emor3_trl.data.write_split writes them; prepare the data again."
                )
            texts = _expand_label_spaces(file.read(columns=[name for name in COLUMNS if name != "image"]))
            _check_labels(texts.to_pylist(), path)
            chosen = _choose_rows(texts.num_rows, max_samples, seed)
            table = texts.take(chosen).append_column("image", _read_images(file, chosen))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}). Prepare the data again.") from error
    _check_images(table, chosen, path)

    prompts = [
        [{"role": "user", "content": prompt_text(prompt_style, labels)}] for labels in table["label_space"].to_pylist()
    ]
    features = Features({**_STORED, "prompt": _PROMPT})
    table = table.append_column("prompt", pa.array(prompts, features.arrow_schema.field("prompt").type))
    order = ["id", "image", "prompt", "emotion", "label_space", "source"]
    features = Features({name: features[name] for name in order})
    table = table.select(order).replace_schema_metadata(None).cast(features.arrow_schema)
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
        rows: `id` (unique), `image` (an RGB image that `to_pixel_budget` returned, or the bytes of an image file),
            `emotion`, `label_space` (labels, or the name of a known space) and `source`.

    Returns:
        The path of the file.

    Raises:
        ValueError: if there are no rows, an id comes twice, or a label is unknown.
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

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; its fields are those of `write_split`.

        Raises:
            ValueError: at the latest when the writer is left, if an id comes twice, or a label is unknown.
        """
        stored = {name: row[name] for name in COLUMNS}
        image = _encode_png(row["image"])
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
        _check_labels(self._rows, self.path, self._seen)
        for row in self._rows:
            _hash_row(self._digest, row)
        if self._file is None:
            temporary = self._whole.enter_context(replacing(self.path))
            # Images are compressed already
            writer = pq.ParquetWriter(temporary, _STORED.arrow_schema, compression="none")
            self._file = self._whole.enter_context(writer)
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=_STORED.arrow_schema))
        self._rows, self._bytes = [], 0


def content_hash(data_dir: str | Path, split: str) -> str:
    """Return a SHA-256 of what a split holds, the same however its Parquet file was compressed."""
    digest = hashlib.sha256()
    with pq.ParquetFile(_find_split(Path(data_dir), split)) as file:
        for batch in file.iter_batches(batch_size=_ROWS_READ, columns=list(COLUMNS)):
            for row in batch.to_pylist():
                _hash_row(digest, row)
    return digest.hexdigest()


def _hash_row(digest: Any, row: Mapping[str, Any]) -> None:
    texts = [row["id"], row["emotion"], *row["label_space"], row["source"]]
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


def _encode_png(image: Image.Image | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
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


def _check_labels(rows: Sequence[Mapping[str, Any]], path: Path, seen: dict[str, int] | None = None) -> None:
    """Raise for the first row whose emotion is not in its label space, or whose id came before; add ids to `seen`."""
    if not rows:
        raise ValueError(f"{path} has no rows. Prepare the data again; a split needs at least one.")
    spaces: dict[tuple[str, ...], LabelSpace] = {}
    seen = {} if seen is None else seen
    for number, row in enumerate(rows, start=len(seen)):
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
            label = spaces[labels].normalise(row["emotion"])
            hint = f"Write it as '{label}'" if label else "Map it to one of these, or give the row another label space"
            outside = Counter(
                repr(other["emotion"]) for other in rows if other["emotion"] not in (other["label_space"] or ())
            )
            counts = ", ".join(f"{emotion} {count}" for emotion, count in outside.most_common(10))
            raise ValueError(
                f"Unknown emotion {row['emotion']!r} in row {number} (id '{name}') of column 'emotion' in {path}. "
                f"Expected one of {', '.join(labels)}. {hint}, and prepare the data again. Outside their label "
                f"space are {outside.total()} of {len(rows)} rows: {counts}."
            )


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


def _check_images(table: pa.Table, numbers: Sequence[int], path: Path) -> None:
    """Raise for the first image that Pillow cannot read."""
    decode = table.num_rows <= FULL_CHECK_LIMIT

    def find_fault(row: int) -> str | None:
        stored = table["image"][row].as_py() or {}
        try:
            with Image.open(io.BytesIO(stored["bytes"])) as image:
                image.load() if decode else image.verify()
        except Exception as error:  # Pillow's plug-ins raise almost anything for a broken file
            return f"{type(error).__name__}: {error}"
        return None

    # Pillow lets go of the interpreter lock while it decodes
    with ThreadPoolExecutor() as pool:
        for row, fault in enumerate(pool.map(find_fault, range(table.num_rows))):
            if fault:
                raise ValueError(
                    f"The picture in row {numbers[row]} (id '{table['id'][row].as_py()}') of {path} cannot be read "
                    f"({fault}). Replace or remove its file, and prepare the data again."
                )
