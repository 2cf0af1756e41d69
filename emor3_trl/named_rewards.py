"""The rewards that a configuration names: those of this project, and functions in a file of the user's.

`rewards: [accuracy, coherence, my_rewards.py:brief]` names two functions of `emor3_trl.rewards` and one of a file
of the user's (`own_rewards`).
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from emor3_trl.own_rewards import PASSED, digest_files, list_needed_columns, load_own_reward
from emor3_trl.reward_columns import REFLECTED_COLUMNS, list_reflected_columns
from emor3_trl.rewards import (
    RewardFunction,
    accuracy_reward,
    coherence_reward,
    consistency_reward,
    format_reward,
    think_format_reward,
)

if TYPE_CHECKING:
    from datasets import Dataset

NAMED_REWARDS: dict[str, RewardFunction] = {
    "accuracy": accuracy_reward,
    "consistency": consistency_reward,
    "coherence": coherence_reward,
    "format": format_reward,
    "think_format": think_format_reward,
}
# Fields of the configuration that change what rewards measure, with the paper's values
SWITCHES: dict[str, Any] = {
    "soft_reflection": "none", "contrastive_consistency": False, "masked_coherence": False, "gated_reflection": "none",
    "accuracy_truth": "label", "polarity_credit": 0.0,
}  # fmt: skip
# Rewards that only completions of one prompt style can earn
STYLES = {"consistency": "set", "coherence": "set", "format": "set", "think_format": "think"}

_EXPECTED = f"Expected {', '.join(NAMED_REWARDS)}, or <file>.py:<function>"


def load_rewards(
    names: Sequence[str], weights: Sequence[float] | None = None
) -> tuple[list[RewardFunction], list[float]]:
    """Return the reward functions that are named, and the weight of each.

    Args:
        names: keys of `NAMED_REWARDS`, or `<file>.py:<function>`, relative to the working directory. The file is run,
            once for each content that it has.
        weights: as many numbers; None weighs each 1, as TRL does.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a name, a file, a function or the weights cannot be used, or two rewards have one name.

    >>> [function.__name__ for function in load_rewards(["accuracy", "coherence"], [0.9, 0.1])[0]]
    ['accuracy_reward', 'coherence_reward']
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"rewards is {names!r}. {_EXPECTED}: a list of one or more.")
    _check_weights(names, weights)
    functions = [_load_reward(name) for name in names]
    titles = [title_reward(function) for function in functions]
    for name, title in zip(names, titles, strict=True):
        if titles.count(title) > 1:
            raise ValueError(
                f"rewards names '{title}' {titles.count(title)} times ({', '.join(names)}), and the log could not tell "
                "them apart: a reward is called as its function, without _reward. Rename the function, or name it once."
            )
        if title == "overall":
            raise ValueError(f"rewards names '{name}', but the log calls the weighted sum 'overall'. Rename it.")
    return functions, [1.0] * len(names) if weights is None else list(weights)


def check_named_rewards(args: Any) -> None:
    """Check that the rewards that a configuration names can be used, and that it names no others.

    Args:
        args: an `EmoR3Config`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `load_rewards`, or if a setting of rewards that are not named is set as well.
    """
    if args.rewards is None:
        return
    defaults = {field.name: field.default for field in fields(args)}
    names = ("reward_variant", "lambda1", "lambda2", "overlong_buffer")
    changed = [f"{name} {getattr(args, name)}" for name in names if getattr(args, name) != defaults[name]]
    if changed:
        raise ValueError(
            f"rewards is {args.rewards}, and {', '.join(changed)} chooses or weighs other rewards, so it would do "
            "nothing. Leave it out and weigh the rewards with reward_weights, or leave out rewards."
        )
    load_rewards(args.rewards, args.reward_weights)
    if args.dynamic_sampling == "accuracy" and "accuracy" not in args.rewards:
        raise ValueError(
            f"dynamic_sampling is 'accuracy', and rewards is {args.rewards}, without accuracy. Name it (with weight 0, "
            "if it is not to count), or set dynamic_sampling: spread."
        )


def use_named_rewards(args: Any, reward_funcs: Any) -> list[RewardFunction]:
    """Return the rewards that `args.rewards` names.

    Raises:
        ValueError: if `reward_funcs`, rewards that a Python user passes, are not None.
    """
    if reward_funcs is not None:
        raise ValueError(
            f"args.rewards is {args.rewards}, and reward_funcs is given as well. Pass one: leave rewards unset, or "
            "leave out reward_funcs."
        )
    return load_rewards(args.rewards, args.reward_weights)[0]


def asks_reflection(functions: Iterable[Callable]) -> bool:
    """Return whether a reward has an answer of the reflection as a parameter.

    >>> asks_reflection([accuracy_reward]), asks_reflection([accuracy_reward, coherence_reward])
    (False, True)
    """
    parameters = [inspect.signature(function).parameters for function in functions]
    return any(not set(REFLECTED_COLUMNS).isdisjoint(names) for names in parameters)


def title_reward(function: Callable) -> str:
    """Return what a reward is called where people read it: its name in TRL's log, without `_reward`."""
    from trl.trainer.utils import get_callable_name  # takes seconds, which a report is spared

    return get_callable_name(function).removesuffix("_reward")


def describe_rewards(functions: Sequence[Callable], weights: Sequence[float]) -> str:
    """Return the weighted sum in words.

    >>> describe_rewards([accuracy_reward, format_reward], [0.9, 0.1])
    '0.9 accuracy + 0.1 format'
    """
    return " + ".join(
        f"{weight:g} {title_reward(function)}" for function, weight in zip(functions, weights, strict=True)
    )


def describe_switches(values: Mapping[str, Any]) -> str:
    """Return the switches that a configuration turns on, in words; nothing where the rewards are the paper's.

    >>> describe_switches({"soft_reflection": "raw", "masked_coherence": True, "gated_reflection": "none"})
    'soft_reflection raw, masked_coherence'
    """
    changed = {name: values[name] for name, usual in SWITCHES.items() if values.get(name, usual) != usual}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in changed.items())


def list_reward_columns(args: Any) -> list[str]:
    """Return the columns of the data that the user's own among the rewards of `args` cannot do without."""
    return list(dict.fromkeys(name for _, names in _list_columns(args) for name in names))


def check_reward_columns(args: Any, datasets: "Mapping[str, Dataset | None]") -> None:
    """Check that data sets have the columns that the user's own among the rewards cannot do without.

    Args:
        args: an `EmoR3Config`.
        datasets: the data sets, by what they are called.

    Raises:
        ValueError: naming the reward, and the columns that there are.
    """
    for title, needed in _list_columns(args):
        for data, columns in ((data, dataset.column_names) for data, dataset in datasets.items() if dataset):
            missing = [name for name in needed if name not in columns]
            if missing:
                raise ValueError(
                    f"The reward '{title}' needs {', '.join(missing)}, which is no column of the {data} data "
                    f"({', '.join(columns)}), and TRL passes {', '.join(PASSED)}. Rename the parameter, or give it a "
                    "default."
                )


def _list_columns(args: Any) -> list[tuple[str, list[str]]]:
    """Return what each reward of the user's is called, and the columns that it cannot do without."""
    functions = load_rewards(args.rewards, args.reward_weights)[0] if args.rewards is not None else []
    own = [function for function in functions if function not in NAMED_REWARDS.values()]
    added = list_reflected_columns(args)
    columns = [[name for name in list_needed_columns(function) if name not in added] for function in own]
    return list(zip(map(title_reward, own), columns, strict=True))


def digest_rewards(names: Sequence[str] | None) -> dict[str, str]:
    """Return a digest of each file that a reward is named from."""
    return digest_files(name.rpartition(":")[0] for name in names or () if name not in NAMED_REWARDS)


def _check_weights(names: Sequence[str], weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    fits = isinstance(weights, list | tuple) and len(weights) == len(names)
    if not fits or not all(type(weight) in (int, float) and math.isfinite(weight) for weight in weights):
        raise ValueError(
            f"reward_weights is {weights!r} for the {len(names)} rewards {', '.join(map(str, names))}. Expected a "
            "number for each, or leave it unset: then each counts 1."
        )


def _load_reward(name: str) -> RewardFunction:
    if not isinstance(name, str):  # YAML reads `file.py: brief` as a mapping
        raise ValueError(f"rewards holds {name!r}, which is no text. {_EXPECTED} without a space.")
    if name in NAMED_REWARDS:
        return NAMED_REWARDS[name]
    file, _, attribute = name.rpartition(":")
    if file.endswith(".py") and attribute:
        return load_own_reward(name)
    close = difflib.get_close_matches(name.removesuffix("_reward"), NAMED_REWARDS, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise ValueError(f"rewards names '{name}'.{hint} {_EXPECTED}.")
