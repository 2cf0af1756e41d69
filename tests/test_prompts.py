"""Prompts: what the policy is asked."""

import pytest

from emor3_trl.emotions import EMOSET_8
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, answer_text, messages, prompt_text
from emor3_trl.thinking import boxed_answer


@pytest.mark.parametrize(
    ("style", "tags"),
    [
        pytest.param("set", ["<step1>", "</step1>", "<step2>", "</step2>", "<step3>", "</step3>"], id="set"),
        pytest.param("think", ["<think>", "</think>"], id="think"),
        pytest.param("direct", [], id="direct"),
    ],
)
def test_a_prompt_lists_the_labels_in_order_and_asks_for_its_format(style, tags):
    text = prompt_text(style, EMOSET_8.labels)
    assert ", ".join(EMOSET_8.labels) in text
    assert all(tag in text for tag in tags)
    assert text.count("<") == len(tags)
    assert r"\boxed{}" in text


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="Expected one of set, think, direct"):
        prompt_text("steps", EMOSET_8.labels)  # type: ignore[arg-type]


def test_an_image_stands_before_the_text():
    assert [part["type"] for part in messages("Which?", image=object())[0]["content"]] == ["image", "text"]
    assert [part["type"] for part in messages("Which?")[0]["content"]] == ["text"]


def test_the_answer_is_read_back():
    assert boxed_answer(answer_text("awe")) == "awe"


def test_braces_in_the_policys_text_do_not_break_the_questions():
    written = r"{labels} {0} \boxed{awe}"
    assert CONSISTENCY_QUESTION.format(trigger=written).startswith(written)
    question = COHERENCE_QUESTION.format(trigger=written, feeling="{trigger}", labels="awe, fear")
    assert question.startswith(written + "\n{trigger}\n")
    assert question.endswith("awe, fear.")
