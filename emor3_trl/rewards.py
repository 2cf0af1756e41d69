r"""The rewards of EMO-R3 as TRL reward functions: pure, picklable, and usable with a stock `GRPOTrainer`.

Each takes the completions of a batch and one value per completion of every column, and returns one float per
completion. Reflection is data here: the policy's answers about its own steps arrive as the columns
`consistency_answer` and `coherence_answer`, and what its switches add (`reflection.ReflectionOptions`) as further
ones, without which the rewards are the paper's. A completion can be anything; it never raises. A column that is
missing does, because then every reward of the run would be wrong.

Overall reward (paper, Eq. 5 and 6): (1 - l1 - l2) accuracy + l1 (consistency + coherence) / 2 + l2 format.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emor3_trl.emotions import VALENCE, LabelSpace, canonical, wheel_distance
from emor3_trl.reference_rewards import ReferenceRewards
from emor3_trl.reward_columns import ANSWERS, Completions, completion_text, read_column
from emor3_trl.thinking import answered, is_plain_think, parse, says_something

__all__ = [
    "ACCURACY_TRUTHS", "ANSWERS", "GATES", "REWARD_VARIANTS", "GradedAccuracy", "ReferenceRewards", "accuracy_reward",
    "choose_accuracy", "coherence_reward", "completion_text", "consistency_reward", "format_reward", "gate_reflection",
    "reward_functions", "think_format_reward",
]  # fmt: skip

SpaceColumn = Sequence[str | Sequence[str] | LabelSpace]
RewardFunction = Callable[..., list[float]]

REWARD_VARIANTS = ("paper", "reference", "plain")
ACCURACY_TRUTHS = ("label", "votes", "wheel")
GATES = ("none", "unseparated", "right")  # what `gate_reflection` knows


def accuracy_reward(
    completions: Completions,
    emotion: Sequence[str | None] | None = None,
    label_space: SpaceColumn | None = None,
    **_columns: Any,
) -> list[float]:
    r"""Return 1 for each completion whose box names the row's emotion, else 0 (paper, Sec. 3.2).

    Args:
        completions: N completions, plain or conversational. They need one distinct box, not well-formed steps.
        emotion: N labels, the ground truth.
        label_space: N label spaces, each a known name or the list of labels.
        _columns: what else TRL passes; ignored.

    Raises:
        ValueError: if a column is missing, has another length, or holds a label space that is not known.

    >>> accuracy_reward([r"\boxed{Awe}", r"\boxed{awe or fear}"], emotion=["awe"] * 2, label_space=["emoset_8"] * 2)
    [1.0, 0.0]
    """
    spaces = _label_spaces(label_space, len(completions))
    texts = [completion_text(completion) for completion in completions]
    answers = [answered(text, space) for text, space in zip(texts, spaces, strict=True)]
    return _label_matches(answers, emotion, spaces)


@dataclass(frozen=True)
class GradedAccuracy:
    r"""`accuracy_reward` that knows more of the truth than one label: r(a) = sum over labels y of v(y) s(a, y).

    v(y) is the share of people who said y: r is the expected accuracy against one of them, drawn at random. Where truth
    is "label", or a row has no votes, v is 1 for the row's emotion. s(a, y) is 1 for a = y, the credit c
    for another label of y's polarity, else 0; on the wheel it is 1 - d(a, y), with d of `emotions.wheel_distance`
    (Zhao et al., ACM Multimedia 2016). No answer earns 0.

    Args:
        truth: one of `ACCURACY_TRUTHS`.
        polarity_credit: c in [0, 1). Polarity is Mikels' positive and negative (`emotions.VALENCE`); surprise and
            confusion have none.

    >>> columns = {"emotion": ["joy"] * 2, "label_space": ["emotion6"] * 2, "votes": [[0, 0, 0.1, 0.7, 0, 0.2]] * 2}
    >>> GradedAccuracy("votes")([r"\boxed{joy}", r"\boxed{surprise}"], **columns)
    [0.7, 0.2]
    """

    truth: str = "label"
    polarity_credit: float = 0.0
    __name__ = "accuracy_reward"  # in TRL's log

    def __call__(
        self,
        completions: Completions,
        emotion: Sequence[str | None] | None = None,
        label_space: SpaceColumn | None = None,
        votes: Sequence[Sequence[float] | None] | None = None,
        **_columns: Any,
    ) -> list[float]:
        """Return what each answer earns; as `accuracy_reward`, with `votes`: N shares of each label of the row."""
        spaces = _label_spaces(label_space, len(completions))
        emotions = read_column("emotion", emotion, len(completions))
        has_votes = self.truth == "votes" or (self.truth == "wheel" and votes is not None)
        votes = read_column("votes", votes, len(completions)) if has_votes else [None] * len(completions)
        rewards = []
        for completion, label, space, shares in zip(completions, emotions, spaces, votes, strict=True):
            answer, truth = answered(completion_text(completion), space), space.normalise(label)
            shares = [float(other == truth) for other in space.labels] if shares is None else shares
            worths = [0.0 if answer is None else self._compare(answer, other) for other in space.labels]
            rewards.append(sum(share * worth for share, worth in zip(shares, worths, strict=True)))
        return rewards

    def _compare(self, answer: str, label: str) -> float:
        """Return s(answer, label)."""
        if self.truth == "wheel":
            return 1 - wheel_distance(answer, label)
        if answer == label:
            return 1.0
        polarity = VALENCE.get(answer, "neutral")
        return self.polarity_credit if polarity == VALENCE.get(label, "neutral") != "neutral" else 0.0


def consistency_reward(
    completions: Completions,
    consistency_answer: Sequence[str | None] | None = None,
    consistency_probability: Sequence[float | None] | None = None,
    contrast_answer: Sequence[str | None] | None = None,
    contrast_probability: Sequence[float | None] | None = None,
    reflection_gate: Sequence[float] | None = None,
    **_columns: Any,
) -> list[float]:
    r"""Return 1 for each completion whose step 1 the policy finds true of the picture, else 0 (Sec. 3.3, Eq. 3).

    The columns of the switches make it r = g s (1 - c). s is P(Yes) about this image in place of 0 or 1, c the same
    about another image of the batch (0 where there was none), and g is the gate.

    Args:
        completions: N completions; a malformed one, or one whose step 1 has no word, earns nothing whatever the answer.
        consistency_answer: N answers, "Yes" or "No"; None where nothing was asked.
        consistency_probability: N probabilities of Yes (`soft_reflection`); None where nothing was asked.
        contrast_answer: N answers to the same question about another image (`contrastive_consistency`).
        contrast_probability: N probabilities of Yes about that image.
        reflection_gate: N factors, see `gate_reflection`.
        _columns: what else TRL passes; ignored.

    Raises:
        ValueError: if the column of answers is missing, or a column has another length.

    >>> good = r"<step1>A dog</step1><step2>Warmth</step2><step3>Positive, calm</step3>\boxed{contentment}"
    >>> consistency_reward([good, good, r"\boxed{awe}"], consistency_answer=["Yes", "No", "Yes"])
    [1.0, 0.0, 0.0]
    >>> consistency_reward([good] * 3, consistency_answer=["Yes"] * 3, contrast_answer=["Yes", "No", None])
    [0.0, 1.0, 1.0]
    """
    count = len(completions)
    answers = read_column("consistency_answer", consistency_answer, count)
    here = _measure_yes(answers, consistency_probability)
    elsewhere = [0.0] * count if contrast_answer is None else _measure_yes(contrast_answer, contrast_probability)
    thoughts = [parse(completion_text(completion)) for completion in completions]
    spoken = [float(thought is not None and says_something(thought.trigger)) for thought in thoughts]
    parts = zip(_read_gates(reflection_gate, count), here, elsewhere, spoken, strict=True)
    return [gate * yes * (1 - other_yes) * speaks for gate, yes, other_yes, speaks in parts]


def coherence_reward(
    completions: Completions,
    emotion: Sequence[str | None] | None = None,
    label_space: SpaceColumn | None = None,
    coherence_answer: Sequence[str | None] | None = None,
    coherence_probability: Sequence[float | None] | None = None,
    reflection_gate: Sequence[float] | None = None,
    **_columns: Any,
) -> list[float]:
    r"""Return 1 for each completion whose steps 1 and 2 lead the policy to the row's emotion, else 0 (Eq. 4).

    The columns of the switches make it r = g q: q is the probability of the row's emotion in place of 0 or 1, and g is
    the gate.

    Args:
        completions: N completions; a malformed one earns nothing, whatever the answer.
        emotion: N labels, the ground truth.
        label_space: N label spaces, each a known name or the list of labels.
        coherence_answer: N answers, labels of the label space; None where nothing was asked.
        coherence_probability: N probabilities of the row's emotion (`soft_reflection`); None where nothing was asked.
        reflection_gate: N factors, see `gate_reflection`.
        _columns: what else TRL passes; ignored.

    Raises:
        ValueError: if a column is missing, has another length, or holds a label space that is not known.

    >>> good = r"<step1>A dog</step1><step2>Warmth</step2><step3>Positive, calm</step3>\boxed{awe}"
    >>> coherence_reward([good, good], emotion=["awe"] * 2, label_space=["emoset_8"] * 2,
    ...                  coherence_answer=["awe", "fear"])
    [1.0, 0.0]
    """
    count = len(completions)
    answers = read_column("coherence_answer", coherence_answer, count)
    matches = _label_matches(answers, emotion, _label_spaces(label_space, count))
    if coherence_probability is not None:
        matches = [share or 0.0 for share in read_column("coherence_probability", coherence_probability, count)]
    parts = zip(_read_gates(reflection_gate, count), matches, _well_formed(completions), strict=True)
    return [gate * match * parsed for gate, match, parsed in parts]


def gate_reflection(accuracies: Sequence[float], groups: Sequence[int], rule: str) -> list[float]:
    r"""Return by how much each completion's reflective rewards count, g in r' = g r.

    - "none": g = 1, the paper's.
    - "unseparated": g = 1 where max a = min a over the completions of the group, else 0. What accuracy separates, it
      decides alone; where it is silent, all right or all wrong, reflection speaks. These are the groups that DAPO drops
      (arXiv 2503.14476, Sec. 3.2).
    - "right": g = a, the accuracy of the completion: a reason counts as far as it leads to a right answer (as the
      consistency bonus of GRPO-CARE, arXiv 2506.16141).

    Args:
        accuracies: a, the accuracy reward of each completion, of all processes.
        groups: the number of each completion's group.
        rule: one of `GATES`.

    >>> gate_reflection([1, 0, 0, 0, 1, 1], groups=[0, 0, 1, 1, 2, 2], rule="unseparated")
    [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    >>> gate_reflection([1, 0, 0, 0.5], groups=[0, 0, 1, 1], rule="right")
    [1.0, 0.0, 0.0, 0.5]
    """
    if rule == "right":
        return [float(accuracy) for accuracy in accuracies]
    by_group: dict[int, list[float]] = defaultdict(list)
    for accuracy, group in zip(accuracies, groups, strict=True):
        by_group[group].append(accuracy)
    return [float(rule == "none" or max(by_group[group]) - min(by_group[group]) < 1e-9) for group in groups]


def format_reward(completions: Completions, **_columns: Any) -> list[float]:
    r"""Return 1 for each completion that `thinking.parse` finds well formed, else 0 (paper, Sec. 3.2).

    >>> format_reward([r"<step1>A dog</step1><step2>Warmth</step2><step3>Positive</step3>\boxed{awe}", r"\boxed{awe}"])
    [1.0, 0.0]
    """
    return [float(parsed) for parsed in _well_formed(completions)]


def think_format_reward(completions: Completions, **_columns: Any) -> list[float]:
    r"""Return 1 for each completion of the plain GRPO baseline's format, `<think>…</think>` then one box, else 0.

    >>> think_format_reward([r"<think>A dog.</think> \boxed{awe}", r"\boxed{awe}"])
    [1.0, 0.0]
    """
    return [float(is_plain_think(completion_text(completion))) for completion in completions]


def choose_accuracy(truth: str = "label", polarity_credit: float = 0.0) -> RewardFunction:
    """Return the accuracy of the paper, or `GradedAccuracy` where its truth is more than a label."""
    return accuracy_reward if truth == "label" and not polarity_credit else GradedAccuracy(truth, polarity_credit)


def reward_functions(
    variant: str = "paper",
    lambda1: float = 0.1,
    lambda2: float = 0.1,
    accuracy_truth: str = "label",
    polarity_credit: float = 0.0,
) -> tuple[list[RewardFunction], list[float]]:
    """Return the reward functions and their weights, for `reward_funcs` and `reward_weights` of a `GRPOTrainer`.

    Args:
        variant: "paper" (Eq. 5 and 6) or "reference" (what the reference implementation computes), both in the order
            accuracy, consistency, coherence, format; or "plain", the GRPO baseline: accuracy and the format of
            `<think>`, weighted 1 - lambda2 and lambda2, without lambda1.
        lambda1: weight of the reflective reward (paper: 0.1).
        lambda2: weight of the format reward (paper: 0.1).
        accuracy_truth, polarity_credit: of `GradedAccuracy`; the reference's accuracy knows neither.

    Raises:
        ValueError: if the variant is unknown, a lambda is negative, or both together exceed 1.

    >>> functions, weights = reward_functions(lambda1=0.5, lambda2=0.25)
    >>> dict(zip((function.__name__ for function in functions), weights))
    {'accuracy_reward': 0.25, 'consistency_reward': 0.25, 'coherence_reward': 0.25, 'format_reward': 0.25}
    """
    if variant not in REWARD_VARIANTS:
        raise ValueError(f"Unknown reward variant '{variant}'. Expected one of {', '.join(REWARD_VARIANTS)}.")
    if variant == "plain":
        lambda1 = 0.0
    # Written so that NaN fails too; the margin lets 0.9 + 0.1 and the like pass.
    if not (lambda1 >= 0 and lambda2 >= 0 and lambda1 + lambda2 <= 1 + 1e-9):
        raise ValueError(
            f"lambda1 is {lambda1} and lambda2 is {lambda2}. Expected both 0 or more and together at most 1, because "
            "accuracy is weighted 1 - lambda1 - lambda2 (paper, Eq. 6; the paper uses 0.1 and 0.1)."
        )
    accuracy = max(0.0, 1 - lambda1 - lambda2)
    judge_answer = choose_accuracy(accuracy_truth, polarity_credit)
    if variant == "plain":
        return [judge_answer, think_format_reward], [accuracy, lambda2]
    if variant == "reference":
        reference = ReferenceRewards
        return (
            [
                reference.accuracy_reward,
                reference.consistency_reward,
                reference.coherence_reward,
                reference.format_reward,
            ],
            [accuracy, lambda1, lambda1, lambda2],
        )
    return (
        [judge_answer, consistency_reward, coherence_reward, format_reward],
        [accuracy, lambda1 / 2, lambda1 / 2, lambda2],
    )


def _label_spaces(column: SpaceColumn | None, length: int) -> list[LabelSpace]:
    return [LabelSpace.of(value) for value in read_column("label_space", column, length)]


def _label_matches(
    answers: Sequence[object], emotion: Sequence[str | None] | None, spaces: Sequence[LabelSpace]
) -> list[float]:
    """Return 1.0 where an answer names the row's emotion and that emotion belongs to the row's label space."""
    emotions = read_column("emotion", emotion, len(answers))
    rewards = []
    for answer, truth, space in zip(answers, emotions, spaces, strict=True):
        label = space.normalise(truth)
        rewards.append(float(label is not None and space.normalise(answer) == label))
    return rewards


def _well_formed(completions: Completions) -> list[bool]:
    return [parse(completion_text(completion)) is not None for completion in completions]


def _measure_yes(answers: Sequence[str | None], probabilities: Sequence[float | None] | None) -> list[float]:
    """Return 1.0 for each "Yes", 0.0 for anything else; where probabilities are given, these."""
    if probabilities is not None:
        return [share or 0.0 for share in read_column("a column of probabilities", probabilities, len(answers))]
    return [float(isinstance(answer, str) and canonical(answer) == "yes") for answer in answers]


def _read_gates(gates: Sequence[float] | None, count: int) -> Sequence[float]:
    return [1.0] * count if gates is None else read_column("reflection_gate", gates, count)
