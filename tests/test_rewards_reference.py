r"""`variant: reference`, row by row as the reference implementation of the paper computes its rewards.

The cases are those of its code: what it removes first, what it takes for the form, for an answer, for a yes, and how it
weighs them. Each row that the paper computes otherwise says so.
"""

import pytest

from emor3_trl.rewards import reward_functions

FORM = r"<step1>a</step1><step2>b</step2><step3>c</step3>\boxed{awe}"
FUNCTIONS = ("accuracy", "consistency", "coherence", "format")


def reward(name: str, completion: str = FORM, variant: str = "reference", **answers: str | None) -> float:
    """Return one reward of one completion of a picture that shows awe."""
    columns = {"consistency_answer": "Yes", "coherence_answer": "awe", **answers}
    functions, _ = reward_functions(variant)
    (value,) = functions[FUNCTIONS.index(name)](
        [completion], emotion=["awe"], label_space=["emoset_8"], **{key: [value] for key, value in columns.items()}
    )
    return value


@pytest.mark.parametrize(
    ("completion", "expected", "paper"),
    [
        pytest.param(FORM, 1, 1, id="the form"),
        pytest.param(r"<step1></step1><step2></step2><step3></step3>\boxed{}", 1, 0, id="empty steps pass"),
        pytest.param(FORM.replace("<step2>", "and <step2>"), 1, 0, id="anything between the steps"),
        pytest.param(FORM + " and that is all. <end>", 1, 0, id="anything after the box"),
        pytest.param(FORM.replace(r"\boxed", r"so, at long last, the <b>answer</b> is \boxed"), 1, 0, id="before it"),
        pytest.param(FORM + r"\boxed{fear}", 1, 0, id="a second box"),
        pytest.param(FORM.replace("a<", "a<step1>x</step1><"), 1, 0, id="a repeated tag"),
        pytest.param(FORM.replace(">b<", ">b\nb<"), 1, 1, id="several lines"),
        pytest.param("Sure: " + FORM, 0, 0, id="text before step 1"),
        pytest.param(FORM.replace("step2", "step9"), 0, 0, id="a step is missing"),
        pytest.param(FORM.replace("1", "x").replace("2", "1").replace("x", "2"), 0, 0, id="steps in another order"),
        pytest.param(FORM.split("\\")[0], 0, 0, id="no box"),
        pytest.param(FORM[:-1], 0, 0, id="a box that is not closed"),
        pytest.param(r"\boxed{awe}" + FORM.split("\\")[0], 0, 0, id="the box first"),
        pytest.param("", 0, 0, id="nothing"),
    ],
)
def test_form(completion: str, expected: int, paper: int) -> None:
    assert (reward("format", completion), reward("format", completion, "paper")) == (expected, paper)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        pytest.param("  \n" + FORM, 1, id="before the first tag"),
        pytest.param(FORM.replace("<step1>", "< step1 >").replace("</step3>", "< / step3\n>"), 1, id="inside tags"),
        pytest.param(FORM.replace("step1", "step 1"), 0, id="elsewhere it stays"),
    ],
)
def test_white_space_around_brackets_and_slashes_is_removed_before_the_form_is_read(
    completion: str, expected: int
) -> None:
    assert reward("format", completion) == expected


@pytest.mark.parametrize(
    ("completion", "expected", "paper"),
    [
        pytest.param(r"\boxed{awe}", 1, 1, id="alone"),
        pytest.param(r"\boxed{ AWE }", 1, 1, id="case, and white space at its ends"),
        pytest.param(r"\boxed{fear} \boxed{awe}", 1, 0, id="the last of several"),
        pytest.param(r"\boxed{awe} \boxed{fear}", 0, 0, id="not the first"),
        pytest.param(r"\boxed{\text{awe}}", 0, 1, id="braces are balanced, and nothing in them is undone"),
        pytest.param(r"\boxed{awe.}", 0, 1, id="equal but for punctuation"),
        pytest.param(r"\boxed{awe} \boxed{awe", 0, 0, id="the last is never closed"),
        pytest.param("awe", 0, 0, id="no box"),
        pytest.param("", 0, 0, id="nothing"),
    ],
)
def test_accuracy(completion: str, expected: int, paper: int) -> None:
    assert (reward("accuracy", completion), reward("accuracy", completion, "paper")) == (expected, paper)


def test_a_missing_box_is_the_answer_none() -> None:
    functions, _ = reward_functions("reference")
    assert functions[0](["no box", r"\boxed{awe}"], emotion=["None", "None"]) == [1.0, 0.0]


def test_white_space_around_a_slash_is_removed_before_accuracy_is_read() -> None:
    functions, _ = reward_functions("reference")
    assert functions[0]([r"\boxed{awe / fear}"], emotion=["awe/fear"]) == [1.0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", 1), ("yes, it does", 1), ("No. Or yes?", 1), ("eyes", 1),
        ("No", 0), ("NO WAY", 0), ("I do not know", 0), ("None", 0), (None, 0),
        ("", 0.5), ("maybe", 0.5),
    ],
)  # fmt: skip
def test_consistency_is_yes_anywhere_then_no_anywhere_then_a_half(answer: str | None, expected: float) -> None:
    assert reward("consistency", consistency_answer=answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("awe", 1), ("AWE", 1), (" awe", 0), ("awe.", 0), ("fear", 0), (" ", 0),
        ("", 0.5), ("none", 0.5), ("None", 0.5), (None, 0.5),
    ],
)  # fmt: skip
def test_coherence_is_equality_as_it_stands_and_a_half_for_none(answer: str | None, expected: float) -> None:
    assert reward("coherence", coherence_answer=answer) == expected


def test_a_malformed_completion_earns_what_the_answer_none_earns_and_in_the_paper_nothing() -> None:
    """The reference asks for the answer 'None' about it; here nothing is asked, which is None."""
    for answer in ("None", None):
        answers = {"consistency_answer": answer, "coherence_answer": answer}
        assert [reward(name, "?", **answers) for name in FUNCTIONS] == [0, 0, 0.5, 0]
        assert [reward(name, "?", "paper", **answers) for name in FUNCTIONS] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("values", "expected", "paper"),
    [
        ((1, 1, 1, 1), 1.1, 1.0),
        ((1, 0, 0, 1), 0.9, 0.9),
        ((0, 1, 0, 0), 0.1, 0.05),
        ((0, 0, 1, 0), 0.1, 0.05),
        ((0, 0.5, 0.5, 1), 0.2, 0.15),
        ((1, 0, 0, 0), 0.8, 0.8),
    ],
)
def test_the_reflective_part_counts_twice(values: tuple[float, ...], expected: float, paper: float) -> None:
    for variant, total in (("reference", expected), ("paper", paper)):
        functions, weights = reward_functions(variant)
        assert [function.__name__ for function in functions] == [f"{name}_reward" for name in FUNCTIONS]
        assert sum(weight * value for weight, value in zip(weights, values, strict=True)) == pytest.approx(total)


def test_plain_grpo_is_nine_tenths_accuracy_and_one_tenth_form() -> None:
    functions, weights = reward_functions("plain")
    assert [function.__name__ for function in functions] == ["accuracy_reward", "think_format_reward"]
    assert weights == pytest.approx([0.9, 0.1])
