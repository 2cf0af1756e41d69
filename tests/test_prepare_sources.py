"""Each data set is read from what people download, oddities included; what offers no picture is named."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from downloads import photo, save, write_emoset, write_emotion6, write_webemo

from emor3_trl.data import emoset, emotion6, hub, own, webemo
from emor3_trl.emotions import EMOSET_8


@pytest.mark.parametrize("with_id", [False, True], ids=["without-id", "with-id"])
def test_emoset_is_read_with_and_without_ids(tmp_path, with_id):
    source = emoset.read(write_emoset(tmp_path, per_label=2, with_id=with_id))
    assert {name: len(pool) for name, pool in source.pools.items()} == {"train": 16, "val": 16, "test": 16}
    first = source.pools["train"][0]
    assert first.emotion == "amusement"
    assert first.place == "image/amusement/amusement_00001.jpg"
    assert source.pictures.read(first.place)[:2] == b"\xff\xd8"


def test_emoset_without_validation_or_with_a_row_that_names_no_picture(tmp_path):
    write_emoset(tmp_path, per_label=1)
    (tmp_path / "val.json").unlink()
    rows = json.loads((tmp_path / "test.json").read_text())
    (tmp_path / "test.json").write_text(json.dumps([*rows, ["awe", 7]]))
    source = emoset.read(tmp_path)
    assert sorted(source.pools) == ["test", "train"]
    assert [item.reason for item in source.dropped] == ["names no picture"]


def test_emotion6_takes_the_folder_for_the_label(tmp_path):
    source = emotion6.read(write_emotion6(tmp_path))
    assert len(source.pools["all"]) == 60
    assert all(one.id.startswith(one.emotion) for one in source.pools["all"])
    assert source.sizes == {"train": None, "test": 594}


def test_emotion6_by_votes_leaves_out_neutral_and_tied_pictures(tmp_path):
    source = emotion6.read(write_emotion6(tmp_path), label_from="votes")
    by_id = {one.id: one.emotion for one in source.pools["all"]}
    assert by_id["anger/2.jpg"] == "disgust"  # most people said otherwise than the folder
    assert by_id["anger/4.jpg"] == "anger"
    reasons = {item.id: item.reason for item in source.dropped}
    assert reasons["joy/1.jpg"] == "was seen as neutral by most"
    assert reasons["joy/3.jpg"] == "is tied in the votes"
    assert len(by_id) == 60 - 12


def test_webemo_takes_25_labels_to_seven_groups_and_leaves_out_dead_links(tmp_path):
    source = webemo.read(write_webemo(tmp_path))
    test = source.pools["test"]
    assert {one.emotion for one in test} == {"love", "joy", "confusion", "sadness", "anger", "fear", "surprise"}
    assert all(source.pictures.read(one.place) for one in test)
    reasons = [item.reason for item in source.dropped]
    assert reasons.count("was not fetched (many links are dead)") == 2 * 5
    assert sum("shares its file name" in reason for reason in reasons) == 3  # the fourth is in images.csv
    zest = [one for one in test if one.place == "elsewhere/b.jpg"]
    assert [one.emotion for one in zest] == ["joy"]  # label 24, two digits


def test_own_pictures_in_a_folder_of_folders(tmp_path):
    for number, label in enumerate(["Happy", "Happy", "sad"]):
        save(tmp_path / label / f"{number}.png", number)
    (tmp_path / "notes.txt").write_text("not a picture")
    source = own.read(tmp_path)
    assert source.label_space.labels == ("happy", "sad")
    assert [one.emotion for one in source.pools["all"]] == ["happy", "happy", "sad"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_own_pictures_in_a_table_with_a_label_space_in_yaml(tmp_path, kind):
    (tmp_path / "space.yaml").write_text(
        "name: mine\nlabels: [joy, anger]\nmap:\n  happy: joy\n  ANGRY: anger\n  unsure: null\n"
    )
    rows = [("a.jpg", "happy"), ("b.jpg", "angry"), ("c.jpg", "Joy"), ("d.jpg", "unsure"), ("", "joy")]
    if kind == "csv":
        (tmp_path / "t.csv").write_text("pic,mood\n" + "\n".join(",".join(row) for row in rows) + "\n")
    else:
        lines = [json.dumps({"pic": image, "mood": mood}) for image, mood in rows]
        (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    source = own.read(tmp_path / f"t.{kind}", str(tmp_path / "space.yaml"), "pic", "mood")
    assert [(one.place, one.emotion) for one in source.pools["all"]] == [
        ("a.jpg", "joy"), ("b.jpg", "anger"), ("c.jpg", "joy"),
    ]  # fmt: skip
    assert sorted(item.reason for item in source.dropped) == [
        "'unsure' is mapped to null",
        "has no image or no emotion",
    ]


def test_own_pictures_with_splits_of_their_own(tmp_path):
    (tmp_path / "t.csv").write_text("image,emotion,split\na.jpg,joy,train\nb.jpg,fear,test\nc.jpg,joy,dev\n")
    source = own.read(tmp_path / "t.csv", "emotion6")
    assert {name: len(pool) for name, pool in source.pools.items()} == {"test": 1, "train": 1}
    assert [item.reason for item in source.dropped] == ["is of split 'dev'"]


def test_a_data_set_of_the_hub_is_read_by_its_columns(tmp_path):
    order = ["amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness"]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=order), "image_id": Value("string")})
    rows = [{"image": photo(number), "label": number % 8, "image_id": str(number)} for number in range(16)]
    splits = DatasetDict({name: Dataset.from_list(rows, features=features) for name in ("train", "validation", "test")})
    for name, split in splits.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        split.to_parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    source = hub.read(str(tmp_path), EMOSET_8)
    assert {name: len(pool) for name, pool in source.pools.items()} == {"train": 16, "val": 16, "test": 16}
    assert source.pools["train"][1].emotion == "awe"  # info.json's order, not the alphabet's
    assert source.pictures.read("test/3")[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("spoil", "read", "words"),
    [
        pytest.param(lambda p: (p / "train.json").unlink(), emoset.read, "There is no .*train.json", id="missing"),
        pytest.param(lambda p: (p / "test.json").write_text("[["), emoset.read, "is not JSON", id="cut-off"),
        pytest.param(lambda p: (p / "test.json").write_text("{}"), emoset.read, "not a list of rows", id="no-list"),
        pytest.param(
            lambda p: (p / "test.json").write_text('[["happy", "a.jpg"], ["happy", "b.jpg"], ["glad", "c.jpg"]]'),
            emoset.read,
            "outside the label space 'emoset_8'.*'happy' 2, 'glad' 1",
            id="labels-outside",
        ),
        pytest.param(lambda p: None, emotion6.read, "There is no .*images/anger", id="not-emotion6"),
        pytest.param(lambda p: None, webemo.read, "There is no .*category.txt", id="not-webemo"),
        pytest.param(lambda p: None, lambda p: own.read(p / "no"), "There is no", id="nothing-there"),
        pytest.param(lambda p: None, lambda p: own.read(p / "info.json"), "Row 1 of|Line 1 of", id="odd-table"),
        pytest.param(lambda p: None, lambda p: own.read(p / "image", "happy_3"), "Unknown label space", id="space"),
        pytest.param(lambda p: None, lambda p: hub.read(str(p / "no"), EMOSET_8), "cannot be loaded", id="hub"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, spoil, read, words):
    write_emoset(tmp_path, per_label=1)
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read(tmp_path)


def test_a_table_without_the_columns_says_which_it_has(tmp_path):
    (tmp_path / "t.csv").write_text("file,mood\na.jpg,joy\n")
    with pytest.raises(ValueError, match=r"columns file, mood, not image and emotion.*--image_column"):
        own.read(tmp_path / "t.csv")


def test_a_line_of_votes_that_cannot_be_read_is_shown(tmp_path):
    write_emotion6(tmp_path, per_label=1)
    with (tmp_path / "ground_truth.txt").open("a") as file:
        file.write("joy/9.jpg\t1\n")
    with pytest.raises(ValueError, match=r"Line 8 of .*seven shares"):
        emotion6.read(tmp_path, "votes")
