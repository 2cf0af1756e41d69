"""A cell holds one image, one label, or votes; anything else is left out with its reason."""

import base64
import io

import pytest
from PIL import Image

from emor3_trl.data.sources.cells import OddCell, read_image_cell, read_label_cell


@pytest.mark.parametrize(
    ("cell", "image"),
    [
        ("a.jpg", "a.jpg"),
        (["a.jpg"], "a.jpg"),
        ("['a.jpg']", "a.jpg"),
        ([{"bytes": None, "path": "a.jpg"}], "a.jpg"),
        ({"bytes": b"jpeg", "path": "a.jpg"}, b"jpeg"),
        ("file:///disk/a.jpg", "/disk/a.jpg"),
        ("data:image/png;base64," + base64.b64encode(b"png").decode(), b"png"),
        (b"jpeg", b"jpeg"),
        (17, "17"),
    ],
)
def test_a_cell_holds_the_path_or_the_bytes_of_one_image(cell, image):
    assert read_image_cell(cell) == image


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "has no image"),
        (float("nan"), "has no image"),
        ([], "holds no image"),
        (["a.jpg", "b.jpg"], "holds 2 images"),
        ({"path": None}, "has no image"),
        ("https://example.org/a.jpg", "nothing is downloaded"),
        ("data:image/png;base64,!!!", "is broken"),
        (" ".join(["7"] * 2305), "no square of grey values"),
        (" ".join(["999"] * 2304), "no square of grey values"),
    ],
)
def test_a_cell_without_one_image_says_why(cell, reason):
    with pytest.raises(OddCell, match=reason):
        read_image_cell(cell)


def test_numbers_of_a_square_are_its_grey_values():
    values = [number % 256 for number in range(48 * 48)]
    image = Image.open(io.BytesIO(read_image_cell(" ".join(map(str, values)))))
    assert (image.size, image.mode) == ((48, 48), "L")
    assert list(image.tobytes()) == values


@pytest.mark.parametrize(
    ("cell", "label", "votes"),
    [
        ("joy", "joy", None),
        (3, "3", None),
        (3.0, "3", None),
        ("3.0", "3", None),
        (b"joy", "joy", None),
        (["joy"], "joy", None),
        (["joy", "joy", "fear"], "joy, joy, fear", {"joy": 2, "fear": 1}),
        ("['joy', 'fear']", "joy, fear", {"joy": 1, "fear": 1}),
        ({"joy": 3, "fear": 0}, "{'joy': 3, 'fear': 0}", {"joy": 3.0}),
    ],
)
def test_a_cell_holds_a_label_or_votes(cell, label, votes):
    assert read_label_cell(cell) == (label, votes)


@pytest.mark.parametrize("cell", [None, "", "  ", [], {"a": [1]}])
def test_a_cell_without_a_label_is_odd(cell):
    with pytest.raises(OddCell):
        read_label_cell(cell)
