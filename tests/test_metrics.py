"""Metrics against scikit-learn, published values and counts by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import gold_completion

from emor3_trl.evaluation.metrics import confusion_matrix, confusion_of, macro_f1, rate, summarise, wilson_interval
from emor3_trl.evaluation.prediction import read

LABELS = ["awe", "fear", "joy"]


# Newcombe (1998), table I: the Wilson score method without continuity correction
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        pytest.param(81, 263, 0.2553, 0.3662, id="newcombe-81-263"),
        pytest.param(15, 148, 0.0624, 0.1605, id="newcombe-15-148"),
        pytest.param(0, 20, 0.0, 0.1611, id="newcombe-0-20"),
        pytest.param(1, 29, 0.0061, 0.1718, id="newcombe-1-29"),
        pytest.param(20, 20, 0.8389, 1.0, id="all-right"),
        pytest.param(0, 0, 0.0, 1.0, id="nothing-known"),
    ],
)
def test_wilson_interval_by_hand(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_solves_its_equation_and_holds_the_share(case):
    successes, n = case
    share = successes / n
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert (share - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3)])
def test_wilson_interval_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"{successes} successes in {n} trials"):
        wilson_interval(successes, n)


def test_confusion_by_hand():
    matrix = confusion_matrix(["awe", "awe", "fear", "joy"], ["awe", "joy", None, "joy"], LABELS)
    assert matrix.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1, max_size=60))
def test_confusion_and_macro_f1_equal_scikit_learns(pairs):
    from sklearn.metrics import confusion_matrix as sklearn_confusion
    from sklearn.metrics import f1_score

    emotions = [emotion for emotion, _ in pairs]
    answers = [answer for _, answer in pairs]
    matrix = confusion_matrix(emotions, answers, LABELS)
    named = [answer or "none" for answer in answers]
    expected = sklearn_confusion(emotions, named, labels=[*LABELS, "none"])
    assert np.array_equal(matrix, expected[:-1])
    occurring = [label for label in LABELS if label in emotions or label in answers]
    assert macro_f1(matrix) == pytest.approx(
        f1_score(emotions, named, labels=occurring, average="macro", zero_division=0)
    )


def test_rate_of_nothing_is_zero():
    assert rate([]) == 0.0
    assert rate([True, False, True, True]) == 0.75


def row(emotion: str) -> dict:
    return {"id": "0", "emotion": emotion, "label_space": LABELS}


def test_summary_by_hand():
    right = replace(read(row("awe"), "test", gold_completion("awe")), coherence_answer="awe", consistency_answer="Yes")
    wrong = replace(read(row("fear"), "test", gold_completion("joy")), coherence_answer="fear", consistency_answer="No")
    malformed = read(row("joy"), "test", r"\boxed{joy}")
    silent = read(row("joy"), "test", "no answer")
    summary = summarise([right, wrong, malformed, silent], sampled=[right, right, silent])
    low, high = wilson_interval(2, 4)
    assert summary == pytest.approx(
        {
            "eval/test/n": 4,
            "eval/test/accuracy": 0.5,
            "eval/test/accuracy_low": low,
            "eval/test/accuracy_high": high,
            "eval/test/macro_f1": (1 + 0 + 2 / 4) / 3,
            "eval/test/format_rate": 0.5,
            "eval/test/names_valence": 1.0,
            "eval/test/n_reflected": 2,
            "eval/test/agreement": 0.5,
            "eval/test/consistency": 0.5,
            "eval/test/sampled_n": 3,
            "eval/test/sampled_accuracy": 2 / 3,
            "eval/test/sampled_format_rate": 2 / 3,
        }
    )
    assert all(math.isfinite(value) for value in summary.values())
    assert confusion_of([right, wrong, malformed, silent]).sum() == 4


def test_summary_refuses_a_mix_of_data_sets():
    one = read(row("awe"), "test", gold_completion("awe"))
    with pytest.raises(ValueError, match="Expected one data set"):
        summarise([one, replace(one, dataset="other")])
    with pytest.raises(ValueError, match="0 predictions"):
        summarise([])
