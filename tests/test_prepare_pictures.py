"""Whatever a file holds, its picture is taken upright and in RGB, or dropped with a reason; none outside is opened."""

import contextlib
import io
import os

import pytest
from downloads import photo, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emor3_trl.data import to_pixel_budget
from emor3_trl.data.candidates import FolderPictures, Unusable
from emor3_trl.data.pictures import Budget, take

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
}


def encoded(make) -> bytes:
    image, kind, options = make(photo(1))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_an_unusual_picture_is_taken_rightly(make):
    data = encoded(make)
    taken = Image.open(io.BytesIO(take(data, SMALL).data))
    assert taken.mode == "RGB"
    with Image.open(io.BytesIO(data)) as original:
        original.seek(0)
        expected = to_pixel_budget(original, SMALL.min_pixels, SMALL.max_pixels, 28)
    assert taken.size == expected.size
    difference = [abs(a - b) for a, b in zip(taken.tobytes(), expected.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 3  # JPEG at quality 95 and a smaller decode, no more


def test_a_large_photo_is_decoded_at_a_fraction_of_its_size():
    buffer = io.BytesIO()
    photo(1, (9_000, 8_000)).save(buffer, "JPEG")  # 72 million pixels, more than are decoded at once
    assert take(buffer.getvalue(), SMALL).size == to_pixel_budget(photo(1, (90, 80)), 784, SMALL.max_pixels, 28).size


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "truncated": (lambda: encoded(GOOD["plain"])[:900], "cannot be decoded"),
    "not-a-picture": (lambda: b"<html>not found</html>", "no picture that Pillow knows"),
    "empty": (lambda: b"", "no picture that Pillow knows"),
    "bomb": (bomb, "decompression bomb"),
    "too-many-pixels": (lambda: encoded(lambda _: (Image.new("1", (9_000, 9_000)), "PNG", {})), "more than 60 million"),
    "thread": (lambda: encoded(lambda _: (Image.new("L", (1, 9_000)), "PNG", {})), "times as long as wide"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_a_picture_that_cannot_be_taken_is_dropped_with_a_reason(make, reason):
    with pytest.raises(Unusable, match=reason):
        take(make(), Budget(784, 28 * 28 * 400))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
@pytest.mark.parametrize("kind", ["plain", "palette", "animated", "webp"])
def test_a_damaged_file_is_taken_or_dropped_and_nothing_else(kind, cut, flips):
    data = bytearray(encoded(GOOD[kind]))
    for place, value in flips:
        data[place % len(data)] = value
    with contextlib.suppress(Unusable):
        assert take(bytes(data[: cut or None]), SMALL).size[0] % 28 == 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    root = tmp_path / "root"
    save(root / "in.jpg", 1)
    (root / "link-in.jpg").symlink_to(root / "in.jpg")
    (root / "link-out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    (root / "locked.jpg").write_bytes(b"x")
    (root / "locked.jpg").chmod(0)
    return FolderPictures(root)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("../secret.jpg", "leaves the folder"),
        ("a/../../secret.jpg", "leaves the folder"),
        ("/etc/hostname", "absolute"),
        ("link-out.jpg", "symbolic link leads out"),
        ("up/secret.jpg", "symbolic link leads out"),
        ("loop.jpg", "cannot be opened|no such file"),
        ("pipe.jpg", "is not a file"),
        ("folder.jpg", "is not a file|cannot be opened"),
        ("gone.jpg", "no such file"),
        ("a\0b.jpg", "broken path"),
        pytest.param(
            "locked.jpg", "cannot be opened", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")
        ),
    ],
)
def test_nothing_outside_the_folder_is_read_and_nothing_that_is_no_file(folder, place, reason):
    with pytest.raises(Unusable, match=reason):
        folder.read(place)


@pytest.mark.parametrize("place", ["in.jpg", "./in.jpg", "x/../in.jpg", "link-in.jpg"])
def test_what_is_inside_is_read(folder, place):
    (folder.root / "x").mkdir()
    assert folder.read(place)[:2] == b"\xff\xd8"


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "root", "/", "up", "secret.jpg", "in.jpg"]), max_size=6))
@settings(deadline=None)
def test_no_path_reads_the_file_outside(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "paths"
    if not base.exists():
        (base / "root" / "a").mkdir(parents=True)
        (base / "secret.jpg").write_bytes(b"outside")
        (base / "root" / "in.jpg").write_bytes(b"inside")
        (base / "root" / "up").symlink_to(base)
    with contextlib.suppress(Unusable):
        assert FolderPictures(base / "root").read("/".join(parts)) == b"inside"
