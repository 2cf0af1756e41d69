"""Diagnostics of a rollout batch, counted by hand."""

import math

import numpy as np
import pytest
from tiny_model import gold_completion

from emor3_trl.diagnostics import (
    average_by_emotion,
    count_malformed,
    diagnose,
    entropy,
    names_valence,
    zero_spread_share,
    zero_spreads,
)
from emor3_trl.diagnostics.completions import contradicts_answer
from emor3_trl.rewards import reward_functions

LABELS = ["awe", "fear", "joy", "anger"]


def columns(emotions: list[str], **answers: list) -> dict:
    return {"emotion": emotions, "label_space": [LABELS] * len(emotions), **answers}


def spreads(completions: list, columns: dict, group: int, variant: str = "paper") -> dict[str, float]:
    """Return the dead groups of the rewards of a variant."""
    functions, weights = reward_functions(variant)
    missing = [None] * len(completions)
    columns = {"consistency_answer": missing, "coherence_answer": missing, **columns}
    rewards = np.array([function(completions, **columns) for function in functions]).T
    return zero_spreads(rewards, [function.__name__ for function in functions], weights, group)


@pytest.mark.parametrize(
    ("rewards", "group", "expected"),
    [
        pytest.param([1, 1, 0, 1], 2, 0.5, id="one-of-two"),
        pytest.param([0, 0, 1, 1], 2, 1.0, id="all-dead-at-different-levels"),
        pytest.param([0, 0.1, 0.2, 0.2 + 1e-12], 2, 0.5, id="rounding-is-no-spread"),
        pytest.param([0, 1, 0, 1], 4, 0.0, id="one-live-group"),
    ],
)
def test_zero_spread_share(rewards, group, expected):
    assert zero_spread_share(rewards, group) == expected


@pytest.mark.parametrize(("rewards", "group"), [([1.0] * 5, 2), ([], 2)])
def test_rewards_that_make_no_whole_groups_are_refused(rewards, group):
    with pytest.raises(ValueError, match="whole groups"):
        zero_spread_share(rewards, group)


def test_entropy_is_a_share_of_the_largest():
    assert entropy([3, 0], 4) == 0.0
    assert entropy([2, 2, 2, 2], 4) == pytest.approx(1.0)
    assert entropy([1, 1], 4) == pytest.approx(math.log(2) / math.log(4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The emotion is Negative, and calm.", True),
        ("An unpleasant feeling.", True),
        ("So it is fear.", False),
        ("A positivist photograph", False),
    ],
)
def test_names_valence(text, expected):
    assert names_valence(text) is expected


def test_a_batch_by_hand():
    completions = [gold_completion("awe"), gold_completion("fear"), gold_completion("awe"), "nothing"]
    conversations = [[{"role": "assistant", "content": text}] for text in completions]
    batch = columns(
        ["awe", "awe", "fear", "fear"],
        consistency_answer=["Yes", "Yes", "Yes", None],
        coherence_answer=["awe", "awe", "fear", None],
    )
    result = diagnose(conversations, batch) | spreads(conversations, batch, 2)
    assert result["diagnostics/zero_spread/accuracy"] == 0.5  # (1, 0) and (0, 0)
    assert result["diagnostics/zero_spread/consistency"] == 0.5  # (1, 1) and (1, 0)
    assert result["diagnostics/zero_spread/coherence"] == 0.5  # (1, 1) and (1, 0)
    assert result["diagnostics/zero_spread/format"] == 0.5
    assert result["diagnostics/zero_spread/overall"] == 0.0
    assert result["diagnostics/agreement"] == pytest.approx(1 / 3)
    assert result["diagnostics/no_answer"] == 0.25
    assert result["diagnostics/largest_answer_share"] == pytest.approx(2 / 3)
    assert result["diagnostics/answer_entropy/awe"] == pytest.approx(0.5)
    assert result["diagnostics/answer_entropy/fear"] == 0.0
    assert result["diagnostics/trigger_words"] == 8
    assert result["diagnostics/feeling_words"] == 6
    assert result["diagnostics/conclusion_words"] == 6
    assert result["diagnostics/conclusion_names_valence"] == 1.0
    assert result["diagnostics/thinking_names_emotion"] == 0.0


def test_a_collapsed_batch_shows():
    result = diagnose([gold_completion("awe")] * 4, columns(["awe", "awe", "fear", "joy"]))
    assert result["diagnostics/answer_entropy"] == 0.0
    assert result["diagnostics/largest_answer_share"] == 1.0


def test_thinking_that_names_the_emotion_shows():
    text = gold_completion("awe").replace("A person feels small", "A person feels Awe")
    result = diagnose([text, gold_completion("awe")], columns(["awe", "awe"]))
    assert result["diagnostics/thinking_names_emotion"] == 0.5


@pytest.mark.parametrize("text", ["", "<step1>", "\x00" * 50, r"\boxed{awe or fear}"])
def test_untrusted_completions_never_raise_and_all_numbers_are_finite(text):
    result = diagnose([text] * 4, columns(["awe"] * 4)) | spreads([text] * 4, columns(["awe"] * 4), 4)
    assert result["diagnostics/zero_spread/format"] == 1.0
    assert result["diagnostics/no_answer"] == 1.0
    assert all(math.isfinite(value) for value in result.values())
    assert "diagnostics/agreement" not in result


def test_dead_groups_are_those_of_the_reward_that_is_trained_on():
    texts = [r"<think>A tent.</think>\boxed{fear}", r"\boxed{fear}"]  # both wrong, one in the baseline's form
    result = spreads(texts, columns(["awe", "awe"]), 2, "plain")
    assert result["diagnostics/zero_spread/accuracy"] == 1.0
    assert result["diagnostics/zero_spread/think_format"] == 0.0
    assert result["diagnostics/zero_spread/overall"] == 0.0


def test_a_completion_that_is_not_rewarded_is_no_spread():
    """TRL's reward functions may return None for a completion, which arrives as NaN."""
    rewards = np.array([[1.0, np.nan], [1.0, 0.5], [np.nan, np.nan], [0.0, np.nan]])
    result = zero_spreads(rewards, ["accuracy_reward", "brief"], [0.9, 0.1], 2)
    assert result["diagnostics/zero_spread/accuracy"] == 1.0  # (1, 1) and (not rewarded, 0)
    assert result["diagnostics/zero_spread/brief"] == 1.0  # each group has one reward at most
    assert result["diagnostics/zero_spread/overall"] == 0.5  # (0.9, 0.95) and (not rewarded, 0)


def test_the_entropy_of_answers_from_several_label_spaces_is_a_share_too():
    spaces = {"emotion": ["awe", "joy", "fear", "anger"], "label_space": [LABELS[:2]] + [LABELS] * 3}
    result = diagnose([rf"\boxed{{{label}}}" for label in ("awe", "joy", "fear", "anger")], spaces)
    assert result["diagnostics/answer_entropy"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("answers", "truths", "expected"),
    [
        pytest.param(["awe"] * 4, ["awe"] * 4, 0.0, id="one-answer-that-is-right"),
        pytest.param(["awe"] * 4, ["awe", "fear", "joy", "anger"], 0.75, id="one-answer-for-all"),
        pytest.param(["awe", "awe", "joy", "joy"], ["awe", "fear", "joy", "joy"], 0.25, id="one-too-often"),
        pytest.param(["fear", "awe"], ["awe", "fear"], 0.0, id="mistakes-that-even-out"),
    ],
)
def test_the_excess_of_a_favourite_answer(answers, truths, expected):
    result = diagnose([gold_completion(answer) for answer in answers], columns(truths))
    assert result["diagnostics/favourite_excess"] == expected


@pytest.mark.parametrize(
    ("conclusion", "answer", "expected"),
    [
        ("It is positive and excited.", "fear", True),
        ("It is negative.", "fear", False),
        ("An unpleasant feeling.", "awe", True),
        ("Positive or negative?", "fear", None),
        ("It is calm.", "fear", None),
        ("It is positive.", "surprise", None),
        ("It is positive.", None, None),
        ("It is positive.", "homesickness", None),
    ],
)
def test_a_conclusion_contradicts_an_answer_of_the_other_valence(conclusion, answer, expected):
    assert contradicts_answer(conclusion, answer) is expected


def test_contradictions_are_a_share_of_what_has_a_valence():
    texts = [gold_completion("awe"), gold_completion("fear"), gold_completion("surprise"), "nothing"]  # all "positive"
    rows = {"emotion": ["awe"] * 4, "label_space": [["awe", "fear", "surprise"]] * 4}
    assert diagnose(texts, rows)["diagnostics/conclusion_contradicts_answer"] == 0.5


def test_triggers_are_compared_within_their_groups():
    texts = [gold_completion("awe")] * 2 + ["nothing"] + [gold_completion("awe").replace("night", "dog")]
    result = diagnose(texts, columns(["awe"] * 4), groups=[0, 0, 1, 1])
    assert result["diagnostics/trigger_overlap/siblings"] == pytest.approx(1.0)
    assert result["diagnostics/trigger_overlap/others"] == pytest.approx(6 / 7)
    assert result["diagnostics/repeated_trigger"] == 0.0


def test_reasons_add_up_to_the_malformed():
    gold = gold_completion("awe")
    result = count_malformed([gold, gold + " so", "", gold[:30]], "set", [False, False, False, True])
    assert result["diagnostics/malformed"] == 0.75
    present = {name: share for name, share in result.items() if share and name.count("/") == 2}
    assert present == {f"diagnostics/malformed/{name}": 0.25 for name in ("text_after_box", "missing_tag", "cut_off")}


def test_rewards_are_averaged_over_the_images_of_an_emotion():
    result = average_by_emotion([1.0, 0.5, math.nan, 0.0], ["awe", "awe", "awe", "fear"])
    assert result == {"diagnostics/reward/awe": 0.75, "diagnostics/reward/fear": 0.0}
