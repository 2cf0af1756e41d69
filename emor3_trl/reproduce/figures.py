"""Figures 3, 4 and 5 of the paper from finished cells: curves, a case, seconds of a step."""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from emor3_trl.evaluation.prediction import Prediction, load_predictions
from emor3_trl.files import replacing
from emor3_trl.report.evaluated import load_log_history
from emor3_trl.report.pictures import read_images
from emor3_trl.reproduce.cells import Cell
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import SYSTEMS

CURVES = ("grpo_g8", "dapo_g8", "dapo_accuracy_g8", "emo_r3_g8", "emo_r3_cold_start_g8")
CASE = ("grpo_g8", "emo_r3_g8")
COLOURS = {"grpo_g8": "#7f7f7f", "dapo_g8": "#d95f02", "dapo_accuracy_g8": "#e6ab02", "emo_r3_g8": "#1f78b4"}
COLOURS["emo_r3_cold_start_g8"] = "#33a02c"
PARTS = {"rollout": "#a6cee3", "reflection": "#1f78b4", "training": "#bdbdbd"}
Log = Sequence[Mapping[str, Any]]


def save_figures(scale: Scale, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Draw what the finished cells of the first training set allow, and return the PNGs that were written."""
    train = scale.train_on[0]
    finished = [cell for cell in cells if cell.train == train and cell.is_finished()]
    logs: dict[str, list[Log]] = {}
    for cell in finished:
        if cell.system.stage == "grpo":
            logs.setdefault(cell.system.name, []).append(load_log_history(cell.folder / "model"))
    written = []
    curves = {name: logs[name] for name in CURVES if name in logs}
    if curves:
        draw_curves(curves, scale, train, folder / "figure3.png")
        written.append(folder / "figure3.png")
    for cell in (cell for cell in finished if cell.system.name == CASE[0]):
        other = next((row for row in finished if row.system.name == CASE[1] and row.seed == cell.seed), None)
        case = (
            choose_case(load_predictions(cell.predictions), load_predictions(other.predictions), train)
            if other
            else None
        )
        if case and _draw_case(case, scale, train, folder / "figure4.png"):
            written.append(folder / "figure4.png")
            break
    seconds = {name: split_step(logs[name]) for name in CASE if name in logs}
    seconds = {name: parts for name, parts in seconds.items() if parts}
    if seconds:
        draw_seconds(seconds, folder / "figure5.png")
        written.append(folder / "figure5.png")
    return written


def take_median_curve(logs: Sequence[Log], key: str) -> list[tuple[int, float, float, float]]:
    """Return (step, median, lowest, highest) over runs of what they logged under a key."""
    by_step: dict[int, list[float]] = {}
    for log in logs:
        for entry in log:
            if key in entry:
                by_step.setdefault(int(entry["step"]), []).append(float(entry[key]))
    return [(step, median(values), min(values), max(values)) for step, values in sorted(by_step.items())]


def find_starved_steps(logs: Sequence[Log]) -> list[int]:
    """Return the steps at which the batch of a run stayed short."""
    return sorted({int(entry["step"]) for log in logs for entry in log if entry.get("rollout/starved_share", 0) > 0})


def draw_curves(runs: Mapping[str, Sequence[Log]], scale: Scale, train: str, path: Path) -> None:
    """Draw accuracy over steps while training and on each validation split; an x marks where a batch stayed short.

    Args:
        runs: the logs of all seeds by system.
        scale: the scale.
        train: what they train on.
        path: the PNG.
    """
    from matplotlib.figure import Figure

    others = [name for name in scale.data if name != train]
    panels = {f"training: {train}": "rewards/accuracy_reward/mean"}
    for name in (train, *others):
        where = "in-domain" if name == train else "out of domain"
        panels[f"validation: {name} ({where})"] = (
            f"eval/{Path(scale.data[name]).name}_{scale.splits['validation']}/accuracy"
        )
    figure = Figure(figsize=(3.5 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, key) in zip(axes, panels.items(), strict=True):
        for name, logs in runs.items():
            curve = take_median_curve(logs, key)
            if not curve:
                continue
            steps, middle, low, high = zip(*curve, strict=True)
            marker = "o" if key.startswith("eval/") else None
            axis.plot(steps, middle, color=COLOURS[name], marker=marker, markersize=3, linewidth=1.5)
            axis.fill_between(steps, low, high, color=COLOURS[name], alpha=0.12, linewidth=0)
            starved = [row for row in curve if row[0] in find_starved_steps(logs)]
            if starved and not key.startswith("eval/"):
                axis.plot([row[0] for row in starved], [row[1] for row in starved], "x", color="black", markersize=6)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, median over seeds (band: all)")
    handles = [axes[0].plot([], [], color=COLOURS[name], label=SYSTEMS[name].title)[0] for name in runs]
    if any(find_starved_steps(logs) for logs in runs.values()):
        handles += axes[0].plot([], [], "x", color="black", label="the pool starves: the batch stays short")
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    _save(figure, path)


def choose_case(
    before: Sequence[Prediction], after: Sequence[Prediction], dataset: str
) -> tuple[Prediction, Prediction] | None:
    """Return the first picture of a data set that the second system alone gets right, both in good form.

    Args:
        before: predictions of the first system.
        after: predictions of the second.
        dataset: the data set.
    """
    first = {row.id: row for row in before if row.dataset == dataset}
    pairs = [(first[row.id], row) for row in after if row.dataset == dataset and row.id in first]
    pairs = [(old, new) for old, new in pairs if new.correct and new.well_formed and not old.correct]
    return min(pairs, key=lambda pair: (not pair[0].well_formed, pair[0].answer is None), default=None)


def _draw_case(case: tuple[Prediction, Prediction], scale: Scale, train: str, path: Path) -> bool:
    """Draw a case if its picture is there, and return whether it is."""
    file = Path(scale.data[train]) / f"{scale.splits['test']}.parquet"
    for _, content in read_images(file, {case[0].id}):
        with Image.open(io.BytesIO(content)) as image:
            draw_case(image.convert("RGB"), dict(zip(CASE, case, strict=True)), path)
        return True
    return False


def draw_case(image: Image.Image, answers: Mapping[str, Prediction], path: Path) -> None:
    """Draw a picture, and beside it what each system wrote about it.

    Args:
        image: the picture.
        answers: prediction by system.
        path: the PNG.
    """
    from matplotlib.figure import Figure

    texts = {name: _wrap_completion(row) for name, row in answers.items()}
    height = max(3.2, 0.9 + 0.2 * max(text.count("\n") + 1 for text in texts.values()))
    figure = Figure(figsize=(13, height), layout="constrained")
    axes = figure.subplots(1, 1 + len(answers), width_ratios=[1, *[1.5] * len(answers)])
    emotion = next(iter(answers.values())).emotion
    axes[0].imshow(image)
    axes[0].set_title(f"picture: {emotion}", fontsize=11)
    for axis, (name, row) in zip(axes[1:], answers.items(), strict=True):
        verdict = "right" if row.correct else "wrong"
        axis.set_title(f"{SYSTEMS[name].title}: {row.answer or 'no answer'} ({verdict})", fontsize=11)
        axis.set_facecolor("#e8f1f8" if row.correct else "#fbefe2")
        text = axis.text(0.02, 0.97, texts[name], transform=axis.transAxes, va="top", fontsize=9, parse_math=False)
        text.set_in_layout(False)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    _save(figure, path)


def _wrap_completion(row: Prediction, width: int = 56) -> str:
    """Return a completion in short lines, each step and the answer in a paragraph of its own."""
    parts = re.split(r"(?<=</step1>)|(?<=</step2>)|(?<=</step3>)|(?<=</think>)", row.completion)
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in parts if part.strip())


def split_step(logs: Sequence[Log]) -> dict[str, float]:
    """Return the mean seconds of a step by part, the median over runs; nothing where no run logged them.

    The first step of each run is left out: engines compile and caches fill in it. Runs of version 0.2 have the
    seconds under other names.
    """
    runs = []
    for log in logs:
        steps = [entry for entry in log if "step_time" in entry and int(entry["step"]) > 1]
        if not steps:
            continue
        whole, rollout, reflection = (
            sum(entry.get(key, entry.get(former, 0.0)) for entry in steps) / len(steps)
            for key, former in (
                ("step_time", "step_time"),
                ("time/rollout", "rollout/seconds"),
                ("time/reflection", "reflection/seconds"),
            )
        )
        runs.append({"rollout": rollout, "reflection": reflection, "training": whole - rollout - reflection})
    return {part: median(run[part] for run in runs) for part in PARTS} if runs else {}


def draw_seconds(seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the seconds of a step by part, a bar for each system.

    Args:
        seconds: what `split_step` returns, by system.
        path: the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.9 + 0.7 * len(seconds)), layout="constrained")
    axis = figure.subplots()
    widest = max(sum(parts.values()) for parts in seconds.values())
    titles = [SYSTEMS[name].title for name in seconds]
    left = [0.0] * len(seconds)
    for part, colour in PARTS.items():
        widths = [parts[part] for parts in seconds.values()]
        bars = axis.barh(titles, widths, left=left, color=colour, label=part, height=0.55)
        labels = [f"{width:.2f}" if width > 0.06 * widest else "" for width in widths]
        axis.bar_label(
            bars, labels, label_type="center", fontsize=9, color="white" if part == "reflection" else "black"
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axis.text(total + 0.01 * widest, place, f"{total:.2f} s", va="center", fontsize=9)
    axis.set_xlim(0, 1.14 * widest)
    axis.set_xlabel("seconds of a step")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False, fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
