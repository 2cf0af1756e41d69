"""What a trained model answers about its own steps: the figures of Table 4 that no accuracy shows.

A cell of Table 4 is followed by a judging: the model looks again at the greedy completions that its evaluation has
written about the in-domain test set, on its last weights. The trained model and its evaluation stay as they are, so a
model that an earlier table has trained is judged as one of today's is.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from emor3_trl.data import load_split
from emor3_trl.diagnostics.probes import ask_probes
from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.engine import Engine
from emor3_trl.engines.opening import open_engine
from emor3_trl.evaluation.prediction import Prediction, load_predictions
from emor3_trl.files import read_mapping, write_json
from emor3_trl.reflection import Reflector
from emor3_trl.reproduce.cells import JUDGING, Cell, Command
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import TABLES

PICTURES = 300  # at most; of each the policy is asked four questions
FIGURES = ("yes", "shuffled_yes", "coherence", "masked_coherence")


def list_judgings(scale: Scale, cells: Sequence[Cell]) -> list[Cell]:
    """Return a cell that judges each of Table 4's cells, which it needs.

    Args:
        scale: the scale.
        cells: of any tables.
    """
    trained = scale.list_trainings(4)  # other tables train on other worlds, too
    return [_build_judging(scale, cell) for cell in cells if cell.train in trained and cell.system.name in TABLES[4]]


def _build_judging(scale: Scale, cell: Cell) -> Cell:
    assert cell.train is not None
    folder = cell.folder / JUDGING
    values = {
        "models": [f"{cell.system.name}={cell.commands[0].values['output_dir']}"],
        "splits": [f"{cell.train}={scale.data[cell.train]}/{scale.splits['test']}"],
        "predictions": str(cell.predictions),
        "output_dir": str(folder),
        **{name: scale.evaluation[name] for name in ("engine", "dtype") if name in scale.evaluation},
    }
    command = Command(JUDGING, values, folder / "metrics.json")
    return Cell(cell.system, cell.train, cell.seed, folder, (command,), cell)


def judge_predictions(engine: Engine, images: Sequence[Any], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Ask a model about completions of its own.

    Args:
        engine: with the model.
        images: of the predictions.
        predictions: greedy ones, of one data set.

    Returns:
        `pictures`, and of the completions that have steps to look at: `yes`, the share whose step 1 it finds true of
        its own image; `shuffled_yes`, of another; `coherence`, the share from whose steps it reads the true emotion;
        `masked_coherence`, the share from which it reads the same emotion once the labels in them are masked. What
        there is nothing to compute from is left out.
    """
    texts, spaces = [row.completion for row in predictions], [LabelSpace.of(row.label_space) for row in predictions]
    reflections = Reflector(engine).reflect(images, texts, spaces)
    emotions = [row.emotion for row in predictions]
    probes = ask_probes(engine, images, texts, spaces, reflections, emotions)
    figures = {"pictures": float(len(predictions))}
    verdicts = [row.consistency_answer == "Yes" for row in reflections if row.consistency_answer is not None]
    readings = [
        row.coherence_answer == emotion
        for row, emotion in zip(reflections, emotions, strict=True)
        if row.coherence_answer is not None
    ]
    for name, answers in (("yes", verdicts), ("coherence", readings)):
        if answers:
            figures[name] = sum(answers) / len(answers)
    asked = {name.removeprefix("diagnostics/"): value for name, value in probes.items()}
    return figures | {name: value for name, value in asked.items() if name in FIGURES}


def judge_model(values: Mapping[str, Any]) -> dict[str, float]:
    """Open a model, and judge what it has written about the first pictures of a split.

    Args:
        values: what a judging's YAML holds.
    """
    (_, _, model), (name, _, place) = values["models"][0].partition("="), values["splits"][0].partition("=")
    folder, _, split = place.rpartition("/")
    predictions = [row for row in load_predictions(values["predictions"]) if row.dataset == name][:PICTURES]
    images = {row["id"]: row["image"] for row in load_split(folder, split, "set")}
    options = {key: values[key] for key in ("engine", "dtype") if key in values}
    with open_engine(model, scratch=values["output_dir"], **options) as engine:
        return judge_predictions(engine, [images[row.id] for row in predictions], predictions)


def summarise_judgings(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Return the medians over runs of each system's figures; what no run has is left out.

    Args:
        cells: those of `list_judgings`.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if cell.is_finished():
            metrics = read_mapping(cell.commands[0].finished, f"Delete '{cell.folder}' and run the grid again.")
            for name in FIGURES:
                if name in metrics:
                    found.setdefault(cell.system.name, {}).setdefault(name, []).append(metrics[name])
    return {
        system: {name: round(median(values), 4) for name, values in figures.items()}
        for system, figures in found.items()
    }


def main() -> None:
    """Judge the model that a YAML names, and write metrics.json."""
    values = read_mapping(Path(sys.argv[sys.argv.index("--config") + 1]), "Run the grid again.")
    write_json(Path(values["output_dir"]) / "metrics.json", judge_model(values))


if __name__ == "__main__":
    main()
