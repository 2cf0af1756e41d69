"""Metrics of an evaluation: accuracy with its interval, confusion, macro F1, and rates over predictions."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emor3_trl.diagnostics import names_valence

if TYPE_CHECKING:
    from emor3_trl.evaluation.prediction import Prediction

# The standard normal quantile of a two-sided 95% interval
Z_95 = 1.959963984540054


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, which stays inside [0, 1] and is honest near both ends.

    Args:
        successes: how many of the `n` trials succeeded.
        n: trials; with none, nothing is known and the interval is (0, 1).
        z: normal quantile; the default makes a 95% interval.

    Raises:
        ValueError: if `successes` is not between 0 and `n`.

    >>> tuple(round(bound, 4) for bound in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson_interval was given {successes} successes in {n} trials. Expected 0 to {n}.")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def confusion_matrix(emotions: Sequence[str], answers: Sequence[str | None], labels: Sequence[str]) -> np.ndarray:
    """Count answers by true emotion.

    Args:
        emotions: true labels, each in `labels`.
        answers: answered labels; None where a completion names no label.
        labels: the label space; its order is that of rows and columns.

    Returns:
        Integers of shape (L, L + 1): row = emotion, column = answer; the last column counts "no valid answer".
    """
    column = {label: index for index, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for emotion, answer in zip(emotions, answers, strict=True):
        matrix[column[emotion], len(labels) if answer is None else column[answer]] += 1
    return matrix


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 over the emotions that occur as label or answer; no answer counts as a miss.

    Args:
        confusion: counts of shape (L, L + 1), see `confusion_matrix`.
    """
    hits = np.diag(confusion).astype(float)
    support = confusion.sum(axis=1) + confusion[:, :-1].sum(axis=0)  # (L,) = 2 TP + FN + FP
    seen = support > 0
    return float(np.mean(2 * hits[seen] / support[seen])) if seen.any() else 0.0


def rate(values: Sequence[bool]) -> float:
    """Return the share of True; 0.0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def summarise(greedy: Sequence["Prediction"], sampled: Sequence["Prediction"] = ()) -> dict[str, float | int]:
    """Return the metrics of one data set under their flat names.

    Args:
        greedy: one greedy prediction per picture, all of one data set.
        sampled: completions drawn at temperature 1 from pictures of the same data set.

    Returns:
        `eval/<dataset>/…` with: `n`, `accuracy`, `accuracy_low`, `accuracy_high` (95% Wilson), `macro_f1`,
        `format_rate`, and over the well-formed completions of `n_reflected` pictures: `agreement` (what the model reads
        from its own steps 1 and 2 is its answer), `consistency` (it says Yes to its own step 1) and, of all well-formed
        ones, `names_valence`. With `sampled` also `sampled_n`, `sampled_accuracy`, `sampled_format_rate`.

    Raises:
        ValueError: if there are no predictions, or they are of several data sets.
    """
    datasets = {prediction.dataset for prediction in (*greedy, *sampled)}
    if not greedy or len(datasets) != 1:
        raise ValueError(f"summarise was given {len(greedy)} predictions of {sorted(datasets)}. Expected one data set.")
    confusion = confusion_of(greedy)
    correct = sum(prediction.correct for prediction in greedy)
    low, high = wilson_interval(correct, len(greedy))
    well_formed = [prediction for prediction in greedy if prediction.well_formed]
    reflected = [prediction for prediction in well_formed if prediction.coherence_answer is not None]
    metrics: dict[str, float | int] = {
        "n": len(greedy),
        "accuracy": correct / len(greedy),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": macro_f1(confusion),
        "format_rate": rate([prediction.well_formed for prediction in greedy]),
    }
    if well_formed and well_formed[0].conclusion is not None:
        metrics["names_valence"] = rate([names_valence(prediction.conclusion or "") for prediction in well_formed])
    if reflected:
        metrics["n_reflected"] = len(reflected)
        metrics["agreement"] = rate([prediction.coherence_answer == prediction.answer for prediction in reflected])
        metrics["consistency"] = rate([prediction.consistency_answer == "Yes" for prediction in reflected])
    if sampled:
        metrics["sampled_n"] = len(sampled)
        metrics["sampled_accuracy"] = rate([prediction.correct for prediction in sampled])
        metrics["sampled_format_rate"] = rate([prediction.well_formed for prediction in sampled])
    return {f"eval/{greedy[0].dataset}/{name}": value for name, value in metrics.items()}


def confusion_of(predictions: Sequence["Prediction"]) -> np.ndarray:
    """Return the confusion matrix (L, L + 1) of predictions over `all_labels` of them."""
    emotions = [prediction.emotion for prediction in predictions]
    return confusion_matrix(emotions, [prediction.answer for prediction in predictions], all_labels(predictions))


def all_labels(predictions: Sequence["Prediction"]) -> list[str]:
    """Return the labels of all label spaces of the predictions, in the order in which they first occur."""
    return list(dict.fromkeys(label for prediction in predictions for label in prediction.label_space))
