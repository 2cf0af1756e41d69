"""Cases: a picture, its emotion, and what each model wrote about it with the rewards that it would have earned."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.report.evaluated import Evaluation
from emor3_trl.rewards import RewardFunction, accuracy_reward, reward_functions

MAX_CHARACTERS = 4_000  # of one text; a model that rambles to its token limit writes about twice as many


@dataclass(frozen=True)
class Rewards:
    """What the completions of a model earn (paper, Eq. 5 and 6).

    Args:
        functions: the reward functions.
        parts: the name and the weight of each.
        origin: where they come from, in words.
    """

    functions: list[RewardFunction]
    parts: list[dict[str, Any]]
    origin: str


def choose_rewards(evaluation: Evaluation) -> Rewards:
    """Return the rewards that the model was trained with, if they fit how it was asked, else the paper's.

    Plain thinking is rewarded by the GRPO baseline's variant, the other variants reward the three steps. A model that
    was asked for its answer only has accuracy.
    """
    style, training = evaluation.config.get("prompt_style", "set"), evaluation.training
    if style == "direct":
        functions, weights, origin = [accuracy_reward], [1.0], "accuracy alone: only the answer was asked for"
    elif training and (training["reward_variant"] == "plain") == (style == "think"):
        variant, lambda1, lambda2 = (training[name] for name in ("reward_variant", "lambda1", "lambda2"))
        functions, weights = reward_functions(variant, lambda1, lambda2)
        origin = f"as in its training: {variant}, " + f"λ₁ = {lambda1}, " * (variant != "plain") + f"λ₂ = {lambda2}"
    else:
        functions, weights = reward_functions("plain" if style == "think" else "paper")
        origin = "the paper's defaults: no training with such rewards is known"
    names = [function.__name__.removesuffix("_reward").removeprefix("think_") for function in functions]
    parts = [{"name": name, "weight": round(weight, 4)} for name, weight in zip(names, weights, strict=True)]
    return Rewards(functions, parts, origin)


def make_cases(
    evaluations: Sequence[Evaluation], datasets: Sequence[str], limit: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the cases, in the order of the data sets and of their pictures, and how many there would be.

    Args:
        evaluations: the models.
        datasets: names of the data sets, in the order of the page.
        limit: cases at most; of more, so many are drawn with a fixed seed.

    Returns:
        `dataset` (index), `id`, `emotion`, `picture` (None until it has one) and `models`: for each model what it wrote
        and earned, None if it was not shown the picture.
    """
    emotions = {
        (index, row.id): row.emotion
        for index, name in enumerate(datasets)
        for evaluation in evaluations
        for row in evaluation.predictions.get(name, ())
    }
    keys = list(emotions)
    total = len(keys)
    if total > limit:
        keys = [keys[index] for index in sorted(random.Random(0).sample(range(total), limit))]
    wanted = set(keys)
    written = []
    for evaluation in evaluations:
        rows = {
            (index, row.id): row
            for index, name in enumerate(datasets)
            for row in evaluation.predictions.get(name, ())
            if (index, row.id) in wanted
        }
        written.append(dict(zip(rows, _written(evaluation, list(rows.values())), strict=True)))
    return [
        {
            "dataset": key[0],
            "id": key[1],
            "emotion": emotions[key],
            "picture": None,
            "models": [entries.get(key) for entries in written],
        }
        for key in keys
    ], total


def _written(evaluation: Evaluation, rows: Sequence[Prediction]) -> list[dict[str, Any]]:
    rule = choose_rewards(evaluation)
    columns = {
        "emotion": [row.emotion for row in rows],
        "label_space": [row.label_space for row in rows],
        "consistency_answer": [row.consistency_answer for row in rows],
        "coherence_answer": [row.coherence_answer for row in rows],
    }
    rewards = [function([row.completion for row in rows], **columns) for function in rule.functions]
    return [_entry(row, rule.parts, list(values)) for row, values in zip(rows, zip(*rewards, strict=True), strict=True)]


def _entry(row: Prediction, parts: Sequence[dict[str, Any]], values: list[float | None]) -> dict[str, Any]:
    # A reflective reward is unknown, not 0, where a well-formed completion was evaluated without reflection.
    for index, part in enumerate(parts):
        if part["name"] in ("consistency", "coherence") and row.well_formed:
            values[index] = values[index] if getattr(row, f"{part['name']}_answer") is not None else None
    known = [value for value in values if value is not None]
    overall = sum(value * part["weight"] for value, part in zip(known, parts, strict=True)) if known == values else None
    entry = {
        "answer": row.answer,
        "correct": row.correct,
        "wellFormed": row.well_formed,
        "consistency": row.consistency_answer,
        "coherence": row.coherence_answer,
        "rewards": values,
        "overall": None if overall is None else round(overall, 4),
    }
    if row.trigger is not None:
        return entry | {"steps": [_cut(text or "") for text in (row.trigger, row.feeling, row.conclusion)]}
    return entry | {"text": _cut(row.completion)}


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS:,} more characters)"
