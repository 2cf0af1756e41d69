"""Two models on the same pictures: exact by counting, by hand and by a brute-force bootstrap."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emor3_trl.evaluation.comparison import compare_predictions, mcnemar
from emor3_trl.evaluation.prediction import Prediction, read_completion


def predictions(right: list[bool], dataset: str = "test") -> list[Prediction]:
    return [
        read_completion(
            {"id": str(number), "emotion": "awe", "label_space": ["awe", "fear"]},
            dataset,
            rf"\boxed{{{'awe' if is_right else 'fear'}}}",
        )
        for number, is_right in enumerate(right)
    ]


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_the_exact_binomial_test(only_a, only_b):
    n = only_a + only_b
    as_far = [math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(only_b - only_a)]
    assert mcnemar(only_a, only_b) == pytest.approx(float(Fraction(sum(as_far), 2**n)), rel=1e-9)


def test_comparison_by_hand():
    a = predictions([True, True, False, False, False])
    b = predictions([True, False, True, True, True])
    result = compare_predictions(a, b)
    assert (result.dataset, result.n, result.only_a, result.only_b) == ("test", 5, 1, 3)
    assert (result.accuracy_a, result.accuracy_b) == (0.4, 0.8)
    assert result.difference == pytest.approx(0.4)
    assert result.low <= result.difference <= result.high
    assert result.p_value == pytest.approx(2 * (1 + 4) / 16)


def test_the_interval_is_that_of_a_bootstrap_over_pictures():
    generator = np.random.default_rng(3)
    right_a, right_b = generator.random(200) < 0.5, generator.random(200) < 0.65
    result = compare_predictions(predictions(list(right_a)), predictions(list(right_b)))
    rows = generator.integers(0, 200, size=(20_000, 200))
    drawn = right_b[rows].mean(axis=1) - right_a[rows].mean(axis=1)
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.011)


def test_equal_models_differ_by_nothing_and_order_turns_the_sign():
    a, b = predictions([True, False, True]), predictions([False, False, True])
    same = compare_predictions(a, a)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    there, back = compare_predictions(a, b), compare_predictions(b, a)
    assert there.difference == -back.difference
    assert there.p_value == back.p_value


def test_only_common_pictures_count_in_any_order():
    a, b = predictions([True, False, True, True]), predictions([True, True])
    assert compare_predictions(a, b[::-1]).n == 2
    assert compare_predictions(a, b).difference == 0.5


def test_what_cannot_be_compared_is_refused():
    a = predictions([True, False])
    for other, message in [
        (predictions([True], "other"), "one data set"),
        ([*a, a[0]], "one greedy prediction per picture"),
        ([replace(row, id="x" + row.id) for row in a], "no picture of 'test' in common"),
        ([replace(a[0], emotion="fear")], "was awe in one evaluation and fear in the other"),
    ]:
        with pytest.raises(ValueError, match=message):
            compare_predictions(a, other)
