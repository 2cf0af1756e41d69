"""Metrics against scikit-learn, published values and counts by hand."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import gold_completion

from emor3_trl.emotions import EMOSET_8
from emor3_trl.evaluation.metrics import (
    average_accuracies,
    compute_rate,
    confusion_matrix,
    count_confusions,
    macro_f1,
    macro_f1_interval,
    score_classes,
    summarise_predictions,
    uar,
    wilson_interval,
)
from emor3_trl.evaluation.prediction import read_completion

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


def count_scores(emotions, answers, label) -> dict[str, Fraction]:
    """Return the scores of one label by their definitions, from pairs that are counted; 0 where one has none."""
    pairs = list(zip(emotions, answers, strict=True))
    right, named, true = pairs.count((label, label)), list(answers).count(label), list(emotions).count(label)
    return {
        "precision": Fraction(right, named or 1), "recall": Fraction(right, true or 1),
        "f1": Fraction(2 * right, named + true or 1), "support": Fraction(true),
    }  # fmt: skip


def test_confusion_by_hand():
    matrix = confusion_matrix(["awe", "awe", "fear", "joy"], ["awe", "joy", None, "joy"], LABELS)
    assert matrix.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1, max_size=60))
def test_confusion_and_macro_f1_are_those_of_counted_pairs(pairs):
    emotions, answers = zip(*pairs, strict=True)
    matrix = confusion_matrix(emotions, answers, LABELS)
    assert matrix.tolist() == [[pairs.count((label, answer)) for answer in (*LABELS, None)] for label in LABELS]
    occurring = [label for label in LABELS if label in emotions or label in answers]
    scores = [count_scores(emotions, answers, label)["f1"] for label in occurring]
    assert macro_f1(matrix) == pytest.approx(float(sum(scores) / len(scores)))


def test_rate_of_nothing_is_zero():
    assert compute_rate([]) == 0.0
    assert compute_rate([True, False, True, True]) == 0.75


def row(emotion: str) -> dict:
    return {"id": "0", "emotion": emotion, "label_space": LABELS}


def shares(**rates: tuple[int, int]) -> dict[str, float]:
    """Return each share with its interval under its names."""
    found = {}
    for name, (hits, n) in rates.items():
        low, high = wilson_interval(hits, n)
        found |= {name: hits / n if n else 0, f"{name}_low": low, f"{name}_high": high}
    return found


def test_summary_by_hand():
    labels = ["awe", "fear", "joy"]
    right = replace(
        read_completion(row("awe"), "test", gold_completion("awe")), coherence_answer="awe", consistency_answer="Yes"
    )
    wrong = replace(
        read_completion(row("fear"), "test", gold_completion("joy")), coherence_answer="fear", consistency_answer="No"
    )
    malformed = read_completion(row("joy"), "test", r"\boxed{joy}")
    silent = read_completion(row("joy"), "test", "no answer")
    greedy = [
        replace(prediction, completion_tokens=tokens)
        for prediction, tokens in zip([right, wrong, malformed, silent], [40, 44, 4, 4], strict=True)
    ]
    summary = summarise_predictions(greedy, sampled=[right, right, silent])
    confusion = confusion_matrix(["awe", "fear", "joy", "joy"], ["awe", "joy", "joy", None], labels)
    recalls = average_accuracies({"awe": (1, 1), "fear": (0, 1), "joy": (1, 2)}, ())
    margin = 1.959964 * np.std([40, 44, 4, 4], ddof=1) / 2
    one_picture = dict(zip(("", "_low", "_high"), (2 / 3, *wilson_interval(2 / 3, 1)), strict=True))
    expected = {
        "n": 4,
        **shares(accuracy=(2, 4), format_rate=(2, 4)),
        "macro_f1": (1 + 0 + 2 / 4) / 3,
        **dict(zip(("macro_f1_low", "macro_f1_high"), macro_f1_interval(confusion), strict=True)),
        "uar": (1 + 0 + 1 / 2) / 3,
        **{f"uar_{end}": recalls[f"eval/mean/overall_{end}"] for end in ("low", "high")},
        "completion_tokens": 23,
        "completion_tokens_low": 23 - margin,
        "completion_tokens_high": 23 + margin,
        # awe, joy: positive and excited; fear: negative and excited
        "n_valence": 4,
        **shares(valence_agreement=(2, 4), arousal_agreement=(3, 4)),
        **shares(names_valence=(2, 2)),
        "n_reflected": 2,
        **shares(agreement=(1, 2), coherence=(2, 2), consistency=(1, 2)),
        "sampled_n": 3,
        # All draws are of one picture: they are worth one trial
        **{f"sampled_{name}{end}": value for name in ("accuracy", "format_rate") for end, value in one_picture.items()},
    }
    # joy was shown twice and answered twice, once rightly: of these 3 pictures 1 is a hit, and F1 is 2 / (2 + 1 + 1)
    for label, support, answered, hits, f1 in [("awe", 1, 1, 1, 1), ("fear", 1, 0, 0, 0), ("joy", 2, 2, 1, 1 / 2)]:
        hit_of_either = shares(f1=(hits, support + answered - hits))
        values = {"support": support, **shares(precision=(hits, answered), recall=(hits, support))}
        values |= {name: 2 * share / (1 + share) for name, share in hit_of_either.items()}
        assert values["f1"] == pytest.approx(f1)
        expected |= {f"class/{label}/{name}": value for name, value in values.items()}
    assert summary == pytest.approx({f"eval/test/{name}": value for name, value in expected.items()})
    assert all(math.isfinite(value) for value in summary.values())
    assert count_confusions(greedy).tolist() == confusion.tolist()


def test_labels_without_a_known_valence_are_left_out_of_its_agreement():
    own = {"id": "0", "emotion": "hygge", "label_space": ["hygge", "Joy", "Fear"]}
    assert not any(
        "valence" in name for name in summarise_predictions([read_completion(own, "test", r"\boxed{hygge}")])
    )
    joyful = own | {"emotion": "Joy"}
    answers = ["joy", "hygge", "Fear", "nothing"]  # right, not counted, wrong, no answer
    summary = summarise_predictions([read_completion(joyful, "test", rf"\boxed{{{answer}}}") for answer in answers])
    assert summary["eval/test/n_valence"] == 3
    assert summary["eval/test/valence_agreement"] == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1, max_size=60))
def test_uar_and_per_class_are_those_of_counted_pairs(pairs):
    emotions, answers = zip(*pairs, strict=True)
    matrix = confusion_matrix(emotions, answers, LABELS)
    expected = {label: count_scores(emotions, answers, label) for label in LABELS if label in emotions + answers}
    recalls = [scores["recall"] for label, scores in expected.items() if label in emotions]
    assert uar(matrix) == pytest.approx(float(sum(recalls) / len(recalls)))
    found = score_classes(matrix, LABELS)
    assert found.keys() == expected.keys()
    for label, scores in expected.items():
        assert {name: found[label][name] for name in scores} == pytest.approx({k: float(v) for k, v in scores.items()})


def test_intervals_of_macro_f1_and_uar_are_those_of_drawn_pictures():
    generator = np.random.default_rng(0)
    emotions = np.array(LABELS)[generator.integers(0, 3, 90)]
    answers = np.where(generator.random(90) < 0.6, emotions, "fear")
    greedy = [
        read_completion({**row(emotion), "id": str(number)}, "test", rf"\boxed{{{answer}}}", "direct")
        for number, (emotion, answer) in enumerate(zip(emotions, answers, strict=True))
    ]
    found = summarise_predictions(greedy)
    rows = generator.integers(0, 90, size=(1500, 90))
    for name, part in (("macro_f1", "f1"), ("uar", "recall")):
        drawn = [
            np.mean([count_scores(emotions[row].tolist(), answers[row].tolist(), label)[part] for label in LABELS])
            for row in rows
        ]
        expected = np.percentile(drawn, [2.5, 97.5])
        ends = found[f"eval/test/{name}_low"], found[f"eval/test/{name}_high"]
        assert ends == pytest.approx(tuple(expected), abs=0.025)


@pytest.mark.parametrize(
    ("known", "end"), [pytest.param(1.0, "low", id="all right"), pytest.param(0.0, "high", id="all wrong")]
)
def test_no_interval_is_sure_of_what_few_pictures_show(known, end):
    """Six pictures of each emotion that are all right do not prove that the next one will be."""
    answers = [label if known else LABELS[index - 1] for index, label in enumerate(LABELS) for _ in range(6)]
    emotions = [label for label in LABELS for _ in range(6)]
    greedy = [
        read_completion({**row(emotion), "id": str(number)}, "test", rf"\boxed{{{answer}}}", "direct")
        for number, (emotion, answer) in enumerate(zip(emotions, answers, strict=True))
    ]
    summary = summarise_predictions(greedy, [replace(row, temperature=1.0) for row in greedy])
    classes = [f"class/{label}/{name}" for label in LABELS for name in ("precision", "recall", "f1")]
    for name in ("accuracy", "macro_f1", "uar", "sampled_accuracy", *classes):
        assert summary[f"eval/test/{name}"] == known, name
        assert 0.1 < abs(summary[f"eval/test/{name}_{end}"] - known) < 0.6, name


@pytest.mark.parametrize("support", [6, 20])
@pytest.mark.parametrize("recall", [0.5, 0.9])
def test_intervals_hold_the_truth_nineteen_times_in_twenty(support, recall):
    generator = np.random.default_rng(1)
    known = np.full((3, 4), (1 - recall) / 2)
    known[range(3), range(3)], known[:, 3] = recall, 0
    held = {"precision": 0, "recall": 0, "f1": 0, "macro_f1": 0}  # each is truly `recall`, by symmetry
    for _ in range(500):
        drawn = np.stack([generator.multinomial(support, row) for row in known])
        found = score_classes(drawn, LABELS)["awe"]
        found |= dict(zip(("macro_f1_low", "macro_f1_high"), macro_f1_interval(drawn, resamples=500), strict=True))
        for name in held:
            held[name] += found[f"{name}_low"] <= recall <= found[f"{name}_high"]
    assert all(count > 460 for count in held.values()), held


def test_several_draws_of_a_picture_are_no_independent_trials():
    predictions = [
        replace(read_completion({**row("awe"), "id": str(picture)}, "test", rf"\boxed{{{answer}}}"), sample=sample)
        for picture, answer in enumerate(["awe", "fear"] * 20)
        for sample in range(25)
    ]
    summary = summarise_predictions(predictions[::25], predictions)
    assert summary["eval/test/sampled_accuracy"] == 0.5
    margin = 1.96 * 0.5 / math.sqrt(40)  # of 40 pictures, not of 1,000 draws
    assert summary["eval/test/sampled_accuracy_low"] == pytest.approx(0.5 - margin, abs=0.03)
    assert summary["eval/test/sampled_accuracy_high"] == pytest.approx(0.5 + margin, abs=0.03)


# Table 1 of the paper, EMO-R3 with 8 rollouts: EmoSet (in-domain), Emotion6, WebEmo of the model trained on EmoSet, and
# Emotion6 (in-domain), EmoSet, WebEmo of the one trained on Emotion6; then A^I, A^O, A
EMO_R3_8 = [("emoset", 76.40, 59.26, 49.70), ("emotion6", 71.72, 61.80, 43.65)]


def test_averages_are_those_of_the_papers_table():
    found = []
    for trained_on, own, *others in EMO_R3_8:
        right = {name: (round(100 * accuracy), 10_000) for name, accuracy in zip("ab", others, strict=True)}
        found.append(average_accuracies({trained_on: (round(100 * own), 10_000), **right}, [trained_on]))
    for name, published in (("in_domain", 74.06), ("out_of_domain", 53.60), ("overall", 60.42)):
        mean = 100 * np.mean([each[f"eval/mean/{name}"] for each in found])
        assert mean == pytest.approx(published, abs=0.006)


def test_averages_weigh_data_sets_not_pictures_and_have_intervals():
    found = average_accuracies({"a": (9, 10), "b": (50, 100), "c": (300, 1000)}, ["a"])
    assert found["eval/mean/in_domain"] == 0.9
    assert found["eval/mean/out_of_domain"] == pytest.approx(0.4)
    assert found["eval/mean/overall"] == pytest.approx(1.7 / 3)
    for name in ("in_domain", "out_of_domain", "overall"):
        mean, low, high = (found[f"eval/mean/{name}{end}"] for end in ("", "_low", "_high"))
        assert low < mean < high
    deviation = math.sqrt(0.25 / 100 + 0.21 / 1000) / 2
    assert found["eval/mean/out_of_domain_low"] == pytest.approx(0.4 - 1.96 * deviation, abs=0.004)
    own = tuple(found[f"eval/mean/in_domain{end}"] for end in ("_low", "_high"))
    assert own == pytest.approx(wilson_interval(9, 10))  # of one data set, its own
    sure = average_accuracies({"a": (5, 5), "b": (0, 36)}, ["a"])
    assert sure["eval/mean/overall_low"] < 0.5 < sure["eval/mean/overall_high"]
    assert set(average_accuracies({"a": (1, 2)}, ["a"])) == {
        f"eval/mean/{name}{end}" for name in ("in_domain", "overall") for end in ("", "_low", "_high")
    }


def test_a_known_confusion_comes_out_again():
    """A model that answers by a known confusion matrix, read through its completions."""
    labels = list(EMOSET_8.labels)
    generator = np.random.default_rng(5)
    known = generator.integers(0, 12, size=(8, 9))
    rows = [
        (emotion, [*labels, None][column])
        for index, emotion in enumerate(labels)
        for column in range(9)
        for _ in range(known[index, column])
    ]
    order = generator.permutation(len(rows))
    predictions = [
        read_completion(
            {"id": str(number), "emotion": rows[number][0], "label_space": labels},
            "test",
            gold_completion(rows[number][1]) if rows[number][1] else "I cannot tell.",
        )
        for number in order
    ]
    assert count_confusions(predictions).tolist() == known.tolist()
    assert summarise_predictions(predictions)["eval/test/accuracy"] == pytest.approx(
        np.trace(known[:, :8]) / known.sum()
    )


def test_summary_refuses_a_mix_of_data_sets():
    one = read_completion(row("awe"), "test", gold_completion("awe"))
    with pytest.raises(ValueError, match="Expected one data set"):
        summarise_predictions([one, replace(one, dataset="other")])
    with pytest.raises(ValueError, match="0 predictions"):
        summarise_predictions([])
