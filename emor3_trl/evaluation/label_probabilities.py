"""How sure a model is of its answer: the probability of each label at the place where it wrote one.

The completion is kept up to its answer. Each label is spelled there, and the model's probabilities of the tokens that
tell the labels apart are multiplied. Tokens that all labels share, and tokens of no label, are left out. So the
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


def score_labels(
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
        For each completion numbers that add up to 1. None if its box names none of the labels, or spells one with
        other changes than those of case, spaces, `_` and `-`, or if there are more than `MAX_LABELS` of them.
    """
    encoder = QuestionEncoder(engine.processor)
    spellings = [
        (spell_answers(completion, space) or []) if len(space) <= MAX_LABELS else []
        for completion, space in zip(completions, labels, strict=True)
    ]
    paths = [[tuple(encoder.data_ids(text)) for text in row_spellings] for row_spellings in spellings]
    branches = [(row, *branch) for row, row_paths in enumerate(paths) for branch in find_branches(row_paths)]
    continuations = [Continuation(texts[row], images[row], prefix, tokens) for row, prefix, tokens in branches]
    scores = engine.log_probabilities(continuations) if continuations else []
    shares = {
        (row, prefix): dict(zip(tokens, _normalise(branch_scores), strict=True))
        for (row, prefix, tokens), branch_scores in zip(branches, scores, strict=True)
    }
    return [[_multiply_shares(shares, row, path) for path in row_paths] or None for row, row_paths in enumerate(paths)]


def spell_answers(completion: str, labels: Sequence[str]) -> list[str] | None:
    r"""Return the completion up to the end of its answer, once with each label in the place of the answer.

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
    matches = list(re.finditer(words, completion[start:end], re.IGNORECASE))
    if not matches:
        return None
    match = matches[-1]  # the last: what stands before may be LaTeX
    spelling = match.group()
    style: Callable[[str], str] = str.capitalize if spelling[:1].isupper() else str.lower
    if spelling == answer or spelling.isupper():
        style = str if spelling == answer else str.upper
    before, after = completion[: start + match.start()], completion[start + match.end()]
    return [before + style(label) + after for label in labels]


def find_branches(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return where distinct spellings part: the tokens before that place, and the tokens that may follow.

    >>> find_branches([(1, 2, 3), (1, 2, 4), (1, 5)])
    [((1,), (2, 5)), ((1, 2), (3, 4))]
    """
    following: dict[Path, set[int]] = {}
    for path in paths:
        for length, token in enumerate(path):
            following.setdefault(path[:length], set()).add(token)
    return [(prefix, tuple(sorted(tokens))) for prefix, tokens in following.items() if len(tokens) > 1]


def _multiply_shares(shares: dict[tuple[int, Path], dict[int, float]], row: int, path: Path) -> float:
    places = [length for length in range(len(path)) if (row, path[:length]) in shares]
    return math.prod(shares[row, path[:length]][path[length]] for length in places)


def _normalise(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    shares = [math.exp(score - top) for score in scores]
    return [share / sum(shares) for share in shares]
