"""Upright RGB within a pixel budget: the one place where images are resized, so that trainer and vLLM agree."""

import math

import numpy as np
from PIL import ExifTags, Image

_TURNS = {  # what undoes each EXIF orientation; ImageOps.exif_transpose fails where Pillow cannot write the EXIF again
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Where Pillow reads an orientation from; a copy that was turned must not be turned again
_ORIENTATION_SOURCES = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image as upright RGB: the EXIF orientation applied, 16 bits rescaled, transparency laid on white.

    Args:
        image: any image that Pillow reads. It is returned itself if it is upright RGB already.

    Raises:
        ValueError: if it holds 32-bit values, whose range is not known.
    """
    return _convert_to_rgb(_turn_upright(image))


def to_pixel_budget(image: Image.Image, min_pixels: int, max_pixels: int, multiple_of: int = 1) -> Image.Image:
    """Return an upright RGB copy of an image whose width times height lies within the budget.

    The EXIF orientation is applied, transparency is laid on white, and the aspect ratio is kept as far as whole
    multiples allow. In a budget too narrow for whole pixels, `max_pixels` wins.

    Args:
        image: any image that Pillow reads: grey, 16-bit, palette, CMYK, with alpha, …
        min_pixels: smallest width times height, in pixels.
        max_pixels: largest width times height, in pixels.
        multiple_of: width and height are multiples of this (28 for Qwen2.5-VL: patches of 14, merged 2 x 2).

    Raises:
        ValueError: if the bounds leave no room, or the image holds 32-bit values, whose range is not known.
    """
    if multiple_of < 1 or not 1 <= min_pixels <= max_pixels or multiple_of**2 > max_pixels:
        raise ValueError(
            f"min_pixels is {min_pixels}, max_pixels is {max_pixels} and multiple_of is {multiple_of}. Expected "
            "1 <= min_pixels <= max_pixels, and room for one square of multiple_of within max_pixels."
        )
    upright = to_upright_rgb(image)
    size = _compute_size(upright.size, min_pixels, max_pixels, multiple_of)
    if size != upright.size:
        return _resize_bicubic(upright, size)
    return upright.copy() if upright is image else upright


def _resize_bicubic(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGB image as Pillow does, up to two levels of 255, in half the time, and alike on every CPU."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)  # (1, 3, height, width)
    resized = interpolate(pixels, (size[1], size[0]), mode="bicubic", antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())


def _turn_upright(image: Image.Image) -> Image.Image:
    image.load()  # this turns a TIFF and removes its orientation
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises almost anything for broken EXIF, which then says nothing
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in _ORIENTATION_SOURCES:
        turned.info.pop(key, None)
    return turned


def _compute_size(size: tuple[int, int], min_pixels: int, max_pixels: int, unit: int) -> tuple[int, int]:
    """Return (width, height) within the budget, in whole units."""
    largest = max_pixels // unit**2  # area, in units
    width, height = (max(1, round(side / unit)) for side in size)
    if width * height > largest:
        scale = math.sqrt(max_pixels / (size[0] * size[1])) / unit
        width, height = (max(1, math.floor(side * scale + 1e-9)) for side in size)
    elif width * height * unit**2 < min_pixels:
        scale = math.sqrt(min_pixels / (size[0] * size[1])) / unit
        width, height = (math.ceil(side * scale) for side in size)
    # The image is very long and its short side cannot shrink further, or the budget is too narrow for its aspect ratio
    while width * height > largest:
        if width >= height:
            width = max(largest // height, 1) if width > largest // height else width - 1
        else:
            height = max(largest // width, 1) if height > largest // width else height - 1
    return width * unit, height * unit


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # a plain conversion would clip all values but the darkest
        values = np.asarray(image)
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]  # 12 in some TIFFs
        grey = (values >> (bits - 8)).astype(np.uint8)
        if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # 0 is white; Pillow heeds that in 8 bits only
            grey = 255 - grey
        if isinstance(image.info.get("transparency"), int):
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"it holds 32-bit values (mode {image.mode}), and does not say which are black and white")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
