"""The test of two systems over runs, on differences that can be counted by hand."""

import numpy as np
import pytest

from emor3_trl.evaluation.comparison import mcnemar
from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.reproduce.paired_runs import RunPair, compare_runs, flip_signs


def predict(dataset: str, right: list[int], count: int = 20) -> list[Prediction]:
    """Return predictions of the pictures of a data set, of which some are right."""
    return [
        Prediction(f"{i}", dataset, "joy", ["joy", "fear"], "", None, None, None, "joy", True, i in right)
        for i in range(count)
    ]


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (3, 9), (4, 4), (10, 31)])
def test_of_one_run_it_is_mcnemars_test(only_a: int, only_b: int) -> None:
    changes = np.array([-1.0] * only_a + [1.0] * only_b + [0.0] * 7)
    assert flip_signs(changes) == pytest.approx(mcnemar(only_a, only_b), abs=0.005)


def test_no_difference_is_no_evidence() -> None:
    assert flip_signs(np.zeros(9)) == 1.0


def test_the_same_answers_in_more_runs_are_no_more_evidence() -> None:
    """A model as it is stands beside all seeds, with the very same answers."""
    pairs = [RunPair("a", seed, predict("a", [0, 1]), predict("a", [2, 3, 4, 5, 6, 7, 8])) for seed in (1, 2, 3)]
    alone, together = compare_runs(pairs[:1]), compare_runs(pairs)
    assert together.p_value == alone.p_value == pytest.approx(mcnemar(2, 7), abs=0.005)
    assert (together.low, together.high) == (alone.low, alone.high)
    assert together.by_seed == (0.25, 0.25, 0.25)


def test_columns_count_the_same_whatever_their_pictures() -> None:
    """As in the tables; pooled over pictures, the larger set would decide, and here reverse the direction."""
    worse = [*predict("small", [], 4), *predict("large", list(range(10)), 40)]
    better = [*predict("small", [0, 1, 2, 3], 4), *predict("large", [], 40)]
    seen = compare_runs([RunPair("small", 1, worse, better)])
    assert seen.difference == pytest.approx((4 / 4 - 10 / 40) / 2)
    assert seen.pictures == 44
    assert seen.low < seen.difference < seen.high


def test_only_seeds_of_every_training_count() -> None:
    """Else one training would count more than the other."""
    gains = {("a", 1): [0], ("a", 2): list(range(20)), ("b", 1): [0, 1]}
    seen = compare_runs([RunPair(train, seed, predict(train, []), predict(train, right))
                         for (train, seed), right in gains.items()])  # fmt: skip
    assert seen.by_seed == pytest.approx([(1 / 20 + 2 / 20) / 2])
    assert seen.trainings == ("a", "b")


def test_the_interval_is_that_of_a_mean_over_pictures() -> None:
    right = list(range(40))
    seen = compare_runs([RunPair("a", 1, predict("a", [], 100), predict("a", right, 100))])
    width = 1.96 * np.sqrt(0.4 * 0.6 / 100)
    assert (seen.low, seen.high) == pytest.approx((0.4 - width, 0.4 + width), abs=0.02)


def test_pictures_with_other_labels_are_refused() -> None:
    changed = [Prediction(**{**vars(row), "emotion": "fear"}) for row in predict("a", [])]
    with pytest.raises(ValueError, match="label of picture"):
        compare_runs([RunPair("a", 1, predict("a", []), changed)])
