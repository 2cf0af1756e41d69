"""Whatever a file holds, its image is taken upright and in RGB, or dropped with a reason."""

import contextlib
import io
import struct
import time

import numpy as np
import pytest
from downloads import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emor3_trl.data import to_pixel_budget
from emor3_trl.data.pictures import Budget, prepare_image
from emor3_trl.data.sources.candidates import Unusable

SMALL = Budget(min_pixels=784, max_pixels=28 * 28 * 12)


def cmyk(image):
    return image.convert("CMYK"), "JPEG", {}


def rotated(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return image, "JPEG", {"exif": exif}


GOOD = {
    "plain": lambda image: (image, "JPEG", {}),
    "exif-rotated": rotated,
    "cmyk": cmyk,
    "palette": lambda image: (image.convert("P"), "PNG", {}),
    "grey": lambda image: (image.convert("L"), "PNG", {}),
    "16-bit": lambda image: (Image.new("I;16", (60, 40), 40_000), "PNG", {}),
    "alpha": lambda image: (Image.new("RGBA", (60, 40), (255, 0, 0, 90)), "PNG", {}),
    "animated": lambda image: (image, "GIF", {"save_all": True, "append_images": [photo(2), photo(3)]}),
    "one-pixel": lambda image: (Image.new("RGB", (1, 1), "red"), "PNG", {}),
    "1xN": lambda image: (Image.new("RGB", (1, 150), "red"), "PNG", {}),
    "20000-px": lambda image: (Image.new("RGB", (20_000, 300), "red"), "JPEG", {}),
    "webp": lambda image: (image, "WEBP", {}),
    "avif": lambda image: (image, "AVIF", {"quality": 95}),
    "animated-webp": lambda image: (image, "WEBP", {"save_all": True, "append_images": [photo(2)], "lossless": True}),
    "apng": lambda image: (image, "PNG", {"save_all": True, "append_images": [photo(2)]}),
    "bmp": lambda image: (image, "BMP", {}),
    "tiff": lambda image: (image, "TIFF", {"compression": "tiff_lzw"}),
    "bilevel": lambda image: (image.convert("1"), "PNG", {}),
    "palette-alpha": lambda image: (image.convert("P"), "PNG", {"transparency": 3}),
    "progressive": lambda image: (image, "JPEG", {"progressive": True}),
    "huge-metadata": lambda image: (
        image,
        "JPEG",
        {"exif": b"Exif\0\0" + b"x" * 60_000, "icc_profile": b"i" * 900_000},
    ),
    "broken-exif": lambda image: (image, "JPEG", {"exif": b"Exif\0\0MM\0*\0"}),
    "large-png": lambda image: (image.resize((900, 700)), "PNG", {}),  # averaged before it is resized
    "large-palette": lambda image: (image.resize((900, 700)).convert("P"), "PNG", {"transparency": 3}),
}


def encoded(make) -> bytes:
    image, kind, options = make(photo(1))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_an_unusual_picture_is_taken_rightly(make):
    data = encoded(make)
    taken = Image.open(io.BytesIO(prepare_image(data, SMALL).data))
    assert taken.mode == "RGB"
    with Image.open(io.BytesIO(data)) as original:
        original.seek(0)
        expected = to_pixel_budget(original, SMALL.min_pixels, SMALL.max_pixels, 28)
    assert taken.size == expected.size
    # JPEG at quality 95, a smaller decode and averaging change this much, no more
    assert difference(taken, expected) < 3


STORED = {  # how a camera that was held otherwise stores an upright picture, by EXIF orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("size", [(120, 90), (1200, 900)], ids=["small", "averaged"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_upright_from_every_orientation(orientation, size, kind):
    upright = photo(7, size)
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, kind, exif=exif, **({} if kind in ("PNG", "TIFF") else {"quality": 95}))
    taken = Image.open(io.BytesIO(prepare_image(buffer.getvalue(), SMALL).data))
    assert taken.size == to_pixel_budget(upright, SMALL.min_pixels, SMALL.max_pixels, 28).size
    assert difference(taken, upright.resize(taken.size, Image.Resampling.BICUBIC)) < 4


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two RGB pictures of one size, in levels."""
    return np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).mean()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_greys(kind):
    ramp = np.linspace(0, 65_535, 300 * 200).reshape(200, 300).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, kind)
    taken = Image.open(io.BytesIO(prepare_image(buffer.getvalue(), SMALL).data))
    grey = Image.fromarray((ramp >> 8).astype(np.uint8)).convert("RGB").resize(taken.size, Image.Resampling.BICUBIC)
    assert difference(taken, grey) < 2


def test_12_bits_keep_their_greys():
    width, height = 60, 40
    pixels = (0x800_800).to_bytes(3, "big") * (width * height // 2)  # two pixels of middle grey
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    file = head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert Image.open(io.BytesIO(prepare_image(file, SMALL).data)).getpixel((9, 9)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_words_and_profiles_in_a_file_are_not_stored(kind):
    said = b"who took it, and where" * 200
    buffer = io.BytesIO()
    photo(1).save(buffer, kind, comment=said, exif=b"Exif\0\0" + said, icc_profile=said, xmp=said)
    assert said[:20] in buffer.getvalue() or kind == "PNG"  # which compresses it
    stored = Image.open(io.BytesIO(prepare_image(buffer.getvalue(), SMALL).data))
    assert set(stored.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_white_is_zero_is_not_a_negative(bits):
    width, height = 60, 40
    pixels = (b"\x10" if bits == 8 else b"\0\x10") * (width * height)  # nearly white
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels
    file += struct.pack("<H", len(tags)) + entries + bytes(4)
    assert Image.open(io.BytesIO(prepare_image(file, SMALL).data)).getpixel((9, 9)) == (239, 239, 239)


def test_what_is_transparent_in_16_bits_is_white():
    buffer = io.BytesIO()
    Image.new("I;16", (60, 40), 300).save(buffer, "PNG", transparency=300)
    assert Image.open(io.BytesIO(prepare_image(buffer.getvalue(), SMALL).data)).getpixel((9, 9)) == (255, 255, 255)


def test_a_photo_with_ink_colours_and_a_drawing_keep_theirs():
    for mode, kind, colour, seen in (
        ("CMYK", "JPEG", (255, 0, 255, 0), (0, 255, 0)),
        ("CMYK", "TIFF", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", "PNG", (0, 0, 255, 128), (127, 127, 255)),
        ("LA", "PNG", (0, 0), (255, 255, 255)),
    ):
        buffer = io.BytesIO()
        Image.new(mode, (60, 40), colour).save(buffer, kind)
        got = Image.open(io.BytesIO(prepare_image(buffer.getvalue(), SMALL).data)).getpixel((9, 9))
        assert np.abs(np.subtract(got, seen)).max() <= 2, (mode, kind, got)


def test_a_large_photo_is_decoded_at_a_fraction_of_its_size():
    buffer = io.BytesIO()
    photo(1, (9_000, 8_000)).save(buffer, "JPEG")  # 72 million pixels, more than are decoded at once
    assert (
        prepare_image(buffer.getvalue(), SMALL).size
        == to_pixel_budget(photo(1, (90, 80)), 784, SMALL.max_pixels, 28).size
    )


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_picture_that_shrinks_keeps_the_colour_of_every_pixel(kind):
    large = photo(3, (9_000, 300))
    buffer = io.BytesIO()
    large.save(buffer, kind, quality=95)  # which stores one colour for four pixels
    stored = Image.open(io.BytesIO(prepare_image(buffer.getvalue(), Budget(784, 28 * 28 * 36)).data))
    assert difference(stored, large.resize(stored.size, Image.Resampling.BICUBIC)) < 2


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


def scans() -> bytes:
    """Return a progressive JPEG whose scans come again and again."""
    plain = encoded(GOOD["progressive"])
    begin, end = plain.index(b"\xff\xda"), plain.rindex(b"\xff\xd9")
    return plain[:end] + 200 * plain[begin:end] + plain[end:]


BAD = {
    "truncated": (lambda: encoded(GOOD["plain"])[:900], "cannot be decoded"),
    "not-a-picture": (lambda: b"<html>not found</html>", "is no picture that can be read"),
    "empty": (lambda: b"", "is no picture that can be read"),
    "bomb": (bomb, "decompression bomb"),
    "too-many-pixels": (lambda: encoded(lambda _: (Image.new("1", (9_000, 9_000)), "PNG", {})), "more than 60 million"),
    "progressive-pixels": (
        lambda: encoded(lambda _: (Image.new("L", (9_000, 9_000)), "JPEG", {"progressive": True})),
        "more than 60 million",
    ),
    "scans": (scans, "more than 100 scans"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is no picture"),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(60), "is no picture that can be read .JPEG, PNG"),
    "floats": (lambda: encoded(lambda _: (Image.new("F", (60, 40), 0.5), "TIFF", {})), "32-bit values"),
    "32-bit": (lambda: encoded(lambda _: (Image.new("I", (60, 40), 9), "TIFF", {})), "32-bit values"),
    "thread": (lambda: encoded(lambda _: (Image.new("L", (1, 9_000)), "PNG", {})), "times as long as wide"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_a_picture_that_cannot_be_taken_is_dropped_with_a_reason(make, reason):
    began = time.monotonic()
    with pytest.raises(Unusable, match=reason):
        prepare_image(make(), Budget(784, 28 * 28 * 400))
    assert time.monotonic() - began < 10


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
@pytest.mark.parametrize("kind", ["plain", "palette", "animated", "webp"])
def test_a_damaged_file_is_taken_or_dropped_and_nothing_else(kind, cut, flips):
    data = bytearray(encoded(GOOD[kind]))
    for place, value in flips:
        data[place % len(data)] = value
    with contextlib.suppress(Unusable):
        assert prepare_image(bytes(data[: cut or None]), SMALL).size[0] % 28 == 0
