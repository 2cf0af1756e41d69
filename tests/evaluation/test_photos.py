"""Images of one's own: which there are, and what they are asked."""

import os
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from tiny_model import tiny_pictures
from transformers import AutoConfig

from emor3_trl.checkpoints import read_token_side
from emor3_trl.data.pictures import Budget
from emor3_trl.emotions import LabelSpace
from emor3_trl.evaluation.photos import (
    PhotoArguments,
    choose_budget,
    choose_label_space,
    digest_photos,
    list_images,
    read_photos,
)
from emor3_trl.evaluation.prediction import read_completion
from emor3_trl.report.photo_page import write_photo_page

SPACE, BUDGET = LabelSpace("made", ("joy", "anger")), Budget(784, 12544)


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    tiny_pictures(1)[0].save("photos/a.png")
    return Path("photos/a.png")


def test_an_image_that_is_named_in_several_ways_is_listed_once(photo: Path) -> None:
    assert list_images(["photos", "./photos/a.png", str(photo.resolve())]) == ["photos/a.png"]


def test_a_name_that_is_no_text_stops_no_other_image(photo: Path, tmp_path: Path) -> None:
    photo.with_name(os.fsdecode(b"\xff.png")).write_bytes(photo.read_bytes())
    photos, faults = read_photos(list_images(["photos"]), SPACE, BUDGET, "set")
    assert photos["id"][:] == ["photos/a.png"]
    assert faults == {r"photos/\udcff.png": "has a name that is not UTF-8: rename it"}
    write_photo_page("Emotions", [], [], faults, tmp_path / "page.html")
    assert r"\udcff.png has a name that is not UTF-8" in (tmp_path / "page.html").read_text()


def test_another_image_under_the_same_name_has_another_digest(photo: Path) -> None:
    digests = []
    for picture in (tiny_pictures(2)[0], tiny_pictures(2)[1], tiny_pictures(2)[0]):
        picture.save(photo)
        digests.append(digest_photos(read_photos([str(photo)], SPACE, BUDGET, "set")[0]))
    assert digests[0] == digests[2] != digests[1]


def test_a_file_of_labels_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine, new.yaml"
    file.write_text("name: mine\nlabels: [calm, awe]")
    args = PhotoArguments(images=["x"], model="m", label_space=str(file))
    assert choose_label_space(args, None).labels == ("calm", "awe")


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({}, Budget(3136, 6272), id="as in training"),
        pytest.param({"max_pixels": 1000}, Budget(1000, 1000), id="smaller than in training"),
        pytest.param({"min_pixels": 9000}, Budget(9000, 9000), id="larger than in training"),
    ],
)
def test_a_bound_that_the_user_sets_moves_the_other(bounds: dict, expected: Budget) -> None:
    training = Dataset.from_dict({"image": tiny_pictures(3)})
    assert choose_budget(PhotoArguments(images=["x"], model="m", **bounds), training, 28) == expected


@pytest.mark.parametrize(("model_type", "side"), [("qwen2_5_vl", 28), ("qwen3_vl", 32), ("llava", 28)])
def test_images_have_sides_that_the_model_s_family_does_not_resize(tmp_path: Path, model_type: str, side: int) -> None:
    AutoConfig.for_model(model_type).save_pretrained(tmp_path / "model")
    args = PhotoArguments(images=["x"], model=str(tmp_path / "model"), min_pixels=4096, max_pixels=9000)
    budget = choose_budget(args, None, read_token_side(args.model))
    file = tmp_path / "photo.png"
    tiny_pictures(1)[0].resize((123, 77)).save(file)
    (row,) = read_photos([str(file)], SPACE, budget, "set")[0]
    assert [length % side for length in row["image"].size] == [0, 0]
    with pytest.raises(ValueError, match=f"Expected {side**2} <= min_pixels"):
        choose_budget(PhotoArguments(images=["x"], model="m", max_pixels=700), None, side)


def test_the_page_takes_one_image_at_a_time(tmp_path: Path) -> None:
    predictions = [
        read_completion({"id": str(row), "emotion": "", "label_space": SPACE}, "d", "none") for row in range(6)
    ]
    opened: list[weakref.ref] = []

    def open_images() -> Iterator[Image.Image]:
        for _ in predictions:
            assert sum(image() is not None for image in opened) <= 2
            image = Image.new("RGB", (56, 56))
            opened.append(weakref.ref(image))
            yield image

    write_photo_page("Emotions", predictions, open_images(), {}, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("<article>") == 6


def test_a_folder_of_many_images_takes_the_memory_of_a_few(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (196, 196, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")  # noise, which is stored as large as it is
    size, count = (tmp_path / "0.png").stat().st_size, 150
    files = [str(tmp_path / f"{number}.png") for number in range(count)]
    for file in files[1:]:
        os.link(files[0], file)
    tracemalloc.start()
    photos, faults = read_photos(files, LabelSpace.of(SPACE), Budget(196 * 196, 196 * 196), "set")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < count * size / 2
    assert not faults
    assert list(photos["id"]) == files
    assert np.array_equal(np.asarray(photos[count - 1]["image"]), pixels)
