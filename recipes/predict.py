"""Which emotion is in these pictures? A model's three steps, answer and probabilities for images of your own.

    python recipes/predict.py photo.jpg --model runs/demo/emo_r3
    python recipes/predict.py photos more/photo.png --model runs/mine --label_space joy,anger,awe

Writes predictions.json, predictions.parquet and predictions.html to output_dir. An image that cannot be read is named
and does not stop the rest; the exit code is 1 then. A stopped prediction goes on where it was.
"""

import sys

from emor3_trl.checkpoints import check_checkpoint, check_fit, fingerprint, read_token_side
from emor3_trl.context_length import longest_prompt
from emor3_trl.engines.opening import compute_dtype, open_engine, resolve_engine
from emor3_trl.evaluation.journal import check_journals
from emor3_trl.evaluation.photos import (
    PhotoArguments,
    choose_budget,
    choose_label_space,
    count_answers,
    digest_photos,
    find_training_data,
    list_images,
    read_photos,
)
from emor3_trl.evaluation.prediction import Prediction, PredictionOptions, predict_emotions, save_predictions
from emor3_trl.files import write_json
from emor3_trl.printing import escape_controls
from emor3_trl.report.photo_page import write_photo_page
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.folder import JOURNALS, NOT_COMPARED, RunFolder
from emor3_trl.run.recipe import run_recipe, user_errors

NAME = "predictions"
SHOWN = 20  # images that the terminal lists, and five of which with their steps


def main() -> None:
    """Parse, look at everything, then load, predict, show and save."""
    parsed = parse_arguments([PhotoArguments], argv=name_images(sys.argv[1:]), about=__doc__)
    (args,) = parsed.arguments
    with user_errors():
        check_checkpoint(args.model, args.base_model)
        processor, context = check_fit(args.model, args.base_model)
        training = find_training_data(args.model)
        space = choose_label_space(args, training)
        budget = choose_budget(args, training, read_token_side(args.model, args.base_model))
        files = list_images(args.images)
        photos, faults = read_photos(files, space, budget, args.prompt_style)
        if not len(photos):
            file, fault = next(iter(faults.items()))
            raise ValueError(f"None of the {len(files)} images can be used: '{file}' {fault}.")
        longest = longest_prompt({NAME: photos}, processor, context, args.max_tokens or 1)
        max_tokens = args.max_tokens or min(2048, context - longest)
        settings = {**parsed.values, "files": photos["id"][:], "labels": list(space.labels), "budget": vars(budget)}
        settings |= {"model_fingerprint": fingerprint(args.model), "engine": resolve_engine(args.engine)}
        settings["dtype"] = str(compute_dtype(args.dtype)).removeprefix("torch.")
        same = NOT_COMPARED | {"model", "base_model", "images"}
        sources = {"images": digest_photos(photos)}
        folder = RunFolder(args.output_dir, settings, args.overwrite, sources, not_compared=same)
        if folder.is_finished:
            folder.say_nothing_to_do()
            return
        folder.lock()
        if not args.overwrite:
            check_journals(folder.path / JOURNALS, {NAME: photos})
    folder.begin()
    options = PredictionOptions(
        args.prompt_style, max_tokens=max_tokens, batch_size=args.batch_size, reflect=args.reflect,
        score_labels=True,
    )  # fmt: skip
    load = {key: getattr(args, key) for key in ("base_model", "engine", "dtype")} | {"max_tokens": max_tokens}
    journal = folder.path / JOURNALS / f"{NAME}.jsonl"
    with open_engine(args.model, max_prompt_tokens=longest, scratch=folder.path, **load) as engine:
        predictions = predict_emotions(engine, photos, NAME, options, journal=journal)
    show_predictions(predictions)
    for file, fault in faults.items():
        print(escape_controls(f"{file}: not used, it {fault}"), file=sys.stderr)
    save_predictions(predictions, folder.path / f"{NAME}.parquet")
    write_json(folder.path / f"{NAME}.json", [describe_prediction(row) for row in predictions])
    images = (row["image"] for row in photos)  # decoded one by one
    write_photo_page(f"Emotions, by {args.model}", predictions, images, faults, folder.path / f"{NAME}.html")
    folder.write_metrics({"images": len(predictions), "not_used": len(faults)})
    print(f"Written to {folder.path}: {NAME}.html, {NAME}.json, {NAME}.parquet")
    if faults:
        raise SystemExit(1)


def name_images(arguments: list[str]) -> list[str]:
    """Return the arguments with `--images` before the images that stand before all options."""
    return ["--images", *arguments] if arguments and not arguments[0].startswith("-") else arguments


def show_predictions(predictions: list[Prediction]) -> None:
    """Print what the model answers, how sure it is, and the steps of the first ones."""
    for number, row in enumerate(predictions[:SHOWN]):
        chosen = dict(zip(row.label_space, row.label_probabilities or (), strict=False)).get(row.answer or "")
        sure = "" if chosen is None else f" ({chosen:.2f})"
        print(escape_controls(f"{row.id}: {row.answer or 'no answer'}{sure}"))
        if number < SHOWN // 4:
            steps = [step for step in (row.trigger, row.feeling, row.conclusion) if step]
            print("".join(f"  {escape_controls(step)}\n" for step in steps), end="")
    if len(predictions) > SHOWN:
        print(f"... and {len(predictions) - SHOWN:,} more: {count_answers([row.answer for row in predictions])} in all")


def describe_prediction(row: Prediction) -> dict[str, object]:
    """Return a prediction for predictions.json."""
    fields = ("answer", "trigger", "feeling", "conclusion", "well_formed", "consistency_answer", "coherence_answer")
    probabilities = row.label_probabilities and dict(zip(row.label_space, row.label_probabilities, strict=True))
    described = {"file": row.id} | {name: getattr(row, name) for name in fields}
    return described | {"probabilities": probabilities, "completion": row.completion}


if __name__ == "__main__":
    run_recipe(main)
