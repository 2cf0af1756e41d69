"""Two models on the same pictures: is the difference more than chance?

Both were shown the same items, so what tells them apart is the items on which exactly one of them is right: McNemar's
test counts these, and the paired bootstrap draws items, not models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emor3_trl.evaluation.prediction import Prediction


@dataclass(frozen=True)
class Comparison:
    """Model b against model a on the pictures of one data set that both were shown.

    Args:
        dataset: the data set.
        n: pictures.
        accuracy_a, accuracy_b: shares that each model got right.
        difference: accuracy_b − accuracy_a.
        low, high: its 95% percentile interval over resampled pictures; both 0 where the same pictures are right: then
            no resample differs.
        only_a, only_b: pictures that only a, or only b, got right.
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


def compare(a: Sequence["Prediction"], b: Sequence["Prediction"], seed: int = 0, resamples: int = 10_000) -> Comparison:
    """Compare two models' greedy predictions of one data set, picture by picture.

    Args:
        a: predictions of the first model, one per picture.
        b: predictions of the second; pictures that only one of the two was shown are left out.
        seed: seed of the bootstrap.
        resamples: draws of the bootstrap.

    Raises:
        ValueError: if a model has several predictions of a picture, they are of several data sets, their emotions
            differ, or no picture is common.
    """
    datasets = sorted({prediction.dataset for prediction in (*a, *b)})
    first, second = {row.id: row for row in a}, {row.id: row for row in b}
    if len(datasets) != 1 or len(first) != len(a) or len(second) != len(b):
        raise ValueError(
            f"compare was given {len(a)} and {len(b)} predictions of {len(first)} and {len(second)} pictures from the "
            f"data sets {', '.join(datasets) or 'none'}. Expected one greedy prediction per picture of one data set."
        )
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(
            f"The two models have no picture of '{datasets[0]}' in common. Evaluate both on the same data."
        )
    changed = [name for name in common if first[name].emotion != second[name].emotion]
    if changed:
        raise ValueError(
            f"The label of picture '{changed[0]}' of '{datasets[0]}' was {first[changed[0]].emotion} in one evaluation "
            f"and {second[changed[0]].emotion} in the other. Evaluate both models on the same data."
        )
    right_a = np.array([first[name].correct for name in common])
    right_b = np.array([second[name].correct for name in common])
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    low, high = _paired_interval(only_a, only_b, len(common), seed, resamples)
    return Comparison(
        dataset=datasets[0],
        n=len(common),
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=(only_b - only_a) / len(common),
        low=low,
        high=high,
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar(only_a, only_b),
    )


def against_first(models: Mapping[str, Sequence["Prediction"]]) -> list[dict[str, Any]]:
    """Compare each model with the first on every data set of both, as rows of comparisons.json.

    Args:
        models: greedy predictions by model.

    Returns:
        The fields of `Comparison`, and the names of the models as `a` and `b`.
    """
    split = {name: _by_dataset(rows) for name, rows in models.items()}
    first, *others = split
    return [
        {"a": first, "b": other, **asdict(compare(split[first][dataset], rows))}
        for other in others
        for dataset, rows in split[other].items()
        if dataset in split[first]
    ]


def _by_dataset(rows: Sequence["Prediction"]) -> dict[str, list["Prediction"]]:
    found: dict[str, list[Prediction]] = {}
    for row in rows:
        found.setdefault(row.dataset, []).append(row)
    return found


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


def _paired_interval(only_a: int, only_b: int, n: int, seed: int, resamples: int) -> tuple[float, float]:
    """Return the percentile interval of the difference; drawing n items with replacement draws three counts."""
    shares = [only_a / n, only_b / n, (n - only_a - only_b) / n]
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.percentile((draws[:, 1] - draws[:, 0]) / n, [2.5, 97.5])
    return float(low), float(high)
