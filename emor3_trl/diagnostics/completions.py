"""What completions tell: answers that collapse, steps that say nothing or name the answer, forms that break.

Pure functions over one batch of rollouts. `diagnose` gathers them for the trainer's log.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emor3_trl.diagnostics.triggers import compare_triggers
from emor3_trl.emotions import VALENCE, LabelSpace
from emor3_trl.label_words import names_emotion
from emor3_trl.rewards import completion_text
from emor3_trl.thinking import MALFORMED_REASONS, StructuredThinking, answered, explain_malformed, parse

_VALENCE_WORD = re.compile(r"\b(positive|negative|pleasant|unpleasant)(?:ly)?\b", re.IGNORECASE)
_VALENCE_OF_WORD = {
    "positive": "positive", "pleasant": "positive", "negative": "negative", "unpleasant": "negative",
}  # fmt: skip


def names_valence(conclusion: str) -> bool:
    """Return whether a conclusion says if the emotion is positive or negative, as step 3 asks.

    >>> names_valence("The emotion is negative and excited."), names_valence("So it is fear.")
    (True, False)
    """
    return _VALENCE_WORD.search(conclusion) is not None


def contradicts_answer(conclusion: str, answer: str | None) -> bool | None:
    """Return whether step 3 names the other valence than that of the answer; None where one of them has none.

    >>> contradicts_answer("It is positive and calm.", "fear"), contradicts_answer("It is calm.", "fear")
    (True, None)
    """
    named = {_VALENCE_OF_WORD[word.lower()] for word in _VALENCE_WORD.findall(conclusion)}
    valence = VALENCE.get(answer or "", "neutral")
    return None if len(named) != 1 or valence == "neutral" else named != {valence}


def entropy(counts: Sequence[int], outcomes: int) -> float:
    """Return the entropy of counts as a share of that of `outcomes` equally likely ones: 0 one answer, 1 all alike."""
    p = np.asarray([count for count in counts if count], dtype=float)
    p /= p.sum()
    return abs(float(-(p * np.log(p)).sum() / math.log(outcomes)))


def diagnose(
    completions: Sequence[str] | Sequence[list[dict[str, Any]]],
    columns: Mapping[str, Sequence[Any]],
    groups: Sequence[int] | None = None,
    thinking: Sequence[StructuredThinking | None] | None = None,
) -> dict[str, float]:
    """Return what the completions of one batch of rollouts tell; `measure_advantages` tells what their rewards do.

    Args:
        completions: N completions, conversational or plain.
        columns: what the reward functions get, one value per completion: `emotion`, `label_space` and, after
            reflection, `coherence_answer`.
        groups: the number of each completion's group, whose image its members share; without it nothing is said of
            how specific step 1 is.
        thinking: the completions as `parse` reads them, where the caller knows them.

    Returns:
        Under `diagnostics/`, as `explained.DIAGNOSTICS` explains: `agreement`, `answer_entropy`,
        `answer_entropy/<emotion>`, `largest_answer_share`, `favourite_excess`, `no_answer`; over well-formed
        completions `trigger_words`, `feeling_words`, `conclusion_words`, `conclusion_names_valence`,
        `conclusion_contradicts_answer`, `thinking_names_emotion` and what `triggers.compare_triggers` returns. A number
        that has nothing to be computed from is left out.
    """
    texts = [completion_text(completion) for completion in completions]
    spaces = _read_spaces(columns["label_space"])
    answers = [answered(text, space) for text, space in zip(texts, spaces, strict=True)]
    thinking = [parse(text) for text in texts] if thinking is None else thinking
    result = _answer_spread(answers, columns["emotion"], len({label for space in spaces for label in space.labels}))
    result |= _steps(thinking, spaces, answers)
    if groups is not None:
        well_formed = [place for place, thought in enumerate(thinking) if thought is not None]
        triggers = [thought.trigger for thought in thinking if thought is not None]
        result |= compare_triggers(triggers, [groups[place] for place in well_formed])
    coherences = columns.get("coherence_answer") or [None] * len(texts)
    agreements = [
        coherence == answer for coherence, answer in zip(coherences, answers, strict=True) if coherence is not None
    ]
    if agreements:
        result["agreement"] = float(np.mean(agreements))
    return {f"diagnostics/{name}": value for name, value in result.items()}


def measure_switches(columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Return what the switches of the reflection do to a rollout (`reflection.ReflectionOptions`).

    Args:
        columns: what the reward functions get, one value per completion; without the columns of a switch, nothing is
            said of it.

    Returns:
        `diagnostics/contrasted`, `diagnostics/contrast_yes` and `diagnostics/reflection_counts`, as
        `explained.DIAGNOSTICS` explains.
    """
    result = {}
    if "contrast_answer" in columns:
        pairs = zip(columns["consistency_answer"], columns["contrast_answer"], strict=True)
        others = [other for answer, other in pairs if answer is not None]
        answers = [other for other in others if other is not None]
        if others:
            result["contrasted"] = len(answers) / len(others)
        if answers:
            result["contrast_yes"] = answers.count("Yes") / len(answers)
    if "reflection_gate" in columns:
        result["reflection_counts"] = float(np.mean(columns["reflection_gate"]))
    return {f"diagnostics/{name}": value for name, value in result.items()}


def count_malformed(completions: Sequence[str], form: str, cut_off: Sequence[bool]) -> dict[str, float]:
    """Return the share of malformed completions, `diagnostics/malformed`, and that of each reason.

    Args:
        completions: N completions.
        form: what is well formed, see `thinking.explain_malformed`.
        cut_off: whether the length limit ended each.

    Returns:
        `diagnostics/malformed` and `diagnostics/malformed/<reason>` for every reason, shares of all N. The reasons' add
        up to the first.
    """
    reasons = [explain_malformed(text, form, ended) for text, ended in zip(completions, cut_off, strict=True)]
    counts = Counter(reason for reason in reasons if reason is not None)
    shares = {f"diagnostics/malformed/{reason}": counts[reason] / len(reasons) for reason in MALFORMED_REASONS}
    return {"diagnostics/malformed": counts.total() / len(reasons), **shares}


def average_by_emotion(rewards: Sequence[float] | np.ndarray, emotions: Sequence[str]) -> dict[str, float]:
    """Return the mean overall reward of the completions about images of each emotion, `diagnostics/reward/<emotion>`.

    Args:
        rewards: N weighted sums; NaN is a completion that is not rewarded.
        emotions: N labels, the ground truth.
    """
    by_emotion: dict[str, list[float]] = defaultdict(list)
    for reward, emotion in zip(rewards, emotions, strict=True):
        if not math.isnan(reward):
            by_emotion[emotion].append(float(reward))
    return {f"diagnostics/reward/{emotion}": float(np.mean(by_emotion[emotion])) for emotion in sorted(by_emotion)}


def _read_spaces(column: Sequence[Any]) -> list[LabelSpace]:
    """Return the label space of each row; equal ones are one object, read once."""
    known: dict[Any, LabelSpace] = {}
    spaces = []
    for value in column:
        key = tuple(value) if isinstance(value, list) else value
        if key not in known:
            known[key] = LabelSpace.of(value)
        spaces.append(known[key])
    return spaces


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
        truths = {emotion: counts.total() for emotion, counts in by_emotion.items()}
        excess = max(count - truths.get(label, 0) for label, count in total.items())
        result["favourite_excess"] = max(excess, 0) / total.total()
    for emotion, counts in sorted(by_emotion.items()):
        result[f"answer_entropy/{emotion}"] = entropy(list(counts.values()), labels)
    return result


def _steps(
    thinking: Sequence[StructuredThinking | None], spaces: Sequence[LabelSpace], answers: Sequence[str | None]
) -> dict[str, float]:
    kept = [
        (thought, space, answer)
        for thought, space, answer in zip(thinking, spaces, answers, strict=True)
        if thought is not None
    ]
    if not kept:
        return {}
    result = {
        f"{step}_words": float(np.mean([len(getattr(thought, step).split()) for thought, _, _ in kept]))
        for step in ("trigger", "feeling", "conclusion")
    }
    result["conclusion_names_valence"] = float(np.mean([names_valence(thought.conclusion) for thought, _, _ in kept]))
    result["thinking_names_emotion"] = float(
        np.mean([names_emotion(f"{thought.trigger} {thought.feeling}", space.labels) for thought, space, _ in kept])
    )
    contradictions = [contradicts_answer(thought.conclusion, answer) for thought, _, answer in kept]
    verdicts = [verdict for verdict in contradictions if verdict is not None]
    if verdicts:
        result["conclusion_contradicts_answer"] = float(np.mean(verdicts))
    return result
