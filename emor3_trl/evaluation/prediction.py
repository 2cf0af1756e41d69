"""Predictions: what a model writes about each image of a data set, and what is read from it.

`predict_emotions` reads completions with the parser and the reflection of training. Completions are data: a malformed
one is a wrong prediction, never an error.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.engine import Engine
from emor3_trl.evaluation.journal import append_to_journal, read_journal
from emor3_trl.evaluation.label_probabilities import score_labels
from emor3_trl.files import replacing
from emor3_trl.printing import escape_controls
from emor3_trl.prompts import PromptStyle, prompt_text
from emor3_trl.reflection import Reflection, Reflector
from emor3_trl.thinking import answered, boxed_answer, is_plain_think, parse

if TYPE_CHECKING:
    from datasets import Dataset

    from emor3_trl.evaluation.sepm import Decision

# Between the streams of two seeds, whose rows count up from there
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Prediction:
    """One completion about one image; also a row of predictions.parquet.

    Args:
        id: the image's id in its data set.
        dataset: what its data set is called.
        emotion: its true label.
        label_space: the labels to choose from.
        completion: what the model wrote.
        trigger, feeling, conclusion: the three steps, None unless the completion is well formed SET.
        answer: the label that the completion answers, None if it names none.
        well_formed: whether the completion has the form that its prompt asks for.
        correct: whether `answer` is `emotion`.
        consistency_answer, coherence_answer: the model's reflection about its own steps, None where it was not asked.
        temperature: 0 for greedy.
        sample: index among the completions of this image.
        completion_tokens: its length in tokens.
        finished: whether it ended by itself, not at the limit.
        label_probabilities: of the labels, in their order, where it wrote one (see `score_labels`).
        polarity: what SEPM took the image for: positive, negative or ambiguous; None, as the next two, without SEPM.
        positive_probability: of "positive" against "negative", in SEPM's first stage.
        kept_image_tokens: how many of the image's tokens SEPM's second stage saw.
    """

    id: str
    dataset: str
    emotion: str
    label_space: list[str]
    completion: str
    trigger: str | None
    feeling: str | None
    conclusion: str | None
    answer: str | None
    well_formed: bool
    correct: bool
    consistency_answer: str | None = None
    coherence_answer: str | None = None
    temperature: float = 0.0
    sample: int = 0
    completion_tokens: int | None = None
    finished: bool | None = None
    label_probabilities: list[float] | None = None
    polarity: str | None = None
    positive_probability: float | None = None
    kept_image_tokens: int | None = None


# Of predictions.parquet; what is not listed is text
_TYPES = {"label_space": pa.list_(pa.string()), "well_formed": pa.bool_(), "correct": pa.bool_()}
_TYPES |= {"temperature": pa.float64(), "sample": pa.int64(), "completion_tokens": pa.int64()}
_TYPES |= {"finished": pa.bool_(), "label_probabilities": pa.list_(pa.float64())}
_TYPES |= {"positive_probability": pa.float64(), "kept_image_tokens": pa.int64()}
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in fields(Prediction)])


@dataclass(frozen=True)
class PredictionOptions:
    """How a model is asked for emotions.

    Args:
        prompt_style: how to ask; it also decides what well formed means.
        method: "ask" with one question, or "sepm" (see `ask_in_two_stages`).
        temperature: 0 is greedy.
        num_completions: completions per image.
        max_tokens: longest completion.
        batch_size: images per call of the engine.
        reflect: ask the model about its own steps ("set" only); about the whole image with SEPM, too.
        score_labels: also ask for the probability of each label where an answer stands; never with SEPM, whose prompt
            is another one.
        seed: sampling seed.
    """

    prompt_style: PromptStyle = "set"
    method: Literal["ask", "sepm"] = "ask"
    temperature: float = 0.0
    num_completions: int = 1
    max_tokens: int = 2048
    batch_size: int = 64
    reflect: bool = True
    score_labels: bool = False
    seed: int = 0


def predict_emotions(
    engine: Engine,
    dataset: "Dataset",
    name: str,
    options: PredictionOptions | None = None,
    *,
    progress: bool = True,
    journal: Path | None = None,
) -> list[Prediction]:
    """Ask for the emotion of every image of a data set.

    Args:
        engine: what writes and reflects.
        dataset: rows with `id`, `image`, `emotion`, `label_space` (see `emor3_trl.data.load_split`).
        name: what the data set is called in metrics and predictions.
        options: how to ask.
        progress: show a bar with the accuracy so far.
        journal: file that keeps each finished batch; batches that it holds already are not asked again. A batch depends
            on nothing but its rows, so a stopped evaluation that goes on equals one that was not stopped.

    Returns:
        One prediction per completion, in the order of the rows.
    """
    options = options or PredictionOptions()
    stored = read_journal(journal, dataset["id"], options.num_completions) if journal else []
    predictions = [Prediction(**row) for row in stored]
    rows_done = len(predictions) // options.num_completions
    bar = tqdm(total=len(dataset), initial=rows_done, desc=escape_controls(name), unit="picture", disable=not progress)
    if predictions:
        bar.set_postfix(_summarise_progress(predictions))
    for start in range(rows_done, len(dataset), options.batch_size):
        rows = [dataset[index] for index in range(start, min(start + options.batch_size, len(dataset)))]
        batch = _predict_batch(engine, rows, name, options, seed=options.seed * SEED_STRIDE + start)
        if journal:
            append_to_journal(journal, batch)
        predictions += batch
        bar.update(len(rows))
        bar.set_postfix(_summarise_progress(predictions))
    bar.close()
    return predictions


def _predict_batch(
    engine: Engine, rows: Sequence[dict[str, Any]], name: str, options: PredictionOptions, seed: int
) -> list[Prediction]:
    label_spaces = [LabelSpace.of(row["label_space"]).labels for row in rows]
    texts = [prompt_text(options.prompt_style, labels) for labels in label_spaces]
    pictures = [row["image"] for row in rows]
    decoding: dict[str, Any] = {"temperature": options.temperature, "max_tokens": options.max_tokens, "seed": seed}
    decisions: Sequence[Decision | None] = [None] * len(rows)
    if options.method == "sepm":
        style = options.prompt_style
        from emor3_trl.evaluation.sepm import ask_in_two_stages  # imports the engine, which a report is spared

        siblings, decisions = ask_in_two_stages(
            engine, pictures, label_spaces, style, n=options.num_completions, **decoding
        )
    else:
        siblings = engine.generate(texts, pictures, n=options.num_completions, **decoding)
    # From here on one entry per completion
    entries = [(number, *entry) for number, row in enumerate(siblings) for entry in enumerate(row)]
    images = [rows[number]["image"] for number, *_ in entries]
    completions = [completion.text for *_, completion in entries]
    spaces = [LabelSpace.of(rows[number]["label_space"]) for number, *_ in entries]
    probabilities: Sequence[list[float] | None] = [None] * len(entries)
    if options.score_labels and options.method == "ask":
        labels = [space.labels for space in spaces]
        probabilities = score_labels(engine, [texts[number] for number, *_ in entries], images, completions, labels)
    reflections = [Reflection()] * len(entries)
    if options.reflect and options.prompt_style == "set":
        reflections = Reflector(engine).reflect(images, completions, spaces)
    predictions = [
        replace(
            read_completion(rows[number], name, completion.text, options.prompt_style, reflection),
            temperature=options.temperature,
            sample=sample,
            completion_tokens=completion.tokens,
            finished=completion.finished,
            label_probabilities=probability,
        )
        for (number, sample, completion), reflection, probability in zip(
            entries, reflections, probabilities, strict=True
        )
    ]
    return [
        _add_decision(prediction, decisions[number])
        for prediction, (number, *_) in zip(predictions, entries, strict=True)
    ]


def _add_decision(prediction: Prediction, decision: "Decision | None") -> Prediction:
    if decision is None:
        return prediction
    return replace(
        prediction,
        polarity=decision.polarity,
        positive_probability=decision.positive_probability,
        kept_image_tokens=decision.kept_tokens,
    )


def _summarise_progress(predictions: Sequence[Prediction]) -> dict[str, str]:
    columns = {"accuracy": [row.correct for row in predictions], "format": [row.well_formed for row in predictions]}
    if not predictions[0].emotion:  # of images of one's own, whose true one nobody knows
        del columns["accuracy"]
    return {name: f"{sum(values) / len(values):.3f}" for name, values in columns.items()}


def read_completion(
    row: dict[str, Any],
    dataset: str,
    completion: str,
    prompt_style: PromptStyle = "set",
    reflection: Reflection | None = None,
) -> Prediction:
    """Read one completion about one row, as the rewards of training do.

    Args:
        row: `id`, `emotion` and `label_space`.
        dataset: what its data set is called.
        completion: what the model wrote.
        prompt_style: how it was asked.
        reflection: what it answered about its own steps, if it was asked.
    """
    space = LabelSpace.of(row["label_space"])
    reflection = reflection or Reflection()
    steps = parse(completion) if prompt_style == "set" else None
    answer = answered(completion, space)
    well_formed = {
        "set": steps is not None, "think": is_plain_think(completion), "direct": boxed_answer(completion) is not None,
    }  # fmt: skip
    return Prediction(
        id=row["id"],
        dataset=dataset,
        emotion=row["emotion"],
        label_space=list(space.labels),
        completion=completion,
        trigger=steps.trigger if steps else None,
        feeling=steps.feeling if steps else None,
        conclusion=steps.conclusion if steps else None,
        answer=answer,
        well_formed=well_formed[prompt_style],
        correct=answer is not None and answer == space.normalise(row["emotion"]),
        consistency_answer=reflection.consistency_answer,
        coherence_answer=reflection.coherence_answer,
    )


def save_predictions(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Write predictions as Parquet, all or nothing."""
    table = pa.Table.from_pylist([asdict(prediction) for prediction in predictions], schema=SCHEMA)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def load_predictions(path: str | Path) -> list[Prediction]:
    """Read what `save_predictions` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There are no predictions at '{path}'. Run recipes/evaluate.py first.")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        table = table.cast(pa.schema([SCHEMA.field(name) for name in table.column_names]))
        return [Prediction(**row) for row in table.to_pylist()]
    except (pa.ArrowException, TypeError, ValueError, LookupError, OSError, MemoryError) as error:
        raise ValueError(
            f"'{path}' cannot be read as predictions ({error}). Delete the folder '{Path(path).parent}' and evaluate "
            "the model again."
        ) from error


def split_by_dataset(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Return the predictions of each data set."""
    datasets: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        datasets.setdefault(prediction.dataset, []).append(prediction)
    return datasets
