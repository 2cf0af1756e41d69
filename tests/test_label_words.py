"""The words that name a label, and their kin."""

import pytest

from emor3_trl.emotions import EMOSET_8, EMOTION6, WEBEMO_7
from emor3_trl.label_words import KIN, mask_labels

LABELS = ["awe", "fear", "joy", "anger"]


def test_labels_are_masked_as_words_alone():
    assert mask_labels("Fear, awesome and AWE.", LABELS) == "something, awesome and something."


def test_labels_of_several_words_are_masked_as_they_may_be_written():
    labels = ["great", "great joy", "c++"]
    assert mask_labels("Great_Joy, great  joy; a great-joy and c++!", labels) == (
        "something, something; a something and something!"
    )


@pytest.mark.parametrize(
    ("text", "labels", "masked"),
    [
        pytest.param("A fearful, frightened man.", ["fear"], "A something, frightened man.", id="kin, not synonyms"),
        pytest.param("Fearless and joyless.", ["fear", "joy"], "Fearless and joyless.", id="not opposites"),
        pytest.param("SAD. Saddened; saddle", ["sadness"], "something. something; saddle", id="inflections"),
        pytest.param("A contented cat", ["content", "calm"], "A something cat", id="from a word of the family"),
        pytest.param("angry and exciting", ["fear"], "angry and exciting", id="of the row's labels alone"),
        pytest.param("hopeful, hoping", ["hope", "calm"], "something, hoping", id="by rule"),
        pytest.param("shameful peacefully shamrock", ["shame", "peace"], "something something shamrock", id="silent e"),
        pytest.param("happily calmer", ["happiness", "calm"], "something something", id="by rule, from a noun"),
        pytest.param("furchtsam, Furcht", ["furcht"], "furchtsam, something", id="another language: the label"),
    ],
)
def test_kin_of_the_row_s_labels_is_masked(text, labels, masked):
    assert mask_labels(text, labels, with_kin=True) == masked


def test_every_label_of_the_paper_has_kin_and_no_two_share_a_word():
    labels = {*EMOSET_8.labels, *EMOTION6.labels, *WEBEMO_7.labels}
    assert set(KIN) == labels
    words = [word for kin in KIN.values() for word in kin.split()]
    assert len(words) == len(set(words))
    assert not labels & set(words)
