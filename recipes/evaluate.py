"""Evaluate checkpoints: greedy accuracy with its interval, format, confusion, think-answer agreement.

    python recipes/evaluate.py                                             # the demo's four models
    python recipes/evaluate.py --models runs/mine --data data/emoset --output_dir runs/mine/evaluation
    python recipes/evaluate.py --config recipes/configs/demo/evaluate.yaml --sampled 0 --engine transformers

Each model gets a folder in output_dir: predictions.parquet, metrics.json, confusion.json, config.yaml, environment.json
and, with --sampled, sampled_predictions.parquet. A finished evaluation of the same weights and data is not repeated.
"""

import time
from pathlib import Path
from typing import Any

from datasets import Dataset

from emor3_trl.config import cli, parse, user_errors
from emor3_trl.data import content_hash, load_split
from emor3_trl.evaluation.arguments import EvaluationArguments, named_models, named_splits
from emor3_trl.evaluation.checkpoint import check_checkpoint, fingerprint
from emor3_trl.evaluation.generation import open_generator, resolve_engine
from emor3_trl.evaluation.metrics import all_labels, confusion_of, summarise
from emor3_trl.evaluation.prediction import Prediction, predict, save_predictions
from emor3_trl.evaluation.report import save_json
from emor3_trl.evaluation.tracking import log_to_wandb
from emor3_trl.runs import RunFolder

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "demo" / "evaluate.yaml"


def main() -> None:
    """Parse, check everything, then load, predict and save, model by model."""
    parsed = parse([EvaluationArguments], default_config=DEFAULT_CONFIG)
    (args,) = parsed.arguments
    with user_errors():
        resolve_engine(args.engine)
        models = named_models(args.models)
        splits = named_splits(args.splits, args.data)
        for path in models.values():
            check_checkpoint(path)
        datasets = {
            name: load_split(folder, split, args.prompt_style, args.max_samples, args.seed)
            for name, (folder, split) in splits.items()
        }
        hashes = {name: content_hash(folder, split) for name, (folder, split) in splits.items()}
        folders = {
            name: RunFolder(Path(args.output_dir) / name, _values(parsed.values, path, hashes), args.overwrite)
            for name, path in models.items()
        }
    for name, folder in folders.items():
        if folder.finished:
            folder.say_finished()
            continue
        print(f"{name}: {models[name]} on {', '.join(datasets)}", flush=True)
        folder.begin()
        evaluate(name, models[name], args, datasets, folder)


def evaluate(name: str, model: str, args: EvaluationArguments, datasets: dict[str, Dataset], folder: RunFolder) -> None:
    """Predict on all data sets with one model and write its folder; metrics.json comes last."""
    start = time.perf_counter()
    greedy: dict[str, list[Prediction]] = {}
    sampled: dict[str, list[Prediction]] = {}
    options: dict[str, Any] = {key: getattr(args, key) for key in ("prompt_style", "max_tokens", "batch_size", "seed")}
    with open_generator(
        model, engine=args.engine, dtype=args.dtype, max_tokens=args.max_tokens, seed=args.seed
    ) as generator:
        for split, dataset in datasets.items():
            greedy[split] = predict(generator, dataset, split, reflect=args.reflect, **options)
            if args.sampled:
                count = min(args.sampled_pictures or len(dataset), len(dataset))
                some = dataset.shuffle(seed=args.seed).select(range(count))
                sampled[split] = predict(
                    generator, some, split, temperature=1.0, n=args.sampled, reflect=False, **options
                )
    metrics: dict[str, float] = {}
    for split in datasets:
        metrics |= summarise(greedy[split], sampled.get(split, ()))
    metrics["eval/seconds"] = round(time.perf_counter() - start, 1)
    predictions = [prediction for split in greedy.values() for prediction in split]
    save_predictions(predictions, folder.path / "predictions.parquet")
    if sampled:
        save_predictions(
            [row for split in sampled.values() for row in split], folder.path / "sampled_predictions.parquet"
        )
    confusions = {
        split: {"labels": all_labels(rows), "rows_emotion_columns_answer_then_none": confusion_of(rows).tolist()}
        for split, rows in greedy.items()
    }
    save_json(confusions, folder.path / "confusion.json")
    if "wandb" in args.report_to:
        log_to_wandb(name, folder.values, metrics, predictions, datasets, folder.path)
    folder.finish(metrics)
    for split in datasets:
        accuracy, low, high, form = (
            metrics[f"eval/{split}/{key}"] for key in ("accuracy", "accuracy_low", "accuracy_high", "format_rate")
        )
        print(f"  {split}: accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}], format {form:.3f}", flush=True)


def _values(values: dict[str, Any], model: str, hashes: dict[str, str]) -> dict[str, Any]:
    """Return what decides one model's result: the configuration for this model alone, its weights and the data."""
    own = {key: value for key, value in values.items() if key not in ("models", "overwrite")}
    return {**own, "model": model, "model_fingerprint": fingerprint(model), "data_fingerprints": hashes}


if __name__ == "__main__":
    cli(main)
