"""Evaluate base models, checkpoints and adapters on one data set or several; compare them on the same pictures.

    python recipes/evaluate.py                                             # the demo's five models
    python recipes/evaluate.py --model runs/mine --data data/emoset data/emotion6 data/webemo
    python recipes/evaluate.py --model base=Qwen/Qwen2.5-VL-3B-Instruct lora=runs/lora --data data/emoset --sampled 4

Each model gets a folder in output_dir: predictions.parquet, metrics.json, confusion.json and .png, calibration_*.png,
config.yaml, environment.json and, with --sampled, sampled_predictions.parquet. comparisons.json holds each model
against the first. A stopped evaluation goes on where it was; a finished one is not repeated.
"""

import time
from pathlib import Path
from typing import Any

from datasets import Dataset

from emor3_trl.checkpoints import check_checkpoint, check_fit, estimate_room, find_base, fingerprint
from emor3_trl.context_length import longest_prompt
from emor3_trl.data import content_hash
from emor3_trl.demo import default_config
from emor3_trl.engines.opening import compute_dtype, resolve_engine
from emor3_trl.engines.successive import SuccessiveEngine
from emor3_trl.evaluation.arguments import (
    EvaluationArguments,
    check_folders,
    choose_options,
    choose_style,
    load_datasets,
    name_models,
    name_splits,
    select_in_domain,
)
from emor3_trl.evaluation.comparison import compare_with_first
from emor3_trl.evaluation.journal import check_journals, draw_rows
from emor3_trl.evaluation.metrics import average_accuracies, summarise_predictions
from emor3_trl.evaluation.plots import save_calibration, save_confusions
from emor3_trl.evaluation.prediction import Prediction, load_predictions, predict_emotions, save_predictions
from emor3_trl.evaluation.sepm import check_family
from emor3_trl.evaluation.tracking import log_evaluation
from emor3_trl.files import check_room, write_json
from emor3_trl.model_card.trainer import renew_model_card
from emor3_trl.printing import escape_controls
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.folder import JOURNALS, NOT_COMPARED, RunFolder
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, check everything, then load, predict and save, model by model."""
    parsed = parse_arguments([EvaluationArguments], default_config(__file__), about=__doc__)
    (args,) = parsed.arguments
    with user_errors():
        models = name_models(args.models, args.direct)
        splits = name_splits(args.splits, args.data)
        for path in models.values():
            check_checkpoint(path, args.base_model)
        check_folders(args.output_dir, models)
        datasets = load_datasets(splits, args)
        folders = open_folders(args, parsed.values, models, splits)
        waiting = {name: path for name, path in models.items() if not folders[name].is_finished}
        longest = {
            name: longest_prompt(datasets, *check_fit(path, args.base_model), args.max_tokens)
            for name, path in waiting.items()
        }
        for path in waiting.values() if args.method == "sepm" else ():
            check_family(path, args.base_model)
        completions = sum(map(len, datasets.values())) * (1 + args.sampled)
        room = estimate_room(waiting.values(), args.base_model, completions, args.max_tokens)
        check_room(args.output_dir, room, "the evaluation")
        for name in waiting:
            folders[name].lock()
            checked, journals = {} if args.overwrite else datasets, folders[name].path / JOURNALS
            check_journals(journals, checked, args.sampled, args.sampled_pictures, args.seed)
    with SuccessiveEngine(**{key: getattr(args, key) for key in ("engine", "dtype", "max_tokens", "seed")}) as engines:
        for name, folder in folders.items():
            if folder.is_finished:
                renew_model_card(Path(models[name]), folder.path)  # it may have been killed in between
                folder.say_nothing_to_do()
                continue
            print(escape_controls(f"{name}: {models[name]} on {', '.join(datasets)}"), flush=True)
            folder.begin()
            evaluate(choose_style(args, name), datasets, longest[name], folder, engines)
    if len(models) > 1:
        with user_errors():
            rows = {name: load_predictions(folder.path / "predictions.parquet") for name, folder in folders.items()}
        write_json(Path(args.output_dir) / "comparisons.json", compare_with_first(rows))


def open_folders(
    args: EvaluationArguments, values: dict[str, Any], models: dict[str, str], splits: dict[str, tuple[str, str]]
) -> dict[str, RunFolder]:
    """Return each model's folder with what decides its result; raise FileExistsError for another evaluation's."""
    shared = {key: value for key, value in values.items() if key not in ("models", "direct", "overwrite")} | {
        "engine": resolve_engine(args.engine),
        "dtype": str(compute_dtype(args.dtype)).removeprefix("torch."),
        "in_domain": select_in_domain(list(splits), args.in_domain),
    }
    shared["data_fingerprints"] = {name: content_hash(folder, split) for name, (folder, split) in splits.items()}
    folders = {}
    for name, model in models.items():
        style = {key: getattr(choose_style(args, name), key) for key in ("prompt_style", "reflect")}
        settings = {**shared, **style, "model": model, "model_fingerprint": fingerprint(model)}
        base = find_base(model, args.base_model)
        if base != model:
            settings["base_fingerprint"] = fingerprint(base)
        same = NOT_COMPARED | {"model", "data", "base_model"}  # their fingerprints are compared
        folders[name] = RunFolder(Path(args.output_dir) / name, settings, args.overwrite, not_compared=same)
    return folders


def evaluate(
    args: EvaluationArguments, datasets: dict[str, Dataset], longest: int, folder: RunFolder, engines: SuccessiveEngine
) -> None:
    """Predict on all data sets with one model and write its folder; metrics.json comes last."""
    name, start = folder.path.name, time.perf_counter()
    greedy: dict[str, list[Prediction]] = {}
    sampled: dict[str, list[Prediction]] = {}
    journals = folder.path / JOURNALS
    model, (options, drawing) = name_models(args.models, args.direct)[name], choose_options(args)
    with engines.serve(model, base_model=args.base_model, max_prompt_tokens=longest, scratch=folder.path) as engine:
        for split, dataset in datasets.items():
            greedy[split] = predict_emotions(engine, dataset, split, options, journal=journals / f"{split}.jsonl")
            if args.sampled:
                rows, journal = draw_rows(dataset, args.sampled_pictures, args.seed), f"{split}.sampled.jsonl"
                sampled[split] = predict_emotions(engine, rows, split, drawing, journal=journals / journal)
    metrics: dict[str, float] = {}
    for split in datasets:
        metrics |= summarise_predictions(greedy[split], sampled.get(split, ()))
    right = {split: (sum(prediction.correct for prediction in rows), len(rows)) for split, rows in greedy.items()}
    metrics |= average_accuracies(right, folder.values["in_domain"])
    metrics["eval/seconds"] = round(time.perf_counter() - start, 1)
    predictions, drawn = ([row for rows in part.values() for row in rows] for part in (greedy, sampled))
    save_predictions(predictions, folder.path / "predictions.parquet")
    if sampled:
        save_predictions(drawn, folder.path / "sampled_predictions.parquet")
    save_confusions(name, greedy, folder.path)
    save_calibration(name, greedy, folder.path)
    folder.write_metrics(metrics)
    renew_model_card(Path(model), folder.path)
    log_evaluation(args.report_to, name, folder.values, metrics, greedy, datasets, folder.path)
    for split in datasets:
        keys = ("accuracy", "accuracy_low", "accuracy_high", "format_rate")
        accuracy, low, high, form = (metrics[f"eval/{split}/{key}"] for key in keys)
        print(f"  {split}: accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}], format {form:.3f}", flush=True)


if __name__ == "__main__":
    run_recipe(main)
