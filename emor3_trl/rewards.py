r"""The rewards of EMO-R3 as TRL reward functions: pure, picklable, and usable with a stock `GRPOTrainer`.

Each takes the completions of a batch and one value per completion of every column, and returns one float per
completion. Reflection is data here: the policy's answers about its own steps arrive as the columns
`consistency_answer` and `coherence_answer`. A completion can be anything; it never raises. A column that is missing
does, because then every reward of the run would be wrong.

Overall reward (paper, Eq. 5 and 6): (1 - l1 - l2) accuracy + l1 (consistency + coherence) / 2 + l2 format.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emor3_trl.emotions import VALENCE, LabelSpace, canonical, wheel_distance
from emor3_trl.thinking import answered, is_plain_think, parse, says_something

Completions = Sequence[str | list[dict[str, Any]]]
SpaceColumn = Sequence[str | Sequence[str] | LabelSpace]
RewardFunction = Callable[..., list[float]]

REWARD_VARIANTS = ("paper", "reference", "plain")
ACCURACY_TRUTHS = ("label", "votes", "wheel")
ANSWERS = ("consistency_answer", "coherence_answer")  # columns that the reflection adds


def completion_text(completion: object) -> str:
    """Return the text of a completion: a plain string, or the last message of a conversation.

    >>> completion_text([{"role": "assistant", "content": "Hello"}])
    'Hello'
    """
    if isinstance(completion, (list, tuple)) and completion and isinstance(completion[-1], dict):
        content = completion[-1].get("content")
        if isinstance(content, (list, tuple)):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            return "".join(part for part in parts if isinstance(part, str))
        completion = content
    return completion if isinstance(completion, str) else ""


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
    is "label", or a row on the "wheel" has no votes, v is 1 for the row's emotion. s(a, y) is 1 for a = y, the credit c
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
        emotions = _column("emotion", emotion, len(completions))
        has_votes = self.truth == "votes" or (self.truth == "wheel" and votes is not None)
        votes = _column("votes", votes, len(completions)) if has_votes else [None] * len(completions)
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
    completions: Completions, consistency_answer: Sequence[str | None] | None = None, **_columns: Any
) -> list[float]:
    r"""Return 1 for each completion whose step 1 the policy finds true of the picture, else 0 (Sec. 3.3, Eq. 3).

    Args:
        completions: N completions; a malformed one, or one whose step 1 has no word, earns nothing whatever the answer.
        consistency_answer: N answers, "Yes" or "No"; None where nothing was asked.
        _columns: what else TRL passes; ignored.

    Raises:
        ValueError: if the column is missing or has another length.

    >>> good = r"<step1>A dog</step1><step2>Warmth</step2><step3>Positive, calm</step3>\boxed{contentment}"
    >>> consistency_reward([good, good, r"\boxed{awe}"], consistency_answer=["Yes", "No", "Yes"])
    [1.0, 0.0, 0.0]
    """
    answers = _column("consistency_answer", consistency_answer, len(completions))
    says_yes = [isinstance(answer, str) and canonical(answer) == "yes" for answer in answers]
    thoughts = [parse(completion_text(completion)) for completion in completions]
    triggers = ["" if thought is None else thought.trigger for thought in thoughts]
    return [float(yes and says_something(trigger)) for yes, trigger in zip(says_yes, triggers, strict=True)]


def coherence_reward(
    completions: Completions,
    emotion: Sequence[str | None] | None = None,
    label_space: SpaceColumn | None = None,
    coherence_answer: Sequence[str | None] | None = None,
    **_columns: Any,
) -> list[float]:
    r"""Return 1 for each completion whose steps 1 and 2 lead the policy to the row's emotion, else 0 (Eq. 4).

    Args:
        completions: N completions; a malformed one earns nothing, whatever the answer.
        emotion: N labels, the ground truth.
        label_space: N label spaces, each a known name or the list of labels.
        coherence_answer: N answers, labels of the label space; None where nothing was asked.
        _columns: what else TRL passes; ignored.

    Raises:
        ValueError: if a column is missing, has another length, or holds a label space that is not known.

    >>> good = r"<step1>A dog</step1><step2>Warmth</step2><step3>Positive, calm</step3>\boxed{awe}"
    >>> coherence_reward([good, good], emotion=["awe"] * 2, label_space=["emoset_8"] * 2,
    ...                  coherence_answer=["awe", "fear"])
    [1.0, 0.0]
    """
    answers = _column("coherence_answer", coherence_answer, len(completions))
    matches = _label_matches(answers, emotion, _label_spaces(label_space, len(completions)))
    return [match * parsed for match, parsed in zip(matches, _well_formed(completions), strict=True)]


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


class ReferenceRewards:
    """What the reference implementation of the paper computes; the functions have the names of the paper's.

    It differs from the paper: the reflective part counts twice (the maximum is 1 + lambda1), a completion may hold
    anything between the steps and after the box, and answers that cannot be read earn 0.5.
    """

    @staticmethod
    def accuracy_reward(
        completions: Completions, emotion: Sequence[str | None] | None = None, **_columns: Any
    ) -> list[float]:
        r"""Return 1 where the last box equals the emotion but for case; a missing box counts as the answer "None".

        >>> ReferenceRewards.accuracy_reward([r"\boxed{fear}, no: \boxed{ AWE }", "awe"], emotion=["awe", "awe"])
        [1.0, 0.0]
        """
        emotions = _column("emotion", emotion, len(completions))
        answers = [_last_box(_tighten(completion_text(completion))) for completion in completions]
        return [float(answer.lower() == str(label).lower()) for answer, label in zip(answers, emotions, strict=True)]

    @staticmethod
    def consistency_reward(
        completions: Completions, consistency_answer: Sequence[str | None] | None = None, **_columns: Any
    ) -> list[float]:
        """Return 1 where the answer holds "yes", else 0 where it holds "no", else 0.5.

        The reference asks a malformed completion's judge to answer 'None'. None, which stands for a question that was
        not asked, is therefore read as that text, and "None" holds "no".

        >>> ReferenceRewards.consistency_reward(["…"] * 4, consistency_answer=["Yes", "No, it cannot", "", None])
        [1.0, 0.0, 0.5, 0.0]
        """
        answers = [
            str(answer).lower() for answer in _column("consistency_answer", consistency_answer, len(completions))
        ]
        return [1.0 if "yes" in answer else 0.0 if "no" in answer else 0.5 for answer in answers]

    @staticmethod
    def coherence_reward(
        completions: Completions,
        emotion: Sequence[str | None] | None = None,
        coherence_answer: Sequence[str | None] | None = None,
        **_columns: Any,
    ) -> list[float]:
        """Return 0.5 where the answer is empty, "none" or None (not asked), else 1 where it equals the emotion.

        >>> answers = ["Awe", "fear", "", None]
        >>> ReferenceRewards.coherence_reward(["…"] * 4, emotion=["awe"] * 4, coherence_answer=answers)
        [1.0, 0.0, 0.5, 0.5]
        """
        emotions = [str(label).lower() for label in _column("emotion", emotion, len(completions))]
        answers = [str(answer).lower() for answer in _column("coherence_answer", coherence_answer, len(completions))]
        return [
            0.5 if answer in ("", "none") else float(answer == label)
            for answer, label in zip(answers, emotions, strict=True)
        ]

    @staticmethod
    def format_reward(completions: Completions, **_columns: Any) -> list[float]:
        r"""Return 1 where the tags of three steps and a box follow each other, with anything between and after.

        >>> loose = r"<step1></step1> and <step2></step2> <step3></step3> then \boxed{}, or so"
        >>> ReferenceRewards.format_reward([loose, "First: " + loose])
        [1.0, 0.0]
        """
        return [float(_in_order(_tighten(completion_text(completion)))) for completion in completions]


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


_ADDED_BY = {
    "emotion": "emor3_trl.data.load_split gives each row its emotion",
    "label_space": "emor3_trl.data.load_split gives each row its label space",
    "votes": "emor3_trl.data.load_split gives each row its votes, where people voted on its image",
    "consistency_answer": "EmoR3Trainer adds it to each batch; with another trainer, take it from Reflector.reflect",
    "coherence_answer": "EmoR3Trainer adds it to each batch; with another trainer, take it from Reflector.reflect",
}


def _column(name: str, values: Sequence[Any] | None, length: int) -> Sequence[Any]:
    if values is None:
        raise ValueError(f"The column '{name}' is missing, and a reward needs it: {_ADDED_BY[name]}.")
    if isinstance(values, (str, LabelSpace)) or len(values) != length:
        given = f"{values!r}" if isinstance(values, (str, LabelSpace)) else f"{len(values)} values"
        raise ValueError(
            f"The column '{name}' was given {given} for {length} completions. Expected one value for each."
        )
    return values


def _label_spaces(column: SpaceColumn | None, length: int) -> list[LabelSpace]:
    return [LabelSpace.of(value) for value in _column("label_space", column, length)]


def _label_matches(
    answers: Sequence[object], emotion: Sequence[str | None] | None, spaces: Sequence[LabelSpace]
) -> list[float]:
    """Return 1.0 where an answer names the row's emotion and that emotion belongs to the row's label space."""
    emotions = _column("emotion", emotion, len(answers))
    rewards = []
    for answer, truth, space in zip(answers, emotions, spaces, strict=True):
        label = space.normalise(truth)
        rewards.append(float(label is not None and space.normalise(answer) == label))
    return rewards


def _well_formed(completions: Completions) -> list[bool]:
    return [parse(completion_text(completion)) is not None for completion in completions]


def _tighten(text: str) -> str:
    """Remove the white space around `<`, `>` and `/`, as the reference does before it reads format and accuracy."""
    pieces = re.split("([<>/])", text)
    last = len(pieces) - 1
    stripped = [piece.lstrip() if index else piece for index, piece in enumerate(pieces)]
    return "".join(piece.rstrip() if index < last else piece for index, piece in enumerate(stripped))


def _in_order(text: str) -> bool:
    """Return whether `text` begins with `<step1>` and holds the other tags and a closed box in this order."""
    if not text.startswith("<step1>"):
        return False
    position = 0
    for mark in ("<step1>", "</step1>", "<step2>", "</step2>", "<step3>", "</step3>", "\\boxed{", "}"):
        found = text.find(mark, position)
        if found < 0:
            return False
        position = found + len(mark)
    return True


def _last_box(text: str) -> str:
    r"""Return the content of the last `\boxed{…}`, braces balanced, or "None" if it is missing or never closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return "None"
    start += len("\\boxed{")
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth < 0:
            return text[start : start + brace.start()].strip()
    return "None"
