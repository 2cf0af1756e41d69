"""How specific step 1 is to its image, against a slow count over all pairs."""

import random

import pytest

from emor3_trl.diagnostics.triggers import compare_triggers


def compare_slowly(triggers: list[str], groups: list[int]) -> dict[str, float]:
    """Return the same numbers from all pairs."""
    overlaps: dict[bool, list[float]] = {True: [], False: []}
    equal = []
    for i, (left, group) in enumerate(zip(triggers, groups, strict=True)):
        for right, other in zip(triggers[i + 1 :], groups[i + 1 :], strict=True):
            a, b = set(left.split()), set(right.split())
            overlaps[group == other].append(len(a & b) / (len(a) * len(b)) ** 0.5)
            if group != other:
                equal.append(left == right)
    siblings, others = (sum(overlaps[same]) / len(overlaps[same]) for same in (True, False))
    return {
        "trigger_overlap/siblings": siblings,
        "trigger_overlap/others": others,
        "trigger_specificity": siblings - others,
        "repeated_trigger": sum(equal) / len(equal),
    }


def test_one_pass_over_the_words_counts_what_all_pairs_do():
    draw = random.Random(0)
    words = ["a", "dog", "sits", "in", "the", "red", "sky"]
    triggers = [" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(40)]
    groups = [row // 4 for row in range(40)]
    assert compare_triggers(triggers, groups) == pytest.approx(compare_slowly(triggers, groups))


@pytest.mark.parametrize(
    ("triggers", "specificity", "repeated"),
    [
        pytest.param(["a dog", "a dog", "red sky", "red sky"], 1.0, 0.0, id="each-image-its-own"),
        pytest.param(["a dog"] * 4, 0.0, 1.0, id="the-same-for-all"),
        pytest.param(["A dog!", "a dog", "a  DOG", "(a dog)"], 0.0, 1.0, id="the-same-but-for-signs"),
        pytest.param(["…", "…", "a dog", "a dog"], 0.5, 0.0, id="no-word"),
    ],
)
def test_specificity_by_hand(triggers, specificity, repeated):
    result = compare_triggers(triggers, [0, 0, 1, 1])
    assert result["trigger_specificity"] == pytest.approx(specificity)
    assert result["repeated_trigger"] == repeated


@pytest.mark.parametrize(
    ("triggers", "groups", "names"),
    [
        pytest.param([], [], set(), id="nothing"),
        pytest.param(["a", "b"], [0, 0], {"trigger_overlap/siblings"}, id="one-image"),
        pytest.param(["a", "b"], [0, 1], {"trigger_overlap/others", "repeated_trigger"}, id="no-siblings"),
    ],
)
def test_a_number_without_a_pair_is_left_out(triggers, groups, names):
    assert compare_triggers(triggers, groups).keys() == names
