"""Plots of one evaluated model: which emotion is taken for which, and the recall of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
