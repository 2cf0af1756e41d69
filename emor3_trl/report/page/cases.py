"""Cases: an image, its emotion, and what each model wrote about it with the rewards that it would have earned."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.named_rewards import NAMED_REWARDS, STYLES, describe_switches
from emor3_trl.report.evaluated import Evaluation
from emor3_trl.rewards import accuracy_reward, reward_functions
from emor3_trl.thinking import says_something

MAX_CHARACTERS = 4_000  # of one text; a model that rambles to its token limit writes about twice as many
REFLECTIVE = ("consistency", "coherence")

Key = tuple[int, str]  # index of the data set, id of the image


@dataclass(frozen=True)
class Rewards:
    """What the completions of a model earn (paper, Eq. 5 and 6).

    Args:
        functions: the reward functions.
        parts: the name and the weight of each, and `own` for one of the user's, which the report does not compute.
        origin: where they come from, in words.
    """

    functions: Sequence[Callable[..., Sequence[float | None]]]
    parts: list[dict[str, Any]]
    origin: str


def choose_rewards(evaluation: Evaluation) -> Rewards:
    """Return the rewards that the model was trained with, if they fit how it was asked, else the paper's.

    Plain thinking is rewarded by the GRPO baseline's variant, the other variants reward the three steps. A model that
    was asked for its answer only has accuracy. A reward of a file of the user's is named and unknown: the report runs
    no code that a run names.
    """
    style, training = evaluation.config.get("prompt_style", "set"), evaluation.training
    if style == "direct":
        functions, weights, origin = [accuracy_reward], [1.0], "accuracy alone: only the answer was asked for"
    elif training.get("rewards") and all(STYLES.get(name, style) == style for name in training["rewards"]):
        return _name_rewards(training["rewards"], training.get("reward_weights"), _excuse_switches(training))
    elif training and not training.get("rewards") and (training["reward_variant"] == "plain") == (style == "think"):
        variant, lambda1, lambda2 = (training[name] for name in ("reward_variant", "lambda1", "lambda2"))
        functions, weights = reward_functions(variant, lambda1, lambda2)
        origin = f"as in its training: {variant}, " + f"λ₁ = {lambda1}, " * (variant != "plain") + f"λ₂ = {lambda2}"
        origin += _excuse_switches(training)
    else:
        functions, weights = reward_functions("plain" if style == "think" else "paper")
        origin = "the paper's defaults: no training with such rewards is known"
    names = [function.__name__.removesuffix("_reward").removeprefix("think_") for function in functions]
    parts = [{"name": name, "weight": round(weight, 4)} for name, weight in zip(names, weights, strict=True)]
    return Rewards(functions, parts, origin)


def _excuse_switches(training: Mapping[str, Any]) -> str:
    """Return what the report leaves out of a training's rewards, in words: an evaluation asks the paper's questions."""
    switches = describe_switches(training)
    return f"; but by the paper's questions and answers, without its {switches}" if switches else ""


def _name_rewards(names: Sequence[str], weights: Sequence[float] | None, excuse: str) -> Rewards:
    """Return the rewards that a training named; those of the user's give None."""
    functions = [NAMED_REWARDS.get(name, _leave_unknown) for name in names]
    parts: list[dict[str, Any]] = []
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        own = name not in NAMED_REWARDS
        title = name.rpartition(":")[2].removesuffix("_reward").removeprefix("think_")
        parts.append({"name": title, "weight": round(weight, 4)} | ({"own": True} if own else {}))
    origin = "as in its training: " + " + ".join(f"{part['weight']:g} {part['name']}" for part in parts) + excuse
    unknown = [name for name in names if name not in NAMED_REWARDS]
    if unknown:
        origin += f"; not computed again, because a report runs no file of a run: {', '.join(unknown)}"
    return Rewards(functions, parts, origin)


def _leave_unknown(completions: Sequence[str], **_columns: Any) -> list[float | None]:
    return [None] * len(completions)


def make_cases(
    evaluations: Sequence[Evaluation], datasets: Sequence[str], limit: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the cases, in the order of the data sets and of their images, and how many there would be.

    Args:
        evaluations: the models.
        datasets: names of the data sets, in the order of the page.
        limit: cases at most; of more, so many are drawn with a fixed seed.

    Returns:
        `dataset` (index), `id`, `emotion`, `picture` (None until it has one) and `models`: for each model what it wrote
        and earned, None if it was not shown the image.
    """
    rows_by_model = [
        {(index, row.id): row for index, name in enumerate(datasets) for row in evaluation.predictions.get(name, ())}
        for evaluation in evaluations
    ]
    # In the order of the data sets, and within one in that of the first model that was shown an image
    emotions = {key: row.emotion for rows in rows_by_model for key, row in rows.items()}
    keys = sorted(emotions, key=lambda key: key[0])
    total = len(keys)
    if total > limit:
        keys = [keys[index] for index in sorted(random.Random(0).sample(range(total), limit))]
    entries_by_model = [
        _describe_completions(evaluation, {key: rows[key] for key in keys if key in rows})
        for evaluation, rows in zip(evaluations, rows_by_model, strict=True)
    ]
    return [
        {
            "dataset": key[0],
            "id": key[1],
            "emotion": emotions[key],
            "picture": None,
            "models": [entries.get(key) for entries in entries_by_model],
        }
        for key in keys
    ], total


def _describe_completions(evaluation: Evaluation, rows: Mapping[Key, Prediction]) -> dict[Key, dict[str, Any]]:
    rewards = choose_rewards(evaluation)
    names = ("emotion", "label_space", "consistency_answer", "coherence_answer")
    columns = {name: [getattr(row, name) for row in rows.values()] for name in names}
    completions = [row.completion for row in rows.values()]
    values = zip(*(function(completions, **columns) for function in rewards.functions), strict=True)
    return {
        key: _describe_completion(row, rewards.parts, row_values)
        for (key, row), row_values in zip(rows.items(), values, strict=True)
    }


def _describe_completion(
    row: Prediction, parts: Sequence[dict[str, Any]], values: Sequence[float | None]
) -> dict[str, Any]:
    # A reflective reward is unknown, not 0, where training would have asked and the evaluation did not
    if says_something(row.trigger or ""):
        values = [
            None if part["name"] in REFLECTIVE and getattr(row, f"{part['name']}_answer") is None else value
            for part, value in zip(parts, values, strict=True)
        ]
    counted = [(value, part["weight"]) for value, part in zip(values, parts, strict=True) if part["weight"]]
    known = [value * weight for value, weight in counted if value is not None]
    entry = {
        "answer": row.answer,
        "correct": row.correct,
        "wellFormed": row.well_formed,
        "consistency": row.consistency_answer,
        "coherence": row.coherence_answer,
        "rewards": list(values),
        "overall": round(sum(known), 4) if len(known) == len(counted) else None,
    }
    if row.trigger is not None:
        return entry | {"steps": [cut_text(text or "") for text in (row.trigger, row.feeling, row.conclusion)]}
    return entry | {"text": cut_text(row.completion)}


def cut_text(text: str) -> str:
    """Return a text, cut where it is longer than a page can hold many of."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS:,} more characters)"
