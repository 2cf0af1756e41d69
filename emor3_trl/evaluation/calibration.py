"""Calibration: is a model right as often as it is sure?

A prediction's confidence is the probability of the label that the completion answers, among the labels of its label
space, at the place where the completion wrote it and given all that it wrote before (`label_probabilities`). It is the
confidence of the answer after the reasoning, not of the reasoning. A completion that names no label, and one of an
evaluation that measured no probabilities, has no confidence: it is left out. `n_with_probabilities` counts the others.

Intervals are 95% percentile intervals of a bootstrap over images, never without the value itself. Where every answer is
right, or every one wrong, no resample differs in that. There the interval grows by the share of images that may still
be of the other kind (Wilson).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emor3_trl.evaluation.intervals import wilson_interval

if TYPE_CHECKING:
    from emor3_trl.evaluation.prediction import Prediction

BINS = 15  # of equal width, as in Guo et al. (2017)
RESAMPLES = 1_000
_DRAWN_AT_ONCE = 2_000_000  # images


@dataclass(frozen=True)
class Confidences:
    """What is known of n predictions, the most confident first.

    Args:
        confidence: probability of the label that each answers, shape (n,).
        correct: whether the answer is right, shape (n,).
        brier: sum over the labels of (probability − 1 for the true one, else 0)², shape (n,).
    """

    confidence: np.ndarray
    correct: np.ndarray
    brier: np.ndarray


def collect_confidences(predictions: Sequence["Prediction"]) -> Confidences:
    """Return the confidences of the predictions that have label probabilities."""
    known = [row for row in predictions if row.label_probabilities is not None and row.answer in row.label_space]
    confidence, brier = np.zeros(len(known)), np.zeros(len(known))
    for index, row in enumerate(known):
        probabilities = np.asarray(row.label_probabilities)
        truth = np.array([label == row.emotion for label in row.label_space])
        confidence[index] = probabilities[row.label_space.index(str(row.answer))]
        brier[index] = ((probabilities - truth) ** 2).sum()
    order = np.argsort(-confidence, kind="stable")
    return Confidences(confidence[order], np.array([row.correct for row in known], bool)[order], brier[order])


def measure_calibration(predictions: Sequence["Prediction"], seed: int = 0) -> dict[str, float]:
    """Return the calibration of predictions of one data set, each value with `_low` and `_high`.

    Args:
        predictions: one greedy prediction per image.
        seed: seed of the bootstrap.

    Returns:
        `n_with_probabilities`; `ece`, the expected calibration error over `BINS` bins of equal width; `brier`, the mean
        over images of the squared errors summed over labels (0 to 2); `auroc`, the probability that a right answer is
        more confident than a wrong one, if there are both; `selective_accuracy`, the accuracy of the k most confident
        answers, averaged over k = 1 … n. Empty if no prediction has label probabilities.
    """
    known = collect_confidences(predictions)
    n = len(known.confidence)
    if n == 0:
        return {}
    values = _measure(known, np.ones((1, n), dtype=np.int64))
    generator = np.random.default_rng(seed)
    size = max(1, min(RESAMPLES, _DRAWN_AT_ONCE // n))
    parts = [_measure(known, _draw_counts(generator, min(size, RESAMPLES - start), n))
             for start in range(0, RESAMPLES, size)]  # fmt: skip
    right = int(known.correct.sum())
    unseen = 1 - wilson_interval(n, n)[0] if right in (0, n) else 0.0
    metrics: dict[str, float] = {"n_with_probabilities": n}
    for name, (value,) in values.items():
        if np.isnan(value):  # there is no pair of a right and a wrong answer
            continue
        low, high = np.nanpercentile(np.concatenate([part[name] for part in parts]), [2.5, 97.5])
        if name == "auroc" and value in (0, 1):  # nor does a resample of separate ones overlap
            low, high = wilson_interval(value * min(right, n - right), min(right, n - right))
        top = 2.0 if name == "brier" else 1.0
        low, high = min(low, value) - top * unseen, max(high, value) + top * unseen
        metrics |= {name: float(value), f"{name}_low": max(0.0, float(low)), f"{name}_high": min(top, float(high))}
    return metrics


def bin_reliability(known: Confidences) -> list[dict[str, float]]:
    """Return the bins of the reliability diagram that hold images, the least confident first.

    Returns:
        For each bin its `confidence` (mean), `accuracy` with `low` and `high` (Wilson), and `n`. A confidence on an
        edge belongs to the bin below it, as in scikit-learn.
    """
    bins = []
    numbers = _number_bins(known.confidence)
    for number in np.unique(numbers):
        inside = numbers == number
        right, n = int(known.correct[inside].sum()), int(inside.sum())
        low, high = wilson_interval(right, n)
        confidence = float(known.confidence[inside].mean())
        bins.append({"confidence": confidence, "accuracy": right / n, "low": low, "high": high, "n": n})
    return bins


def trace_selective_accuracy(known: Confidences, points: int = 50) -> list[dict[str, float]]:
    """Return the accuracy of the most confident answers at rising coverage, the share of images that is answered.

    Returns:
        At most `points` places, the last at full coverage: `coverage`, `accuracy`, and its `low` and `high` (Wilson).
        Equally confident answers count as if their order were drawn.
    """
    n = len(known.confidence)
    starts, ends = _find_ties(known.confidence)
    right = np.add.reduceat(known.correct.astype(float), starts)
    found = np.interp(np.arange(n + 1), [0, *ends], [0.0, *np.cumsum(right)])  # right ones among the k most confident
    curve = []
    for k in np.unique(np.ceil(np.linspace(n / min(points, n), n, min(points, n)) - 1e-9).astype(int)):
        low, high = wilson_interval(min(float(found[k]), float(k)), int(k))
        curve.append({"coverage": k / n, "accuracy": float(found[k] / k), "low": low, "high": high})
    return curve


def _draw_counts(generator: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    """Return how often each of n images is drawn, shape (resamples, n)."""
    drawn = generator.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)


def _measure(known: Confidences, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return each value of R samples that hold each image as often as `counts` (R, n) says."""
    n = counts.shape[1]
    edges = np.flatnonzero(np.diff(_number_bins(known.confidence), prepend=-1))
    gaps = np.add.reduceat(counts * (known.correct - known.confidence), edges, axis=1)  # (R, bins)
    starts, _ = _find_ties(known.confidence)
    right = np.add.reduceat(counts * known.correct, starts, axis=1)  # (R, ties)
    total = np.add.reduceat(counts, starts, axis=1)
    return {
        "ece": np.abs(gaps).sum(axis=1) / n,
        "brier": counts @ known.brier / n,
        "auroc": _auroc(right, total - right),
        "selective_accuracy": _selective_accuracy(right, total),
    }


def _auroc(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of R samples; nan without a right or a wrong answer.

    Args:
        right: right answers of each confidence, the highest first, shape (R, T).
        wrong: wrong ones, likewise.
    """
    below = wrong.sum(axis=1, keepdims=True) - np.cumsum(wrong, axis=1)
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    wins = (right * (below + wrong / 2)).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(right), np.nan), where=pairs > 0)


def _selective_accuracy(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the mean over k of the accuracy of the k most confident answers, for R samples; see `_auroc`.

    Of m equally confident answers with r right ones, j drawn at random hold r j / m. So they add, after M answers
    with R right ones, the sum over j = 1 … m of (R + r j / m) / (M + j) = (R − r M / m) (H(M + m) − H(M)) + r, with H
    the harmonic numbers.
    """
    n = int(total[0].sum())
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    after = np.cumsum(total, axis=1)
    before = after - total
    right_before = np.cumsum(right, axis=1) - right
    share = right / np.maximum(total, 1)
    return ((right_before - share * before) * (harmonic[after] - harmonic[before]) + right).sum(axis=1) / n


def _number_bins(confidence: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)


def _find_ties(confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each run of equal confidences starts, and where it ends."""
    starts = np.flatnonzero(np.diff(confidence, prepend=np.inf))
    return starts, np.append(starts[1:], len(confidence))
