"""Hard images that are made: files, and what must become of each."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# How a camera that was held otherwise stores an upright picture, by EXIF orientation
STORED = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
)


@dataclass(frozen=True)
class Hard:
    """An image, and what must become of it.

    Args:
        kind: what is hard about it.
        place: its path, as a table of the user would give it.
        expected: the upright RGB picture that is to be taken; a regular expression of the reason if it is to be
            dropped; None if either will do (an image of an archive), as long as it is right.
        private: it may only be read by somebody else, so it is read without the rights of root.
    """

    kind: str
    place: str
    expected: Image.Image | str | None = None
    private: bool = False


def photo(size: tuple[int, int] = (300, 200), seed: int = 3) -> Image.Image:
    """Return a smooth picture in which every direction looks different."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_made_images(root: Path, outside: Path) -> list[Hard]:
    """Write them below `root`, and below `outside` what must never be opened."""
    outside.mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(encoded(photo(seed=99), "JPEG"))
    items: list[Hard] = []

    def add(kind: str, name: str, content: bytes, expected: Image.Image | str | None) -> None:
        assert not (root / name).exists(), name
        (root / name).write_bytes(content)
        items.append(Hard(kind, name, expected))

    for write in (_turned, _modes, _animated, _shapes, _damaged, _bombs, _not_pictures, _odd_files):
        write(add)
    items += _paths(root, outside)
    return items


Add = Callable[[str, str, bytes, Image.Image | str | None], None]


def _turned(add: Add) -> None:
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")):
        for orientation, turn in enumerate(STORED, start=1):
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = photo() if turn is None else photo().transpose(turn)
            add("EXIF orientation", f"turned{orientation}.{suffix}", encoded(stored, kind, exif=exif), photo())


def _modes(add: Add) -> None:
    plain = photo()
    add("CMYK", "cmyk.jpg", encoded(plain.convert("CMYK"), "JPEG", quality=95), plain)
    add("CMYK", "cmyk.tif", encoded(plain.convert("CMYK"), "TIFF"), plain)
    palette = plain.convert("P", palette=Image.Palette.ADAPTIVE)
    add("palette", "palette.png", encoded(palette, "PNG"), palette.convert("RGB"))
    add("palette", "palette.gif", encoded(palette, "GIF"), palette.convert("RGB"))
    add("palette", "palette.bmp", encoded(palette, "BMP"), palette.convert("RGB"))
    add("palette", "bilevel.png", encoded(plain.convert("1"), "PNG"), plain.convert("1").convert("RGB"))
    grey = plain.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    add("16-bit", "deep.png", encoded(deep, "PNG"), grey.convert("RGB"))
    add("16-bit", "deep.tif", encoded(deep, "TIFF"), grey.convert("RGB"))
    white = Image.fromarray(np.full((200, 300), 300, np.uint16))
    add("16-bit", "deep-alpha.png", encoded(white, "PNG", transparency=300), Image.new("RGB", (300, 200), "white"))
    add("32-bit", "integers.tif", encoded(deep.convert("I"), "TIFF"), "32-bit values")
    add("32-bit", "floats.tif", encoded(grey.convert("F"), "TIFF"), "32-bit values")
    alpha = plain.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(plain.size))
    on_white = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), alpha).convert("RGB")
    add("alpha", "alpha.png", encoded(alpha, "PNG"), on_white)
    add("alpha", "alpha.webp", encoded(alpha, "WEBP", lossless=True), on_white)
    add("alpha", "alpha.tif", encoded(alpha, "TIFF"), on_white)
    add("alpha", "grey.png", encoded(alpha.convert("LA"), "PNG"), on_white.convert("L").convert("RGB"))
    clear = Image.new("P", (300, 200), 3)
    clear.putpalette([0, 0, 0] * 4)
    add("alpha", "clear.gif", encoded(clear, "GIF", transparency=3), Image.new("RGB", (300, 200), "white"))


def _animated(add: Add) -> None:
    frames = {"save_all": True, "append_images": [photo(seed=4), photo(seed=5)]}
    palette = photo().convert("P", palette=Image.Palette.ADAPTIVE)
    add("animated", "animated.gif", encoded(palette, "GIF", **frames), palette.convert("RGB"))
    add("animated", "animated.png", encoded(photo(), "PNG", **frames), photo())
    add("animated", "animated.webp", encoded(photo(), "WEBP", lossless=True, **frames), photo())
    add("animated", "pages.tif", encoded(photo(), "TIFF", **frames), photo())
    add("animated", "pictures.jpg", encoded(photo(), "MPO", **frames), photo())


def _shapes(add: Add) -> None:
    for width, height in ((1, 1), (1, 100), (100, 1), (1, 9000), (2, 3)):
        image = Image.new("RGB", (width, height), (200, 30, 60))
        add("1×N", f"{width}x{height}.png", encoded(image, "PNG"), image)
    add("1×N", "thread.jpg", encoded(Image.new("RGB", (60_000, 1)), "JPEG"), None)
    add("20,000 px", "wide.jpg", encoded(photo((20_000, 300)), "JPEG"), photo((1000, 15)))
    add("20,000 px", "tall.png", encoded(photo((300, 20_000)), "PNG"), photo((15, 1000)))
    add("20,000 px", "large.jpg", encoded(photo((20_000, 8_000)), "JPEG"), photo((1000, 400)))
    add("20,000 px", "large.png", encoded(photo((20_000, 2_500)), "PNG", compress_level=1), photo((1000, 125)))
    add("20,000 px", "square.jpg", encoded(Image.new("L", (20_000, 20_000)), "JPEG"), "bomb")
    add("20,000 px", "square.png", encoded(Image.new("1", (12_000, 9_000)), "PNG"), "more than 60 million")


def _damaged(add: Add) -> None:
    for kind, suffix in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("TIFF", "tif"),
        ("BMP", "bmp"),
    ):
        whole = encoded(photo(), kind)
        for share in (0.02, 0.5, 0.95):
            cut = whole[: max(8, int(len(whole) * share))]
            add(
                "truncated", f"cut{share}.{suffix}", cut, None if suffix == "tif" else "cannot be decoded|is no picture"
            )
        middle = len(whole) // 2
        add("damaged", f"zeroed.{suffix}", whole[:middle] + bytes(200) + whole[middle + 200 :], None)


def _bombs(add: Add) -> None:
    add("decompression bomb", "bomb.png", encoded(Image.new("1", (30_000, 30_000)), "PNG"), "bomb")
    header = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6) + b","
    add("decompression bomb", "bomb.gif", header + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\x02\0;", "bomb")
    bmp = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    add("decompression bomb", "bomb.bmp", bytes(bmp), "bomb")
    tiff = encoded(Image.new("L", (12_000, 9_000)), "TIFF", compression="tiff_adobe_deflate")
    add("decompression bomb", "bomb.tif", tiff, "more than 60 million")
    webp = encoded(Image.new("RGB", (12_000, 9_000)), "WEBP")
    add("decompression bomb", "bomb.webp", webp, "more than 60 million")
    progressive = encoded(Image.new("L", (12_000, 9_000)), "JPEG", progressive=True)
    add("decompression bomb", "progressive.jpg", progressive, "more than 60 million")
    small = encoded(photo((3000, 2000)), "JPEG", progressive=True)
    begin, end = small.index(b"\xff\xda"), small.rindex(b"\xff\xd9")
    add("decompression bomb", "scans.jpg", small[:end] + 3000 * small[begin : begin + 400] + small[end:], "scans")
    text = zlib.compress(bytes(200_000_000))
    chunk = b"iTXtk\0\1\0\0\0" + text
    plain = encoded(photo(), "PNG")
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    add("decompression bomb", "text.png", plain[:33] + whole + plain[33:], None)


def _not_pictures(add: Add) -> None:
    for name, content in {
        "page.jpg": b"<html><body>404 Not Found</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) run\nshowpage\n",
        "paper.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "archive.png": b"PK\x03\x04" + bytes(200),
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
        "random.jpg": np.random.default_rng(0).bytes(5000),
        "zeros.jpg": bytes(5000),
        "start.jpg": b"\xff\xd8\xff",
    }.items():
        add("not an image", name, content, "is no picture that can be read")
    add("zero bytes", "empty.jpg", b"", "is no picture that can be read")


def _odd_files(add: Add) -> None:
    plain = photo()
    jpeg = encoded(plain, "JPEG", quality=95)
    huge = encoded(plain, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08" + bytes(65_000))
    add("huge EXIF", "exif.jpg", huge, plain)
    add("huge EXIF", "profile.jpg", encoded(plain, "JPEG", quality=95, icc_profile=bytes(4_000_000)), plain)
    add("huge EXIF", "segments.jpg", jpeg[:2] + 500 * (b"\xff\xe5\xff\xff" + bytes(65_533)) + jpeg[2:], plain)
    add("broken EXIF", "short.jpg", encoded(plain, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0"), plain)
    loop = b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\0\0\0\0"  # a directory that holds itself
    add("broken EXIF", "endless.jpg", encoded(plain, "JPEG", quality=95, exif=loop), plain)
    add("wrong extension", "png.jpg", encoded(plain, "PNG"), plain)
    add("wrong extension", "webp.jpg", encoded(plain, "WEBP", lossless=True), plain)
    add("wrong extension", "gif.jpg", encoded(plain.quantize(256), "GIF"), plain.quantize(256).convert("RGB"))
    add("wrong extension", "jpeg.png", jpeg, plain)
    add("wrong extension", "avif.jpg", encoded(plain, "AVIF", quality=95), plain)
    add("odd name", "UPPER.JPG", jpeg + b"1", plain)
    add("odd name", "ünï cödé 感情\u2028.jpg", jpeg + b"2", plain)
    add("odd name", "new\nline '\" .jpg", jpeg + b"3", plain)
    add("odd name", os.fsdecode(b"latin\xe9.jpg"), jpeg + b"4", plain)


def _paths(root: Path, outside: Path) -> list[Hard]:
    jpeg, plain = encoded(photo(), "JPEG", quality=95), photo()
    (root / "inside").mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg", "locked.jpg")):
        (root / "inside" / name).write_bytes(jpeg + b"inside%d" % number)
    (root / "inside" / "locked.jpg").chmod(0)
    (root / "link-in.jpg").symlink_to(root / "inside" / "a.jpg")
    (root / "link-out.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder-out").symlink_to(outside)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / "hanging.jpg").symlink_to(outside / "gone.jpg")
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    with (root / "sparse.jpg").open("wb") as file:
        file.truncate(300 * 2**20)
    out, relative = "leads out of the folder", os.path.relpath(outside, root)
    return [
        Hard("missing", "gone.jpg", "there is no such file"),
        Hard("missing", "x" * 300 + ".jpg", "cannot be opened"),
        Hard("unreadable", "inside/locked.jpg", "cannot be opened: Permission denied", private=True),
        Hard("unreadable", "folder.jpg", "is not a file|cannot be opened"),
        Hard("unreadable", "pipe.jpg", "is not a file"),
        Hard("unreadable", "loop.jpg", "cannot be opened|no such file"),
        Hard("unreadable", "sparse.jpg", "is larger than 200 MiB"),
        Hard("path leaves the root", f"{relative}/secret.jpg", out),
        Hard("path leaves the root", f"inside/../{relative}/secret.jpg", out),
        Hard("path leaves the root", str(outside / "secret.jpg"), out),
        Hard("path leaves the root", "/etc/hostname", out),
        Hard("path leaves the root", "null\0byte.jpg", "path is broken"),
        Hard("path leaves the root", "half\ud800.jpg", "path is broken"),
        Hard("symlink out", "link-out.jpg", out),
        Hard("symlink out", "folder-out/secret.jpg", out),
        Hard("symlink out", "zero.jpg", out),
        Hard("symlink out", "hanging.jpg", out),
        Hard("path inside", "link-in.jpg", plain),
        Hard("path inside", "inside/../inside/b.jpg", plain),
        Hard("path inside", str(root / "inside" / "c.jpg"), plain),
    ]
