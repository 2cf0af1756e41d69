"""The demo's base model: a Qwen2.5-VL of about three million parameters, taught on the spot to think about emotions.

It stands in for a pretrained vision-language model. After about three minutes on two cores it describes what it sees,
writes Structured Emotional Thinking, answers both reflection questions, and holds an opinion of its own about some
faces (`World.prior`). Nothing here is specific to EMO-R3, and only the training splits are used.
"""

import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from emor3_trl.data import load_split
from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.pictures import load_drawings, write_demo_data
from emor3_trl.demo.processor import build_demo_processor
from emor3_trl.demo.teaching import BaseTraining, teach_language, teach_vision
from emor3_trl.demo.untrained import build_untrained_model
from emor3_trl.demo.worlds import WORLDS
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.metrics import compute_rate
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.files import naming, read_mapping, write_json

# Where prepare_data.py puts both; each world has a folder in the first
DEMO_DATA, DEMO_BASE = Path("runs/demo/data"), Path("runs/demo/base")

# About three million parameters
TEXT_SIZES = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.05,
}  # fmt: skip
VISION_SIZES = {
    "depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "fullatt_block_indexes": [1, 3],
    "initializer_range": 0.05,
}  # fmt: skip


def build_demo_model(
    data_dir: str | Path, output_dir: str | Path, seed: int = 0, training: BaseTraining | None = None
) -> dict[str, float]:
    """Build and teach the demo's base model; a finished one of the same seed and settings is kept.

    Args:
        data_dir: folder of `write_demo_data`; the model learns from the train splits of all three worlds, and is
            measured on validation.
        output_dir: folder for the checkpoint and its processor.
        seed: of the weights, the texts and the order of examples.
        training: steps, batches and learning rates.

    Returns:
        What `measure_model` does, and `parameters`.

    Raises:
        FileNotFoundError: if `data_dir` is not the demo's data.
        FileExistsError: if `output_dir` holds another model.
    """
    training = training or BaseTraining()
    output_dir = Path(output_dir)
    settings = {"seed": seed, "training": asdict(training)}
    record_path = output_dir / "base_training.json"
    if record_path.exists():
        record = read_mapping(record_path, f"Delete the folder '{output_dir}' and prepare it again.")
        if settings.items() <= record.items():
            print(f"Reusing the base model in {output_dir} (seed {seed}): {_format_rates(record['validation'])}.")
            return dict(record["validation"])
    if output_dir.exists():
        raise FileExistsError(
            f"{output_dir} holds another model than the one of seed {seed}. Choose another --output_dir, or delete "
            "that folder."
        )
    model, processor = _teach_model(data_dir, seed, training)
    validation = measure_model(model, processor, data_dir)
    validation["parameters"] = sum(parameter.numel() for parameter in model.parameters())

    save_whole(model, processor, output_dir, {record_path.name: {**settings, "validation": validation}})
    print(f"Base model in {output_dir}: {_format_rates(validation)}.")
    return validation


def _teach_model(
    data_dir: str | Path, seed: int, training: BaseTraining
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    pictures = load_lessons(data_dir)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    processor = build_demo_processor(training.vocabulary_size)
    model = build_untrained_model(processor, TEXT_SIZES, VISION_SIZES)
    teach_vision(model, processor, pictures, training, rng)
    teach_language(model, processor, pictures, training, rng)
    # Two minutes leave a little probability on every token, which ends in one slip per completion when sampled. A
    # larger final norm is a lower temperature that is part of the weights: T = 1 stays T = 1 for GRPO.
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(training.sharpness)
    return model, processor


def load_pictures(data_dir: str | Path, split: str) -> list[tuple[Image.Image, Drawing]]:
    """Return the pictures of a split of all three worlds, with what is in them."""
    drawings = load_drawings(data_dir)
    return [
        (row["image"].convert("RGB"), drawings[row["id"]])
        for name in WORLDS
        for row in load_split(Path(data_dir) / name, split)
    ]


def load_lessons(data_dir: str | Path) -> list[tuple[Image.Image, Drawing]]:
    """Return the pictures of the train splits, each as often as it is a lesson."""
    pictures = load_pictures(data_dir, "train")
    return [picture for picture in pictures for _ in range(WORLDS[picture[1].world].lessons)]


def save_whole(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    output_dir: Path,
    records: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a model's folder; a folder of that name is a finished model, whatever interrupts.

    Args:
        model, processor: what the folder holds.
        output_dir: the folder, which does not exist.
        records: JSON files that the folder holds besides, by their names.
    """
    temporary = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with naming(temporary):
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
    for name, record in records.items():
        write_json(temporary / name, record)
    temporary.rename(output_dir)


def ensure_demo(data: str | Path, model: str | Path | None) -> None:
    """Draw the demo's data and build its base model, where a run of the demo needs them and they are missing."""
    if Path(data).parent != DEMO_DATA:
        return
    with PartialState().main_process_first():  # of several ranks one makes them, and the others find them
        if not (DEMO_DATA / "manifest.json").is_file():
            print(f"{DEMO_DATA} is missing: drawing the demo's pictures first", flush=True)
            write_demo_data(DEMO_DATA)
        if model and Path(model) == DEMO_BASE and not DEMO_BASE.is_dir():
            print(f"{DEMO_BASE} is missing: building the demo's base model first (about three minutes)", flush=True)
            build_demo_model(DEMO_DATA, DEMO_BASE)


def measure_model(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    data_dir: str | Path,
    pictures: int | None = None,
) -> dict[str, float]:
    """Return what a model does under the structured prompt on the validation splits.

    Args:
        model, processor: the model.
        data_dir: folder of `write_demo_data`.
        pictures: of each split, the first so many, which have about as many of each emotion; all by default.

    Returns:
        `accuracy/<world>` and `format_rate`, greedy, and `sampled_format_rate` at temperature 1.
    """
    engine = TransformersEngine(model, processor)
    rates: dict[str, float] = {}
    formed: dict[float, list[bool]] = {0.0: [], 1.0: []}
    for world in WORLDS:
        rows = load_split(Path(data_dir) / world, "validation")
        rows = rows.select(range(min(pictures or len(rows), len(rows))))
        for temperature, outcomes in formed.items():
            options = PredictionOptions(temperature=temperature, max_tokens=160, reflect=False)
            title = f"{world}, {'sampled' if temperature else 'greedy'}"
            predictions = predict_emotions(engine, rows, title, options)
            outcomes += [prediction.well_formed for prediction in predictions]
            if not temperature:
                rates[f"accuracy/{world}"] = compute_rate([prediction.correct for prediction in predictions])
    return {**rates, "format_rate": compute_rate(formed[0.0]), "sampled_format_rate": compute_rate(formed[1.0])}


def _format_rates(validation: dict[str, float]) -> str:
    accuracies = ", ".join(f"{world} {validation[f'accuracy/{world}']:.2f}" for world in WORLDS)
    return (
        f"validation accuracy {accuracies}, format {validation['format_rate']:.2f} greedy and "
        f"{validation['sampled_format_rate']:.2f} sampled, {validation['parameters'] / 1e6:.1f} M parameters"
    )
