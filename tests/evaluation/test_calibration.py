"""Calibration by its definitions, on answers that can be counted by hand, and its intervals."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import gold_completion

from emor3_trl.evaluation.calibration import (
    BINS,
    bin_reliability,
    collect_confidences,
    measure_calibration,
    trace_selective_accuracy,
)
from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.plots import save_calibration
from emor3_trl.evaluation.prediction import Prediction, read_completion

LABELS = ["awe", "fear", "joy"]
NAMES = ("ece", "brier", "auroc", "selective_accuracy")


def predict(index: int, emotion: str, answer: str, probabilities: list[float] | None) -> Prediction:
    row = {"id": str(index), "emotion": emotion, "label_space": LABELS}
    return dataclasses.replace(read_completion(row, "test", gold_completion(answer)), label_probabilities=probabilities)


def draw_predictions(n: int, seed: int, *, sharpness: float = 1.0, digits: int = 9) -> list[Prediction]:
    """Return answers that are right exactly as often as they are sure, at sharpness 1; few digits make ties."""
    generator = np.random.default_rng(seed)
    rows = []
    for index, probabilities in enumerate(generator.dirichlet([0.6] * 3, n)):
        emotion = LABELS[generator.choice(3, p=probabilities)]
        told = probabilities**sharpness / (probabilities**sharpness).sum()
        rows.append(predict(index, emotion, LABELS[int(probabilities.argmax())], np.round(told, digits).tolist()))
    return rows


@pytest.mark.parametrize("digits", [pytest.param(9, id="no ties"), pytest.param(1, id="many ties")])
@pytest.mark.parametrize("n", [20, 40, 700])
def test_the_values_are_those_of_their_definitions(n: int, digits: int):
    rows = draw_predictions(n, n, digits=digits, sharpness=1.5)
    values = measure_calibration(rows)
    pairs = [(row.label_probabilities[LABELS.index(row.answer)], row.correct) for row in rows]
    # AUROC: how often a right answer is more confident than a wrong one, a tie by half
    right, wrong = ([confidence for confidence, correct in pairs if correct is known] for known in (True, False))
    wins = sum(2 * (one > other) + (one == other) for one in right for other in wrong)
    assert values["auroc"] == pytest.approx(wins / (2 * len(right) * len(wrong)))
    squares = [
        sum((told - (label == row.emotion)) ** 2 for told, label in zip(row.label_probabilities, LABELS, strict=True))
        for row in rows
    ]
    assert values["brier"] == pytest.approx(sum(squares) / n)
    filled: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in pairs:
        place = next(k for k in range(BINS) if confidence <= (k + 1) / BINS or k == BINS - 1)
        filled.setdefault(place, []).append((confidence, correct))
    expected = [tuple(np.mean(filled[place], axis=0)) for place in sorted(filled)]
    sizes = [len(filled[place]) for place in sorted(filled)]
    bins = bin_reliability(collect_confidences(rows))
    assert [entry["n"] for entry in bins] == sizes
    assert [(entry["confidence"], entry["accuracy"]) for entry in bins] == [pytest.approx(pair) for pair in expected]
    gaps = [size * abs(confidence - accuracy) for size, (confidence, accuracy) in zip(sizes, expected, strict=True)]
    assert values["ece"] == pytest.approx(sum(gaps) / n)


def test_selective_accuracy_is_the_mean_over_the_most_confident_answers():
    told = {"awe": [0.9, 0.05, 0.05], "fear": [0.1, 0.7, 0.2], "joy": [0.2, 0.2, 0.6]}
    rows = [predict(0, "awe", "awe", told["awe"]), predict(1, "awe", "fear", told["fear"]),
            predict(2, "joy", "joy", told["joy"])]  # fmt: skip
    values = measure_calibration(rows)
    assert values["selective_accuracy"] == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    curve = trace_selective_accuracy(collect_confidences(rows))
    assert [point["coverage"] for point in curve] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [point["accuracy"] for point in curve] == pytest.approx([1, 1 / 2, 2 / 3])


def test_equally_confident_answers_count_as_if_their_order_were_drawn():
    rows = draw_predictions(60, 3, digits=1)
    known = collect_confidences(rows)
    generator, areas = np.random.default_rng(0), []
    for _ in range(4_000):
        order = np.lexsort((generator.random(60), -known.confidence))
        areas.append((np.cumsum(known.correct[order]) / np.arange(1, 61)).mean())
    assert measure_calibration(rows)["selective_accuracy"] == pytest.approx(np.mean(areas), abs=0.004)


def test_a_prediction_without_probabilities_is_left_out_and_counted():
    rows = draw_predictions(30, 1)
    silent = [predict(100 + index, "awe", "fear", None) for index in range(10)]
    unnamed = [dataclasses.replace(row, answer=None, label_probabilities=None) for row in rows[:2]]
    values = summarise_predictions([*rows, *silent, *unnamed])
    assert values["eval/test/n"] == 42
    assert values["eval/test/n_with_probabilities"] == 30
    assert {f"eval/test/{name}": values[f"eval/test/{name}"] for name in NAMES} == {
        f"eval/test/{name}": value for name, value in measure_calibration(rows).items() if name in NAMES
    }


def test_without_any_probability_nothing_is_claimed():
    assert measure_calibration([predict(0, "awe", "awe", None)]) == {}
    assert not any("ece" in key for key in summarise_predictions([predict(0, "awe", "awe", None)]))


@pytest.mark.parametrize("right", [True, False])
def test_an_interval_says_that_the_next_answer_may_be_of_the_other_kind(right: bool):
    rows = [predict(index, "awe", "awe" if right else "fear", [0.98, 0.01, 0.01] if right else [0.01, 0.98, 0.01])
            for index in range(10)]  # fmt: skip
    values = measure_calibration(rows)
    assert "auroc" not in values
    ends = (values["selective_accuracy_low"], values["selective_accuracy_high"])
    assert ends == pytest.approx((0.7225, 1.0) if right else (0.0, 0.2775), abs=1e-4)  # Wilson, of 10 in 10
    assert values["ece_high"] - values["ece_low"] > 0.02


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 10_000), digits=st.sampled_from([1, 2, 9]))
def test_every_value_lies_in_its_interval_and_in_its_range(n: int, seed: int, digits: int):
    rows = draw_predictions(n, seed, digits=digits)
    values = measure_calibration(rows)
    for name in NAMES:
        if name in values:
            assert 0 <= values[f"{name}_low"] <= values[name] <= values[f"{name}_high"] <= (2 if name == "brier" else 1)
    assert ("auroc" in values) == (len({row.correct for row in rows}) == 2)
    assert measure_calibration(rows[::-1])["ece"] == pytest.approx(values["ece"])  # the order of rows says nothing
    accuracy = sum(row.correct for row in rows) / n
    curve = trace_selective_accuracy(collect_confidences(rows))
    assert curve[-1]["coverage"] == 1
    assert curve[-1]["accuracy"] == pytest.approx(accuracy)
    assert len(curve) == min(n, 50)


def test_a_sure_model_that_is_no_better_is_worse_calibrated():
    honest, boastful = (measure_calibration(draw_predictions(1_500, 5, sharpness=power)) for power in (1, 4))
    assert honest["ece"] < 0.03 < 0.1 < boastful["ece"]
    assert honest["brier"] < boastful["brier"]
    assert honest["ece_high"] < boastful["ece_low"]


def test_the_intervals_hold_the_true_value_about_as_often_as_they_say():
    truth = measure_calibration(draw_predictions(6_000, 0, sharpness=2))
    hits = dict.fromkeys(("brier", "auroc", "selective_accuracy"), 0)
    for seed in range(60):
        values = measure_calibration(draw_predictions(150, seed + 1, sharpness=2))
        for name in hits:
            hits[name] += values[f"{name}_low"] <= truth[name] <= values[f"{name}_high"]
    assert all(52 <= count <= 60 for count in hits.values()), hits


def test_the_diagrams_are_drawn_for_the_data_sets_with_probabilities(tmp_path):
    rows = {"test": draw_predictions(50, 2), "silent": [predict(0, "awe", "awe", None)]}
    save_calibration("tuned", rows, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["calibration_test.png"]
