"""An evaluation in W&B and trackio: its metrics, its confusion and a table of completions with their images."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from emor3_trl.evaluation.metrics import collect_labels
from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.masking import mask_secrets
from emor3_trl.upkeep.completions_table import BACKENDS, build_table
from emor3_trl.upkeep.tracking_faults import warn_of_faults
from emor3_trl.upkeep.wandb_run import begin_wandb_run

# Rows per data set: enough to read, small enough to load
TABLE_ROWS = 32
_COLUMNS = ("dataset", "id", "emotion", "answer", "correct", "trigger", "feeling", "conclusion", "consistency_answer",
            "coherence_answer", "completion")  # fmt: skip
NO_ANSWER = "no answer"


def log_evaluation(
    report_to: Sequence[str],
    name: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    predictions: Mapping[str, Sequence[Prediction]],
    datasets: Mapping[str, Dataset],
    folder: Path,
) -> None:
    """Log one evaluated model as a run; offline unless the environment has a key (see `run.reporting`).

    Args:
        report_to: 'wandb' and 'trackio' log it.
        name: the model's name.
        config: the resolved configuration.
        metrics: flat metrics.
        predictions: greedy predictions, one per row, by data set.
        datasets: rows with images, in the order of the predictions, by data set.
        folder: the model's folder, which holds its confusions; W&B keeps its files there.
    """
    masked = mask_secrets(dict(config))
    for backend_name in (backend for backend in BACKENDS if backend in report_to):
        with warn_of_faults(f"{backend_name} did not take the evaluation of {name}"):  # further models may follow
            backend = importlib.import_module(backend_name)
            columns = _collect_columns(predictions, datasets)
            table = build_table(backend, columns, range(len(columns["id"])))
            if backend_name == "wandb":
                options = {"job_type": "evaluation", "config": masked, "dir": str(folder)}
                run = begin_wandb_run(name=f"evaluate-{name}", **options)
            else:
                run = backend.init(project="emor3_trl", name=f"evaluate-{name}", config=masked, embed=False)
            try:
                confusions = {
                    f"eval/{dataset}/confusion": draw_confusion(rows)
                    if backend_name == "wandb"
                    else backend.Image(folder / f"confusion_{dataset}.png")
                    for dataset, rows in predictions.items()
                }
                run.log({**metrics, **confusions, "eval/completions": table})
            finally:
                run.finish()


def log_confusions(report_to: Sequence[str], predictions: Mapping[str, Sequence[Prediction]], step: int) -> None:
    """Log the confusion of a validation to the W&B run of this process, if there is one.

    Args:
        report_to: what the run reports to.
        predictions: greedy predictions by data set.
        step: the optimizer step.
    """
    if "wandb" not in report_to:
        return
    import wandb

    if wandb.run is None:
        return
    with warn_of_faults(f"Step {step}: W&B took no confusion"):
        charts = {f"train/eval/{dataset}/confusion": draw_confusion(rows) for dataset, rows in predictions.items()}
        wandb.log({**charts, "train/global_step": step})


def draw_confusion(predictions: Sequence[Prediction]) -> Any:
    """Return W&B's chart of how often each emotion got each answer.

    Args:
        predictions: of one data set.
    """
    import wandb

    labels = [*collect_labels(predictions), NO_ANSWER]
    return wandb.plot.confusion_matrix(
        y_true=[labels.index(row.emotion) for row in predictions],
        preds=[labels.index(row.answer or NO_ANSWER) for row in predictions],
        class_names=labels,
    )


def _collect_columns(
    predictions: Mapping[str, Sequence[Prediction]], datasets: Mapping[str, Dataset]
) -> dict[str, list[Any]]:
    """Return the columns of the table: the first rows of each data set."""
    shown = [row for rows in predictions.values() for row in rows[:TABLE_ROWS]]
    images: list[Image.Image] = []
    for dataset, rows in predictions.items():
        images += datasets[dataset].select(range(min(TABLE_ROWS, len(rows))))["image"]
    return {"image": images, **{column: [getattr(row, column) for row in shown] for column in _COLUMNS}}
