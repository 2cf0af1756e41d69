"""What a reward function is given: completions, and columns with one value for each."""

from collections.abc import Sequence
from typing import Any

from emor3_trl.emotions import LabelSpace

Completions = Sequence[str | list[dict[str, Any]]]

ANSWERS = ("consistency_answer", "coherence_answer")  # columns that the reflection always adds
# Columns that its switches add: see `reflection.Reflection`, and `rewards.gate_reflection` for the last
SWITCHED_COLUMNS = (
    "consistency_probability", "coherence_probability", "contrast_answer", "contrast_probability", "reflection_gate",
)  # fmt: skip
REFLECTED_COLUMNS = (*ANSWERS, *SWITCHED_COLUMNS)

_ADDED_BY = {
    "emotion": "emor3_trl.data.load_split gives each row its emotion",
    "label_space": "emor3_trl.data.load_split gives each row its label space",
    "consistency_answer": "EmoR3Trainer adds it to each batch; with another trainer, take it from Reflector.reflect",
    "coherence_answer": "EmoR3Trainer adds it to each batch; with another trainer, take it from Reflector.reflect",
}


def completion_text(completion: object) -> str:
    """Return the text of a completion: a plain string, or the last message of a conversation.

    >>> completion_text([{"role": "assistant", "content": "Hello"}])
    'Hello'
    """
    if isinstance(completion, (list, tuple)) and completion and isinstance(completion[-1], dict):
        content = completion[-1].get("content")
        if isinstance(content, (list, tuple)):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            return "".join(part for part in parts if isinstance(part, str))
        completion = content
    return completion if isinstance(completion, str) else ""


def list_reflected_columns(args: Any) -> list[str]:
    """Return the columns that the reflection adds under a configuration; one without switches has them off."""
    soft = getattr(args, "soft_reflection", "none") != "none"
    contrastive = getattr(args, "contrastive_consistency", False)
    columns = [*ANSWERS, *["consistency_probability", "coherence_probability"] * soft]
    columns += ["contrast_answer"] * contrastive + ["contrast_probability"] * (contrastive and soft)
    return columns + ["reflection_gate"] * (getattr(args, "gated_reflection", "none") != "none")


def read_column(name: str, values: Sequence[Any] | None, length: int) -> Sequence[Any]:
    """Return a column that a reward cannot do without.

    Raises:
        ValueError: if it is missing, or has not one value for each of `length` completions.
    """
    if values is None:
        raise ValueError(f"The column '{name}' is missing, and a reward needs it: {_ADDED_BY[name]}.")
    if isinstance(values, (str, LabelSpace)) or len(values) != length:
        given = f"{values!r}" if isinstance(values, (str, LabelSpace)) else f"{len(values)} values"
        raise ValueError(
            f"The column '{name}' was given {given} for {length} completions. Expected one value for each."
        )
    return values
