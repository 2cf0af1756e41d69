"""An image has one emotion: the most frequent of its rows and votes, whose shares are kept."""

import pytest

from emor3_trl.data.sources.candidates import FolderImages
from emor3_trl.data.sources.labels import LabelReader
from emor3_trl.data.sources.listing import Listing, Row, build_source, read_emotions
from emor3_trl.data.sources.split_names import Reading
from emor3_trl.emotions import LabelSpace

SPACE = LabelSpace("three", ("anger", "fear", "joy"))
READER = LabelReader(SPACE, {"other": None})


def read(*rows):
    candidates, dropped, notes = read_emotions([Row(f"r{n}", *row) for n, row in enumerate(rows)], READER, "t")
    taken = {candidate.place: (candidate.emotion, candidate.votes) for _, candidate in candidates}
    return taken, {item.id: item.reason for item in dropped}, notes


def test_rows_of_one_label_each_keep_no_shares():
    taken, dropped, notes = read(("a", "joy"), ("b", "fear"), ("c", "other"), ("d", "nan"))
    assert taken == {"a": ("joy", None), "b": ("fear", None)}
    assert dropped == {"r2": "'other' is mapped to null", "r3": "has no emotion ('nan')"}
    assert not notes


def test_rows_of_one_image_are_votes_and_ties_are_left_out():
    taken, dropped, notes = read(("a", "joy"), ("a", "fear"), ("a", "joy"), ("b", "joy"), ("b", "fear"), ("c", "anger"))
    assert taken == {"a": ("joy", (0, 1 / 3, 2 / 3)), "c": ("anger", (1, 0, 0))}
    assert dropped == {"r3": "is tied between fear and joy"}
    assert notes[0].startswith("2 of the 3 images of t stand in several rows, 2 under several emotions (e.g. 'a', 'b')")


def test_votes_are_counted_and_those_for_no_emotion_may_win():
    taken, dropped, _ = read(
        ("a", "", {"joy": 0.7, "fear": 0.3}), ("b", "", {"joy": 1, "": 3}), ("c", "", {"other": 2, "joy": 3})
    )
    assert taken == {"a": ("joy", (0, 0.3, 0.7)), "c": ("joy", (0, 0, 1))}
    assert dropped == {"r1": "most of its votes are for no emotion"}


def test_the_same_row_twice_is_one_image():
    taken, dropped, notes = read(("a", "joy"), ("a", "joy"), ("b", "fear"))
    assert taken == {"a": ("joy", None), "b": ("fear", None)}
    assert not dropped
    assert notes == ["1 images of t stand in several rows (e.g. 'a'): taken once."]


def test_an_image_of_both_splits_is_for_testing():
    rows = [
        Row("r0", "a", "joy", None, "train"),
        Row("r1", "a", "joy", None, "test"),
        Row("r2", "b", "fear", None, "train"),
    ]
    source = build_source(Listing("t", rows, FolderImages(".")), Reading(), SPACE)
    assert {split: [candidate.place for candidate in pool] for split, pool in source.pools.items()} == {
        "test": ["a"], "train": ["b"],
    }  # fmt: skip


def test_labels_outside_the_space_are_refused_with_their_counts():
    with pytest.raises(ValueError, match=r"outside the label space 'three'.*'glad' 2, 'sad' 1"):
        read(("a", "glad"), ("b", "glad"), ("c", "sad"), ("d", "joy"))


def test_a_listing_without_a_candidate_says_what_was_left_out():
    with pytest.raises(ValueError, match=r"offers no labelled picture. Left out are 1 x is tied between fear and joy"):
        build_source(Listing("t", [Row("r", "a", "joy, fear")], FolderImages(".")), Reading(), SPACE)
