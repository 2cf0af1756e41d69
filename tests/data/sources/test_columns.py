"""Columns are found by what the user says or by their usual names, and a split is never ignored in silence."""

import pytest

from emor3_trl.data.sources.columns import choose_columns
from emor3_trl.data.sources.labels import LabelReader
from emor3_trl.data.sources.split_names import Reading
from emor3_trl.emotions import EMOTION6


def choose(columns, reader=None, **options):
    return choose_columns(columns, Reading(**options), reader, "t.csv")


@pytest.mark.parametrize(
    ("columns", "image", "emotion"),
    [
        ({"image": ["a"], "emotion": ["joy"], "label": ["x"]}, "image", "emotion"),
        ({"Image ": ["a"], "EMOTION": ["joy"]}, "Image ", "EMOTION"),
        ({"file_name": ["a"], "label": ["joy"]}, "file_name", "label"),
        ({"images": ["a"], "problem": ["?"], "answer": ["joy"]}, "images", "answer"),
        ({"image": ["a"], "label": [3], "label_name": ["joy"]}, "image", "label_name"),
        ({"image": ["a"], "label": ["3"], "emotion": ["joy"]}, "image", "emotion"),
    ],
)
def test_columns_of_usual_names_are_found(columns, image, emotion):
    chosen = choose(columns)
    assert (chosen.image, chosen.emotion) == (image, emotion)
    assert bool(chosen.notes) == ((image, emotion) != ("image", "emotion"))


def test_a_column_that_is_named_is_taken_and_one_that_is_not_there_is_refused():
    columns = {"image": ["a"], "emotion": ["joy"], "mood": ["fear"]}
    assert choose(columns, emotion_column="mood").emotion == "mood"
    with pytest.raises(ValueError, match="columns image, emotion, mood, not feeling"):
        choose(columns, emotion_column="feeling")
    with pytest.raises(ValueError, match="'label', 'category', which could all be meant"):
        choose({"image": ["a"], "label": ["joy"], "category": ["joy"]})


def test_columns_of_votes_are_found_by_their_names_and_numbers():
    columns = {"image": ["a"], "joy": ["3"], "fear": ["0"], "unknown": ["1"], "valence": ["0.5"], "sadness": ["x"]}
    assert choose(columns).votes == {"joy": "joy", "fear": "fear", "unknown": ""}
    reader = LabelReader(EMOTION6, {"frightened": "fear"})
    assert choose({"image": ["a"], "Joy": [1], "frightened": [2]}, reader).votes == {
        "Joy": "Joy",
        "frightened": "frightened",
    }
    assert choose({"image": ["a"], "x": [1], "y": [2]}, emotion_column="x, y").votes == {"x": "x", "y": "y"}


@pytest.mark.parametrize(
    ("columns", "split"),
    [
        ({"split": ["Train ", "", "dev"]}, ["train", None, "dev"]),
        ({"Split": ["Train", "Test"]}, ["train", "test"]),
        ({"Usage": ["Training", "PrivateTest"]}, ["training", "privatetest"]),
        ({"part of the data": ["train", "test"]}, ["train", "test"]),
        ({"is_test": ["0", "1"]}, ["train", "test"]),
        ({"is_train": [True, False]}, ["train", "test"]),
        ({"set": ["A", "B"]}, None),
        ({"note": ["train", "the test is over"]}, None),
    ],
)
def test_a_column_of_splits_is_kept_to_and_an_unknown_one_is_mentioned(columns, split):
    rows = len(next(iter(columns.values())))
    chosen = choose({"image": ["a"] * rows, "emotion": ["joy"] * rows, **columns})
    assert chosen.split == split
    assert bool(chosen.notes) == ("split" not in columns and "note" not in columns)


def test_the_column_of_the_split_may_be_named_or_none():
    columns = {"image": ["a", "b"], "emotion": ["joy", "joy"], "split": ["train", "test"], "other": ["test", "train"]}
    assert choose(columns, split_column="other").split == ["test", "train"]
    assert choose(columns, split_column="none").split is None
    with pytest.raises(ValueError, match=r"--split_column is 'x', but t.csv has the columns image, emotion"):
        choose(columns, split_column="x")
    with pytest.raises(ValueError, match=r"several columns of splits, 'a', 'b', and they differ"):
        choose({"image": "ab", "emotion": "ab", "a": ["train", "test"], "b": ["test", "train"]})
