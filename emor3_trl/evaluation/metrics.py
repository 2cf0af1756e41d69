"""Metrics of an evaluation, each with its 95% interval: from predictions to flat numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emor3_trl.diagnostics import names_valence
from emor3_trl.emotions import AROUSAL, VALENCE, canonical
from emor3_trl.evaluation.calibration import measure_calibration
from emor3_trl.evaluation.intervals import Z_95, wilson_interval

if TYPE_CHECKING:
    from emor3_trl.evaluation.prediction import Prediction


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
    return float(_mean_where(np.diagonal(confusion), confusion.sum(axis=-1)))


def macro_f1_interval(confusion: np.ndarray, seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """Return the 95% interval of `macro_f1`, which is no share of images.

    It is the percentile interval over resampled images: drawing n of them with replacement is drawing n cells of the
    confusion matrix. It is nowhere narrower than the intervals of the emotions' own F1, added up. An emotion that is
    always or never found is so in every resample, which proves nothing about the next image.

    Args:
        confusion: counts of shape (L, L + 1), see `confusion_matrix`.
        seed: seed of the draws.
        resamples: how many.
    """
    n = int(confusion.sum())
    generator = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, 1_000):  # at most a thousand matrices in memory
        size = min(1_000, resamples - start)
        cells = generator.multinomial(n, confusion.ravel() / n, size=size)
        drawn.append(_macro_f1(cells.reshape(size, *confusion.shape)))
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    classes = score_classes(confusion, [str(index) for index in range(len(confusion))]).values()
    added = _mean_of("f1", [(scores["f1"], scores["f1_low"], scores["f1_high"]) for scores in classes])
    return min(float(low), added["f1_low"]), max(float(high), added["f1_high"])


def score_classes(confusion: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Return `support`, and `precision`, `recall` and `f1` with their 95% intervals, of each emotion that occurs.

    All three are shares or follow from one (Wilson): F1 = 2 J / (1 + J), where J is the share of hits among the
    images that show the emotion or got it as answer.

    Args:
        confusion: counts of shape (L, L + 1), see `confusion_matrix`.
        labels: its L labels.
    """
    classes: dict[str, dict[str, float | int]] = {}
    for index, label in enumerate(labels):
        hits, support = int(confusion[index, index]), int(confusion[index].sum())
        answered = int(confusion[:, index].sum())
        if support + answered == 0:
            continue
        shares = _interval("f1", hits, support + answered - hits)
        classes[label] = {
            "support": support,
            **_interval("precision", hits, answered),
            **_interval("recall", hits, support),
            **{name: 2 * share / (1 + share) for name, share in shares.items()},
        }
    return classes


def compute_rate(values: Sequence[bool]) -> float:
    """Return the share of True; 0.0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def summarise_predictions(
    greedy: Sequence["Prediction"], sampled: Sequence["Prediction"] = ()
) -> dict[str, float | int]:
    """Return the metrics of one data set under their flat names.

    Args:
        greedy: one greedy prediction per image, all of one data set.
        sampled: completions drawn at a temperature from images of the same data set.

    Returns:
        `eval/<dataset>/…`; beside every rate and mean stands its 95% interval, `_low` and `_high` (Wilson for shares,
        and added up for `uar`; bootstrap over images for `macro_f1`; normal for `completion_tokens`):

        - of all `n` images: `accuracy`, `macro_f1`, `uar` (unweighted average recall), `format_rate`,
          `completion_tokens` (mean) and `class/<label>/` `support`, `precision`, `recall`, `f1`;
        - of the `n_valence` images whose emotion has a known valence and arousal, and whose answer has too or names
          none: `valence_agreement` and `arousal_agreement`, the share whose answer has the same; no answer has none;
        - of the well-formed completions: `names_valence` (step 3 does);
        - of the `n_reflected` of them that the model was asked about: `agreement` (the emotion that it reads from its
          own steps 1 and 2 is the one that it answered, the paper's Fig. 1b), `coherence` (… is the true one, Eq. 4)
          and `consistency` (it says Yes to its own step 1, Eq. 3);
        - of the `n_with_probabilities` whose label probabilities are known: `ece`, `brier`, `auroc` and
          `selective_accuracy` (see `calibration`; the others are left out);
        - with `sampled`: `sampled_n` completions, `sampled_accuracy` and `sampled_format_rate`.

    Raises:
        ValueError: if there are no predictions, or they are of several data sets.
    """
    datasets = {prediction.dataset for prediction in (*greedy, *sampled)}
    if not greedy or len(datasets) != 1:
        raise ValueError(
            f"summarise_predictions was given {len(greedy)} predictions of {sorted(datasets)}. Expected one data set."
        )
    confusion = count_confusions(greedy)
    metrics: dict[str, float | int] = {
        "n": len(greedy),
        **_measure_answers(greedy, confusion),
        **_measure_valence(greedy),
        **_measure_steps([prediction for prediction in greedy if prediction.well_formed]),
        **measure_calibration(greedy),
    }
    if sampled:
        metrics["sampled_n"] = len(sampled)
        metrics |= _share_of_draws("sampled_accuracy", sampled, [draw.correct for draw in sampled])
        metrics |= _share_of_draws("sampled_format_rate", sampled, [draw.well_formed for draw in sampled])
    for label, scores in score_classes(confusion, collect_labels(greedy)).items():
        metrics |= {f"class/{label}/{name}": value for name, value in scores.items()}
    return {f"eval/{greedy[0].dataset}/{name}": value for name, value in metrics.items()}


def _measure_answers(greedy: Sequence["Prediction"], confusion: np.ndarray) -> dict[str, float]:
    hits, supports = np.diagonal(confusion).tolist(), confusion.sum(axis=1).tolist()
    recalls = [_share_of(*counts) for counts in zip(hits, supports, strict=True) if counts[1]]
    tokens = [row.completion_tokens for row in greedy if row.completion_tokens is not None]
    return {
        **_share("accuracy", [prediction.correct for prediction in greedy]),
        **_with_bounds("macro_f1", macro_f1(confusion), *macro_f1_interval(confusion)),
        **_mean_of("uar", recalls),
        **_share("format_rate", [prediction.well_formed for prediction in greedy]),
        **_mean("completion_tokens", tokens),
    }


def _measure_valence(greedy: Sequence["Prediction"]) -> dict[str, float]:
    pairs = [(canonical(row.emotion), canonical(row.answer or "")) for row in greedy]
    pairs = [(emotion, answer) for emotion, answer in pairs if emotion in VALENCE and (not answer or answer in VALENCE)]
    if not pairs:
        return {}
    return {
        "n_valence": len(pairs),
        **_share("valence_agreement", [VALENCE.get(answer) == VALENCE[emotion] for emotion, answer in pairs]),
        **_share("arousal_agreement", [AROUSAL.get(answer) == AROUSAL[emotion] for emotion, answer in pairs]),
    }


def _measure_steps(well_formed: Sequence["Prediction"]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if well_formed and well_formed[0].conclusion is not None:
        metrics |= _share("names_valence", [names_valence(prediction.conclusion or "") for prediction in well_formed])
    reflected = [prediction for prediction in well_formed if prediction.coherence_answer is not None]
    if reflected:
        metrics["n_reflected"] = len(reflected)
        metrics |= _share("agreement", [prediction.coherence_answer == prediction.answer for prediction in reflected])
        metrics |= _share("coherence", [prediction.coherence_answer == prediction.emotion for prediction in reflected])
        metrics |= _share("consistency", [prediction.consistency_answer == "Yes" for prediction in reflected])
    return metrics


def average_accuracies(right: Mapping[str, tuple[int, int]], in_domain: Sequence[str]) -> dict[str, float]:
    """Return the paper's averages over data sets (Table 1): A^I in-domain, A^O out of domain, A overall.

    Each data set counts the same, however many images it has.

    Args:
        right: (images answered rightly, images) by data set.
        in_domain: the data sets that the model was trained on; names that are not in `right` are left out.

    Returns:
        `eval/mean/in_domain`, `out_of_domain` and `overall`, each with `_low` and `_high`: its 95% interval from those
        of the data sets (Wilson; of one data set, its own). A mean over no data set is left out.
    """
    groups = {
        "in_domain": [name for name in right if name in in_domain],
        "out_of_domain": [name for name in right if name not in in_domain],
        "overall": list(right),
    }
    means: dict[str, float] = {}
    for group, names in groups.items():
        if names:
            means |= _mean_of(f"eval/mean/{group}", [_share_of(*right[name]) for name in names])
    return means


def _share(name: str, values: Sequence[bool]) -> dict[str, float]:
    return _interval(name, sum(values), len(values))


def _interval(name: str, successes: int, n: int) -> dict[str, float]:
    return _with_bounds(name, *_share_of(successes, n))


def _with_bounds(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _share_of(successes: int, n: int) -> tuple[float, float, float]:
    """Return a share, 0 of nothing, and the ends of its interval."""
    return successes / n if n else 0.0, *wilson_interval(successes, n)


def _mean_of(name: str, parts: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Return the mean of independent values and its interval from theirs (Zou and Donner's MOVER)."""
    values, lows, highs = np.array(parts).T
    mean = float(values.mean())
    below, above = (float(np.sqrt(((values - ends) ** 2).sum())) / len(parts) for ends in (lows, highs))
    return _with_bounds(name, mean, mean - below, mean + above)


def _share_of_draws(name: str, sampled: Sequence["Prediction"], values: Sequence[bool]) -> dict[str, float]:
    """Return a rate over draws; several of one image are worth fewer independent trials, but one each at least."""
    draws_by_image: dict[str, list[bool]] = {}
    for prediction, value in zip(sampled, values, strict=True):
        draws_by_image.setdefault(prediction.id, []).append(value)
    share, spread = compute_rate(values), float(np.var([np.mean(draws) for draws in draws_by_image.values()]))
    # As many trials as have a mean that varies as this one; one image, or equal ones, do not show how it varies
    worth = len(draws_by_image) * (share * (1 - share) / spread if spread > 1e-12 else 1)
    worth = min(worth, len(values))
    return _with_bounds(name, share, *wilson_interval(share * worth, worth))


def _mean(name: str, values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    mean = float(np.mean(values))
    if len(values) == 1:
        return {name: mean}
    margin = Z_95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return _with_bounds(name, mean, mean - margin, mean + margin)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Of confusion matrices of shape (…, L, L + 1)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (…, L)
    support = confusion.sum(axis=-1) + confusion[..., :-1].sum(axis=-2)  # (…, L) = 2 TP + FN + FP
    return _mean_where(2 * hits, support)


def _mean_where(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return the mean of counts / of over the last axis where `of` is positive; 0 if it nowhere is."""
    shares = np.divide(counts, of, out=np.zeros(of.shape), where=of > 0)
    return shares.sum(axis=-1) / np.maximum((of > 0).sum(axis=-1), 1)


def count_confusions(predictions: Sequence["Prediction"]) -> np.ndarray:
    """Return the confusion matrix (L, L + 1) of predictions over `collect_labels` of them."""
    emotions = [prediction.emotion for prediction in predictions]
    return confusion_matrix(emotions, [prediction.answer for prediction in predictions], collect_labels(predictions))


def collect_labels(predictions: Sequence["Prediction"]) -> list[str]:
    """Return the labels of all label spaces of the predictions, in the order in which they first occur."""
    return list(dict.fromkeys(label for prediction in predictions for label in prediction.label_space))
