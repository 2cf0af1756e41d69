"""What the rewards make of the columns of the reflection's switches, by hand; without them they are the paper's."""

import pickle

import pytest
from tiny_model import gold_completion

from emor3_trl.reward_columns import REFLECTED_COLUMNS
from emor3_trl.rewards import coherence_reward, consistency_reward, gate_reflection

GOLD = gold_completion("awe")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param({}, 1.0, id="the paper's"),
        pytest.param({"consistency_probability": 0.75}, 0.75, id="soft: P(Yes)"),
        pytest.param({"consistency_answer": "No", "consistency_probability": 0.25}, 0.25, id="soft, a No"),
        pytest.param({"contrast_answer": "No"}, 1.0, id="contrastive: No elsewhere"),
        pytest.param({"contrast_answer": "Yes"}, 0.0, id="contrastive: fits everything"),
        pytest.param({"contrast_answer": None}, 1.0, id="contrastive: no other image, the paper's"),
        pytest.param({"consistency_answer": "No", "contrast_answer": "No"}, 0.0, id="contrastive: fits nothing"),
        pytest.param(
            {"consistency_probability": 0.75, "contrast_answer": "No", "contrast_probability": 0.25},
            0.5625,
            id="both: 0.75 (1 - 0.25)",
        ),
        pytest.param(
            {"consistency_probability": 0.75, "contrast_answer": None, "contrast_probability": None},
            0.75,
            id="both: no other image",
        ),
        pytest.param({"reflection_gate": 0.0}, 0.0, id="gated: closed"),
        pytest.param({"consistency_probability": 0.5, "reflection_gate": 0.5}, 0.25, id="gated: in part"),
        pytest.param({"consistency_answer": None, "consistency_probability": None}, 0.0, id="not asked"),
    ],
)
def test_consistency_is_gate_times_yes_here_times_no_elsewhere(columns, expected):
    columns = {name: [value] for name, value in {"consistency_answer": "Yes", **columns}.items()}
    assert consistency_reward([GOLD], **columns) == [expected]
    assert consistency_reward(["no steps"], **columns) == [0.0]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param({}, 1.0, id="the paper's"),
        pytest.param({"coherence_answer": "fear"}, 0.0, id="the paper's, another emotion"),
        pytest.param({"coherence_answer": "fear", "coherence_probability": 0.25}, 0.25, id="soft: P(true label)"),
        pytest.param({"coherence_probability": 0.75, "reflection_gate": 0.5}, 0.375, id="gated: in part"),
        pytest.param({"reflection_gate": 0.0}, 0.0, id="gated: closed"),
        pytest.param({"coherence_answer": None, "coherence_probability": None}, 0.0, id="not asked"),
    ],
)
def test_coherence_is_gate_times_the_probability_of_the_true_label(columns, expected):
    columns = {name: [value] for name, value in {"coherence_answer": "awe", **columns}.items()}
    columns |= {"emotion": ["awe"], "label_space": ["emoset_8"]}
    assert coherence_reward([GOLD], **columns) == [expected]
    assert coherence_reward(["no steps"], **columns) == [0.0]


@pytest.mark.parametrize(
    ("rule", "accuracies", "expected"),
    [
        pytest.param("none", [1, 0, 0, 0], [1, 1, 1, 1], id="none"),
        pytest.param("unseparated", [1, 1, 0, 0], [1, 1, 1, 1], id="all right, all wrong"),
        pytest.param("unseparated", [1, 0, 0, 0], [0, 0, 1, 1], id="one group separated"),
        pytest.param("unseparated", [0.5, 0.5, 0.5, 0.75], [1, 1, 0, 0], id="accuracy in part"),
        pytest.param("right", [1, 0, 0, 1], [1, 0, 0, 1], id="right answers"),
        pytest.param("right", [0.25, 0, 1, 1], [0.25, 0, 1, 1], id="right in part"),
    ],
)
def test_the_gate_opens_where_its_rule_says(rule, accuracies, expected):
    assert gate_reflection(accuracies, [0, 0, 1, 1], rule) == expected


def test_a_group_that_two_processes_share_is_one():
    # G = 4 over two processes of three rows: rows 3 and 4 of the second group stand in both
    assert gate_reflection([0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1], "unseparated") == [1] * 4 + [0] * 4


@pytest.mark.parametrize("function", [consistency_reward, coherence_reward])
def test_a_column_of_another_length_is_refused(function):
    columns = {"consistency_answer": ["Yes"] * 2, "coherence_answer": ["awe"] * 2, "emotion": ["awe"] * 2}
    columns |= {"label_space": ["emoset_8"] * 2}
    with pytest.raises(ValueError, match="reflection_gate' was given 1 values for 2"):
        function([GOLD] * 2, **columns, reflection_gate=[1.0])
    assert pickle.loads(pickle.dumps(function)) is function
    assert "reflection_gate" in REFLECTED_COLUMNS
