"""The report of a run folder: a table of models by data sets, the reward curves, and completions to read."""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.files import replacing
from emor3_trl.report.pictures import read_pictures

# Folders of a comparison, in the order of its table, and what they are called there. EMO-R3# is the paper's name for
# EMO-R3 after Cold-Start-Emo (Sec. 4.2).
MODELS = {
    "base": "base",
    "cold_start": "cold start",
    "emo_r3": "EMO-R3",
    "emo_r3_cold_start": "EMO-R3#",
}
REWARDS = ("accuracy", "consistency", "coherence", "format")
# How metrics.json calls what summary.json calls n, accuracy, low, …; the last two only where they were measured
_FIELDS = {
    "n": "n",
    "accuracy": "accuracy",
    "low": "accuracy_low",
    "high": "accuracy_high",
    "format_rate": "format_rate",
}
_OPTIONAL = ("sampled_format_rate", "sampled_accuracy", "agreement", "consistency", "names_valence")

Summary = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Example:
    """A completion to read.

    Args:
        kind: "right", "changed" (the first model was wrong, the second is right) or "wrong".
        prediction: the completion and what was read from it.
        before: the first model's prediction about the same picture.
    """

    kind: str
    prediction: Prediction
    before: Prediction | None = None


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
    return {name: _summarise_model(path, in_domain) for name, path in evaluated_models(evaluation).items()}


def evaluated_models(evaluation: str | Path) -> dict[str, Path]:
    """Return the metrics.json of each evaluated model by name, known models first.

    Raises:
        FileNotFoundError: if no model has been evaluated.
    """
    found = {path.parent.name: path for path in sorted(Path(evaluation).glob("*/metrics.json"))}
    if not found:
        raise FileNotFoundError(f"There is no evaluation in '{evaluation}'. Run recipes/evaluate.py first.")
    names = [name for name in MODELS if name in found] + [name for name in found if name not in MODELS]
    return {name: found[name] for name in names}


def _summarise_model(path: Path, in_domain: str) -> dict[str, dict[str, float]]:
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON ({error}). Evaluate the model again with --overwrite.") from error
    datasets = [key.split("/")[1] for key in metrics if key.startswith("eval/") and key.endswith("/n")]
    if not datasets:
        raise ValueError(f"'{path}' holds no eval/<dataset>/n. Evaluate the model again with --overwrite.")
    if in_domain in datasets:
        datasets.sort(key=lambda name: name != in_domain)
    summary = {}
    for dataset in datasets:
        values = {name: metrics[f"eval/{dataset}/{key}"] for name, key in _FIELDS.items()}
        values |= {name: metrics[f"eval/{dataset}/{name}"] for name in _OPTIONAL if f"eval/{dataset}/{name}" in metrics}
        summary["in_domain" if dataset == in_domain else dataset] = values
    return summary


def table(summary: Summary) -> str:
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
        cells = [_cell(values[name]) if name in values else "-" for name in datasets]
        rows.append([MODELS.get(model, model), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _cell(values: Mapping[str, float]) -> str:
    accuracy, low, high = (f"{100 * values[key]:5.1f}" for key in ("accuracy", "low", "high"))
    return f"{accuracy} [{low.strip()}, {high.strip()}]".ljust(20) + f" {values['format_rate']:.2f}"


def load_log_history(run: str | Path) -> list[dict[str, Any]]:
    """Return what a run's trainer logged: log_history.json, or the trainer state of its last checkpoint.

    Raises:
        FileNotFoundError: if the run has neither.
    """
    run = Path(run)
    if (run / "log_history.json").is_file():
        return json.loads((run / "log_history.json").read_text())
    states = [run / "trainer_state.json", *run.glob("checkpoint-*/trainer_state.json")]
    states = [path for path in states if path.is_file()]
    if not states:
        raise FileNotFoundError(f"'{run}' has no log_history.json and no trainer_state.json. Did its training start?")
    histories = [json.loads(path.read_text())["log_history"] for path in states]
    return max(histories, key=len)


def plot_rewards(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> None:
    """Draw the overall reward and its parts over the steps.

    Args:
        runs: log history by the name for the legend.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, tuple[str, ...]] = {"overall": ("reward",)}
    panels |= {name: (f"rewards/{name}_reward/mean",) for name in REWARDS}
    panels["format"] += ("rewards/think_format_reward/mean",)  # of the plain GRPO baseline
    top = max((entry["reward"] for history in runs.values() for entry in history if "reward" in entry), default=1.0)
    figure = Figure(figsize=(3 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, keys) in zip(axes, panels.items(), strict=True):
        for name, history in runs.items():
            points = [(entry["step"], entry[key]) for entry in history for key in keys if {key, "step"} <= entry.keys()]
            axis.plot([step for step, _ in points], [value for _, value in points], label=name, linewidth=1.5)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylim(-0.03, 1.03 * max(1.0, top))  # the reference's rewards go up to 1 + lambda1
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean reward")
    axes[0].legend(loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def choose_examples(before: Sequence[Prediction], after: Sequence[Prediction]) -> list[Example]:
    """Choose three completions of the trained model: right, right where the first model was wrong, and wrong.

    Args:
        before: predictions of the first model.
        after: predictions of the trained model about the same pictures.

    Returns:
        Up to three examples about distinct pictures, well-formed completions first; what does not occur is left out.
    """
    first = {(prediction.dataset, prediction.id): prediction for prediction in before}
    pairs = [(first.get((prediction.dataset, prediction.id)), prediction) for prediction in after]
    pairs.sort(key=lambda pair: not pair[1].well_formed)  # stable: the order of the data otherwise
    kinds = {
        "changed": [pair for pair in pairs if pair[0] is not None and not pair[0].correct and pair[1].correct],
        "right": [pair for pair in pairs if pair[1].correct and (pair[0] is None or pair[0].correct)],
        "wrong": [pair for pair in pairs if not pair[1].correct],
    }
    chosen = {kind: Example(kind, found[0][1], found[0][0]) for kind, found in kinds.items() if found}
    return [chosen[kind] for kind in ("right", "changed", "wrong") if kind in chosen]


def show_example(example: Example, width: int = 96) -> str:
    """Return an example as text: the picture, its emotion, and the steps or the malformed completion, wrapped."""
    prediction = example.prediction
    headline = f"{example.kind.upper()}: picture {prediction.id} ({prediction.dataset}), emotion {prediction.emotion}"
    if example.kind == "changed" and example.before is not None:
        headline += f"; before training the answer was {example.before.answer or 'none'}"
    if prediction.well_formed and prediction.trigger:
        parts = {name: getattr(prediction, name) for name in ("trigger", "feeling", "conclusion", "answer")}
    else:
        parts = {"malformed": prediction.completion, "answer": prediction.answer}
    lines = [
        textwrap.fill(
            " ".join(str(text if text is not None else "none").split()),
            width,
            initial_indent=f"  {name:<11}",
            subsequent_indent=" " * 13,
        )
        for name, text in parts.items()
    ]
    return "\n".join([headline, *lines])


def save_example_pictures(examples: Sequence[Example], files: Mapping[str, Path], folder: str | Path) -> list[Path]:
    """Save the pictures of examples as `example_<kind>.png`.

    Args:
        examples: see `choose_examples`.
        files: Parquet file of each data set's pictures; an example whose picture is not there is left out.
        folder: where to write.
    """
    paths = []
    for example in examples:
        file = files.get(example.prediction.dataset, Path())
        for _, picture in read_pictures(file, {example.prediction.id}):
            path = Path(folder) / f"example_{example.kind}.png"
            with Image.open(io.BytesIO(picture)) as image, replacing(path) as temporary:
                image.convert("RGB").save(temporary, "PNG")
            paths.append(path)
    return paths
