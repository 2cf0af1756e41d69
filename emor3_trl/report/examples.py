"""Three completions of a trained model to read in the terminal, with their images."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.files import replacing
from emor3_trl.report.pictures import read_images


@dataclass(frozen=True)
class Example:
    """A completion to read.

    Args:
        kind: "right", "changed" (the first model was wrong, the second is right) or "wrong".
        prediction: the completion and what was read from it.
        before: the first model's prediction about the same image.
    """

    kind: str
    prediction: Prediction
    before: Prediction | None = None


def choose_examples(before: Sequence[Prediction], after: Sequence[Prediction]) -> list[Example]:
    """Choose three completions of the trained model: right, right where the first model was wrong, and wrong.

    Args:
        before: predictions of the first model.
        after: predictions of the trained model about the same images.

    Returns:
        Up to three examples about distinct images, well-formed completions first; a kind that does not occur is left
        out.
    """
    first_rows = {(row.dataset, row.id): row for row in before}
    pairs = [(first_rows.get((row.dataset, row.id)), row) for row in after]
    pairs.sort(key=lambda pair: not pair[1].well_formed)  # stable: the order of the data otherwise
    kinds: dict[str, list[tuple[Prediction | None, Prediction]]] = {
        "right": [(old, new) for old, new in pairs if new.correct and (old is None or old.correct)],
        "changed": [(old, new) for old, new in pairs if new.correct and old is not None and not old.correct],
        "wrong": [(old, new) for old, new in pairs if not new.correct],
    }
    return [Example(kind, new, old) for kind, candidates in kinds.items() for old, new in candidates[:1]]


def format_example(example: Example, width: int = 96) -> str:
    """Return an example as text: the image, its emotion, and the steps or the malformed completion, wrapped."""
    prediction = example.prediction
    headline = f"{example.kind.upper()}: picture {prediction.id} ({prediction.dataset}), emotion {prediction.emotion}"
    if example.kind == "changed" and example.before is not None:
        headline += f"; before training the answer was {example.before.answer or 'none'}"
    if prediction.well_formed and prediction.trigger:
        parts = {name: getattr(prediction, name) for name in ("trigger", "feeling", "conclusion", "answer")}
    else:
        parts = {"malformed": prediction.completion, "answer": prediction.answer}
    lines = [
        textwrap.fill(
            " ".join(str(text if text is not None else "none").split()),
            width,
            initial_indent=f"  {name:<11}",
            subsequent_indent=" " * 13,
        )
        for name, text in parts.items()
    ]
    return "\n".join([headline, *lines])


def save_example_images(examples: Sequence[Example], files: Mapping[str, Path], folder: str | Path) -> list[Path]:
    """Save the images of examples as `example_<kind>.png`.

    Args:
        examples: see `choose_examples`.
        files: Parquet file of each data set's images; an example whose image is not there is left out.
        folder: where to write.
    """
    paths = []
    for example in examples:
        file = files.get(example.prediction.dataset, Path())
        for _, content in read_images(file, {example.prediction.id}):
            path = Path(folder) / f"example_{example.kind}.png"
            with Image.open(io.BytesIO(content)) as image, replacing(path) as temporary:
                image.convert("RGB").save(temporary, "PNG")
            paths.append(path)
    return paths
