"""What a reward curve hides: dead groups, answers that ignore the thinking, collapsed answers, empty steps.

Pure functions over one batch of rollouts. `diagnose` and `zero_spreads` gather them for the trainer's log.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emor3_trl.emotions import LabelSpace
from emor3_trl.rewards import completion_text
from emor3_trl.thinking import StructuredThinking, answered, parse

_VALENCE_WORD = re.compile(r"\b(positive|negative|pleasant|unpleasant)(?:ly)?\b", re.IGNORECASE)


def names_valence(conclusion: str) -> bool:
    """Return whether a conclusion says if the emotion is positive or negative, as step 3 asks.

    >>> names_valence("The emotion is negative and excited."), names_valence("So it is fear.")
    (True, False)
    """
    return _VALENCE_WORD.search(conclusion) is not None


def names_emotion(text: str, labels: Sequence[str]) -> bool:
    """Return whether `text` contains one of the labels as a word: thinking that only repeats the answer.

    >>> names_emotion("A face full of fear.", ["awe", "fear"]), names_emotion("A fearless climber.", ["awe", "fear"])
    (True, False)
    """
    return re.search(rf"\b(?:{'|'.join(map(re.escape, labels))})\b", text, re.IGNORECASE) is not None


def zero_spread_share(rewards: Sequence[float] | np.ndarray, num_generations: int) -> float:
    """Return the share of groups in which all completions earn the same, so that none has an advantage.

    Args:
        rewards: one reward per completion, groups contiguous; shape (P * G,). NaN is a completion that is not rewarded.
        num_generations: G, completions per prompt.

    Raises:
        ValueError: if the rewards do not make whole groups.
    """
    if len(rewards) == 0 or len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards do not make whole groups of {num_generations} completions.")
    grouped = np.asarray(rewards, dtype=float).reshape(-1, num_generations)  # (P, G)
    highest = np.where(np.isnan(grouped), -np.inf, grouped).max(axis=1)
    lowest = np.where(np.isnan(grouped), np.inf, grouped).min(axis=1)
    return float(np.mean(highest - lowest < 1e-9))


def zero_spreads(
    rewards: np.ndarray, names: Sequence[str], weights: Sequence[float], num_generations: int
) -> dict[str, float]:
    """Return the share of dead groups for each reward that trains, and for their weighted sum.

    Args:
        rewards: what each reward function returned for each completion, groups contiguous; shape (P * G, functions).
        names: names of the functions.
        weights: their weights.
        num_generations: G, completions per prompt.

    Returns:
        `diagnostics/zero_spread/<reward>` and `diagnostics/zero_spread/overall`; nothing for groups of one.
    """
    if num_generations < 2:
        return {}
    columns = {name.removesuffix("_reward"): rewards[:, place] for place, name in enumerate(names)}
    unrewarded = np.isnan(rewards).all(axis=1)
    columns["overall"] = np.where(unrewarded, np.nan, np.nansum(rewards * np.asarray(weights, dtype=float), axis=1))
    return {
        f"diagnostics/zero_spread/{name}": zero_spread_share(values, num_generations)
        for name, values in columns.items()
    }


def entropy(counts: Sequence[int], outcomes: int) -> float:
    """Return the entropy of counts as a share of that of `outcomes` equally likely ones: 0 one answer, 1 all alike."""
    p = np.asarray([count for count in counts if count], dtype=float)
    p /= p.sum()
    return abs(float(-(p * np.log(p)).sum() / math.log(outcomes)))


def diagnose(
    completions: Sequence[str] | Sequence[list[dict[str, Any]]], columns: Mapping[str, Sequence[Any]]
) -> dict[str, float]:
    """Return what the completions of one batch of rollouts tell; `zero_spreads` tells what their rewards do.

    Args:
        completions: N completions, conversational or plain.
        columns: what the reward functions get, one value per completion: `emotion`, `label_space` and, after
            reflection, `coherence_answer`.

    Returns:
        Under `diagnostics/`: `agreement` (of reflected completions: the emotion read from steps 1 and 2 is the answer),
        `answer_entropy` (0 to 1, over all answers), `answer_entropy/<emotion>` (over the answers to images of that
        emotion), `largest_answer_share` (1 / labels to 1), `no_answer` (share), and over well-formed completions
        `trigger_words`, `feeling_words`, `conclusion_words` (mean words), `conclusion_names_valence` and
        `thinking_names_emotion` (shares). A number that has nothing to be computed from is left out.
    """
    texts = [completion_text(completion) for completion in completions]
    spaces = [LabelSpace.of(value) for value in columns["label_space"]]
    answers = [answered(text, space) for text, space in zip(texts, spaces, strict=True)]
    result = _answer_spread(answers, columns["emotion"], len({label for space in spaces for label in space.labels}))
    result |= _steps([parse(text) for text in texts], spaces)
    coherences = columns.get("coherence_answer") or [None] * len(texts)
    agreements = [
        coherence == answer for coherence, answer in zip(coherences, answers, strict=True) if coherence is not None
    ]
    if agreements:
        result["agreement"] = float(np.mean(agreements))
    return {f"diagnostics/{name}": value for name, value in result.items()}


def _answer_spread(answers: Sequence[str | None], emotions: Sequence[str], labels: int) -> dict[str, float]:
    result = {"no_answer": float(np.mean([answer is None for answer in answers]))}
    by_emotion: dict[str, Counter[str]] = defaultdict(Counter)
    for answer, emotion in zip(answers, emotions, strict=True):
        if answer is not None:
            by_emotion[emotion][answer] += 1
    total = sum(by_emotion.values(), Counter[str]())
    if total:
        result["answer_entropy"] = entropy(list(total.values()), labels)
        result["largest_answer_share"] = max(total.values()) / total.total()
    for emotion, counts in sorted(by_emotion.items()):
        result[f"answer_entropy/{emotion}"] = entropy(list(counts.values()), labels)
    return result


def _steps(thinking: Sequence[StructuredThinking | None], spaces: Sequence[LabelSpace]) -> dict[str, float]:
    kept = [(thought, space) for thought, space in zip(thinking, spaces, strict=True) if thought is not None]
    if not kept:
        return {}
    return {
        **{
            f"{step}_words": float(np.mean([len(getattr(thought, step).split()) for thought, _ in kept]))
            for step in ("trigger", "feeling", "conclusion")
        },
        "conclusion_names_valence": float(np.mean([names_valence(thought.conclusion) for thought, _ in kept])),
        "thinking_names_emotion": float(
            np.mean([names_emotion(f"{thought.trigger} {thought.feeling}", space.labels) for thought, space in kept])
        ),
    }
