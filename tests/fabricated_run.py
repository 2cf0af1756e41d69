"""A folder of runs as the recipes leave it, made up in seconds: drawn pictures, four models, three data sets, logs.

python tests/fabricated_run.py FOLDER [pictures of the in-domain set]
"""

import io
import json
import math
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from PIL import Image, ImageDraw

from emor3_trl.data import write_split
from emor3_trl.emotions import AROUSAL, EMOSET_8, EMOTION6, VALENCE, WEBEMO_7
from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.prediction import Prediction, read_completion, save_predictions
from emor3_trl.files import write_json
from emor3_trl.reflection import Reflection

SPACES = {"test": EMOSET_8, "emotion6": EMOTION6, "webemo": WEBEMO_7}
SIZES = {"test": 300, "emotion6": 90, "webemo": 60}
# How often each model is right by data set, how often its form is, and how often it agrees with itself
MODELS = {
    "base": ({"test": 0.52, "emotion6": 0.50, "webemo": 0.41}, 0.86, 0.70),
    "cold_start": ({"test": 0.66, "emotion6": 0.47, "webemo": 0.36}, 0.93, 0.72),
    "emo_r3": ({"test": 0.77, "emotion6": 0.59, "webemo": 0.50}, 0.99, 0.88),
    "emo_r3_cold_start": ({"test": 0.79, "emotion6": 0.58, "webemo": 0.50}, 0.99, 0.90),
}
CONFUSED_WITH = {
    "amusement": "excitement", "anger": "disgust", "awe": "contentment", "contentment": "awe", "disgust": "fear",
    "excitement": "amusement", "fear": "sadness", "sadness": "fear", "joy": "surprise", "surprise": "fear",
    "love": "joy", "confusion": "surprise",
}  # fmt: skip
SCENES = (
    "A small house stands alone under a heavy sky, and one window is lit.",
    "A wide valley opens below two hills while a low sun throws long shadows.",
    "Several bright balloons rise above a crowd that looks up.",
    "A single tree bends in the wind next to an empty path.",
)
FEELINGS = (
    "A person who sees this would slow down and feel {emotion} grow in them.",
    "Most people would recognise {emotion} here, because the light and the distance leave room for it.",
    "It is easy to imagine being there, and what would come first is {emotion}.",
)
TINTS = {"positive": (236, 178, 84), "negative": (74, 84, 120), "neutral": (130, 150, 140)}


def draw(emotion: str, rng: random.Random, size: int = 224) -> bytes:
    """Return a landscape as a JPEG file, its light by the valence of the emotion."""
    tint = [max(0, min(255, part + rng.randint(-45, 45))) for part in TINTS[VALENCE[emotion]]]
    image = Image.new("RGB", (size, size * 3 // 4))
    pen = ImageDraw.Draw(image)
    for y in range(image.height):
        light = 0.55 + 0.6 * y / image.height
        pen.line((0, y, size, y), fill=tuple(min(255, int(part * light)) for part in tint))
    sun = rng.randint(20, size - 20)
    pen.ellipse((sun - 16, 20, sun + 16, 52), fill=(250, 236, 190))
    for layer in range(3):
        base, phase = image.height * (0.55 + 0.15 * layer), rng.random() * 6
        ridge = [(x, base - 18 * math.sin(x / (28 + 9 * layer) + phase)) for x in range(0, size + 8, 8)]
        pen.polygon([(0, size), *ridge, (size, size)], fill=tuple(part // (2 + layer) for part in tint))
    for _ in range(rng.randint(2, 6)):
        x, y = rng.randint(0, size), rng.randint(60, image.height)
        pen.line((x, y, x, y + 14), fill=(40, 30, 30), width=2)
        pen.ellipse((x - 7, y - 9, x + 7, y + 5), fill=tuple(rng.randint(40, 220) for _ in range(3)))
    # Grain, as a photo has it, so that a thumbnail weighs what a real one does
    image = Image.blend(image, Image.effect_noise(image.size, 60).convert("RGB"), 0.3)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return file.getvalue()


def write(model: str, row: dict, dataset: str, rng: random.Random) -> Prediction:
    """Return what a model answers to one picture."""
    accuracy, form, agreement = MODELS[model]
    labels, emotion = row["label_space"], row["emotion"]
    answer = emotion
    if rng.random() > accuracy[dataset]:
        near = CONFUSED_WITH[emotion]
        answer = near if near in labels and rng.random() < 0.6 else rng.choice(labels)
    steps = [rng.choice(SCENES) + " " + rng.choice(SCENES), rng.choice(FEELINGS).format(emotion=answer)]
    steps.append(f"The emotion is {VALENCE[answer]} and {AROUSAL[answer]}.")
    text = "".join(f"<step{i}>{step}</step{i}>\n" for i, step in enumerate(steps, 1)) + f"\\boxed{{{answer}}}"
    if rng.random() > form:
        return read_completion(
            row, dataset, rng.choice([steps[0] + f" So I would say {answer}.", text.replace("</step2>", "")])
        )
    reflection = Reflection(
        consistency_answer="Yes" if rng.random() < agreement else "No",
        coherence_answer=answer if rng.random() < agreement else rng.choice(labels),
    )
    return read_completion(row, dataset, text, "set", reflection)


def training_log(model: str, steps: int = 60) -> list[dict]:
    """Return what a run of GRPO logs: rewards that rise and level off, with noise."""
    rng = random.Random(model)
    start = 0.72 if "cold" in model else 0.58
    log = []
    for step in range(1, steps + 1):
        rise = 1 - math.exp(-step / (steps / 4))
        ends = {"accuracy": (start, 0.92), "consistency": (0.7, 0.93), "coherence": (start - 0.05, 0.9)}
        parts = {key: low + (high - low) * rise + rng.gauss(0, 0.025) for key, (low, high) in ends.items()}
        parts["format"] = 0.86 + 0.13 * rise + rng.gauss(0, 0.01)
        parts = {key: min(1.0, value) for key, value in parts.items()}
        overall = 0.8 * parts["accuracy"] + 0.05 * (parts["consistency"] + parts["coherence"]) + 0.1 * parts["format"]
        entry = {"step": step, "reward": overall, "kl": 0.03 * rise + abs(rng.gauss(0, 0.002))}
        entry |= {f"rewards/{key}_reward/mean": value for key, value in parts.items()}
        log.append(entry | {"completions/mean_length": 140 - 35 * rise + rng.gauss(0, 4)})
    return [*log, {"step": steps, "train_runtime": 1.0}]


def fabricate(folder: Path, sizes: Mapping[str, int] = SIZES, *, pictures: bool = True, seed: int = 0) -> Path:
    """Write a folder of runs.

    Args:
        folder: where to.
        sizes: pictures by data set.
        pictures: write the data too.
        seed: decides everything.
    """
    rng = random.Random(seed)
    rows = {
        name: [
            {"id": f"{name}-{i:04}", "emotion": emotion, "label_space": list(SPACES[name].labels), "source": "drawn"}
            for i, emotion in enumerate(rng.choices(SPACES[name].labels, k=size))
        ]
        for name, size in sizes.items()
    }
    if pictures:
        for name, own in rows.items():
            write_split(folder / "data", name, [{**row, "image": draw(row["emotion"], rng)} for row in own])
    for model in MODELS:
        path = folder / "evaluation" / model
        predictions = {name: [write(model, row, name, rng) for row in own] for name, own in rows.items()}
        save_predictions([row for own in predictions.values() for row in own], path / "predictions.parquet")
        write_json(
            path / "metrics.json",
            {key: value for own in predictions.values() for key, value in summarise_predictions(own).items()},
        )
        config = {"data": str(folder / "data"), "splits": list(sizes), "prompt_style": "set", "engine": "vllm"}
        config |= {"dtype": "bfloat16", "max_tokens": 2048, "seed": 1, "model": str(folder / model)}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        write_json(path / "environment.json", {"started": "2026-01-12T09:30:00+00:00", "commit": "0f3b2c1"})
        if model.startswith("emo_r3"):
            (folder / model).mkdir(exist_ok=True)
            (folder / model / "trainer_state.json").write_text(json.dumps({"log_history": training_log(model)}))
    return folder


if __name__ == "__main__":
    own = {**SIZES, "test": int(sys.argv[2])} if len(sys.argv) > 2 else SIZES
    fabricate(Path(sys.argv[1]), own)
