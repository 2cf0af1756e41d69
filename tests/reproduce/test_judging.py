"""A judging asks the model of a cell, about what that cell has written, and counts what it answers."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_grid import write_scale
from tiny_model import build_tiny_model, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.engine import Question
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.prediction import read_completion, save_predictions
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
from emor3_trl.reproduce import judging
from emor3_trl.reproduce.cells import list_cells

LABELS = ("awe", "fear")
# Step 1 and step 2 about the four test images, which are of awe and fear in turn; the last has no steps
STEPS = [("A wide sky", "One feels awe"), ("A dark road", "One feels cold"), ("A wide sky", "It is fear"), None]


def write_predictions(path: Path) -> None:
    rows = []
    for place, steps in enumerate(STEPS):
        row = {"id": f"sketches-{place}", "emotion": LABELS[place % 2], "label_space": list(LABELS)}
        text = "awe"
        if steps:
            text = f"<step1>{steps[0]}.</step1><step2>{steps[1]}.</step2><step3>Positive.</step3>\\boxed{{awe}}"
        rows += [read_completion(row, dataset, text) for dataset in ("sketches", "toons")]  # toons is not asked about
    path.parent.mkdir(parents=True)
    save_predictions(rows, path)


@pytest.fixture
def opinionated_model(tmp_path: Path) -> Path:
    """A random model whose answers depend on what it is asked: its weights are larger than a fresh model's."""
    folder = build_tiny_model(tmp_path / "opinionated", tied=False, seed=11)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and weight.dim() > 1:
                weight.mul_(4)
    model.save_pretrained(folder)
    return folder


def test_the_figures_are_the_answers_to_each_question_alone(
    tmp_path: Path, opinionated_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scale = write_scale(tmp_path)
    (cell,) = list_cells(scale, [4], 1, Path("runs"), ["emo_r3_g8"])
    (row,) = judging.list_judgings(scale, [cell])
    write_predictions(cell.predictions)
    (cell.folder / "model").symlink_to(opinionated_model)
    config = tmp_path / "judging.yaml"
    config.write_text(yaml.safe_dump(row.commands[0].values))
    monkeypatch.setattr(sys, "argv", ["judging.py", "--config", str(config)])
    judging.main()
    figures = json.loads(row.commands[0].finished.read_text())

    model = AutoModelForImageTextToText.from_pretrained(opinionated_model, dtype=torch.float32)
    engine = TransformersEngine(model, AutoProcessor.from_pretrained(opinionated_model))

    def ask(text: str, choices: tuple[str, ...], image: object = None) -> str:
        return engine.choose([Question(text, choices, image)])[0][0]

    images = tiny_pictures(4)
    own, other, read, kept = [], [], [], []
    for place, (steps, elsewhere) in enumerate(zip(STEPS[:3], (1, 2, 3), strict=True)):  # the next of another emotion
        trigger, feeling = (f"{step}." for step in steps or ())
        question = CONSISTENCY_QUESTION.format(trigger=trigger)
        own.append(ask(question, ("Yes", "No"), images[place]) == "Yes")
        other.append(ask(question, ("Yes", "No"), images[elsewhere]) == "Yes")
        asked = {"trigger": trigger, "labels": "awe, fear"}
        answer = ask(COHERENCE_QUESTION.format(feeling=feeling, **asked), LABELS)
        masked = feeling.replace("awe", "something").replace("fear", "something")
        read.append(answer == LABELS[place % 2])
        kept.append(ask(COHERENCE_QUESTION.format(feeling=masked, **asked), LABELS) == answer)
    assert figures == {
        "pictures": 4,
        "yes": pytest.approx(sum(own) / 3),
        "shuffled_yes": pytest.approx(sum(other) / 3),
        "coherence": pytest.approx(sum(read) / 3),
        "masked_coherence": pytest.approx(sum(kept) / 3),
    }
    assert len(set(figures.values())) > 3, "a model that answers everything alike would prove nothing"
