"""Train and test share no picture, not even a scaled or recompressed one; different pictures are kept."""

import io

import pytest
from downloads import photo
from PIL import Image, ImageDraw

from emor3_trl.data.duplicates import SeveralEmotions, TakenImages, compute_look
from emor3_trl.data.sources.candidates import Unusable


def recompressed(image: Image.Image, quality: int = 60, scale: float = 1.0) -> Image.Image:
    buffer = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=quality
    )
    return Image.open(buffer).convert("RGB")


def drawing(seed: int) -> Image.Image:
    """Return a small mark on white, which no other of a hundred has in this colour at this place."""
    image = Image.new("RGB", (200, 200), "white")
    x, y = 20 + 30 * (seed // 4 % 5), 20 + 30 * (seed // 20)
    ImageDraw.Draw(image).ellipse((x, y, x + 40, y + 40), fill=("red", "blue", "green", "black")[seed % 4])
    return image


def refused(first: list[Image.Image], second: list[Image.Image]) -> list[int]:
    """Return which of the second split are refused after the first was taken."""
    taken = TakenImages()
    taken.begin_split("test")
    for number, image in enumerate(first):
        taken.add(b"test%d" % number, compute_look(image))
    taken.begin_split("train")
    found = []
    for number, image in enumerate(second):
        try:
            taken.add(b"train%d" % number, compute_look(image))
        except Unusable:
            found.append(number)
    return found


@pytest.mark.parametrize("make", [photo, drawing], ids=["photos", "drawings"])
@pytest.mark.parametrize(("quality", "scale"), [(60, 1.0), (90, 0.5), (40, 1.5)])
def test_a_copy_is_found(make, quality, scale):
    originals = [make(seed) for seed in range(40)]
    assert refused(originals, [recompressed(one, quality, scale) for one in originals]) == list(range(40))


@pytest.mark.parametrize("make", [photo, drawing], ids=["photos", "drawings"])
def test_different_pictures_are_kept(make):
    assert refused([make(seed) for seed in range(0, 100, 2)], [make(seed) for seed in range(1, 100, 2)]) == []


def test_plain_colours_are_different_pictures():
    """Their difference hashes are all zero."""
    colours = ["red", "green", "blue", "white", "black", "grey"]
    plain = [Image.new("RGB", (60, 60), colour) for colour in colours]
    assert refused(plain[:3], plain[3:]) == []
    assert refused(plain[:3], plain[:3]) == [0, 1, 2]


def test_a_file_is_taken_once_and_a_look_within_a_split_may_come_again():
    taken = TakenImages()
    taken.begin_split("test")
    taken.add(b"a", compute_look(photo(1)))
    taken.add(b"b", compute_look(photo(1)))
    with pytest.raises(Unusable, match="is the same file as a picture of test"):
        taken.add(b"a", compute_look(photo(2)))
    taken.begin_split("train")
    with pytest.raises(Unusable, match="is the same file as a picture of test"):
        taken.add(b"b", compute_look(photo(3)))


def test_a_file_under_another_emotion_is_told_from_a_copy():
    taken = TakenImages()
    taken.begin_split("test")
    taken.add(b"a", compute_look(photo(1)), "joy/1.jpg", "joy")
    with pytest.raises(SeveralEmotions, match="same file as one under another emotion") as refusal:
        taken.add(b"a", compute_look(photo(1)), "fear/1.jpg", "fear")
    assert refusal.value.first == "joy/1.jpg"
    with pytest.raises(Unusable, match="same file as a picture of test"):
        taken.add(b"a", compute_look(photo(1)), "joy/2.jpg", "joy")
