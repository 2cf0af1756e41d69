"""One picture, asked of one model: the prediction that recipes/predict.py makes of it, while it is being written."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from emor3_trl.context_length import longest_prompt
from emor3_trl.data.pictures import Budget
from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.streaming import stream_completion
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.label_probabilities import score_labels
from emor3_trl.evaluation.photos import read_photos
from emor3_trl.evaluation.prediction import Prediction, read_completion
from emor3_trl.prompts import PromptStyle, prompt_text
from emor3_trl.reflection import Reflector

NAME = "picture"


@dataclass(frozen=True)
class AskedModel:
    """A model that answers on the page.

    Args:
        name: what the page calls it.
        role: "trained" or "base".
        engine: the model, loaded.
        context: tokens that it sees, prompt and completion.
    """

    name: str
    role: str
    engine: TransformersEngine
    context: int


@dataclass(frozen=True)
class Asking:
    """How pictures are shown and asked about, as in training.

    Args:
        budget: how large a picture is shown.
        prompt_style: how the models are asked.
        max_tokens: longest completion; None: what fits, at most 2,048.
    """

    budget: Budget
    prompt_style: PromptStyle = "set"
    max_tokens: int | None = None


@dataclass(frozen=True)
class Progress:
    """What a model has said so far.

    Args:
        prediction: of the completion so far; the last one also has probabilities and reflection.
        state: "writing", "reflecting" or "done".
        tokens: of the completion so far.
        seconds: since the model was asked.
    """

    prediction: Prediction
    state: str
    tokens: int
    seconds: float


def read_picture(file: str, name: str, space: LabelSpace, asking: Asking) -> Dataset:
    """Return one row that holds the picture as the models see it.

    Args:
        file: where it lies.
        name: what a person calls it.
        space: the labels to choose from.
        asking: see `Asking`.

    Raises:
        ValueError: with why it cannot be used.
    """
    photos, faults = read_photos([file], space, asking.budget, asking.prompt_style)
    for fault in faults.values():
        raise ValueError(f"'{name}' cannot be used: it {fault}.")
    return photos


def choose_length(model: AskedModel, photos: Dataset, asking: Asking) -> int:
    """Return the longest completion that fits.

    Raises:
        ValueError: if the prompt leaves no room for it.
    """
    longest = longest_prompt({NAME: photos}, model.engine.processor, model.context, asking.max_tokens or 1)
    return asking.max_tokens or min(2048, model.context - longest)


def ask_model(model: AskedModel, photos: Dataset, asking: Asking) -> Iterator[Progress]:
    """Ask a model about the picture, and give what there is of its answer after each word.

    Args:
        model: which one; nobody else may ask it meanwhile.
        photos: what `read_picture` returned.
        asking: see `Asking`.

    Raises:
        ValueError: if the prompt leaves no room for a completion.
    """
    start = time.perf_counter()
    row: dict[str, Any] = photos[0]
    space = LabelSpace.of(row["label_space"])
    text, max_tokens = prompt_text(asking.prompt_style, space.labels), choose_length(model, photos, asking)
    state, prediction, completion = "writing", None, None
    for completion in stream_completion(model.engine, text, row["image"], max_tokens):
        prediction = read_completion(row, NAME, completion.text, asking.prompt_style)
        yield Progress(prediction, state, completion.tokens, time.perf_counter() - start)
    assert completion is not None  # the whole one comes last
    assert prediction is not None
    yield Progress(prediction, "reflecting", completion.tokens, time.perf_counter() - start)
    image, labels = [row["image"]], [space.labels]
    (probabilities,) = score_labels(model.engine, [text], image, [completion.text], labels)
    reflection = None
    if asking.prompt_style == "set":
        (reflection,) = Reflector(model.engine).reflect(image, [completion.text], labels)
    prediction = read_completion(row, NAME, completion.text, asking.prompt_style, reflection)
    prediction = replace(
        prediction, label_probabilities=probabilities, completion_tokens=completion.tokens, finished=completion.finished
    )
    yield Progress(prediction, "done", completion.tokens, time.perf_counter() - start)
