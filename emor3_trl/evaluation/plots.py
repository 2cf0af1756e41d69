"""Plots of one evaluated model: which emotion is taken for which, the recall of each, and calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emor3_trl.evaluation.calibration import bin_reliability, collect_confidences, trace_selective_accuracy
from emor3_trl.evaluation.metrics import collect_labels, count_confusions, score_classes
from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.files import replacing, write_json


def save_confusions(name: str, predictions: Mapping[str, Sequence[Prediction]], folder: Path) -> None:
    """Write the confusion matrices of a model as `confusion.json`, and draw each of them.

    Args:
        name: what the model is called in the titles.
        predictions: greedy predictions by data set.
        folder: where to write.
    """
    counts = {}
    for dataset, rows in predictions.items():
        labels, confusion = collect_labels(rows), count_confusions(rows)
        counts[dataset] = {"labels": labels, "rows_emotion_columns_answer_then_none": confusion.tolist()}
        plot_confusion(confusion, labels, f"{name} on {dataset} (n={len(rows)})", folder / f"confusion_{dataset}.png")
    write_json(folder / "confusion.json", counts)


def plot_confusion(confusion: np.ndarray, labels: Sequence[str], title: str, path: str | Path) -> None:
    """Draw a confusion matrix and, beside it, the recall of each emotion with its interval.

    The colour of a cell is its share of the row's emotion.

    Args:
        confusion: counts of shape (L, L + 1), see `metrics.confusion_matrix`.
        labels: its L labels.
        title: what stands above.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    count = len(labels)
    figure = Figure(figsize=(4.5 + 0.8 * count, 2 + 0.45 * count), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    left.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*confusion.shape):
        if confusion[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            left.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    left.set_xticks(range(count + 1), [*labels, "no answer"], rotation=45, ha="right")
    left.set_yticks(range(count), list(labels))
    left.set_xlabel("answer")
    left.set_ylabel("emotion")

    classes = score_classes(confusion, labels)
    for row, label in enumerate(labels):
        if label in classes and classes[label]["support"]:
            recall, low, high = (classes[label][name] for name in ("recall", "recall_low", "recall_high"))
            right.barh(row, recall, color="#4477aa", height=0.6)
            right.plot([low, high], [row, row], color="black", linewidth=1)
    right.set_ylim(count - 0.5, -0.5)
    right.set_xlim(0, 1)
    right.set_yticks(range(count), [""] * count)
    right.set_xlabel("recall, 95% interval")
    right.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def save_calibration(name: str, predictions: Mapping[str, Sequence[Prediction]], folder: Path) -> None:
    """Draw the reliability diagram and the selective accuracy of each data set as `calibration_<dataset>.png`.

    A data set without label probabilities gets no plot.

    Args:
        name: what the model is called in the titles.
        predictions: greedy predictions by data set.
        folder: where to write.
    """
    from matplotlib.figure import Figure

    for dataset, rows in predictions.items():
        known = collect_confidences(rows)
        if not len(known.confidence):
            continue
        bins, curve = bin_reliability(known), trace_selective_accuracy(known)
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="as right as sure")
        errors = [
            [entry["accuracy"] - entry["low"] for entry in bins],
            [entry["high"] - entry["accuracy"] for entry in bins],
        ]
        confidences, accuracies = ([entry[key] for entry in bins] for key in ("confidence", "accuracy"))
        left.errorbar(confidences, accuracies, np.abs(errors), fmt="o", color="#4477aa", capsize=2, label="a bin, 95%")
        for entry in bins:
            left.annotate(
                str(entry["n"]),
                (entry["confidence"], entry["accuracy"]),
                (4, 4),
                textcoords="offset points",
                fontsize=7,
            )
        left.set_xlabel("confidence: probability of the answer")
        left.set_ylabel("accuracy")
        left.legend(loc="upper left", fontsize=8)
        coverage = [point["coverage"] for point in curve]
        right.fill_between(
            coverage, *([point[end] for point in curve] for end in ("low", "high")), alpha=0.2, color="#4477aa"
        )
        right.plot(coverage, [point["accuracy"] for point in curve], color="#4477aa")
        right.set_xlabel("coverage: share answered, the most confident first")
        right.set_ylabel("accuracy of these")
        for axis in (left, right):
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axis.grid(alpha=0.3)
        figure.suptitle(f"{name} on {dataset} (n={len(known.confidence)} of {len(rows)} with label probabilities)")
        with replacing(folder / f"calibration_{dataset}.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
