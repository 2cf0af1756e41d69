"""Two models on the same images: is the difference more than chance?

Only images on which exactly one of the two models is right tell them apart. McNemar's test counts these, and the paired
bootstrap draws images, not models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emor3_trl.evaluation.prediction import Prediction, split_by_dataset


@dataclass(frozen=True)
class Comparison:
    """Model b against model a on the images of one data set that both were shown.

    Args:
        dataset: the data set.
        n: images.
        accuracy_a, accuracy_b: shares that each model got right.
        difference: accuracy_b − accuracy_a.
        low, high: its 95% percentile interval over resampled images. Both are 0 where the models are right on the same
            images, because then no resample differs.
        only_a, only_b: images that only a, or only b, got right.
        p_value: exact two-sided McNemar test of "b is right where a is wrong as often as the reverse".
    """

    dataset: str
    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float


def compare_predictions(
    a: Sequence[Prediction], b: Sequence[Prediction], seed: int = 0, resamples: int = 10_000
) -> Comparison:
    """Compare two models' greedy predictions of one data set, image by image.

    Args:
        a: predictions of the first model, one per image.
        b: predictions of the second; images that only one of the two was shown are left out.
        seed: seed of the bootstrap.
        resamples: draws of the bootstrap.

    Raises:
        ValueError: see `pair_predictions`.
    """
    pairs = pair_predictions(a, b)
    right_a = np.array([first.correct for first, _ in pairs])
    right_b = np.array([second.correct for _, second in pairs])
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    low, high = _bootstrap_difference(only_a, only_b, len(pairs), seed, resamples)
    return Comparison(
        dataset=pairs[0][0].dataset,
        n=len(pairs),
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=(only_b - only_a) / len(pairs),
        low=low,
        high=high,
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar(only_a, only_b),
    )


def pair_predictions(a: Sequence[Prediction], b: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    """Return two models' greedy predictions of the images of one data set that both were shown.

    Args:
        a: predictions of the first model, one per image.
        b: predictions of the second.

    Raises:
        ValueError: if a model has several predictions of an image, they are of several data sets, their emotions
            differ, or no image is common.
    """
    datasets = sorted({prediction.dataset for prediction in (*a, *b)})
    first, second = {row.id: row for row in a}, {row.id: row for row in b}
    if len(datasets) != 1 or len(first) != len(a) or len(second) != len(b):
        raise ValueError(
            f"compare_predictions was given {len(a)} and {len(b)} predictions of {len(first)} and {len(second)} "
            f"pictures from the data sets {', '.join(datasets) or 'none'}. Expected one greedy prediction per picture "
            "of one data set."
        )
    common = [image for image in first if image in second]
    if not common:
        raise ValueError(
            f"The two models have no picture of '{datasets[0]}' in common. Evaluate both on the same data."
        )
    changed = [image for image in common if first[image].emotion != second[image].emotion]
    if changed:
        raise ValueError(
            f"The label of picture '{changed[0]}' of '{datasets[0]}' was {first[changed[0]].emotion} in one evaluation "
            f"and {second[changed[0]].emotion} in the other. Evaluate both models on the same data."
        )
    return [(first[image], second[image]) for image in common]


def compare_with_first(models: Mapping[str, Sequence[Prediction]]) -> list[dict[str, Any]]:
    """Compare each model with the first on every data set of both, as rows of comparisons.json.

    Args:
        models: greedy predictions by model.

    Returns:
        The fields of `Comparison`, and the names of the models as `a` and `b`.
    """
    by_model = {name: split_by_dataset(rows) for name, rows in models.items()}
    first, *others = by_model
    return [
        {"a": first, "b": other, **asdict(compare_predictions(by_model[first][dataset], rows))}
        for other in others
        for dataset, rows in by_model[other].items()
        if dataset in by_model[first]
    ]


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: a fair coin over the items on which the models differ.

    >>> mcnemar(0, 5)
    0.0625
    >>> mcnemar(3, 3)
    1.0
    """
    n = only_a + only_b
    tail = term = 1  # n over k, from one k to the next
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)


def _bootstrap_difference(only_a: int, only_b: int, n: int, seed: int, resamples: int) -> tuple[float, float]:
    """Return the percentile interval of the difference; drawing n items with replacement draws three counts."""
    shares = [only_a / n, only_b / n, (n - only_a - only_b) / n]
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.percentile((draws[:, 1] - draws[:, 0]) / n, [2.5, 97.5])
    return float(low), float(high)
