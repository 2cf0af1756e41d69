"""One image, from the bytes of its file to what is stored: upright RGB within the pixel budget, or a reason.

Whatever a file holds, the outcome is a `PreparedImage` or `Unusable`. Nothing else is raised. A worker's memory is
bounded, because the pixels that are decoded at once are.
"""

import hashlib
import io
import math
import threading
from contextlib import nullcontext
from dataclasses import dataclass

from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from emor3_trl.data.duplicates import Look, compute_look
from emor3_trl.data.resizing import to_pixel_budget
from emor3_trl.data.sources.candidates import Unusable

# What people have. Pillow reads more formats, but some start a program (EPS: Ghostscript) or name other files.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
MAX_DECODED_PIXELS = 60_000_000  # that a decoder may produce; a larger JPEG is decoded at a fraction of its size
LARGE_PIXELS = 12_000_000  # larger images are decoded one at a time, so that memory does not grow with the cores
MAX_SCANS = 100  # of a progressive JPEG, which has about ten; each takes as long as a whole image
MAX_ASPECT_RATIO = 200  # of a stored image: Qwen-VL's image processor refuses more
JPEG_QUALITY = 95
THUMBNAIL_SIDE = 112  # pixels of a thumbnail's short side, at least, where the image has them


@dataclass(frozen=True)
class Budget:
    """How large stored images are.

    Args:
        min_pixels, max_pixels: bounds of width times height.
        multiple_of: width and height are multiples of this.
    """

    min_pixels: int = 262_144  # reference implementation
    max_pixels: int = 1_048_576  # 1,337 image tokens, so that prompts stay within the reference's 2,048
    multiple_of: int = 28


@dataclass(frozen=True)
class PreparedImage:
    """An image as it is stored.

    Args:
        data: the bytes of a JPEG file (quality 95, colours as fine as the source's), or of a PNG file where the source
            is a PNG, GIF, BMP or TIFF.
        content: SHA-256 of the file that it came from.
        thumbnail: the image at a fraction of its size.
        look: what nearly equal images share.
        size: width and height, in pixels.
    """

    data: bytes
    content: bytes
    thumbnail: Image.Image
    look: Look
    size: tuple[int, int]


def prepare_image(file: bytes, budget: Budget) -> PreparedImage:
    """Decode, turn upright, resize and encode an image.

    Args:
        file: the bytes of an image file. Of an animation, the first frame is taken.
        budget: how large the stored image is.

    Raises:
        Unusable: with the reason.
    """
    try:
        return _prepare_image(file, budget)
    except Unusable:
        raise
    except Image.DecompressionBombError:
        raise Unusable("is a decompression bomb: far more pixels than a picture has") from None
    except Image.UnidentifiedImageError:
        raise Unusable(f"is no picture that can be read ({', '.join(FORMATS)}){_describe_file(file)}") from None
    except (Exception, MemoryError) as error:  # Pillow's plug-ins raise almost anything for a broken file
        raise Unusable(f"cannot be decoded: {type(error).__name__}: {str(error)[:120]}") from None


def _describe_file(file: bytes) -> str:
    """Say what a file is that is often found under an image's name."""
    start = file[:100].lstrip().lower()
    if file[4:8] == b"ftyp" and file[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return ": it is HEIC, save it as JPEG"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return ": it is a page of HTML or XML"
    if start.startswith(b"version https://git-lfs"):
        return ": it is a pointer of Git LFS, run `git lfs pull`"
    return "" if file else ": it is empty"


def _prepare_image(file: bytes, budget: Budget) -> PreparedImage:
    with Image.open(io.BytesIO(file), formats=FORMATS) as image:
        pixels = whole = image.width * image.height  # pixels: what the decoder produces
        if image.format in ("JPEG", "MPO"):
            progressive = image.info.get("progressive")
            if progressive and file.count(b"\xff\xda") > MAX_SCANS:
                raise Unusable(f"is a JPEG of more than {MAX_SCANS} scans, which take very long")
            scale = math.sqrt(budget.max_pixels / max(pixels, 1))
            # No effect unless the image has four times the wanted width: resizing still has enough pixels to average
            image.draft("RGB", (round(2 * scale * image.width), round(2 * scale * image.height)))
            if not progressive:  # a progressive JPEG is held whole in memory at any scale
                pixels = image.width * image.height
        if pixels > MAX_DECODED_PIXELS:
            raise Unusable(
                f"has {image.width} x {image.height} pixels, more than {MAX_DECODED_PIXELS // 10**6} million"
            )
        with _one_at_a_time if pixels > LARGE_PIXELS else nullcontext():
            image.load()
            smaller = _average_large(image, budget.max_pixels)
            resized = to_pixel_budget(smaller, budget.min_pixels, budget.max_pixels, budget.multiple_of)
        long, short = max(resized.size), min(resized.size)
        if long > MAX_ASPECT_RATIO * short:
            raise Unusable(f"is {long // short} times as long as wide; the model's processor refuses more than 200")
        resized.info.clear()  # Pillow would write comments and profiles again
        buffer = io.BytesIO()
        if image.format in LOSSY:
            # Where four pixels become one, each stored pixel has a colour of its own, even if the source has 4:2:0
            subsampling = 0 if whole >= 4 * resized.width * resized.height else get_sampling(image)
            resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
        else:
            resized.save(buffer, "PNG", compress_level=1)
    thumbnail = resized.reduce(max(1, min(resized.size) // THUMBNAIL_SIDE))
    return PreparedImage(
        buffer.getvalue(), hashlib.sha256(file).digest(), thumbnail, compute_look(thumbnail), resized.size
    )


_one_at_a_time = threading.Lock()


def _average_large(image: Image.Image, max_pixels: int) -> Image.Image:
    """Return a very large image at a fraction of its size, before it is copied to be turned and converted."""
    factor = math.isqrt(image.width * image.height // (4 * max_pixels))
    if factor < 2 or image.mode.startswith(("I", "F")):
        return image
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return (image if image.mode == mode else image.convert(mode)).reduce(factor)
