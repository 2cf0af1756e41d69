"""Cases: a picture, its emotion, and what each model wrote about it with the rewards that it would have earned."""

import random
from collections.abc import Sequence
from typing import Any

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.report.evaluated import Evaluation
from emor3_trl.rewards import RewardFunction, accuracy_reward, reward_functions

MAX_CHARACTERS = 4_000  # of one text; a model that rambles to its token limit writes about twice as many


def reward_parts(evaluation: Evaluation) -> tuple[list[RewardFunction], list[dict[str, Any]]]:
    """Return the reward functions that fit how a model was asked, and their names and weights (paper, Eq. 5 and 6).

    A model asked for plain thinking has the GRPO baseline's rewards, one asked for its answer only has accuracy.
    """
    style = evaluation.config.get("prompt_style", "set")
    functions, weights = [accuracy_reward], [1.0]
    if style != "direct":
        functions, weights = reward_functions("plain" if style == "think" else "paper")
    names = [function.__name__.removesuffix("_reward").removeprefix("think_") for function in functions]
    return functions, [{"name": name, "weight": round(weight, 4)} for name, weight in zip(names, weights, strict=True)]


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
    functions, parts = reward_parts(evaluation)
    columns = {
        "emotion": [row.emotion for row in rows],
        "label_space": [row.label_space for row in rows],
        "consistency_answer": [row.consistency_answer for row in rows],
        "coherence_answer": [row.coherence_answer for row in rows],
    }
    rewards = [function([row.completion for row in rows], **columns) for function in functions]
    return [_entry(row, parts, list(values)) for row, values in zip(rows, zip(*rewards, strict=True), strict=True)]


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
