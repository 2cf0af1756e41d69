"""A written label is read as the emotion that it names, and what is no emotion is refused with examples."""

import pytest

from emor3_trl.data.sources.labels import LabelReader, collect_label_space, is_number, unwrap_answer
from emor3_trl.emotions import EMOTION6

READER = LabelReader(EMOTION6, {"happy": "joy", "unsure": None})


@pytest.mark.parametrize(
    ("text", "votes"),
    [
        pytest.param(" Joy. ", {"joy": 1}, id="plain"),
        pytest.param("HAPPY", {"joy": 1}, id="mapped"),
        pytest.param("unsure", {None: 1}, id="mapped-to-null"),
        pytest.param("nan", {}, id="missing"),
        pytest.param("ｊｏｙ", {"joy": 1}, id="full-width"),
        pytest.param("joy, fear", {"joy": 1, "fear": 1}, id="two"),
        pytest.param("joy; happy | fear and unsure", {"joy": 2, "fear": 1, None: 1}, id="votes"),
        pytest.param("<answer> joy </answer>", {"joy": 1}, id="answer"),
        pytest.param(r"So \boxed{joy}", {"joy": 1}, id="box"),
        pytest.param("The emotion in the picture is joy.", {"joy": 1}, id="sentence"),
        pytest.param("Answer: happy", {"joy": 1}, id="colon"),
        pytest.param("03_Joy", {"joy": 1}, id="numbered"),
        pytest.param("The emotion is not joy.", None, id="negated"),
        pytest.param("It isn't that it evokes joy", None, id="negated-shortly"),
        pytest.param(r"\boxed{joy} \boxed{fear}", None, id="two-boxes"),
        pytest.param("joy, cake", None, id="one-of-two"),
        pytest.param("glad", None, id="unknown"),
        pytest.param("3", None, id="number"),
    ],
)
def test_a_cell_names_labels_or_is_unknown(text, votes):
    assert READER.read_label(text) == votes


@pytest.mark.parametrize(
    ("label", "number"),
    [("3", True), ("3.0", True), ("-1", True), ("class_7", True), ("label 2", True), ("joy2", False)],
)
def test_numbers_are_told_from_words(label, number):
    assert is_number(label) == number


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["1", "2", "joy"], "are numbers: '1' 1, '2' 1.*--label_space"),
        (["joy", "big.jpg"], "are files: 'big.jpg'"),
        (["joy", "http://a.org/b"], "are files"),
        (["joy", "a picture of two dogs that run in the sun"], "are sentences"),
        (["joy 1", "joy 2"], "differ in their numbers only"),
        (["alice", "bob", "joy"], r"do not look like emotions.*labels: \[alice, bob, joy\]"),
        (["anger", "fear", "joy", "originals"], "do not look like emotions: 'originals' 1.*originals: null"),
        (["joy", "Joy"], "have one label, 'joy'"),
    ],
)
def test_labels_that_do_not_look_like_emotions_are_refused_with_what_settles_it(labels, words):
    with pytest.raises(ValueError, match=words):
        collect_label_space(dict.fromkeys(labels, 1), "t.csv")


def test_labels_that_occur_make_a_label_space_and_unknown_ones_a_note():
    counts = {"Joy": 2, "joy ": 1, "fear; anger": 1, "hmm": 3, "nan": 9, r"\boxed{awe}": 1}
    space, notes = collect_label_space(counts, "t.csv")
    assert space.labels == ("anger", "awe", "fear", "hmm", "joy")
    assert notes == ["The labels of t.csv include 'hmm' 3, which are taken as emotions too."]


def test_an_answer_of_any_length_is_read_in_no_time():
    assert unwrap_answer("is " * 100_000 + "joy", {"joy"}.__contains__) is None
    assert unwrap_answer("<answer>" * 50_000, {"joy"}.__contains__) is None
