"""Whether accuracy can be measured against what a configuration names: its rewards, and its data sets' columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from emor3_trl.emotions import MIKELS_WHEEL, VALENCE, LabelSpace
from emor3_trl.rewards import ACCURACY_TRUTHS, GradedAccuracy


def check_truth(args: Any) -> None:
    """Check that the accuracy that `accuracy_truth` and `polarity_credit` grade is rewarded, and grades something.

    Args:
        args: an `EmoR3Config`.

    Raises:
        ValueError: naming the setting, and what to set instead.
    """
    if args.accuracy_truth not in ACCURACY_TRUTHS:
        raise ValueError(
            f"accuracy_truth is '{args.accuracy_truth}'. Expected one of {', '.join(ACCURACY_TRUTHS)} "
            "(docs/REWARDS.md, Votes as truth)."
        )
    settings = _list_settings(args)
    if not settings:
        return
    if args.rewards is not None and "accuracy" not in args.rewards:
        raise ValueError(f"{settings}, and rewards is {args.rewards}, without accuracy. Name it, or leave {settings}.")
    if args.rewards is None and args.reward_variant == "reference":
        raise ValueError(
            f"{settings}, and reward_variant is 'reference', whose accuracy knows the label alone. Leave it, or set "
            "reward_variant: paper."
        )
    if args.accuracy_truth == "wheel" and args.polarity_credit:
        raise ValueError(
            f"accuracy_truth is 'wheel' and polarity_credit is {args.polarity_credit}, but the wheel already gives a "
            "near answer credit. Set one of them."
        )
    if args.dynamic_sampling == "accuracy":
        raise ValueError(
            f"dynamic_sampling is 'accuracy', which drops groups that are all right, and {settings}, by which an "
            "answer can be half right. Set dynamic_sampling: spread."
        )


def check_truth_columns(
    args: Any, datasets: Mapping[str, Any], reward_funcs: Callable | Sequence[Callable] | None = None
) -> None:
    """Check that data sets have the votes and the labels that a graded accuracy reads.

    Args:
        args: an `EmoR3Config`.
        datasets: the data sets, or dicts of several, by what they are called; of a stream only the columns are known.
        reward_funcs: the rewards that will train, where they are known.

    Raises:
        ValueError: naming the data, and what is missing.
    """
    settings = _list_settings(args)
    if not settings:
        return
    functions = [reward_funcs] if callable(reward_funcs) else reward_funcs
    if functions is not None and not any(isinstance(function, GradedAccuracy) for function in functions):
        raise ValueError(
            f"{settings}, but reward_funcs is given, so it would do nothing. Leave it, or pass "
            "emor3_trl.rewards.GradedAccuracy."
        )
    for name, dataset in datasets.items():
        if isinstance(dataset, Mapping):
            check_truth_columns(args, {f"{name} '{part}'": rows for part, rows in dataset.items()})
        else:
            _check_data(args, settings, name, dataset)


def _check_data(args: Any, settings: str, name: str, dataset: Any) -> None:
    columns = getattr(dataset, "column_names", None) or ()
    if args.accuracy_truth == "votes" and columns and "votes" not in columns:
        raise ValueError(
            f"accuracy_truth is 'votes', but the {name} data have no column 'votes'. Prepare data with people's votes "
            "(Emotion6: --label_from folder_and_votes), or set accuracy_truth: label."
        )
    if not isinstance(dataset, Dataset) or "label_space" not in columns:
        return
    if args.accuracy_truth != "label" and "votes" in columns:
        _check_shares(name, dataset)
    if args.accuracy_truth != "wheel" and not args.polarity_credit:
        return
    known = MIKELS_WHEEL if args.accuracy_truth == "wheel" else tuple(VALENCE)
    what = "place on Mikels' wheel" if args.accuracy_truth == "wheel" else "polarity"
    spaces = {space if isinstance(space, str) else tuple(space) for space in dataset["label_space"]}
    unknown = sorted({label for space in spaces for label in LabelSpace.of(space).labels} - set(known))
    if unknown:
        raise ValueError(
            f"{settings}, but labels of the {name} data have no {what}: {', '.join(unknown)[:60]}. Known are "
            f"{', '.join(known)}. Leave it unset."
        )


def _check_shares(name: str, dataset: Dataset) -> None:
    """Check that each row has a share of each of its labels, or no votes; `data.load_split` has done so for its own."""
    for row, (shares, space) in enumerate(zip(dataset["votes"], dataset["label_space"], strict=True)):
        labels = LabelSpace.of(space).labels
        if shares is not None and len(shares) != len(labels):
            raise ValueError(
                f"Row {row} of the {name} data has {len(shares)} votes for {len(labels)} labels. Expected a share for "
                "each, in the order of label_space, or None."
            )


def _list_settings(args: Any) -> str:
    """Return the settings that grade accuracy, in words; "" for none."""
    settings = [f"accuracy_truth is '{args.accuracy_truth}'"] * (args.accuracy_truth != "label")
    settings += [f"polarity_credit is {args.polarity_credit}"] * (args.polarity_credit > 0)
    return " and ".join(settings)
