"""Rewards: Eq. 5 and 6 by hand, both variants, and what each column does."""

import itertools
import pickle
import subprocess
import sys
from typing import Any

import pytest

from emor3_trl.rewards import (
    accuracy_reward,
    coherence_reward,
    completion_text,
    consistency_reward,
    format_reward,
    reward_functions,
)

STEPS = "<step1>A dog runs.</step1><step2>They smile.</step2><step3>Positive, excited.</step3>"
GOLD = STEPS + r"\boxed{amusement}"
COLUMNS: dict[str, Any] = {
    "emotion": ["amusement"],
    "label_space": ["emoset_8"],
    "consistency_answer": ["Yes"],
    "coherence_answer": ["amusement"],
}


def overall(variant, lambda1, lambda2, completion, **changes):
    functions, weights = reward_functions(variant, lambda1, lambda2)
    columns = {**COLUMNS, **{name: [value] for name, value in changes.items()}}
    return sum(w * f([completion], **columns)[0] for f, w in zip(functions, weights, strict=True))


@pytest.mark.parametrize(("accurate", "consistent", "coherent"), list(itertools.product([0, 1], repeat=3)))
@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.1, 0.1), (0.2, 0.05), (0.0, 0.0), (0.5, 0.5)])
def test_the_overall_reward_of_a_well_formed_completion_is_equation_6(accurate, consistent, coherent, lambda1, lambda2):
    reflective = (consistent + coherent) / 2  # Eq. 5
    by_hand = (1 - lambda1 - lambda2) * accurate + lambda1 * reflective + lambda2 * 1  # Eq. 6
    answers = {
        "consistency_answer": "Yes" if consistent else "No",
        "coherence_answer": "amusement" if coherent else "fear",
    }
    completion = STEPS + (r"\boxed{amusement}" if accurate else r"\boxed{fear}")
    assert overall("paper", lambda1, lambda2, completion, **answers) == pytest.approx(by_hand)
    # The reference counts the reflective part twice
    by_hand += lambda1 * reflective
    assert overall("reference", lambda1, lambda2, completion, **answers) == pytest.approx(by_hand)


def test_the_papers_numbers():
    assert overall("paper", 0.1, 0.1, GOLD) == pytest.approx(1.0)
    assert overall("paper", 0.1, 0.1, GOLD, consistency_answer="No") == pytest.approx(0.95)
    assert overall("paper", 0.1, 0.1, STEPS + r"\boxed{awe}", consistency_answer="No") == pytest.approx(0.15)
    assert overall("paper", 0.1, 0.1, r"\boxed{amusement}") == pytest.approx(0.8)
    assert overall("reference", 0.1, 0.1, GOLD) == pytest.approx(1.1)
    assert overall("plain", 0.1, 0.1, "<think>A dog.</think>" + r"\boxed{amusement}") == pytest.approx(1.0)
    assert overall("plain", 0.1, 0.1, GOLD) == pytest.approx(0.9)


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param(GOLD.replace("A dog runs.", ""), id="empty-step-1"),
        pytest.param(GOLD.replace("A dog runs.", " \n"), id="blank-step-1"),
        pytest.param(GOLD.replace("</step2>", ""), id="malformed"),
        pytest.param("", id="empty"),
        pytest.param(None, id="none"),
    ],
)
def test_a_malformed_completion_earns_nothing_from_reflection_whatever_the_answers(completion):
    assert consistency_reward([completion], **COLUMNS) == [0.0]
    assert coherence_reward([completion], **COLUMNS) == [0.0]
    assert format_reward([completion], **COLUMNS) == [0.0]


@pytest.mark.parametrize("trigger", [".", "…", "- -", "\u200b", "\x00"])
def test_a_step_1_without_a_word_earns_no_consistency(trigger):
    assert consistency_reward([GOLD.replace("A dog runs.", trigger)], **COLUMNS) == [0.0]


@pytest.mark.parametrize(
    ("answer", "reward"),
    [("Yes", 1.0), (" yes.", 1.0), ("No", 0.0), ("Yes and No", 0.0), ("", 0.0), (None, 0.0)],
)
def test_consistency_is_earned_by_yes_alone(answer, reward):
    assert consistency_reward([GOLD], consistency_answer=[answer]) == [reward]


@pytest.mark.parametrize(
    ("answer", "reward"), [("amusement", 1.0), ("Amusement.", 1.0), ("fear", 0.0), ("joy", 0.0), ("", 0.0), (None, 0.0)]
)
def test_coherence_compares_with_the_truth_and_not_with_the_box(answer, reward):
    for completion in (GOLD, STEPS + r"\boxed{fear}"):
        assert coherence_reward([completion], **{**COLUMNS, "coherence_answer": [answer]}) == [reward]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        pytest.param(r"\boxed{amusement}", 1.0, id="no-steps"),
        pytest.param(r"\boxed{Amusement}, yes \boxed{\text{amusement}.}", 1.0, id="same-box-twice"),
        pytest.param(GOLD + r"\boxed{fear}", 0.0, id="two-answers"),
        pytest.param(r"\boxed{amusement or fear}", 0.0, id="two-labels"),
        pytest.param("amusement", 0.0, id="no-box"),
    ],
)
def test_accuracy_needs_one_distinct_box_and_no_steps(completion, reward):
    assert accuracy_reward([completion], **COLUMNS) == [reward]


def test_an_emotion_outside_the_label_space_is_never_right():
    columns: dict[str, Any] = {"emotion": ["joy", None], "label_space": ["emoset_8"] * 2}
    assert accuracy_reward([r"\boxed{joy}", r"\boxed{nothing}"], **columns) == [0.0, 0.0]
    assert coherence_reward([GOLD] * 2, coherence_answer=["joy", None], **columns) == [0.0, 0.0]


def test_each_row_has_its_own_label_space():
    columns: dict[str, Any] = {"emotion": ["joy", "calm"], "label_space": ["emotion6", ["calm", "joy"]]}
    assert accuracy_reward([r"\boxed{joy}", r"\boxed{calm}"], **columns) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "form", "right"),
    [
        pytest.param(GOLD, 1.0, 1.0, id="gold"),
        pytest.param("< step1 > < /step1 >" + GOLD[GOLD.index("<step2>") :], 1.0, 1.0, id="spaced-tags-and-empty-step"),
        pytest.param(GOLD + " and so on", 1.0, 1.0, id="text-after"),
        pytest.param("Well: " + GOLD, 0.0, 1.0, id="text-before"),
        pytest.param(r"\boxed{fear} \boxed{ AMUSEMENT }", 0.0, 1.0, id="last-box"),
        pytest.param(r"\boxed{\text{amusement}}", 0.0, 0.0, id="text-command"),
        pytest.param(r"\boxed{amusement", 0.0, 0.0, id="unclosed"),
        pytest.param(None, 0.0, 0.0, id="none"),
    ],
)
def test_the_reference_variant_reads_format_and_accuracy_loosely(completion, form, right):
    (accuracy, _, _, format_), _ = reward_functions("reference")
    assert (format_([completion], **COLUMNS), accuracy([completion], **COLUMNS)) == ([form], [right])


@pytest.mark.parametrize("variant", ["paper", "reference", "plain"])
def test_functions_take_what_trl_passes_are_picklable_and_have_stable_names(variant):
    functions, weights = reward_functions(variant)
    names = [function.__name__ for function in functions]
    four = ["accuracy_reward", "consistency_reward", "coherence_reward", "format_reward"]
    assert names == (["accuracy_reward", "think_format_reward"] if variant == "plain" else four)
    assert len(weights) == len(functions)
    for function in functions:
        assert pickle.loads(pickle.dumps(function)) is function
        rewards = function(
            prompts=[[]], completions=[[{"role": "assistant", "content": GOLD}]], completion_ids=[[1]], image=[None],
            trainer_state=None, log_extra=print, log_metric=print, **COLUMNS,
        )  # fmt: skip
        assert len(rewards) == 1
        assert isinstance(rewards[0], float)


@pytest.mark.parametrize(
    ("variant", "index", "column"),
    [
        ("paper", 0, "emotion"),
        ("paper", 0, "label_space"),
        ("paper", 1, "consistency_answer"),
        ("paper", 2, "emotion"),
        ("paper", 2, "label_space"),
        ("paper", 2, "coherence_answer"),
        ("reference", 0, "emotion"),
        ("reference", 1, "consistency_answer"),
        ("reference", 2, "emotion"),
        ("reference", 2, "coherence_answer"),
    ],
)
def test_a_missing_or_short_column_is_named(variant, index, column):
    function = reward_functions(variant)[0][index]
    with pytest.raises(ValueError, match=f"'{column}' is missing"):
        function([GOLD], **{name: values for name, values in COLUMNS.items() if name != column})
    with pytest.raises(ValueError, match=f"'{column}' was given 0 values for 1 completions"):
        function([GOLD], **{**COLUMNS, column: []})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"variant": "papr"}, "paper, reference, plain", id="variant"),
        pytest.param({"lambda1": -0.1}, "lambda1 is -0.1", id="negative-lambda1"),
        pytest.param({"lambda2": -0.1}, "lambda2 is -0.1", id="negative-lambda2"),
        pytest.param({"lambda1": 0.6, "lambda2": 0.5}, "at most 1", id="sum"),
        pytest.param({"lambda1": float("nan")}, "lambda1 is nan", id="nan"),
        pytest.param({"variant": "plain", "lambda2": 1.5}, "lambda2 is 1.5", id="plain"),
    ],
)
def test_settings_that_make_no_reward_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reward_functions(**arguments)


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        pytest.param("a", "a", id="plain"),
        pytest.param([{"role": "assistant", "content": "a"}], "a", id="conversation"),
        pytest.param([{"role": "assistant", "content": [{"type": "text", "text": "a"}]}], "a", id="parts"),
        pytest.param([{"role": "assistant", "content": None}], "", id="no-content"),
        pytest.param([], "", id="no-message"),
        pytest.param(None, "", id="none"),
    ],
)
def test_the_text_of_a_completion(completion, text):
    assert completion_text(completion) == text


def test_parsing_and_rewards_import_nothing_heavy():
    heavy = "{'torch', 'transformers', 'trl', 'vllm', 'datasets', 'numpy', 'PIL'}"
    code = f"import sys, emor3_trl.rewards, emor3_trl.prompts; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
