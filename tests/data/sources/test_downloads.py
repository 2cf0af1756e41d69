"""Each data set is read from what people download, oddities included; what offers no picture is named."""

import json

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from downloads import (
    EMOSET_ORDER,
    photo,
    save,
    write_emoset,
    write_emotion6,
    write_hub_emoset,
    write_own_folders,
    write_own_tables,
    write_webemo,
)

from emor3_trl.data.sources import emoset, emotion6, hub, own, webemo
from emor3_trl.data.sources.candidates import Unusable
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


def test_votes_are_read_with_and_without_their_header_and_a_byte_order_mark(tmp_path):
    write_emotion6(tmp_path)
    whole = emotion6.read(tmp_path, "votes").pools
    text = (tmp_path / "ground_truth.txt").read_text()
    for changed in (text.split("\n", 1)[1], "\ufeff" + text.replace("\n", "\r\n")):
        (tmp_path / "ground_truth.txt").write_text(changed, newline="")
        source = emotion6.read(tmp_path, "votes")
        assert source.pools == whole
        assert not [item for item in source.dropped if "no line" in item.reason]


def test_lists_that_an_editor_saved_with_a_byte_order_mark_are_read(tmp_path):
    for name, write, read in (("train.json", write_emoset, emoset.read), ("train25.txt", write_webemo, webemo.read)):
        root = write(tmp_path / name)
        save(root / "elsewhere" / "first.jpg", 1)
        first = (root / name).read_text().split(" ")[0]
        (root / "images.csv").write_text(f"url,path\n{first},elsewhere/first.jpg\n")
        before = read(root).pools
        (root / name).write_text("\ufeff" + (root / name).read_text())
        assert read(root).pools == before


def test_webemo_takes_25_labels_to_seven_groups_and_leaves_out_dead_links(tmp_path):
    source = webemo.read(write_webemo(tmp_path))
    test = source.pools["test"]
    assert {one.emotion for one in test} == {"love", "joy", "confusion", "sadness", "anger", "fear", "surprise"}
    assert all(source.pictures.read(one.place) for one in test)
    reasons = [item.reason for item in source.dropped]
    assert reasons.count("was not fetched (many links are dead)") == 2 * 5
    shared = [item.id for item in source.dropped if "shares its file name" in item.reason]
    assert len(shared) == 3 + 2  # one is in images.csv; and one file cannot be of a URL of each split
    assert {"train25.txt:53", "test25.txt:53"} <= set(shared)
    zest = [one for one in test if one.place == "elsewhere/b.jpg"]
    assert [one.emotion for one in zest] == ["joy"]  # label 24, two digits


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("http://a.org/p.jpg 24", "images/p.jpg"),
        ("http://a.org/p.jpg\t24", "images/p.jpg"),
        ("http://a.org/p.jpg?x=1#here 24 ", "images/p.jpg"),
        ("http://[a.org/x/p.jpg 24", "images/p.jpg"),
        ("http://a.org/%70.jpg 24", "images/p.jpg"),
        ("http://a.org/" + "x" * 5000 + ".jpg 24", None),
        ("http://a.org/.. 24", None),
        ("http://a.org/..%2f..%2fsecret.jpg 24", None),
        ("http://a.org/a%00b.jpg 24", None),
        ("http://a.org/ 24", None),
    ],
)
def test_webemo_finds_a_picture_by_the_last_part_of_its_url(tmp_path, line, place):
    write_webemo(tmp_path, per_label=1)
    save(tmp_path / "images" / "p.jpg", 1)
    save(tmp_path.parent / "secret.jpg", 1)
    (tmp_path / "test25.txt").write_text("\n" + line + "\n" + line + "\n")  # a URL may come twice
    source = webemo.read(tmp_path)
    assert [one.place for one in source.pools["test"]] == ([place] * 2 if place else [])
    if place is None:
        assert {item.id for item in source.dropped} > {"test25.txt:2", "test25.txt:3"}


@pytest.mark.parametrize(
    "line", ["{name} {group}", "{group} {name}", "{index} {name},{group}", "{index}: {name} ({group})"]
)
def test_webemo_reads_the_categories_however_they_are_set(tmp_path, line):
    write_webemo(tmp_path, per_label=1)
    before = webemo.read(tmp_path).pools
    pairs = [row.split() for row in (tmp_path / "category.txt").read_text().splitlines()]
    written = [line.format(index=index, name=name.title(), group=group) for index, (name, group) in enumerate(pairs)]
    (tmp_path / "category.txt").write_text("\n".join(written))
    assert webemo.read(tmp_path).pools == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("category.txt", "boredom joyless\n", "Line 1 of .*category.txt.*one of the 25 labels"),
        ("test25.txt", "http://a.org/p.jpg 25\n", "Line 1 of .*test25.txt.*label of 0 to 24"),
        ("test25.txt", "http://a.org/p.jpg\n", "Line 1 of .*test25.txt.*label of 0 to 24"),
        ("category.txt", "affection love\n" * 24, "category.txt names 24 labels.*the 25, in order"),
        ("images.csv", "a,b\n1,2\n", "images.csv.*Expected url and path"),
        (
            "images.csv",
            'url,path\nhttp://a.org/p.jpg,"p.jpg\nhttp://a.org/q.jpg,q.jpg\n',
            "images.csv is no such table",
        ),
        ("images.csv", b"url,path\nhttp://a.org/\xff.jpg,p.jpg\n", "images.csv is no such table"),
    ],
)
def test_a_line_of_webemo_that_cannot_be_read_is_shown(tmp_path, name, content, words):
    write_webemo(tmp_path, per_label=1)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words):
        webemo.read(tmp_path)


def test_own_pictures_in_a_folder_of_folders(tmp_path):
    source = own.read(write_own_folders(tmp_path, per_label=2))
    assert source.label_space.labels == ("anger", "joy")
    assert [one.place for one in source.pools["all"]] == [
        "Joy/0.JPG",
        "Joy/more/1.JPG",
        "anger/0.JPG",
        "anger/more/1.JPG",
    ]
    assert [(item.id, item.reason[:26]) for item in source.dropped] == [("Joy/notes.txt", "is not named like a pictur")]


def test_own_pictures_in_folders_of_splits(tmp_path):
    for number, place in enumerate(["train/joy", "Test/joy", "val/joy", "train/fear"]):
        save(tmp_path / place / "a.jpg", number)
    source = own.read(tmp_path)
    assert source.label_space.labels == ("fear", "joy")
    assert {split: [one.id for one in pool] for split, pool in source.pools.items()} == {
        "train": ["train/fear/a.jpg", "train/joy/a.jpg"], "test": ["Test/joy/a.jpg"],
    }  # fmt: skip
    assert [(item.id, item.reason) for item in source.dropped] == [("val/joy/a.jpg", "is of split 'val'")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_own_pictures_in_a_table_with_a_label_space_in_yaml(tmp_path, kind):
    write_own_tables(tmp_path, per_label=2, columns=("file", "mood"))
    source = own.read(tmp_path / f"photos.{kind}", tmp_path / "space.yaml", "file", "mood")
    taken = [(one.place, one.emotion) for one in source.pools["all"]]
    assert taken[:4] == [
        ("photos/00.jpg", "joy"), ("photos/01.jpg", "joy"), ("photos/10.jpg", "anger"), ("photos/11.jpg", "anger"),
    ]  # fmt: skip
    reasons = [item.reason for item in source.dropped]
    assert reasons.count("'unsure' is mapped to null") == 2
    assert reasons.count("has no image or no emotion") == (kind == "csv")


def test_own_pictures_with_splits_of_their_own(tmp_path):
    (tmp_path / "t.csv").write_text("image,emotion,split\na.jpg,joy,train\nb.jpg,fear,test\nc.jpg,joy,dev\n")
    source = own.read(tmp_path / "t.csv", "emotion6")
    assert {name: len(pool) for name, pool in source.pools.items()} == {"test": 1, "train": 1}
    assert [item.reason for item in source.dropped] == ["is of split 'dev'"]


def test_a_data_set_of_the_hub_is_read_by_its_columns(tmp_path):
    source = hub.read(str(write_hub_emoset(tmp_path)), EMOSET_8)
    assert {name: len(pool) for name, pool in source.pools.items()} == {"train": 16, "val": 16, "test": 16}
    assert source.pools["train"][1].emotion == "awe"  # info.json's order, not the alphabet's
    assert source.pictures.read("test/3")[:4] == b"\x89PNG"


def test_a_data_set_of_the_hub_with_one_split_words_of_its_own_and_rows_without_labels(tmp_path):
    features = Features({"picture": ImageFeature(), "mood": Value("string"), "mask": ImageFeature()})
    moods = ["happy", "ANGRY", None, "unsure"]
    broken = {"bytes": b"no picture", "path": None}  # of a column that nobody asks for
    rows = [{"picture": photo(number), "mood": mood, "mask": broken} for number, mood in enumerate(moods)]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    space, spelled = own.read_label_space(write_own_tables(tmp_path / "tables") / "space.yaml")
    source = hub.read(
        str(tmp_path / "train.parquet").removesuffix("/train.parquet"), space, "picture", "mood", spelled=spelled
    )
    assert [(one.id, one.emotion) for one in source.pools["all"]] == [("train/0", "joy"), ("train/1", "anger")]
    assert [(item.id, item.reason) for item in source.dropped] == [
        ("train/2", "has no label"), ("train/3", "'unsure' is mapped to null"),
    ]  # fmt: skip
    assert source.pictures.read("train/1")[:4] == b"\x89PNG"


def test_a_label_that_was_kept_back_is_not_one(tmp_path):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(EMOSET_ORDER))})
    rows = [{"image": photo(number), "label": label} for number, label in enumerate([3, -1])]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    source = hub.read(str(tmp_path), EMOSET_8)
    assert [one.emotion for one in source.pools["all"]] == ["excitement"]
    assert [item.reason for item in source.dropped] == ["has no label"]


def test_a_path_in_a_row_of_the_hub_is_not_followed(tmp_path):
    save(tmp_path / "secret.jpg", 1)
    picture = {"bytes": None, "path": str(tmp_path / "secret.jpg")}
    features = Features({"image": ImageFeature(decode=False), "label": ClassLabel(names=list(EMOSET_ORDER))})
    (tmp_path / "data").mkdir()
    table = Dataset.from_list([{"image": picture, "label": 0}], features=features)
    pq.write_table(table.data.table, tmp_path / "data" / "train.parquet")
    source = hub.read(str(tmp_path / "data"), EMOSET_8)
    with pytest.raises(Unusable, match="holds no picture"):
        source.pictures.read("train/0")


def test_columns_that_are_none_or_hold_no_pictures_are_named(tmp_path):
    write_hub_emoset(tmp_path, rows=1)
    with pytest.raises(ValueError, match=r"columns image, label, image_id, not mood.*--emotion_column"):
        hub.read(str(tmp_path), EMOSET_8, label_column="mood")
    with pytest.raises(ValueError, match=r"'image_id' of .* holds no pictures"):
        hub.read(str(tmp_path), EMOSET_8, "image_id")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("labels: [joy, anger", "is not YAML"),
        ("joy, anger", "is not a label space"),
        ("labels: [joy]", "two or more labels"),
        ("labels: [joy, anger]\nmap: [happy]", "`map` of"),
        ("labels: [joy, null]", "holds None, which YAML does not read as a word"),
        ("labels: [joy, anger]\nmap: {no: null}", "holds False, .*Quote it"),
        ("labels: [joy, anger]\nmap: {happy: glad}", "maps 'happy' to 'glad', which is none of joy, anger"),
    ],
)
def test_a_label_space_that_is_none_is_shown(tmp_path, content, words):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        own.read_label_space(tmp_path / "space.yaml")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "image,emotion\né.jpg,joy\n".encode("cp1252"), "t.csv is no such table in UTF-8"),
        ("t.csv", b"image,emotion\n" + b"x" * 200_000 + b",joy\n", "t.csv is no such table"),
        ("t.jsonl", b"[1]\n", "Line 1 of .*t.jsonl"),
        ("t.jsonl", b"[" * 100_000, "Line 1 of .*t.jsonl"),
        ("t.jsonl", b"", "offers no labelled picture"),
        ("t.txt", b"a.jpg joy", "Expected a folder, or a .csv"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        own.read(tmp_path / name)


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


@pytest.mark.parametrize("line", ["joy/9.jpg\t1", "joy/9.jpg\t1\t1" + "\tnan" * 7])
def test_a_line_of_votes_that_cannot_be_read_is_shown(tmp_path, line):
    write_emotion6(tmp_path, per_label=1)
    with (tmp_path / "ground_truth.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"Line 8 of .*seven shares"):
        emotion6.read(tmp_path, "votes")
