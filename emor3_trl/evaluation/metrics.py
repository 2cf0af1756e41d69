"""Metrics of an evaluation, each with its 95% interval: from predictions to flat numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emor3_trl.diagnostics import names_valence
from emor3_trl.emotions import AROUSAL, VALENCE, canonical

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
    return float(_macro_f1(confusion))


def uar(confusion: np.ndarray) -> float:
    """Return the unweighted average recall (balanced accuracy) over the emotions that occur as label.

    Args:
        confusion: counts of shape (L, L + 1), see `confusion_matrix`.
    """
    return float(_uar(confusion))


def bootstrap_intervals(
    confusion: np.ndarray, labels: Sequence[str], seed: int = 0, resamples: int = 10_000
) -> dict[str, float]:
    """Return 95% percentile intervals of what is no share of pictures, over resampled pictures.

    Drawing n pictures with replacement is drawing n cells of their confusion matrix.

    Args:
        confusion: counts of shape (L, L + 1), see `confusion_matrix`.
        labels: its L labels.
        seed: seed of the draws.
        resamples: how many.

    Returns:
        `macro_f1`, `uar`, and `class/<label>/precision` and `class/<label>/f1` of each emotion that occurs, all with
        `_low` and `_high`.
    """
    n = int(confusion.sum())
    generator = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {"macro_f1": [], "uar": [], "precision": [], "f1": []}
    for start in range(0, resamples, 1_000):  # at most a thousand matrices in memory
        size = min(1_000, resamples - start)
        drawn = generator.multinomial(n, confusion.ravel() / n, size=size).reshape(size, *confusion.shape)
        hits = np.diagonal(drawn, axis1=1, axis2=2)  # (size, L)
        answered = drawn[..., :-1].sum(axis=1)
        parts["macro_f1"].append(_macro_f1(drawn))
        parts["uar"].append(_uar(drawn))
        parts["precision"].append(_divided(hits, answered))
        parts["f1"].append(_divided(2 * hits, answered + drawn.sum(axis=2)))
    low_high = {name: np.percentile(np.concatenate(values), [2.5, 97.5], axis=0) for name, values in parts.items()}
    bounds: dict[str, float] = {}
    for index, end in enumerate(("low", "high")):
        bounds |= {f"{name}_{end}": float(low_high[name][index]) for name in ("macro_f1", "uar")}
        for label in per_class(confusion, labels):
            for name in ("precision", "f1"):
                bounds[f"class/{label}/{name}_{end}"] = float(low_high[name][index][list(labels).index(label)])
    return bounds


def per_class(confusion: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Return `support`, `precision`, `recall` (with its 95% Wilson interval) and `f1` of each emotion that occurs.

    Args:
        confusion: counts of shape (L, L + 1), see `confusion_matrix`.
        labels: its L labels.
    """
    found: dict[str, dict[str, float | int]] = {}
    for index, label in enumerate(labels):
        hits, support, answered = int(confusion[index, index]), int(confusion[index].sum()), confusion[:, index].sum()
        if support + answered == 0:
            continue
        found[label] = {
            "support": support,
            "precision": hits / int(answered) if answered else 0.0,
            **_interval("recall", hits, support),
            "f1": 2 * hits / int(support + answered),
        }
    return found


def rate(values: Sequence[bool]) -> float:
    """Return the share of True; 0.0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def summarise(greedy: Sequence["Prediction"], sampled: Sequence["Prediction"] = ()) -> dict[str, float | int]:
    """Return the metrics of one data set under their flat names.

    Args:
        greedy: one greedy prediction per picture, all of one data set.
        sampled: completions drawn at a temperature from pictures of the same data set.

    Returns:
        `eval/<dataset>/…`; beside every rate and mean stands its 95% interval, `_low` and `_high` (Wilson for shares of
        pictures, bootstrap over pictures for `macro_f1`, `uar`, `precision`, `f1` and what was sampled, normal for
        `completion_tokens`):

        - of all `n` pictures: `accuracy`, `macro_f1`, `uar` (unweighted average recall), `format_rate`,
          `completion_tokens` (mean) and `class/<label>/` `support`, `precision`, `recall`, `f1`;
        - of the `n_valence` pictures whose emotion has a known valence and arousal, and whose answer has too or names
          none: `valence_agreement` and `arousal_agreement`, the share whose answer has the same; no answer has none;
        - of the well-formed completions: `names_valence` (step 3 does);
        - of the `n_reflected` of them that the model was asked about: `agreement` (the emotion that it reads from its
          own steps 1 and 2 is the one that it answered, the paper's Fig. 1b), `coherence` (… is the true one, Eq. 4)
          and `consistency` (it says Yes to its own step 1, Eq. 3);
        - with `sampled`: `sampled_n` completions, `sampled_accuracy` and `sampled_format_rate`.

    Raises:
        ValueError: if there are no predictions, or they are of several data sets.
    """
    datasets = {prediction.dataset for prediction in (*greedy, *sampled)}
    if not greedy or len(datasets) != 1:
        raise ValueError(f"summarise was given {len(greedy)} predictions of {sorted(datasets)}. Expected one data set.")
    confusion, labels = confusion_of(greedy), all_labels(greedy)
    well_formed = [prediction for prediction in greedy if prediction.well_formed]
    reflected = [prediction for prediction in well_formed if prediction.coherence_answer is not None]
    metrics: dict[str, float | int] = {
        "n": len(greedy),
        **_share("accuracy", [prediction.correct for prediction in greedy]),
        "macro_f1": macro_f1(confusion),
        "uar": uar(confusion),
        **_share("format_rate", [prediction.well_formed for prediction in greedy]),
        **_mean("completion_tokens", [p.completion_tokens for p in greedy if p.completion_tokens is not None]),
    }
    pairs = [(canonical(p.emotion), canonical(p.answer or "")) for p in greedy]
    pairs = [(emotion, answer) for emotion, answer in pairs if emotion in VALENCE and (not answer or answer in VALENCE)]
    if pairs:
        metrics["n_valence"] = len(pairs)
        metrics |= _share("valence_agreement", [VALENCE.get(answer) == VALENCE[emotion] for emotion, answer in pairs])
        metrics |= _share("arousal_agreement", [AROUSAL.get(answer) == AROUSAL[emotion] for emotion, answer in pairs])
    if well_formed and well_formed[0].conclusion is not None:
        metrics |= _share("names_valence", [names_valence(prediction.conclusion or "") for prediction in well_formed])
    if reflected:
        metrics["n_reflected"] = len(reflected)
        metrics |= _share("agreement", [prediction.coherence_answer == prediction.answer for prediction in reflected])
        metrics |= _share("coherence", [prediction.coherence_answer == prediction.emotion for prediction in reflected])
        metrics |= _share("consistency", [prediction.consistency_answer == "Yes" for prediction in reflected])
    if sampled:
        metrics["sampled_n"] = len(sampled)
        metrics |= _sampled("sampled_accuracy", sampled, [prediction.correct for prediction in sampled])
        metrics |= _sampled("sampled_format_rate", sampled, [prediction.well_formed for prediction in sampled])
    for label, values in per_class(confusion, labels).items():
        metrics |= {f"class/{label}/{name}": value for name, value in values.items()}
    metrics |= bootstrap_intervals(confusion, labels)
    return {f"eval/{greedy[0].dataset}/{name}": value for name, value in metrics.items()}


def averages(right: Mapping[str, tuple[int, int]], in_domain: Sequence[str]) -> dict[str, float]:
    """Return the paper's averages over data sets (Table 1): A^I in-domain, A^O out of domain, A overall.

    Each data set counts the same, however many pictures it has.

    Args:
        right: (pictures answered rightly, pictures) by data set.
        in_domain: the data sets that the model was trained on; those that are not in `right` are left out.

    Returns:
        `eval/mean/in_domain`, `out_of_domain` and `overall`, each with `_low` and `_high`: its 95% interval from those
        of the data sets (Wilson), added up as independent (Zou and Donner's MOVER; of one data set, its own). A mean
        over no data set is left out.
    """
    groups = {
        "in_domain": [name for name in right if name in in_domain],
        "out_of_domain": [name for name in right if name not in in_domain],
        "overall": list(right),
    }
    found: dict[str, float] = {}
    for group, names in groups.items():
        if names:
            shares = np.array([right[name][0] / right[name][1] for name in names])
            bounds = np.array([wilson_interval(*right[name]) for name in names])  # (data sets, 2)
            below, above = (np.sqrt(((shares - bounds[:, end]) ** 2).sum()) / len(names) for end in (0, 1))
            mean = float(shares.mean())
            found[f"eval/mean/{group}"] = mean
            found |= {f"eval/mean/{group}_low": float(mean - below), f"eval/mean/{group}_high": float(mean + above)}
    return found


def _share(name: str, values: Sequence[bool]) -> dict[str, float]:
    return _interval(name, sum(values), len(values))


def _interval(name: str, successes: int, n: int) -> dict[str, float]:
    low, high = wilson_interval(successes, n)
    return {name: successes / n if n else 0.0, f"{name}_low": low, f"{name}_high": high}


def _sampled(name: str, sampled: Sequence["Prediction"], values: Sequence[bool]) -> dict[str, float]:
    """Return a rate over draws; several of one picture are no independent trials, so pictures are resampled."""
    pictures: dict[str, list[bool]] = {}
    for prediction, value in zip(sampled, values, strict=True):
        pictures.setdefault(prediction.id, []).append(value)
    means = np.array([np.mean(draws) for draws in pictures.values()])
    drawn = np.random.default_rng(0).integers(0, len(means), size=(2_000, len(means)))
    low, high = np.percentile(means[drawn].mean(axis=1), [2.5, 97.5])
    return {name: rate(values), f"{name}_low": float(low), f"{name}_high": float(high)}


def _mean(name: str, values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    mean = float(np.mean(values))
    if len(values) == 1:
        return {name: mean}
    margin = Z_95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {name: mean, f"{name}_low": mean - margin, f"{name}_high": mean + margin}


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Of confusion matrices of shape (…, L, L + 1)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (…, L)
    support = confusion.sum(axis=-1) + confusion[..., :-1].sum(axis=-2)  # (…, L) = 2 TP + FN + FP
    return _mean_where(2 * hits, support)


def _uar(confusion: np.ndarray) -> np.ndarray:
    """Of confusion matrices of shape (…, L, L + 1)."""
    return _mean_where(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1))


def _mean_where(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return the mean of counts / of over the last axis, where `of` is positive; 0 where nowhere."""
    return _divided(counts, of).sum(axis=-1) / np.maximum((of > 0).sum(axis=-1), 1)


def _divided(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return counts / of, 0 where `of` is."""
    return np.divide(counts, of, out=np.zeros(of.shape), where=of > 0)


def confusion_of(predictions: Sequence["Prediction"]) -> np.ndarray:
    """Return the confusion matrix (L, L + 1) of predictions over `all_labels` of them."""
    emotions = [prediction.emotion for prediction in predictions]
    return confusion_matrix(emotions, [prediction.answer for prediction in predictions], all_labels(predictions))


def all_labels(predictions: Sequence["Prediction"]) -> list[str]:
    """Return the labels of all label spaces of the predictions, in the order in which they first occur."""
    return list(dict.fromkeys(label for prediction in predictions for label in prediction.label_space))
