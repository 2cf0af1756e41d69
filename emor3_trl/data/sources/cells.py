"""What a cell of a table holds: the place or the bytes of an image, a label, or several labels."""

import ast
import base64
import binascii
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from emor3_trl.data.sources.labels import is_missing
from emor3_trl.data.sources.messages import shorten

NO_CELL = "has no image or no emotion"
_PATH_KEYS = ("path", "image", "url", "file_name", "filename", "file")


class OddCell(Exception):  # noqa: N818 - data, not a fault of the program
    """A cell that offers no one image or label. The message is the reason in the manifest."""


def is_blank(value: Any) -> bool:
    """Return whether a cell is empty: None, not a number, or white space."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def read_image_cell(value: Any) -> str | bytes:
    """Return the path of an image, or its bytes where they stand in the table.

    A list of one image is that image. Base64 data URLs, and a face's pixels as numbers, are images.

    Raises:
        OddCell: if the cell names no image, several, or one on the Internet.
    """
    if is_blank(value):
        raise OddCell(NO_CELL)
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = _read_literal(value)
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise OddCell(f"holds {len(value)} images" if value else "holds no image")
        return read_image_cell(value[0])
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes | bytearray) and value["bytes"]:
            return bytes(value["bytes"])
        return read_image_cell(next((value[key] for key in _PATH_KEYS if not is_blank(value.get(key))), None))
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    text = str(value)
    if text.startswith("data:image/"):
        return _decode_data_url(text)
    if text.lower().startswith(("http://", "https://")):
        raise OddCell("names an image on the Internet, and nothing is downloaded")
    if len(text) > 500 and text[:200].replace(" ", "").isdecimal():
        return _draw_pixels(text)
    return text.removeprefix("file://")


def _read_literal(text: str) -> Any:
    """Return the list or object that a cell of CSV writes out, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _decode_data_url(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2], validate=True)
    except binascii.Error:
        raise OddCell("holds a data URL that is broken") from None


def _draw_pixels(text: str) -> bytes:
    """Return a PNG of grey values that are written as numbers, row by row, of a square."""
    values = np.array(text.split(), dtype=np.int64)
    side = math.isqrt(len(values))
    if side * side != len(values) or values.max() > 255:
        raise OddCell(f"holds {len(values):,} numbers, which are no square of grey values")
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8).reshape(side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def read_label_cell(value: Any) -> tuple[str, dict[str, float] | None]:
    """Return a label as it is written and, where the cell lists several or counts votes, the votes of each.

    Raises:
        OddCell: if the cell is empty or holds something else.
    """
    if is_blank(value):
        raise OddCell(NO_CELL)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").strip()
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = _read_literal(value)
    if isinstance(value, Mapping):
        numbers = {str(key): number for key, number in value.items() if isinstance(number, int | float) and number > 0}
        if not numbers or not all(isinstance(number, int | float | None) for number in value.values()):
            raise OddCell("holds an object that counts no votes")
        return shorten(value), {key: float(number) for key, number in numbers.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        labels = [read_label_cell(item)[0] for item in value if not is_blank(item)]
        if len(labels) < 2:
            return read_label_cell(labels[0] if labels else None)
        return shorten(", ".join(labels)), dict(Counter(labels))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    whole = text.strip().removesuffix(".0")
    return (whole if whole.isdecimal() else text), None


def join_missing(value: Any) -> str:
    """Return the reason for a label that programs write where there is none, or an empty text."""
    return f"has no emotion ('{str(value).strip()}')" if is_missing(str(value)) else ""
