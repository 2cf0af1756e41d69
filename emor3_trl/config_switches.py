"""Rules about the switches of the reflection, which go beyond the paper: each refuses in one line."""

import inspect
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.vllm import MAX_SCORED
from emor3_trl.groups.batching import divide_rollout
from emor3_trl.launch import world_size
from emor3_trl.named_rewards import load_rewards
from emor3_trl.reflection import SOFT
from emor3_trl.rewards import GATES, reward_functions

# The columns that a switch adds or changes: a reward has to read one of them
_READ = {
    "soft_reflection": {"consistency_probability", "coherence_probability"},
    "contrastive_consistency": {"contrast_answer", "contrast_probability"},
    "masked_coherence": {"coherence_answer", "coherence_probability"},
    "gated_reflection": {"reflection_gate"},
}


def check_switches(args: Any) -> None:
    """Check the switches of the reflection, and that the rewards of the configuration read what they change.

    Args:
        args: an `EmoR3Config`.

    Raises:
        ValueError: naming the switch, and what to set.
    """
    for name, allowed in (("soft_reflection", SOFT), ("gated_reflection", GATES)):
        if getattr(args, name) not in allowed:
            raise ValueError(f"{name} is {getattr(args, name)!r}. Expected {', '.join(allowed)}.")
    switches = list_switches(args)
    if not switches:
        return
    if args.rewards is None and (args.reward_variant != "paper" or not args.lambda1 > 0):
        setting = f"reward_variant is '{args.reward_variant}'" if args.lambda1 > 0 else f"lambda1 is {args.lambda1}"
        raise ValueError(
            f"{switches[0]} is set, and {setting}, so it would change nothing that trains. Set reward_variant: paper "
            "and lambda1 above 0, or leave the switch out."
        )
    if args.gated_reflection != "none" and args.rewards is not None and "accuracy" not in args.rewards:
        raise ValueError(
            f"gated_reflection is '{args.gated_reflection}', and rewards is {args.rewards}: it opens by accuracy. Add "
            "accuracy, or leave the gate out."
        )
    functions = (reward_functions() if args.rewards is None else load_rewards(args.rewards, args.reward_weights))[0]
    check_readers(args, functions)
    if args.gated_reflection == "unseparated" and args.dynamic_sampling == "accuracy":
        raise ValueError(
            "gated_reflection is 'unseparated' and dynamic_sampling is 'accuracy', which drops the groups in which "
            "reflection would count. Set gated_reflection: right, or dynamic_sampling: none."
        )
    by_batch = args.contrastive_consistency or args.soft_reflection == "calibrated"
    if by_batch and args.dynamic_sampling != "none":
        switch = "contrastive_consistency" if args.contrastive_consistency else "soft_reflection: calibrated"
        raise ValueError(
            f"{switch} looks at the whole batch, and dynamic_sampling is '{args.dynamic_sampling}', which fills it "
            "from small batches: groups would be rewarded by different rules. Set dynamic_sampling: none, or leave the "
            "switch out."
        )
    check_contrast(vars(args), world_size())


def check_contrast(values: Mapping[str, Any], processes: int) -> None:
    """Check that each process of a launch holds another image for the contrastive consistency.

    Args:
        values: the configuration.
        processes: of the launch.

    Raises:
        ValueError: saying how many completions a process has, and what to set.
    """
    rows, group = divide_rollout(values, processes)[0] // processes, values["num_generations"]
    if values.get("contrastive_consistency") and rows <= group:
        raise ValueError(
            f"contrastive_consistency is true, but each process's rollout of {rows} completions is about one image "
            f"(num_generations {group}): there is no other. Raise per_device_train_batch_size or "
            "gradient_accumulation_steps, or set contrastive_consistency: false."
        )


def check_weighed_labels(datasets: Mapping[str, Any], processor: Any, args: Any) -> None:
    """Check that vLLM returns the probability of each token that tells the labels of a row apart.

    Args:
        datasets: sets of rows by name; only map-style ones with a label space are checked.
        processor: the model's processor; without one, nothing is checked.
        args: an `EmoR3Config`.

    Raises:
        ValueError: naming the rows, and how many tokens there are.
    """
    if args.soft_reflection == "none" or not args.use_vllm or processor is None:
        return
    encoder = QuestionEncoder(processor)
    for name, rows in datasets.items():
        if not isinstance(rows, Dataset) or "label_space" not in rows.column_names:
            continue
        spaces = rows.select_columns("label_space")["label_space"]
        for space in {space if isinstance(space, str) else tuple(space) for space in spaces}:  # few, of many rows
            labels = LabelSpace.of(space).labels
            tokens = len(encoder.tree(labels).deciding_tokens())
            if tokens > MAX_SCORED:
                raise ValueError(
                    f"soft_reflection is '{args.soft_reflection}', and {tokens} tokens tell the {len(labels)} labels "
                    f"of rows in {name} apart: vLLM returns the probabilities of {MAX_SCORED}. "
                    "Set soft_reflection: none, or use_vllm: false."
                )


def list_switches(args: Any) -> list[str]:
    """Return the switches of the reflection that are on."""
    return [name for name in _READ if getattr(args, name) not in (False, "none")]


def check_readers(args: Any, reward_funcs: Any) -> None:
    """Check that a reward reads what each switch that is on changes.

    Args:
        args: an `EmoR3Config`.
        reward_funcs: the rewards that train, as TRL takes them: one, a list, or None.

    Raises:
        ValueError: naming the switch, and what it needs.
    """
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    parameters = {
        name for function in functions if callable(function) for name in inspect.signature(function).parameters
    }
    for switch in list_switches(args):
        if not _READ[switch] & parameters:
            raise ValueError(
                f"{switch} is set, but no reward reads {' or '.join(sorted(_READ[switch]))}, so it would do nothing. "
                f"Name {_NEEDED.get(switch, 'consistency or coherence')} among the rewards, or leave the switch out."
            )


_NEEDED = {"contrastive_consistency": "consistency", "masked_coherence": "coherence"}
