"""Ten completions to read, before and after training: good and bad ones, by a rule that nobody's taste decides."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from emor3_trl.evaluation.prediction import Prediction

# How the answer changed, and how many of ten pictures are shown of each kind
KINDS = {"wrong, then right": 4, "right, then wrong": 2, "right both times": 2, "wrong both times": 2}


@dataclass
class CompletionsArguments:
    """Completions of two models about the same pictures."""

    run: str = field(default="runs/english", metadata={"help": "Folder that holds evaluation/<model>/."})
    before: str = field(default="base", metadata={"help": "The model that was evaluated before training."})
    after: str = field(default="emo_r3", metadata={"help": "The model that was evaluated after it."})
    dataset: str = field(default="sketches", metadata={"help": "Data set of the pictures."})
    seed: int = field(default=0, metadata={"help": "Seed of the draw among the pictures of a kind."})


def choose_pairs(
    before: Sequence[Prediction], after: Sequence[Prediction], seed: int
) -> list[tuple[str, Prediction, Prediction]]:
    """Draw ten pictures: of each kind as many as `KINDS` says, and any others where a kind has fewer.

    Args:
        before: greedy predictions of the first model.
        after: those of the second, about the same pictures.
        seed: of the draw.

    Returns:
        The kind, and both predictions.
    """
    rng = random.Random(seed)
    first = {row.id: row for row in before}
    pairs = [(_name_change(first[row.id], row), first[row.id], row) for row in after if row.id in first]
    rng.shuffle(pairs)
    chosen = [pair for kind, count in KINDS.items() for pair in [pair for pair in pairs if pair[0] == kind][:count]]
    rest = [pair for pair in pairs if pair not in chosen]
    return [*chosen, *rest[: sum(KINDS.values()) - len(chosen)]]


def format_pair(kind: str, before: Prediction, after: Prediction) -> str:
    """Return two completions about a picture as Markdown, as they were written."""
    parts = [f"**{before.id}**, labelled {before.emotion}: {kind}"]
    for name, row in (("before", before), ("after", after)):
        parts.append(f"{name}:\n\n" + "\n".join(f"    {line}" for line in row.completion.splitlines()))
    return "\n\n".join(parts)


def _name_change(before: Prediction, after: Prediction) -> str:
    words = ["right" if row.correct else "wrong" for row in (before, after)]
    return f"{words[0]} both times" if words[0] == words[1] else f"{words[0]}, then {words[1]}"
