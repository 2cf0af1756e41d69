"""Predictions: what a model writes about each picture of a data set, and what is read from it.

`predict` reads what a engine writes with the same parser and the same reflection as training. Completions are data:
a malformed one is a wrong prediction, never an error.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm.auto import tqdm

from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.engine import Engine
from emor3_trl.evaluation.label_probabilities import label_probabilities
from emor3_trl.files import replacing
from emor3_trl.prompts import PromptStyle, prompt_text
from emor3_trl.reflection import Reflection, Reflector
from emor3_trl.thinking import answered, boxed_answer, is_plain_think, parse

# Between the streams of two seeds, whose rows count up from there
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Prediction:
    """One completion about one picture; also a row of predictions.parquet.

    Args:
        id: the picture's id in its data set.
        dataset: the split it is from.
        emotion: its true label.
        label_space: the labels to choose from.
        completion: what the model wrote.
        trigger, feeling, conclusion: the three steps, None unless the completion is well formed SET.
        answer: the label that the completion answers, None if it names none.
        well_formed: whether the completion has the form that its prompt asks for.
        correct: whether `answer` is `emotion`.
        consistency_answer, coherence_answer: the model's reflection about its own steps, None where it was not asked.
        temperature: 0 for greedy.
        sample: index among the completions of this picture.
        completion_tokens: its length in tokens.
        finished: whether it ended by itself, not at the limit.
        label_probabilities: of the labels, in their order, where it wrote one (see `label_probabilities`).
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


def predict(
    engine: Engine,
    dataset: Dataset,
    name: str,
    *,
    prompt_style: PromptStyle = "set",
    temperature: float = 0.0,
    n: int = 1,
    max_tokens: int = 2048,
    batch_size: int = 64,
    reflect: bool = True,
    score_labels: bool = False,
    seed: int = 0,
    progress: bool = True,
    journal: Path | None = None,
) -> list[Prediction]:
    """Ask for the emotion of every picture of a data set.

    Args:
        engine: what writes and reflects.
        dataset: rows with `id`, `image`, `emotion`, `label_space` (see `emor3_trl.data.load_split`).
        name: what the data set is called in metrics and predictions.
        prompt_style: how to ask; it also decides what well formed means.
        temperature: 0 is greedy.
        n: completions per picture.
        max_tokens: longest completion.
        batch_size: pictures per call of the engine.
        reflect: ask the model about its own steps ("set" only).
        score_labels: also ask for the probability of each label where an answer stands.
        seed: sampling seed.
        progress: show a bar with the accuracy so far.
        journal: file that keeps each finished batch; the batches that it holds already are not asked again. A batch
            depends on nothing but its rows, so a stopped evaluation that goes on equals one that was not stopped.

    Returns:
        One prediction per completion, in the order of the rows.
    """
    reflector = Reflector(engine)
    predictions = _finished(journal) if journal else []
    bar = tqdm(total=len(dataset), initial=len(predictions) // n, desc=name, unit="picture", disable=not progress)
    if predictions:
        bar.set_postfix(_so_far(predictions))
    for start in range(len(predictions) // n, len(dataset), batch_size):
        rows = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        texts = [prompt_text(prompt_style, LabelSpace.of(row["label_space"]).labels) for row in rows]
        images = [row["image"] for row in rows]
        completions = engine.generate(
            texts, images, n=n, temperature=temperature, max_tokens=max_tokens, seed=seed * SEED_STRIDE + start
        )
        flat = [(row, sample, each) for row in range(len(rows)) for sample, each in enumerate(completions[row])]
        about = [images[row] for row, *_ in flat], [each.text for *_, each in flat]
        spaces = [rows[row]["label_space"] for row, *_ in flat]
        probabilities: Sequence[list[float] | None] = [None] * len(flat)
        if score_labels:
            labels = [LabelSpace.of(space).labels for space in spaces]
            probabilities = label_probabilities(engine, [texts[row] for row, *_ in flat], *about, labels)
        reflections = [Reflection()] * len(flat)
        if reflect and prompt_style == "set":
            reflections = reflector.reflect(*about, spaces)
        batch = [
            replace(
                read(rows[row], name, each.text, prompt_style, reflection, temperature, sample),
                completion_tokens=each.tokens,
                finished=each.finished,
                label_probabilities=probability,
            )
            for (row, sample, each), reflection, probability in zip(flat, reflections, probabilities, strict=True)
        ]
        if journal:
            _append(journal, batch)
        predictions += batch
        bar.update(len(rows))
        bar.set_postfix(_so_far(predictions))
    bar.close()
    return predictions


def _so_far(predictions: Sequence[Prediction]) -> dict[str, str]:
    return {
        "accuracy": f"{sum(p.correct for p in predictions) / len(predictions):.3f}",
        "format": f"{sum(p.well_formed for p in predictions) / len(predictions):.3f}",
    }


def _append(journal: Path, batch: Sequence[Prediction]) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps([asdict(prediction) for prediction in batch]) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _finished(journal: Path) -> list[Prediction]:
    """Return the predictions of a journal's whole batches, and cut off what a stop left of the next one."""
    if not journal.is_file():
        return []
    whole, _, torn = journal.read_bytes().rpartition(b"\n")
    if torn:
        with journal.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    return [Prediction(**row) for line in whole.splitlines() for row in json.loads(line)]


def read(
    row: dict[str, Any],
    name: str,
    completion: str,
    prompt_style: PromptStyle = "set",
    reflection: Reflection | None = None,
    temperature: float = 0.0,
    sample: int = 0,
) -> Prediction:
    """Read one completion about one row, as the rewards of training do."""
    space = LabelSpace.of(row["label_space"])
    reflection = reflection or Reflection()
    steps = parse(completion) if prompt_style == "set" else None
    answer = answered(completion, space)
    well_formed = {
        "set": steps is not None, "think": is_plain_think(completion), "direct": boxed_answer(completion) is not None,
    }  # fmt: skip
    return Prediction(
        id=row["id"],
        dataset=name,
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
        temperature=temperature,
        sample=sample,
    )


def save_predictions(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Write predictions as parquet, all or nothing."""
    types = {"label_space": pa.list_(pa.string()), "well_formed": pa.bool_(), "correct": pa.bool_()}
    types |= {"temperature": pa.float64(), "sample": pa.int64(), "completion_tokens": pa.int64()}
    types |= {"finished": pa.bool_(), "label_probabilities": pa.list_(pa.float64())}
    schema = pa.schema([(field.name, types.get(field.name, pa.string())) for field in fields(Prediction)])
    table = pa.Table.from_pylist([asdict(prediction) for prediction in predictions], schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def load_predictions(path: str | Path) -> list[Prediction]:
    """Read what `save_predictions` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There are no predictions at '{path}'. Run recipes/evaluate.py first.")
    return [Prediction(**row) for row in pq.read_table(path).to_pylist()]
