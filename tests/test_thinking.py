"""Parsing: what is well formed, what is not, and what the box says."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emor3_trl.thinking import (
    MALFORMED_REASONS,
    MAX_LEAD_IN,
    StructuredThinking,
    boxed_answer,
    explain_malformed,
    is_plain_think,
    parse,
)

STEPS = "<step1>A dog runs.</step1>\n<step2>They smile.</step2>\n<step3>Positive, excited.</step3>\n"
GOLD = STEPS + r"\boxed{amusement}"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        pytest.param(GOLD, "amusement", id="plain"),
        pytest.param(" \n\t" + GOLD + " \n", "amusement", id="white-space-around"),
        pytest.param(GOLD.replace("\n", ""), "amusement", id="no-white-space"),
        pytest.param(STEPS + r"The answer is: \boxed{awe}.", "awe", id="lead-in"),
        pytest.param(STEPS + "x" * MAX_LEAD_IN + r"\boxed{awe}", "awe", id="longest-lead-in"),
        pytest.param(STEPS + r"**Answer:** $\boxed{\text{awe}}$**.", r"\text{awe}", id="markdown-and-latex"),
        pytest.param(STEPS + r"\[ \boxed{ awe } \]", "awe", id="display-formula"),
        pytest.param(STEPS + r"\boxed{a{b{c}}d}", "a{b{c}}d", id="balanced-braces"),
        pytest.param(STEPS + r"\boxed{awe}。」", "awe", id="punctuation-of-other-scripts"),
        pytest.param(GOLD.replace("A dog", "A heart <3 and 2 > 1 {"), "amusement", id="angle-brackets-that-are-no-tag"),
        pytest.param(GOLD.replace("A dog", "<|im_end|> \x00 \ud800 😀"), "amusement", id="special-token-as-text"),
    ],
)
def test_a_well_formed_completion_is_parsed(completion, answer):
    thinking = parse(completion)
    assert thinking is not None
    assert thinking.answer == answer
    assert (thinking.feeling, thinking.conclusion) == ("They smile.", "Positive, excited.")


def test_the_parts_are_those_of_the_completion():
    assert parse(GOLD) == StructuredThinking("A dog runs.", "They smile.", "Positive, excited.", "amusement")


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param(None, id="none"),
        pytest.param(b"<step1>", id="bytes"),
        pytest.param([{"role": "assistant", "content": GOLD}], id="conversation"),
        pytest.param("", id="empty"),
        pytest.param(r"\boxed{awe}", id="box-only"),
        pytest.param(STEPS, id="no-box"),
        pytest.param("Well: " + GOLD, id="text-before-step-1"),
        pytest.param(GOLD.replace("</step1>\n", "</step1> then "), id="text-between-steps"),
        pytest.param(GOLD.replace("A dog runs.", ""), id="empty-step"),
        pytest.param(GOLD.replace("They smile.", " \n\u00a0"), id="blank-step"),
        pytest.param(GOLD.replace("</step2>", ""), id="unclosed-step"),
        pytest.param(GOLD.replace("step1", "stepA").replace("step2", "step1").replace("stepA", "step2"), id="order"),
        pytest.param(STEPS + GOLD, id="steps-twice"),
        pytest.param(GOLD.replace("A dog", "<step1>A dog"), id="repeated-tag"),
        pytest.param(GOLD.replace("A dog", "<step2>A</step2> dog"), id="nested-tag"),
        pytest.param(GOLD.replace("A dog", "< / STEP 2 > dog"), id="disguised-tag"),
        pytest.param(GOLD.replace("A dog", "<step1\n> dog"), id="tag-over-two-lines"),
        pytest.param(GOLD.replace("A dog", "<think>A dog</think>"), id="other-tag-in-a-step"),
        pytest.param(GOLD.replace("A dog", "A </step dog"), id="torn-tag"),
        pytest.param(GOLD.replace("<step1>", "<STEP1>"), id="upper-case-tag"),
        pytest.param(GOLD.replace("<step1>", '<step1 a="b">'), id="attribute"),
        pytest.param(GOLD.replace("They smile.", r"They \boxed{smile}"), id="box-in-a-step"),
        pytest.param(STEPS.replace("They smile.", r"\boxed{awe}"), id="box-only-in-a-step"),
        pytest.param(GOLD + r" \boxed{amusement}", id="box-twice"),
        pytest.param(GOLD + r" \boxed", id="second-box-begun"),
        pytest.param(STEPS + r"\boxed{\boxed{awe}}", id="box-in-a-box"),
        pytest.param(STEPS + r"\boxed{}", id="empty-box"),
        pytest.param(STEPS + "\\boxed{ \n}", id="blank-box"),
        pytest.param(STEPS + r"\boxed{\text{ }.}", id="box-of-decoration"),
        pytest.param(STEPS + r"\boxed{awe", id="unclosed-box"),
        pytest.param(STEPS + r"\boxed{{awe}", id="unbalanced-box"),
        pytest.param(STEPS + r"\boxed{awe}}", id="brace-after-box"),
        pytest.param(STEPS + r"\boxed awe", id="box-without-braces"),
        pytest.param(STEPS + r"boxed{awe}", id="box-without-backslash"),
        pytest.param(GOLD + " because of the dog", id="text-after-box"),
        pytest.param(GOLD + "\n</step3>", id="tag-after-box"),
        pytest.param(GOLD + "\x00", id="nul-after-box"),
        pytest.param(STEPS + "x" * (MAX_LEAD_IN + 1) + r"\boxed{awe}", id="long-lead-in"),
        pytest.param(STEPS + "Answer:\nso\n" + r"\boxed{awe}", id="lead-in-of-two-lines"),
        pytest.param(STEPS + r"<answer>\boxed{awe}", id="tag-in-lead-in"),
    ],
)
def test_a_malformed_completion_is_none(completion):
    assert parse(completion) is None


REASONS = [
    (GOLD.replace("dog", "<b>dog</b>"), "other_tag"),
    (GOLD.replace("<step1>", "<STEP1>"), "other_tag"),
    ("<think>A dog.</think>" + r"\boxed{awe}", "other_tag"),
    ("", "missing_tag"),
    (GOLD.replace("<step2>They smile.</step2>\n", ""), "missing_tag"),
    (GOLD.replace("</step3>", ""), "missing_tag"),
    (STEPS + GOLD, "repeated_tag"),
    (GOLD + "</step3>", "repeated_tag"),
    (GOLD.replace("step1", "step9").replace("step2", "step1").replace("step9", "step2"), "wrong_order"),
    (GOLD.replace("A dog runs.", r"\boxed{awe}"), "box_in_step"),
    ("Well: " + GOLD, "text_outside_steps"),
    (GOLD.replace("</step1>", "</step1> then "), "text_outside_steps"),
    (GOLD.replace("They smile.", "  "), "empty_step"),
    (STEPS, "no_box"),
    (STEPS + "boxed{awe}", "no_box"),
    (GOLD + r" or \boxed{awe}", "several_boxes"),
    (STEPS + r"\boxed{\boxed{awe}}", "several_boxes"),
    (STEPS + r"\boxed{awe", "unfinished_box"),
    (STEPS + r"\boxed awe", "unfinished_box"),
    (STEPS + r"\boxed{ }", "empty_box"),
    (STEPS + r"\boxed{\text{ }.}", "empty_box"),
    (STEPS + "x" * (MAX_LEAD_IN + 1) + r"\boxed{awe}", "text_before_box"),
    (STEPS + "Answer:\nso\n" + r"\boxed{awe}", "text_before_box"),
    (GOLD + " because of the dog", "text_after_box"),
    (GOLD + "}", "text_after_box"),
]


@pytest.mark.parametrize(("completion", "reason"), REASONS)
def test_a_malformed_completion_has_one_reason(completion, reason):
    assert explain_malformed(completion) == reason
    assert explain_malformed(completion, cut_off=True) == "cut_off"


def test_every_reason_is_reached_and_a_well_formed_completion_has_none():
    assert {reason for _, reason in REASONS} | {"cut_off"} == set(MALFORMED_REASONS)
    assert explain_malformed(GOLD) is None
    assert explain_malformed(GOLD, cut_off=True) is None  # it was well formed when the limit came


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (r"<think>A dog.</think>\boxed{awe}", None),
        (GOLD, "other_tag"),
        (r"\boxed{awe}", "missing_tag"),
        (r"<think> </think>\boxed{awe}", "empty_step"),
        (r"<think>A dog.</think>", "no_box"),
    ],
)
def test_the_plain_baseline_has_reasons_of_its_own(completion, reason):
    assert explain_malformed(completion, form="think") == reason


WORDS = st.text().filter(lambda text: text.strip() and "<" not in text and "\\boxed" not in text)


@given(WORDS, WORDS, WORDS, st.sampled_from(["", "\n", " "]))
def test_any_text_without_tags_and_boxes_survives_a_round_trip(trigger, feeling, conclusion, space):
    steps = zip("123", (trigger, feeling, conclusion), strict=True)
    completion = space.join(f"<step{number}>{text}</step{number}>" for number, text in steps)
    expected = StructuredThinking(trigger.strip(), feeling.strip(), conclusion.strip(), "awe")
    assert parse(completion + space + r"\boxed{awe}") == expected


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        pytest.param(r"\boxed{awe}", "awe", id="alone"),
        pytest.param(r"It is \boxed{ Awe. } I think", "Awe.", id="in-a-sentence"),
        pytest.param(r"\boxed{\text{awe}}", r"\text{awe}", id="latex"),
        pytest.param(r"\boxed{awe} so \boxed{ \text{Awe}. }", "awe", id="the-same-twice"),
        pytest.param("<step1>" + r"\boxed{awe}", "awe", id="in-an-unfinished-step"),
        pytest.param("} { " + r"\boxed{awe}", "awe", id="stray-braces-before"),
        pytest.param(r"\boxed{awe} \boxed{fear}", None, id="two"),
        pytest.param(r"\boxed{} \boxed{fear}", None, id="an-empty-one-and-another"),
        pytest.param(r"\boxed{awe} \boxed{fe", None, id="second-is-unclosed"),
        pytest.param(r"\boxed{awe \boxed{fear}}", None, id="nested"),
        pytest.param(r"\boxed{ }", None, id="empty"),
        pytest.param("awe", None, id="none"),
        pytest.param(None, None, id="not-a-string"),
    ],
)
def test_the_boxed_answer_is_that_of_the_one_distinct_box(completion, answer):
    assert boxed_answer(completion) == answer


@pytest.mark.parametrize(
    ("completion", "well_formed"),
    [
        pytest.param("<think>A dog.</think>" + r"\boxed{awe}", True, id="plain"),
        pytest.param(" <think>A dog.</think>\nAnswer: " + r"\boxed{awe}.", True, id="lead-in"),
        pytest.param("<think> </think>" + r"\boxed{awe}", False, id="empty"),
        pytest.param("<think>A</think><think>B</think>" + r"\boxed{awe}", False, id="twice"),
        pytest.param("<think>" + r"\boxed{awe}</think>", False, id="box-inside"),
        pytest.param("<think>A dog.</think>awe", False, id="no-box"),
        pytest.param(GOLD, False, id="steps"),
        pytest.param(None, False, id="none"),
    ],
)
def test_the_format_of_the_plain_baseline(completion, well_formed):
    assert is_plain_think(completion) is well_formed


@pytest.mark.parametrize(
    "unit",
    ["<step1>", "<", "< ", "</", "<a", "<step ",
     "{", "}", "{}", r"\boxed{", r"\boxed{}", r"\boxed", r"\text{", "\\", " ",
     "<step1>x</step1>", "<step1", "\x00", "`", "a\n"],
)  # fmt: skip
def test_time_is_linear_in_the_length(unit):
    text = unit * (100_000 // len(unit))
    started = time.process_time()
    for completion in (text, STEPS + text, GOLD + text, GOLD.replace("A dog", text), STEPS + r"\boxed{" + text + "}"):
        parse(completion)
        boxed_answer(completion)
        is_plain_think(completion)
    assert time.process_time() - started < 2.0  # a quadratic scan takes minutes
