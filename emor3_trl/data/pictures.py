"""One picture, from the bytes of its file to what is stored: upright RGB within the pixel budget, or a reason.

Whatever a file holds, the outcome is a `Picture` or `Unusable`: nothing else is raised, and what is decoded at once is
bounded, so that a worker's memory is.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from emor3_trl.data.candidates import Unusable
from emor3_trl.data.resizing import to_pixel_budget

MAX_DECODED_PIXELS = 60_000_000  # of what a decoder is asked for; a larger JPEG is decoded at a fraction of its size
MAX_ASPECT_RATIO = 200  # of what is stored: Qwen-VL's image processor refuses more
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Budget:
    """How large stored pictures are.

    Args:
        min_pixels, max_pixels: bounds of width times height.
        multiple_of: width and height are multiples of this.
    """

    min_pixels: int = 262_144  # reference implementation
    max_pixels: int = 1_048_576  # 1,337 image tokens, so that prompts stay within the reference's 2,048
    multiple_of: int = 28


@dataclass(frozen=True)
class Picture:
    """A picture as it is stored.

    Args:
        data: the bytes of a JPEG file (quality 95, full colour resolution) or, of a lossless source, of a PNG file.
        content: SHA-256 of the file that it came from.
        fingerprint: 64 bits that nearly equal pictures share but for a few (difference hash).
        size: width and height.
    """

    data: bytes
    content: bytes
    fingerprint: int
    size: tuple[int, int]


def take(file: bytes, budget: Budget) -> Picture:
    """Decode, turn upright, resize and encode a picture.

    Args:
        file: the bytes of a picture file; of an animation, the first frame is taken.
        budget: how large it shall be.

    Raises:
        Unusable: with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's warnings, the limit below is stricter
            return _take(file, budget)
    except Unusable:
        raise
    except Image.DecompressionBombError:
        raise Unusable("is a decompression bomb: far more pixels than a picture has") from None
    except Image.UnidentifiedImageError:
        raise Unusable("is no picture that Pillow knows") from None
    except (Exception, MemoryError) as error:  # Pillow's plug-ins raise almost anything for a broken file
        raise Unusable(f"cannot be decoded: {type(error).__name__}: {str(error)[:120]}") from None


def _take(file: bytes, budget: Budget) -> Picture:
    with Image.open(io.BytesIO(file)) as image:
        lossless = image.format not in ("JPEG", "MPO")
        if not lossless:
            scale = (budget.max_pixels / max(image.width * image.height, 1)) ** 0.5
            # No effect unless the picture has four times the wanted width, so that resizing still has enough to average
            image.draft("RGB", (round(2 * scale * image.width), round(2 * scale * image.height)))
        if image.width * image.height > MAX_DECODED_PIXELS:
            raise Unusable(
                f"has {image.width} x {image.height} pixels, more than {MAX_DECODED_PIXELS // 10**6} million"
            )
        image.load()
        resized = to_pixel_budget(image, budget.min_pixels, budget.max_pixels, budget.multiple_of)
    long, short = max(resized.size), min(resized.size)
    if long > MAX_ASPECT_RATIO * short:
        raise Unusable(f"is {long // short} times as long as wide; the model's processor refuses more than 200")
    buffer = io.BytesIO()
    if lossless:
        resized.save(buffer, "PNG", compress_level=1)
    else:
        resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Picture(buffer.getvalue(), hashlib.sha256(file).digest(), _difference_hash(resized), resized.size)


def _difference_hash(image: Image.Image) -> int:
    """Return 64 bits: whether each cell of an 8 x 9 grid is darker than its right neighbour."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")
