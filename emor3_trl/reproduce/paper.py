"""The figures of the paper's Tables 1 to 3, and what it says of them, as pairs that can be tested."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PAPER_DATASETS = ("emoset", "emotion6", "webemo")
AVERAGES = ("A^I", "A^O", "A")  # in-domain, out of domain, all
# Columns of Table 1: (trained on, tested on)
_COLUMNS = [("emoset", name) for name in ("emoset", "emotion6", "webemo")]
_COLUMNS += [("emotion6", name) for name in ("emotion6", "emoset", "webemo")]

# Six accuracies in the order of _COLUMNS, then A^I, A^O and A, as printed. How Vanilla was asked is not said.
_TABLE_1 = {
    "llava_vanilla": (52.77, 48.32, 25.56, 48.32, 52.77, 25.56, 50.55, 38.05, 42.22),
    "llava_sepm": (56.04, 54.21, 42.39, 54.21, 56.04, 42.39, 55.13, 48.76, 50.88),
    "vanilla": (51.55, 50.00, 40.65, 50.00, 51.55, 40.65, 50.77, 45.71, 47.40),
    "sft": (77.15, 34.51, 17.75, 69.53, 26.45, 37.65, 73.34, 29.09, 43.84),
    "grpo_g4": (74.60, 60.10, 49.50, 70.88, 59.90, 44.85, 72.74, 53.59, 59.97),
    "dapo_g4": (68.99, 56.90, 49.80, 68.56, 59.95, 45.50, 68.78, 53.04, 58.28),
    "emo_r3_g4": (75.50, 60.44, 50.45, 70.71, 60.70, 45.20, 73.10, 54.20, 60.50),
    "grpo_g8": (75.45, 57.91, 49.40, 69.87, 60.30, 42.05, 72.66, 52.42, 59.16),
    "dapo_g8": (70.21, 55.72, 48.80, 62.39, 58.05, 46.30, 66.30, 52.22, 56.91),
    "emo_r3_g8": (76.40, 59.26, 49.70, 71.72, 61.80, 43.65, 74.06, 53.60, 60.42),
}
# Three accuracies after training on EmoSet, and A
_TABLE_2 = {
    "sft": (77.15, 34.51, 17.75, 43.14),
    "grpo_g8": (75.45, 57.91, 49.40, 60.92),
    "emo_r3_g8": (76.40, 59.26, 49.70, 61.79),
    "emo_r3_cold_start_g8": (77.81, 58.59, 50.00, 62.13),
}
_TABLE_3 = {
    "grpo_g8": (75.45, 57.91, 49.40, 60.92),
    "set_only_g8": (76.02, 58.42, 49.20, 61.21),
    "emo_r3_g8": (76.40, 59.26, 49.70, 61.79),
}
_STYLES = ("set", "think", "direct")


def _spread_vanilla(rows: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Return the rows with that of Vanilla under each prompt."""
    spread: dict[str, tuple[float, ...]] = {}
    for name, values in rows.items():
        is_vanilla = name.endswith("vanilla")
        spread |= {f"{name}_{style}": values for style in _STYLES} if is_vanilla else {name: values}
    return spread


# {table: {system: {column: accuracy in percent}}}; a column is (trained on, tested on), or a mean
PAPER: dict[int, dict[str, dict[tuple[str, str] | str, float]]] = {
    1: {
        name: dict(zip([*_COLUMNS, *AVERAGES], values, strict=True))
        for name, values in _spread_vanilla(_TABLE_1).items()
    },
    **{
        number: {name: dict(zip([*_COLUMNS[:3], "A"], values, strict=True)) for name, values in rows.items()}
        for number, rows in ((2, _TABLE_2), (3, _TABLE_3))
    },
}


def average_columns(accuracies: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Return the paper's A^I, A^O and A of accuracies by (trained on, tested on), each column counting the same.

    >>> average_columns({("emoset", "emoset"): 80.0, ("emoset", "webemo"): 40.0})
    {'A^I': 80.0, 'A^O': 40.0, 'A': 60.0}
    """
    groups = {
        "A^I": [value for (train, test), value in accuracies.items() if train == test],
        "A^O": [value for (train, test), value in accuracies.items() if train != test],
        "A": list(accuracies.values()),
    }
    return {name: sum(values) / len(values) for name, values in groups.items() if values}


Where = Literal["in-domain", "out of domain", "everywhere"]


@dataclass(frozen=True)
class Claim:
    """One system above another, as the paper's tables say.

    Args:
        table: the table that says so.
        better, worse: names of systems.
        where: on which test sets.
        text: the claim in words.
    """

    table: int
    better: str
    worse: str
    where: Where
    text: str


CLAIMS = (
    Claim(1, "emo_r3_g4", "grpo_g4", "in-domain", "EMO-R3 is above GRPO in-domain (G 4)"),
    Claim(1, "emo_r3_g4", "grpo_g4", "out of domain", "EMO-R3 is above GRPO out of domain (G 4)"),
    Claim(1, "emo_r3_g8", "grpo_g8", "in-domain", "EMO-R3 is above GRPO in-domain (G 8)"),
    Claim(1, "emo_r3_g8", "grpo_g8", "out of domain", "EMO-R3 is above GRPO out of domain (G 8)"),
    Claim(1, "grpo_g4", "dapo_g4", "everywhere", "DAPO, which starves, is below GRPO (G 4)"),
    Claim(1, "grpo_g8", "dapo_g8", "everywhere", "DAPO, which starves, is below GRPO (G 8)"),
    # A trained model is compared with the base model under the same prompt
    Claim(1, "sft", "vanilla_direct", "in-domain", "SFT gains in-domain"),
    Claim(1, "vanilla_direct", "sft", "out of domain", "SFT falls out of domain, below the base model"),
    Claim(1, "grpo_g8", "vanilla_think", "out of domain", "GRPO gains out of domain, too"),
    Claim(1, "sft", "grpo_g8", "in-domain", "SFT is above GRPO in-domain"),
    Claim(1, "grpo_g8", "sft", "out of domain", "GRPO keeps what SFT loses out of domain"),
    Claim(2, "emo_r3_cold_start_g8", "emo_r3_g8", "in-domain", "The cold start helps EMO-R3 in-domain"),
    Claim(2, "emo_r3_cold_start_g8", "emo_r3_g8", "everywhere", "The cold start helps EMO-R3 over all sets"),
    Claim(3, "set_only_g8", "grpo_g8", "everywhere", "SET helps"),
    Claim(3, "emo_r3_g8", "set_only_g8", "everywhere", "RER helps beside SET"),
)


def read_paper_difference(claim: Claim) -> float:
    """Return the difference of a claim in the paper's own table, in points."""
    better, worse = (
        {key: value for key, value in PAPER[claim.table][name].items() if isinstance(key, tuple)}
        for name in (claim.better, claim.worse)
    )
    key = {"in-domain": "A^I", "out of domain": "A^O", "everywhere": "A"}[claim.where]
    return average_columns(better)[key] - average_columns(worse)[key]
