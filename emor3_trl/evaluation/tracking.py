"""An evaluation in W&B: its metrics, its confusion and a table of completions with their images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from emor3_trl.evaluation.prediction import Prediction

# Rows per data set: enough to read, small enough to load
TABLE_ROWS = 32
_COLUMNS = ("dataset", "id", "emotion", "answer", "correct", "trigger", "feeling", "conclusion", "coherence_answer",
            "completion")  # fmt: skip


def log_to_wandb(
    name: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    predictions: Sequence[Prediction],
    datasets: Mapping[str, Dataset],
    folder: Path,
) -> None:
    """Log one evaluated model as a W&B run; offline unless the environment has a key (see `checks.prepare_reporting`).

    Args:
        name: the model's name.
        config: the resolved configuration.
        metrics: flat metrics.
        predictions: greedy predictions, one per row.
        datasets: rows with images, in the order of the predictions, by data set name.
        folder: where W&B keeps its files.
    """
    import wandb

    run = wandb.init(name=f"evaluate-{name}", job_type="evaluation", config=dict(config), dir=str(folder))
    table = wandb.Table(columns=["picture", *_COLUMNS])
    for dataset, rows in datasets.items():
        shown = [prediction for prediction in predictions if prediction.dataset == dataset][:TABLE_ROWS]
        for row, prediction in zip(rows, shown, strict=False):
            table.add_data(wandb.Image(row["image"]), *(getattr(prediction, column) for column in _COLUMNS))
    run.log({**metrics, "eval/completions": table})
    run.summary["eval/confusion"] = json.loads((folder / "confusion.json").read_text())
    run.finish()
