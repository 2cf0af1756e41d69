"""The table of a run folder in the terminal: models by data sets, from their metrics."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.files import read_mapping
from emor3_trl.report.evaluated import MODELS, Evaluation, list_evaluated_models

# What metrics.json calls the fields of summary.json, and those that stand there only where they were measured
_FIELDS = {"n": "n", "accuracy": "accuracy", "low": "accuracy_low", "high": "accuracy_high",
           "format_rate": "format_rate"}  # fmt: skip
CALIBRATION = {
    "ece": "ECE",
    "brier": "Brier",
    "auroc": "AUROC of being right",
    "selective_accuracy": "selective accuracy",
}
_OPTIONAL = (
    *("sampled_format_rate", "sampled_accuracy", "agreement", "consistency", "names_valence", "n_with_probabilities"),
    *(f"{name}{end}" for name in CALIBRATION for end in ("", "_low", "_high")),
)

CURE = "Delete its folder and evaluate the model again."

Summary = dict[str, dict[str, dict[str, float]]]


def summarise_run(evaluation: str | Path, in_domain: str = "test") -> Summary:
    """Gather the metrics of all evaluated models.

    Args:
        evaluation: a folder of evaluations, one folder per model.
        in_domain: the split that is reported as `in_domain`; the others keep their names.

    Returns:
        {model: {data set: {n, accuracy, low, high, format_rate, and what else was measured}}}, known models first.

    Raises:
        FileNotFoundError: if no model has been evaluated.
        ValueError: if a metrics.json holds no evaluation.
    """
    return {name: _summarise_model(path, in_domain) for name, path in list_evaluated_models(evaluation).items()}


def _summarise_model(path: Path, in_domain: str) -> dict[str, dict[str, float]]:
    metrics = read_mapping(path, CURE)
    datasets = [key.split("/")[1] for key in metrics if key.startswith("eval/") and key.endswith("/n")]
    if not datasets:
        raise ValueError(f"'{path}' holds no eval/<dataset>/n. {CURE}")
    if in_domain in datasets:
        datasets.sort(key=lambda name: name != in_domain)
    summary: dict[str, dict[str, float]] = {}
    for dataset in datasets:
        values: dict[str, Any] = {name: metrics.get(f"eval/{dataset}/{key}") for name, key in _FIELDS.items()}
        values |= {name: metrics[f"eval/{dataset}/{name}"] for name in _OPTIONAL if f"eval/{dataset}/{name}" in metrics}
        faults = [name for name, value in values.items() if type(value) not in (int, float)]
        if faults:
            raise ValueError(f"'{path}' holds no number as {faults[0]} of {dataset}. {CURE}")
        summary["in_domain" if dataset == in_domain else dataset] = values
    return summary


def check_summary(summary: Summary, evaluations: Sequence[Evaluation], in_domain: str = "test") -> None:
    """Make sure that a summary says what the predictions say: a damaged metrics.json may still be JSON.

    Args:
        summary: see `summarise_run`.
        evaluations: those of the same folder of runs.
        in_domain: as for `summarise_run`.

    Raises:
        ValueError: naming the metrics.json that differs.
    """
    for model in evaluations:
        path = model.run / "evaluation" / model.name / "metrics.json"
        shown = {in_domain if name == "in_domain" else name: values for name, values in summary[model.name].items()}
        if shown.keys() != model.predictions.keys():
            raise ValueError(f"'{path}' is of {', '.join(shown)}, and the predictions beside it are not. {CURE}")
        for dataset, values in shown.items():
            metrics = summarise_predictions(model.predictions[dataset])
            for name, key in _FIELDS.items():
                value, expected = values[name], metrics[f"eval/{dataset}/{key}"]
                if not math.isclose(value, expected, abs_tol=1e-9):
                    raise ValueError(f"'{path}' says {name} {value} on {dataset}; its predictions {expected}. {CURE}")


def format_table(summary: Summary) -> str:
    """Return the summary as aligned plain text: accuracy in percent with its 95% interval, and format rate.

    Args:
        summary: see `summarise_run`.
    """
    datasets = list(dict.fromkeys(name for model in summary.values() for name in model))
    sizes = {name: sorted({int(model[name]["n"]) for model in summary.values() if name in model}) for name in datasets}
    head = ["accuracy in % [95% interval], format"]
    head += [f"{name.replace('_', '-')} (n={'/'.join(map(str, sizes[name]))})" for name in datasets]
    rows = [head]
    for model, values in summary.items():
        cells = [_format_cell(values[name]) if name in values else "-" for name in datasets]
        rows.append([MODELS.get(model, model), *cells])
    return _align(rows)


def format_calibration(summary: Summary) -> str:
    """Return the calibration of the in-domain data set as plain text, or nothing if none has label probabilities.

    Args:
        summary: see `summarise_run`.
    """
    first = next(iter(next(iter(summary.values()))))
    measured = {model: values[first] for model, values in summary.items() if "ece" in values.get(first, {})}
    if not measured:
        return ""
    rows = [[f"calibration on {first.replace('_', '-')} [95% interval]", "with probabilities", *CALIBRATION.values()]]
    for model, values in measured.items():
        ends = [[values[key] for key in (name, f"{name}_low", f"{name}_high") if key in values] for name in CALIBRATION]
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*numbers) if len(numbers) == 3 else "-" for numbers in ends]
        counts = f"{values.get('n_with_probabilities', 0):.0f} of {values['n']:.0f}"
        rows.append([MODELS.get(model, model), counts, *cells])
    return _align(rows)


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts, its first row underlined."""
    head = rows[0]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _format_cell(values: Mapping[str, float]) -> str:
    accuracy, low, high = (f"{100 * values[key]:5.1f}" for key in ("accuracy", "low", "high"))
    return f"{accuracy} [{low.strip()}, {high.strip()}]".ljust(20) + f" {values['format_rate']:.2f}"
