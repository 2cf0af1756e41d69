"""A data set of the Hub is read by its columns; a path in a row is not followed."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from downloads import EMOSET_ORDER, photo, save, write_hub_emoset, write_own_tables

from emor3_trl.data.sources import hub
from emor3_trl.data.sources.candidates import Unusable
from emor3_trl.data.sources.label_space import read_label_space
from emor3_trl.data.sources.split_names import Reading
from emor3_trl.emotions import EMOSET_8


def test_a_data_set_of_the_hub_is_read_by_its_columns(tmp_path):
    source = hub.list_candidates(str(write_hub_emoset(tmp_path)), EMOSET_8)
    assert {name: len(pool) for name, pool in source.pools.items()} == {"train": 16, "val": 16, "test": 16}
    assert source.pools["train"][1].emotion == "awe"  # info.json's order, not the alphabet's
    assert source.images.read_image("test/3")[:4] == b"\x89PNG"


def test_a_data_set_of_the_hub_with_one_split_words_of_its_own_and_rows_without_labels(tmp_path):
    features = Features({"picture": ImageFeature(), "mood": Value("string"), "mask": ImageFeature()})
    moods = ["happy", "ANGRY", None, "unsure"]
    broken = {"bytes": b"no picture", "path": None}  # of a column that nobody asks for
    rows = [{"picture": photo(number), "mood": mood, "mask": broken} for number, mood in enumerate(moods)]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    space, spelled = read_label_space(write_own_tables(tmp_path / "tables") / "space.yaml")
    source = hub.list_candidates(
        str(tmp_path / "train.parquet").removesuffix("/train.parquet"),
        space,
        Reading("picture", "mood"),
        spelled=spelled,
    )
    assert [(one.id, one.emotion) for one in source.pools["all"]] == [("train/0", "joy"), ("train/1", "anger")]
    assert [(item.id, item.reason) for item in source.dropped] == [
        ("train/2", "has no label"), ("train/3", "'unsure' is mapped to null"),
    ]  # fmt: skip
    assert source.images.read_image("train/1")[:4] == b"\x89PNG"


def test_a_label_that_was_kept_back_is_not_one(tmp_path):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(EMOSET_ORDER))})
    rows = [{"image": photo(number), "label": label} for number, label in enumerate([3, -1])]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    source = hub.list_candidates(str(tmp_path), EMOSET_8)
    assert [one.emotion for one in source.pools["all"]] == ["excitement"]
    assert [item.reason for item in source.dropped] == ["has no label"]


def test_a_path_in_a_row_of_the_hub_is_not_followed(tmp_path):
    save(tmp_path / "secret.jpg", 1)
    picture = {"bytes": None, "path": str(tmp_path / "secret.jpg")}
    features = Features({"image": ImageFeature(decode=False), "label": ClassLabel(names=list(EMOSET_ORDER))})
    (tmp_path / "data").mkdir()
    table = Dataset.from_list([{"image": picture, "label": 0}], features=features)
    pq.write_table(table.data.table, tmp_path / "data" / "train.parquet")
    source = hub.list_candidates(str(tmp_path / "data"), EMOSET_8)
    with pytest.raises(Unusable, match="holds no picture"):
        source.images.read_image("train/0")


def test_columns_that_are_none_or_hold_no_pictures_are_named(tmp_path):
    write_hub_emoset(tmp_path, rows=1)
    with pytest.raises(ValueError, match=r"columns image, label, image_id, not mood.*--emotion_column"):
        hub.list_candidates(str(tmp_path), EMOSET_8, Reading(emotion_column="mood"))
    with pytest.raises(ValueError, match=r"'image_id' of .* holds no pictures"):
        hub.list_candidates(str(tmp_path), EMOSET_8, Reading("image_id"))


def test_a_list_of_one_image_is_that_image(tmp_path):
    rows = [{"images": [photo(number)] * (number % 3), "answer": "awe"} for number in range(6)]
    features = Features({"images": List(ImageFeature()), "answer": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    source = hub.list_candidates(str(tmp_path), EMOSET_8)
    assert [candidate.id for candidate in source.pools["all"]] == ["train/1", "train/4"]
    assert [item.reason for item in source.dropped] == ["holds no image", "holds 2 images"] * 2
    assert source.images.read_image("train/4")[:4] == b"\x89PNG"
    assert "from column 'images', the emotion from 'answer'" in source.notes[0]


def test_a_folder_of_images_is_read_by_its_files_and_nothing_beside_it(tmp_path):
    for number, emotion in enumerate(("awe", "fear")):
        save(tmp_path / "in" / "train" / emotion / "a.jpg", number)
    (tmp_path / "in" / "train" / "awe" / "link.jpg").symlink_to(save(tmp_path / "secret.jpg", 9))
    source = hub.list_candidates(str(tmp_path / "in"), EMOSET_8)
    read = {}
    for candidate in source.pools["all"]:
        try:
            read[candidate.id] = source.images.read_image(candidate.place)[:2]
        except Unusable as reason:
            read[candidate.id] = str(reason)
    assert list(read.values()).count(b"\xff\xd8") == 2
    assert [text for text in read.values() if isinstance(text, str)] == [
        "its row holds no picture but a path, and a symbolic link leads out of the folder"
    ]


def test_a_table_of_paths_is_read_below_its_folder(tmp_path):
    save(tmp_path / "in" / "a.jpg", 1)
    rows = [{"image": place, "label": "awe"} for place in ("a.jpg", "../secret.jpg", "https://example.org/b.jpg")]
    save(tmp_path / "secret.jpg", 2)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "train.parquet")
    source = hub.list_candidates(str(tmp_path / "in"), EMOSET_8)
    inside, outside = source.pools["all"]
    assert source.images.read_image(inside.place)[:2] == b"\xff\xd8"
    with pytest.raises(Unusable, match="leads out of the folder"):
        source.images.read_image(outside.place)
    assert source.dropped[0].reason == "names an image on the Internet, and nothing is downloaded"
