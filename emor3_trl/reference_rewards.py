"""The rewards as the reference implementation of the paper computes them."""

import re
from collections.abc import Sequence
from typing import Any

from emor3_trl.reward_columns import Completions, completion_text, read_column


class ReferenceRewards:
    """What the reference implementation of the paper computes; the functions have the names of the paper's.

    It differs from the paper: the reflective part counts twice (the maximum is 1 + lambda1), a completion may hold
    anything between the steps and after the box, and answers that cannot be read earn 0.5.
    """

    @staticmethod
    def accuracy_reward(
        completions: Completions, emotion: Sequence[str | None] | None = None, **_columns: Any
    ) -> list[float]:
        r"""Return 1 where the last box equals the emotion but for case; a missing box counts as the answer "None".

        >>> ReferenceRewards.accuracy_reward([r"\boxed{fear}, no: \boxed{ AWE }", "awe"], emotion=["awe", "awe"])
        [1.0, 0.0]
        """
        emotions = read_column("emotion", emotion, len(completions))
        answers = [_last_box(_tighten(completion_text(completion))) for completion in completions]
        return [float(answer.lower() == str(label).lower()) for answer, label in zip(answers, emotions, strict=True)]

    @staticmethod
    def consistency_reward(
        completions: Completions, consistency_answer: Sequence[str | None] | None = None, **_columns: Any
    ) -> list[float]:
        """Return 1 where the answer holds "yes", else 0 where it holds "no", else 0.5.

        The reference asks a malformed completion's judge to answer 'None'. None, which stands for a question that was
        not asked, is therefore read as that text, and "None" holds "no".

        >>> ReferenceRewards.consistency_reward(["…"] * 4, consistency_answer=["Yes", "No, it cannot", "", None])
        [1.0, 0.0, 0.5, 0.0]
        """
        answers = [
            str(answer).lower() for answer in read_column("consistency_answer", consistency_answer, len(completions))
        ]
        return [1.0 if "yes" in answer else 0.0 if "no" in answer else 0.5 for answer in answers]

    @staticmethod
    def coherence_reward(
        completions: Completions,
        emotion: Sequence[str | None] | None = None,
        coherence_answer: Sequence[str | None] | None = None,
        **_columns: Any,
    ) -> list[float]:
        """Return 0.5 where the answer is empty, "none" or None (not asked), else 1 where it equals the emotion.

        >>> answers = ["Awe", "fear", "", None]
        >>> ReferenceRewards.coherence_reward(["…"] * 4, emotion=["awe"] * 4, coherence_answer=answers)
        [1.0, 0.0, 0.5, 0.5]
        """
        count = len(completions)
        emotions = [str(label).lower() for label in read_column("emotion", emotion, count)]
        answers = [str(answer).lower() for answer in read_column("coherence_answer", coherence_answer, count)]
        return [
            0.5 if answer in ("", "none") else float(answer == label)
            for answer, label in zip(answers, emotions, strict=True)
        ]

    @staticmethod
    def format_reward(completions: Completions, **_columns: Any) -> list[float]:
        r"""Return 1 where the tags of three steps and a box follow each other, with anything between and after.

        >>> loose = r"<step1></step1> and <step2></step2> <step3></step3> then \boxed{}, or so"
        >>> ReferenceRewards.format_reward([loose, "First: " + loose])
        [1.0, 0.0]
        """
        return [float(_in_order(_tighten(completion_text(completion)))) for completion in completions]


def _tighten(text: str) -> str:
    """Remove the white space around `<`, `>` and `/`, as the reference does before it reads format and accuracy."""
    pieces = re.split("([<>/])", text)
    last = len(pieces) - 1
    stripped = [piece.lstrip() if index else piece for index, piece in enumerate(pieces)]
    return "".join(piece.rstrip() if index < last else piece for index, piece in enumerate(stripped))


def _in_order(text: str) -> bool:
    """Return whether `text` begins with `<step1>` and holds the other tags and a closed box in this order."""
    if not text.startswith("<step1>"):
        return False
    position = 0
    for mark in ("<step1>", "</step1>", "<step2>", "</step2>", "<step3>", "</step3>", "\\boxed{", "}"):
        found = text.find(mark, position)
        if found < 0:
            return False
        position = found + len(mark)
    return True


def _last_box(text: str) -> str:
    r"""Return the content of the last `\boxed{…}`, braces balanced, or "None" if it is missing or never closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return "None"
    start += len("\\boxed{")
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth < 0:
            return text[start : start + brace.start()].strip()
    return "None"
