"""The answer and the image of a conversation are found in the forms of other trainers."""

import pytest

from emor3_trl.data.sources.conversations import ANSWER, add_conversation, read_answer, read_images
from emor3_trl.data.sources.tables import Table


@pytest.mark.parametrize(
    ("turns", "answer"),
    [
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "joy"}], "joy"),
        ([{"from": "human", "value": "?"}, {"from": "gpt", "value": "joy"}], "joy"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "joy"}]}], "joy"),
        ([{"role": "assistant", "content": "a dog"}, {"role": "assistant", "content": "joy"}], "joy"),
        ("joy", "joy"),
        ([{"role": "user", "content": "joy"}], None),
        ([1, None], None),
        (None, None),
    ],
)
def test_the_answer_is_what_the_assistant_says_last(turns, answer):
    assert read_answer(turns) == answer


def test_images_stand_in_the_parts_of_a_turn():
    parts = [
        {"type": "image", "image": "a.jpg"},
        {"type": "text", "text": "?"},
        {"type": "image_url", "image_url": {"url": "b"}},
    ]
    assert read_images([{"role": "user", "content": parts}]) == ["a.jpg", "b"]
    assert read_images("text") == []


def test_a_column_of_its_own_comes_before_the_conversation():
    turns = [[{"role": "assistant", "content": "joy"}]]
    table = add_conversation(Table("t", ["t:1"], {"image": ["a"], "messages": turns}))
    assert table.columns[ANSWER] == ["joy"]
    table = add_conversation(Table("t", ["t:1"], {"image": ["a"], "messages": turns, "solution": ["fear"]}))
    assert ANSWER not in table.columns
