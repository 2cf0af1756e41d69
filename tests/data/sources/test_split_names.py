"""Splits are told by what people call them, and what was decided is said."""

import pytest

from emor3_trl.data.sources.split_names import Reading, assign_splits


@pytest.mark.parametrize(
    ("counts", "splits", "note"),
    [
        ({"train": 3, "test": 2}, {"train": "train", "test": "test"}, ""),
        (
            {"Training": 3, "PublicTest": 1, "PrivateTest": 2},
            {"Training": "train", "PublicTest": None, "PrivateTest": "test"},
            "",
        ),
        ({"train": 3, "val": 2}, {"train": "train", "val": "test"}, "validation split is taken"),
        ({"train": 3, "val": 2, "test": 1}, {"train": "train", "val": None, "test": "test"}, ""),
        ({"train": 3}, {"train": "all"}, "The only split"),
        ({"whatever": 3}, {"whatever": "all"}, "The only split"),
        ({"test": 3, "val": 2}, {"test": "test", "val": None}, "no split for training"),
        ({None: 3}, {None: "all"}, ""),
        ({"train": 3, None: 2}, {"train": "train", None: "all"}, ""),
        ({"train": 3, "test": 1, None: 2}, {"train": "train", "test": "test", None: None}, ""),
    ],
)
def test_splits_are_assigned(counts, splits, note):
    assigned, notes = assign_splits(counts, Reading(), "t.csv")
    assert assigned == splits
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)


def test_the_user_says_which_split_is_drawn_from():
    counts = {"train": 3, "val": 2, "test": 1}
    assigned, notes = assign_splits(counts, Reading(test_split="val"), "t.csv")
    assert assigned == {"train": "train", "val": "test", "test": None}
    assert not notes
    assert assign_splits({"a": 1, "b": 1}, Reading(train_split="A", test_split="b"), "t")[0] == {
        "a": "train",
        "b": "test",
    }
    with pytest.raises(ValueError, match=r"has the splits 'a' 3, 'b' 2. None of them .*--train_split"):
        assign_splits({"a": 3, "b": 2}, Reading(), "t.csv")
    with pytest.raises(ValueError, match=r"--test_split is 'c', but t.csv has the splits 'train' 3"):
        assign_splits(counts, Reading(test_split="c"), "t.csv")
    with pytest.raises(ValueError, match=r"has no splits.*--split_column"):
        assign_splits({None: 3}, Reading(test_split="c"), "t.csv")
