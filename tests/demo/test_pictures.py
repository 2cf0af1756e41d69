"""The demo's images: the same for a seed, distinct, balanced, and their data sets."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from emor3_trl.data import load_split
from emor3_trl.demo.drawings import IMAGE_SIZE
from emor3_trl.demo.pictures import choose_drawing, draw, load_drawings, write_demo_data
from emor3_trl.demo.sketches import EXPRESSIONS
from emor3_trl.demo.worlds import WORLDS

SIZES = {"train": 6, "validation": 2, "test": 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder, seed=3, sizes=SIZES)
    return folder


def pixels(image) -> str:
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_always_gives_the_same_pixels(world):
    first, again = (draw(choose_drawing(world, 7, "train", 4)) for _ in range(2))
    assert first.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert first.mode == "RGB"
    assert pixels(first) == pixels(again)
    assert pixels(first) != pixels(draw(choose_drawing(world, 8, "train", 4)))


def test_every_expression_of_the_sketches_is_drawn_differently(drawings):
    sketch = next(drawing for drawing in drawings if drawing.world == "sketches")
    names = [name for group in EXPRESSIONS.values() for name in group]
    drawn = {
        pixels(draw(replace(sketch, options={**sketch.options, "expressionVariant": [name], "seed": "x"})))
        for name in names
    }
    assert len(drawn) == len(names)


@pytest.mark.parametrize("world", ["toons", "emoji"])
def test_the_hands_of_a_world_draw_each_look_differently(world, drawings):
    shown = {}
    for drawing in drawings:
        if drawing.world == world:
            face = {key: drawing.options[key] for key in drawing.options if key.startswith(("eye", "mouth", "code"))}
            shown.setdefault((drawing.hand, drawing.look), set()).add(json.dumps(face, sort_keys=True))
    assert {hand for hand, _ in shown} == {drawing.hand for drawing in drawings if drawing.world == world}
    assert len({hand for hand, _ in shown}) == 2
    for hand, look in shown:
        others = [faces for (other, name), faces in shown.items() if other == hand and name != look]
        assert all(shown[hand, look].isdisjoint(faces) or hand == "toon-head" for faces in others), (hand, look)


def test_splits_share_no_picture_and_no_id(data_dir):
    places = [(world, split) for world in WORLDS for split in SIZES]
    rows = [row for world, split in places for row in load_split(data_dir / world, split)]
    assert len(rows) == sum(SIZES.values()) * sum(len(world.labels) for world in WORLDS.values())
    assert len({pixels(row["image"]) for row in rows}) == len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("split", SIZES)
def test_every_label_and_every_look_of_it_has_its_share(data_dir, world, split):
    rows = load_split(data_dir / world, split)
    assert Counter(rows["emotion"]) == dict.fromkeys(WORLDS[world].labels, SIZES[split])
    assert all(tuple(labels) == WORLDS[world].labels for labels in rows["label_space"])
    if split == "train":  # six pictures of each label divide by the one, two or three looks of it
        shown = load_drawings(data_dir)
        looks = Counter((shown[name].emotion, shown[name].look) for name in rows["id"])
        expected = {
            (emotion, look): 6 // len(group) for emotion, group in WORLDS[world].looks.items() for look in group
        }
        assert looks == expected


def test_label_spaces_differ_and_the_worlds_share_looks():
    spaces = [set(world.labels) for world in WORLDS.values()]
    assert all(first != second for i, first in enumerate(spaces) for second in spaces[:i])
    looks = [{look for group in world.looks.values() for look in group} for world in WORLDS.values()]
    assert len(set.intersection(*looks)) >= 6


def test_manifests_name_counts_versions_and_licences(data_dir):
    manifest = json.loads((data_dir / "manifest.json").read_text())
    assert manifest["counts"]["emoji"] == {"train": 42, "validation": 14, "test": 21}
    assert manifest["seed"] == 3
    assert manifest["packages"]["dicebear-styles"]
    licences = {
        "sketches": {"open-peeps": "CC0 1.0"},
        "toons": {"toon-head": "CC BY 4.0", "avataaars": "free for personal and commercial use"},
        "emoji": {"twemoji": "CC BY 4.0", "openmoji": "CC BY-SA 4.0"},
    }
    for world, hands in licences.items():
        own = json.loads((data_dir / world / "manifest.json").read_text())
        assert own["label_space"] == list(WORLDS[world].labels)
        assert set(own["licences"]) == set(hands) == set(load_split(data_dir / world, "train")["source"])
        for hand, licence in hands.items():
            assert licence in own["licences"][hand]


def test_a_second_call_keeps_the_data_and_another_seed_is_refused(data_dir, capsys):
    before = (data_dir / "toons" / "train.parquet").stat().st_mtime_ns
    write_demo_data(data_dir, seed=3, sizes=SIZES)
    assert "Reusing" in capsys.readouterr().out
    assert (data_dir / "toons" / "train.parquet").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="seed differ"):
        write_demo_data(data_dir, seed=4, sizes=SIZES)


def test_drawings_tell_nothing_about_the_test_splits(data_dir):
    assert {name.split("-")[1] for name in load_drawings(data_dir)} == {"train", "validation"}


def test_missing_drawings_name_the_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py"):
        load_drawings(tmp_path)
