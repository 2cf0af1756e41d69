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

from emor3_trl.data.sources.folder_names import is_image_name
from emor3_trl.data.sources.messages import shorten

NO_CELL = "has no image or no emotion"
MAX_PATH = 200  # characters; what is longer may be the image itself
_BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")  # how JPEG, PNG, GIF and WEBP begin
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
        return _decode_base64(text.partition(",")[2])
    if len(text) > MAX_PATH and text.startswith(_BASE64):
        return _decode_base64(text)
    if text.lower().startswith(("http://", "https://")):
        raise OddCell("names an image on the Internet, and nothing is downloaded")
    if len(text) > MAX_PATH and text[:200].replace(" ", "").isdecimal():
        return _draw_pixels(text)
    return text.removeprefix("file://")


def is_encoded(text: str) -> bool:
    """Return whether a long text is an image: base64, or numbers."""
    return text.startswith(("data:image/", *_BASE64)) or text[:200].replace(" ", "").isdecimal()


def holds_images(cells: Sequence[Any]) -> bool:
    """Return whether the first cells of a column are images: bytes, or names of files or of pages on the Internet."""
    kinds = {_is_image(cell) for cell in cells[:20] if not is_blank(cell)}
    return True in kinds and False not in kinds


def _is_image(value: Any) -> bool | None:
    """Return whether a cell is an image; None for a list of none or of several."""
    try:
        image = read_image_cell(value)
    except OddCell:
        return is_image_name(value.split("?")[0]) if isinstance(value, str) else None
    return isinstance(image, bytes) or is_image_name(image.strip().strip("'\""))


def _read_literal(text: str) -> Any:
    """Return the list or object that a cell of CSV writes out, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise OddCell("holds base64 that is broken") from None


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
