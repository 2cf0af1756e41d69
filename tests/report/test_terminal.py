"""The report on a fabricated runs folder, and the recipe that writes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_model import gold_completion, tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.prediction import Prediction, read_completion, save_predictions
from emor3_trl.files import write_json
from emor3_trl.report.terminal import (
    choose_examples,
    load_log_history,
    plot_rewards,
    show_example,
    summarise_run,
    table,
)

LABELS = ["awe", "fear", "joy"]
REPO = Path(__file__).parents[2]
# What each model answers to the five pictures of a split, whose emotions are awe, fear, joy, awe, fear
ANSWERS = {
    "base": ["awe", "joy", "awe", None, "joy"],
    "cold_start": ["awe", "fear", "awe", None, "joy"],
    "emo_r3": ["awe", "fear", "joy", "awe", "joy"],
    "emo_r3_cold_start": ["awe", "fear", "joy", "awe", "fear"],
}
EMOTIONS = ["awe", "fear", "joy", "awe", "fear"]


def predictions(model: str, split: str) -> list[Prediction]:
    return [
        read_completion(
            {"id": f"{split}-{i}", "emotion": emotion, "label_space": LABELS},
            split,
            gold_completion(answer) if answer else "no steps",
        )
        for i, (emotion, answer) in enumerate(zip(EMOTIONS, ANSWERS[model], strict=True))
    ]


@pytest.fixture
def run(tmp_path):
    """A folder laid out as the demo's after its evaluation."""
    for model in ANSWERS:
        folder = tmp_path / "evaluation" / model
        rows = {split: predictions(model, split) for split in ("twemoji", "test", "openmoji")}
        metrics = {key: value for split in rows.values() for key, value in summarise_predictions(split).items()}
        metrics["eval/test/sampled_format_rate"] = 0.5
        write_json(folder / "metrics.json", metrics)
        save_predictions([row for split in rows.values() for row in split], folder / "predictions.parquet")
    for model in ("emo_r3", "emo_r3_cold_start"):
        log = [
            {"step": step, "reward": step / 10, **{f"rewards/{name}_reward/mean": step / 10 for name in
             ("accuracy", "consistency", "coherence", "format")}}
            for step in range(1, 6)
        ]  # fmt: skip
        write_json(tmp_path / model / "trainer_state.json", {"log_history": [*log, {"step": 5, "train_runtime": 1.0}]})
    pictures = [
        {"id": f"test-{i}", "image": image, "emotion": emotion, "label_space": LABELS, "source": "made"}
        for i, (image, emotion) in enumerate(zip(tiny_pictures(5), EMOTIONS, strict=True))
    ]
    write_split(tmp_path / "data", "test", pictures)
    return tmp_path


def test_the_summary_has_the_promised_shape(run):
    summary = summarise_run(run / "evaluation")
    assert list(summary) == ["base", "cold_start", "emo_r3", "emo_r3_cold_start"]
    for model, values in summary.items():
        assert next(iter(values)) == "in_domain"
        assert set(values) == {"in_domain", "twemoji", "openmoji"}
        right = sum(answer == emotion for answer, emotion in zip(ANSWERS[model], EMOTIONS, strict=True))
        for split in values.values():
            assert {"n", "accuracy", "low", "high", "format_rate"} <= set(split)
            assert split["n"] == 5
            assert split["accuracy"] == right / 5
            assert split["low"] < split["accuracy"] <= split["high"]
        assert values["in_domain"]["sampled_format_rate"] == 0.5
    assert summary["base"]["in_domain"]["format_rate"] == 0.8


def test_the_table_is_aligned_and_names_every_model_and_set(run):
    lines = table(summarise_run(run / "evaluation")).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["base", "cold start", "EMO-R3", "EMO-R3#"]
    starts = {line.index("[") for line in lines[2:]}
    assert len(starts) == 1
    assert "in-domain (n=5)" in lines[0]
    assert " 80.0 [37.6, 96.4]" in lines[4]


def test_a_model_that_lacks_a_set_leaves_a_gap(run):
    summary = summarise_run(run / "evaluation")
    del summary["cold_start"]["openmoji"]
    assert table(summary).splitlines()[3].rstrip().endswith("-")


def test_examples_are_right_changed_and_wrong(run):
    examples = choose_examples(predictions("base", "test"), predictions("emo_r3", "test"))
    assert [(example.kind, example.prediction.id) for example in examples] == [
        ("right", "test-0"),
        ("changed", "test-1"),
        ("wrong", "test-4"),
    ]
    shown = show_example(examples[1], width=60)
    assert shown.startswith("CHANGED: picture test-1 (test), emotion fear; before training the answer was joy")
    assert all(len(line) <= 60 for line in shown.splitlines()[1:])
    for part in ("trigger", "feeling", "conclusion", "answer"):
        assert f"\n  {part}" in shown


def test_examples_that_do_not_occur_are_left_out():
    rows = predictions("emo_r3_cold_start", "test")
    assert [example.kind for example in choose_examples(rows, rows)] == ["right"]


def test_a_malformed_completion_is_shown_as_it_is():
    (wrong,) = choose_examples([], [predictions("base", "test")[3]])
    assert wrong.kind == "wrong"
    assert "malformed  no steps" in show_example(wrong)


def test_the_longest_log_of_a_run_is_read(tmp_path):
    for step in (2, 10):
        log = {"log_history": [{"step": s} for s in range(step)]}
        write_json(tmp_path / f"checkpoint-{step}" / "trainer_state.json", log)
    assert len(load_log_history(tmp_path)) == 10
    write_json(tmp_path / "log_history.json", [{"step": 1}])
    assert load_log_history(tmp_path) == [{"step": 1}]
    with pytest.raises(FileNotFoundError, match="Did its training start"):
        load_log_history(tmp_path / "nothing")


def test_a_plot_is_drawn_even_of_an_empty_log(tmp_path):
    plot_rewards({"EMO-R3": []}, tmp_path / "plot" / "rewards.png")
    assert Image.open(tmp_path / "plot" / "rewards.png").width > 500


@pytest.mark.parametrize("name", ["format", "think_format"])
def test_a_plot_holds_the_highest_reward_and_either_format(tmp_path, monkeypatch, name):
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.append(figure) or path.touch()
    )
    log = [{"step": step, "reward": 1.1, f"rewards/{name}_reward/mean": 0.5} for step in range(3)]
    plot_rewards({"GRPO": log}, tmp_path / "rewards.png")
    overall, *_, form = figures[0].axes
    assert overall.get_ylim()[1] > 1.1  # what the reference's rewards reach
    assert form.lines[0].get_ydata().tolist() == [0.5] * 3


def test_missing_evaluations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Run recipes/evaluate\.py first"):
        summarise_run(tmp_path)
    write_json(tmp_path / "base" / "metrics.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="holds no eval/"):
        summarise_run(tmp_path)
    (tmp_path / "base" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        summarise_run(tmp_path)


def recipe(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "recipes" / "report.py"), *arguments]
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_recipe_writes_all_it_promises(run):
    result = recipe(str(run))
    assert result.returncode == 0, result.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["emo_r3"]["in_domain"]["accuracy"] == 0.8
    assert Image.open(run / "rewards.png").height > 200
    for kind, index in (("right", 0), ("changed", 1), ("wrong", 4)):
        saved = Image.open(run / f"example_{kind}.png")
        assert saved.tobytes() == tiny_pictures(5)[index].tobytes()
    assert "EMO-R3#" in result.stdout
    assert "WRONG: picture test-4" in result.stdout
    assert "CHANGED: picture test-1" in (run / "examples.txt").read_text()
    assert "report.html" in result.stdout
    assert "EMO-R3#" in (run / "report.html").read_text()


def test_the_recipe_names_a_missing_folder_without_a_traceback(tmp_path):
    result = recipe(str(tmp_path / "nothing"))
    assert result.returncode == 2
    assert "There is no folder" in result.stderr
    assert "Traceback" not in result.stderr
