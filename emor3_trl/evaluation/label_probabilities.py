"""How sure a model is of its answer: the probability of each label at the place where it wrote one.

The completion is kept up to its answer; then each label is spelled there, and the model's probabilities of the tokens
that tell the labels apart are multiplied. What all labels share, and all that is no label, is left out, so that the
probabilities of a label space add up to 1: this is the model's answer under the constraint to name a label.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from emor3_trl.emotions import canonical
from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.engine import Continuation, Engine
from emor3_trl.thinking import box_start, boxed_answer

# vLLM returns the probabilities of at most so many tokens
MAX_LABELS = 128

Path = tuple[int, ...]


def label_probabilities(
    engine: Engine,
    texts: Sequence[str],
    images: Sequence[Any],
    completions: Sequence[str],
    labels: Sequence[Sequence[str]],
) -> list[list[float] | None]:
    """Return the probability of each label where each completion names one, in the order of the labels.

    Args:
        engine: what wrote the completions.
        texts: the texts of their prompts.
        images: the images of their prompts.
        completions: the completions.
        labels: the label space of each.

    Returns:
        For each completion numbers that add up to 1, or None if its box names none of the labels, or names one in
        another spelling than case, spaces, `_` and `-` make, or if there are more than `MAX_LABELS` of them.
    """
    encoder = QuestionEncoder(engine.processor)
    spelled = [
        (spell_answers(completion, space) or []) if len(space) <= MAX_LABELS else []
        for completion, space in zip(completions, labels, strict=True)
    ]
    paths = [[tuple(encoder.data_ids(text)) for text in row] for row in spelled]
    forks = [(row, *fork) for row, each in enumerate(paths) for fork in branches(each)]
    asked = [Continuation(texts[row], images[row], written, candidates) for row, written, candidates in forks]
    found = engine.log_probabilities(asked) if asked else []
    shares = {
        (row, written): dict(zip(candidates, _normalised(logs), strict=True))
        for (row, written, candidates), logs in zip(forks, found, strict=True)
    }
    return [[_product(shares, row, path) for path in each] or None for row, each in enumerate(paths)]


def spell_answers(completion: str, labels: Sequence[str]) -> list[str] | None:
    r"""Return the completion up to the end of its answer, once with each label in the place of its own.

    >>> spell_answers(r"\boxed{Awe}", ["awe", "fear"])
    ['\\boxed{Awe}', '\\boxed{Fear}']
    >>> spell_answers(r"\boxed{happy}", ["awe", "fear"]) is None
    True
    """
    start, content = box_start(completion), boxed_answer(completion)
    answer = next((label for label in labels if content and canonical(label) == canonical(content)), None)
    if start is None or content is None or answer is None:
        return None
    end = completion.index(content, start) + len(content)
    words = r"[\s_-]+".join(re.escape(word) for word in re.split(r"[ _-]+", answer.strip()))
    found = list(re.finditer(words, completion[start:end], re.IGNORECASE))
    if not found:
        return None
    written = found[-1].group()  # the last: what stands before may be LaTeX
    style: Callable[[str], str] = str.capitalize if written[:1].isupper() else str.lower
    if written == answer or written.isupper():
        style = str if written == answer else str.upper
    before, after = completion[: start + found[-1].start()], completion[start + found[-1].end()]
    return [before + style(label) + after for label in labels]


def branches(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return where distinct spellings part: the tokens written by then, and the tokens that may follow.

    >>> branches([(1, 2, 3), (1, 2, 4), (1, 5)])
    [((1,), (2, 5)), ((1, 2), (3, 4))]
    """
    following: dict[Path, set[int]] = {}
    for path in paths:
        for length, token in enumerate(path):
            following.setdefault(path[:length], set()).add(token)
    return [(written, tuple(sorted(tokens))) for written, tokens in following.items() if len(tokens) > 1]


def _product(shares: dict[tuple[int, Path], dict[int, float]], row: int, path: Path) -> float:
    parted = [length for length in range(len(path)) if (row, path[:length]) in shares]
    return math.prod(shares[row, path[:length]][path[length]] for length in parted)


def _normalised(logs: Sequence[float]) -> list[float]:
    top = max(logs)
    shares = [math.exp(value - top) for value in logs]
    return [share / sum(shares) for share in shares]
