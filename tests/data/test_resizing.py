"""An image of any size and kind becomes upright RGB within the budget."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emor3_trl.data import to_pixel_budget


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)), st.sampled_from([1, 4, 28]), st.integers(0, 50_000), st.data()
)
def test_a_picture_of_any_size_ends_within_the_budget(size, unit, more, data):
    low = data.draw(st.integers(unit * unit, 20_000))
    result = to_pixel_budget(Image.new("L", size), low, low + more, unit)
    assert result.mode == "RGB"
    assert result.width % unit == result.height % unit == 0
    assert 0 < result.width * result.height <= low + more
    long, short = max(size), min(size)
    if unit == 1 and more >= 2 * low and long < 3 * short:
        assert result.width * result.height >= low


def test_a_picture_within_the_budget_keeps_its_pixels():
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    assert to_pixel_budget(image, 100, 10_000).tobytes() == image.tobytes()


def test_pictures_are_turned_upright():
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    assert to_pixel_budget(Image.open(buffer), 1, 10_000).size == (20, 40)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        pytest.param(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), (255, 255, 255), id="transparent"),
        pytest.param(Image.new("LA", (4, 4), (0, 255)), (0, 0, 0), id="grey-opaque"),
        pytest.param(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), (0, 0, 0), id="cmyk"),
        pytest.param(Image.new("I;16", (4, 4), 128 * 256), (128, 128, 128), id="16-bit"),
        pytest.param(Image.new("1", (4, 4), 1), (255, 255, 255), id="bilevel"),
        pytest.param(Image.new("P", (4, 4), 0), (0, 0, 0), id="palette"),
    ],
)
def test_every_mode_becomes_rgb_on_white(image, colour):
    assert to_pixel_budget(image, 1, 100).getpixel((1, 1)) == colour


@pytest.mark.parametrize("bounds", [(0, 10, 1), (20, 10, 1), (1, 100, 28), (1, 10, 0)])
def test_a_budget_without_room_is_refused(bounds):
    with pytest.raises(ValueError, match="Expected 1 <= min_pixels"):
        to_pixel_budget(Image.new("RGB", (4, 4)), *bounds)
