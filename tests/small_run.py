"""A folder of runs of four models on five images each, whose answers a test can count by hand."""

from pathlib import Path

from tiny_model import gold_completion, tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.prediction import Prediction, read_completion, save_predictions
from emor3_trl.files import write_json

LABELS = ["awe", "fear", "joy"]
# What each model answers to the five pictures of a split, whose emotions are awe, fear, joy, awe, fear
ANSWERS = {
    "base": ["awe", "joy", "awe", None, "joy"],
    "cold_start": ["awe", "fear", "awe", None, "joy"],
    "emo_r3": ["awe", "fear", "joy", "awe", "joy"],
    "emo_r3_cold_start": ["awe", "fear", "joy", "awe", "fear"],
}
EMOTIONS = ["awe", "fear", "joy", "awe", "fear"]


def make_predictions(model: str, split: str) -> list[Prediction]:
    """Return what a model answers to the five images of a split."""
    return [
        read_completion(
            {"id": f"{split}-{i}", "emotion": emotion, "label_space": LABELS},
            split,
            gold_completion(answer) if answer else "no steps",
        )
        for i, (emotion, answer) in enumerate(zip(EMOTIONS, ANSWERS[model], strict=True))
    ]


def write_small_run(folder: Path) -> Path:
    """Write a folder laid out as the demo's after its evaluation, with five images of one data set."""
    for model in ANSWERS:
        evaluation = folder / "evaluation" / model
        rows = {split: make_predictions(model, split) for split in ("twemoji", "test", "openmoji")}
        metrics = {key: value for split in rows.values() for key, value in summarise_predictions(split).items()}
        metrics["eval/test/sampled_format_rate"] = 0.5
        write_json(evaluation / "metrics.json", metrics)
        save_predictions([row for split in rows.values() for row in split], evaluation / "predictions.parquet")
    for model in ("emo_r3", "emo_r3_cold_start"):
        log = [
            {"step": step, "reward": step / 10, **{f"rewards/{name}_reward/mean": step / 10 for name in
             ("accuracy", "consistency", "coherence", "format")}}
            for step in range(1, 6)
        ]  # fmt: skip
        write_json(folder / model / "trainer_state.json", {"log_history": [*log, {"step": 5, "train_runtime": 1.0}]})
    rows_of_test = [
        {"id": f"test-{i}", "image": image, "emotion": emotion, "label_space": LABELS, "source": "made"}
        for i, (image, emotion) in enumerate(zip(tiny_pictures(5), EMOTIONS, strict=True))
    ]
    write_split(folder / "data", "test", rows_of_test)
    return folder
