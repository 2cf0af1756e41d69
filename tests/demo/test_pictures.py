"""The demo's images: the same for a seed, distinct, balanced, and their data set."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from emor3_trl.data import load_split
from emor3_trl.demo.pictures import (
    EMOJI,
    EMOTIONS,
    EXPRESSIONS,
    IMAGE_SIZE,
    choose_peep,
    draw_emoji,
    draw_peep,
    load_drawings,
    write_demo_data,
)

SIZES = {"train": 36, "validation": 12, "test": 18}
SPLITS = (*SIZES, "twemoji", "openmoji")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder, seed=3, sizes=SIZES)
    return folder


def pixels(image) -> str:
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def test_a_seed_always_gives_the_same_pixels():
    first, again = (draw_peep(choose_peep(7, "train", 4)) for _ in range(2))
    assert first.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert first.mode == "RGB"
    assert pixels(first) == pixels(again)
    assert pixels(first) != pixels(draw_peep(choose_peep(8, "train", 4)))


def test_every_expression_is_drawn_differently():
    drawn = {}
    for index in range(18):  # every emotion three times, so every expression at least once
        peep = choose_peep(0, "train", index)
        same = replace(peep, head="a bald head", drawing="noHair1", glasses=None, beard=None, shirt="red", seed="x")
        drawn[peep.expression] = pixels(draw_peep(same))
    assert set(drawn) == {face for faces in EXPRESSIONS.values() for face in faces}
    assert len(set(drawn.values())) == len(drawn)


def test_splits_share_no_picture_and_no_seed(data_dir):
    seen = [pixels(image) for split in SPLITS for image in load_split(data_dir, split)["image"]]
    assert len(seen) == len(set(seen)) == sum(SIZES.values()) + 2 * sum(map(len, EMOJI.values()))
    ids = [name for split in SPLITS for name in load_split(data_dir, split)["id"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("split", SIZES)
def test_drawn_splits_are_balanced(data_dir, split):
    rows = load_split(data_dir, split)
    assert Counter(rows["emotion"]) == dict.fromkeys(EMOTIONS, SIZES[split] // len(EMOTIONS))
    assert all(tuple(labels) == EMOTIONS for labels in rows["label_space"])


@pytest.mark.parametrize("source", ["twemoji", "openmoji"])
def test_emoji_show_something_and_are_distinct(source):
    drawn = list(draw_emoji(source))
    assert len({pixels(image) for _, _, image in drawn}) == len(drawn) == sum(map(len, EMOJI.values()))
    assert {emotion for emotion, _, _ in drawn} == set(EMOTIONS)
    assert all(image.size == (IMAGE_SIZE, IMAGE_SIZE) for _, _, image in drawn)


def test_manifest_names_counts_versions_and_licences(data_dir):
    manifest = json.loads((data_dir / "manifest.json").read_text())
    assert manifest["counts"] == {**SIZES, "twemoji": 36, "openmoji": 36}
    assert manifest["seed"] == 3
    assert manifest["packages"]["dicebear-styles"]
    for source, licence in (("open_peeps", "CC0 1.0"), ("twemoji", "CC BY 4.0"), ("openmoji", "CC BY-SA 4.0")):
        assert licence in manifest["licences"][source]


def test_a_second_call_keeps_the_data_and_another_seed_is_refused(data_dir, capsys):
    before = (data_dir / "train.parquet").stat().st_mtime_ns
    write_demo_data(data_dir, seed=3, sizes=SIZES)
    assert "Reusing" in capsys.readouterr().out
    assert (data_dir / "train.parquet").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="seed differ"):
        write_demo_data(data_dir, seed=4, sizes=SIZES)


def test_drawings_tell_nothing_about_the_test_split(data_dir):
    assert {name.split("-")[0] for name in load_drawings(data_dir)} == {"train", "validation"}


def test_missing_drawings_name_the_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py"):
        load_drawings(tmp_path)
