"""Reflection: the policy looks again at its own first two steps (paper, Sec. 3.3).

Two questions are asked of every well-formed completion: can step 1 describe the image (consistency, Eq. 3, with the
image), and which emotion do steps 1 and 2 describe (coherence, Eq. 4, text only). All questions of all completions go
to the engine in one call, identical ones once. Answers are decoded greedily under the constraint that they are one of
the choices, so there is nothing to parse and an answer costs as few tokens as tell it from the others.

`ReflectionOptions` are this project's switches, which go beyond the paper. docs/REWARDS.md has their equations,
sources and cost.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.engine import ChoiceCost, Engine, Question, WeighedAnswer
from emor3_trl.label_words import mask_labels
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
from emor3_trl.thinking import StructuredThinking, parse, says_something

CONSISTENCY_CHOICES = ("Yes", "No")
SOFT = ("none", "raw", "calibrated")

Choices = tuple[str, ...]


def consistency_question(thinking: StructuredThinking, image: Any) -> Question:
    """Return the question whether step 1 can describe an image (paper, Eq. 3)."""
    return Question(CONSISTENCY_QUESTION.format(trigger=thinking.trigger), CONSISTENCY_CHOICES, image)


def coherence_question(thinking: StructuredThinking, labels: tuple[str, ...]) -> Question:
    """Return the question which emotion steps 1 and 2 describe (paper, Eq. 4)."""
    text = COHERENCE_QUESTION.format(trigger=thinking.trigger, feeling=thinking.feeling, labels=", ".join(labels))
    return Question(text, labels)


def mask_thinking(thinking: StructuredThinking, labels: Sequence[str], with_kin: bool = True) -> StructuredThinking:
    """Return steps 1 and 2 with "something" in the place of each label and of its kin (`masked_coherence`).

    The probe of the judge masks the labels alone, so that its numbers say how far the answer's own word carries it.

    The coherence question about m(t), m(f) in place of t, f (Eq. 4): a reason that only names its answer gives nothing
    to read it from. Explanations that leak their label are told from those that explain it in the same way by Hase et
    al., Leakage-Adjusted Simulatability (arXiv 2010.04119).
    """
    trigger, feeling = (mask_labels(text, labels, with_kin) for text in (thinking.trigger, thinking.feeling))
    return replace(thinking, trigger=trigger, feeling=feeling)


def choose_other_images(
    images: Sequence[Any | None], emotions: Sequence[str | None], same_emotion: bool
) -> list[Any | None]:
    """Return another image of the batch for each row; None if there is none.

    It is the next one, in the order of the rows, of the same emotion, which is hardest to tell apart
    (`contrastive_consistency`), or of another emotion (the probe of the judge); else the next one. Nothing is drawn. A
    copy of the image is not another one.

    Args:
        images: rows with the same image share the object.
        emotions: of the rows; None where it is not known.
        same_emotion: whether the emotion is to be the same, or another.

    >>> choose_other_images(["dog", "dog", "cat", "spider"], ["awe", "awe", "fear", "awe"], same_emotion=True)
    ['spider', 'spider', 'spider', 'dog']
    """
    distinct = {id(image): (image, emotion) for image, emotion in zip(images, emotions, strict=True)}
    shown = [pair for pair in distinct.values() if pair[0] is not None]
    chosen: dict[int, Any | None] = {}
    for place, (image, emotion) in enumerate(shown):
        following = [*shown[place + 1 :], *shown[:place]]
        fitting = [pair for pair in following if (pair[1] == emotion) == same_emotion]
        chosen[id(image)] = next((other for other, _ in (*fitting, *following) if not _are_copies(image, other)), None)
    return [chosen.get(id(image)) for image in images]


def _are_copies(image: Any, other: Any) -> bool:
    """Return whether two images show the same pixels, whatever else their files hold."""
    if not (hasattr(image, "tobytes") and hasattr(other, "tobytes")):
        return bool(image == other)
    return (image.size, image.mode) == (other.size, other.mode) and image.tobytes() == other.tobytes()


def soften_answer(answer: WeighedAnswer | None, choices: Choices, choice: str) -> float | None:
    r"""Return p(choice | question), what a question is worth in place of 0 or 1 (`soft_reflection`).

    Consistency is p(Yes | t, I) in place of 1[J(t, I) = Yes] (Eq. 3), coherence p(y | t, f) in place of 1[J(t, f) = y]
    (Eq. 4). The constrained decode of the answer has told it, so no token more is asked for. An image and a text are
    scored by the probability of Yes in VQAScore (arXiv 2404.01291), a reason by that of the true answer in RLPR
    (arXiv 2506.18254).

    Args:
        answer: to the question; None where it was not asked.
        choices: of the question.
        choice: "Yes", or the row's emotion.

    >>> soften_answer(WeighedAnswer("No", (0.25, 0.75), (True, True)), CONSISTENCY_CHOICES, "Yes")
    0.25
    """
    return answer.probabilities[choices.index(choice)] if answer is not None and answer.probabilities else None


def measure_priors(rows: Sequence[tuple[Choices, Sequence[float]]]) -> dict[Choices, list[float]]:
    r"""Return the judge's prior of each choice: the mean of its probability over all questions with these choices.

    \bar p(y) = 1/N \sum_i p(y | x_i)

    Args:
        rows: the choices of each question, and their probabilities.
    """
    by_choices: dict[Choices, list[Sequence[float]]] = defaultdict(list)
    for choices, probabilities in rows:
        by_choices[choices].append(probabilities)
    return {
        choices: [sum(column) / len(column) for column in zip(*of_questions, strict=True)]
        for choices, of_questions in by_choices.items()
    }


def calibrate_probabilities(probabilities: Sequence[float], prior: Sequence[float]) -> list[float]:
    r"""Return probabilities without the judge's habit of preferring a choice whatever it is shown.

    Batch calibration (Zhou et al. 2023, arXiv 2309.17249): q(y | x) = (p(y | x) / \bar p(y)) / \sum_z (p(z | x) /
    \bar p(z)), where \bar p is the mean over the batch. A judge that answers every question alike gives 1 / |Y|.

    Args:
        probabilities: of the choices of one question.
        prior: of the same choices, see `measure_priors`.

    >>> calibrate_probabilities([0.9, 0.1], prior=[0.9, 0.1])
    [0.5, 0.5]
    """
    ratios = [share / mean if mean else 0.0 for share, mean in zip(probabilities, prior, strict=True)]
    return [ratio / sum(ratios) for ratio in ratios]


@dataclass(frozen=True)
class ReflectionOptions:
    """What is asked and kept beyond the paper.

    Args:
        soft_reflection: "raw": also the probability of Yes and of the true label, as the constrained decode gives it;
            "calibrated": the same, corrected for the judge's prior; "none".
        contrastive_consistency: ask the consistency question about another image of the batch too.
        masked_coherence: ask the coherence question about steps whose labels are masked.
    """

    soft_reflection: str = "none"
    contrastive_consistency: bool = False
    masked_coherence: bool = False

    @classmethod
    def of(cls, args: Any) -> "ReflectionOptions":
        """Return the switches of a configuration, an `EmoR3Config`."""
        return cls(args.soft_reflection, args.contrastive_consistency, args.masked_coherence)


@dataclass(frozen=True)
class Reflection:
    """What the policy answers about one completion; None where it was not asked.

    Args:
        consistency_answer: "Yes" or "No".
        coherence_answer: a label of the row's label space.
        consistency_probability: of "Yes"; None without `soft_reflection`, as the two below.
        coherence_probability: of the row's emotion; None where it is not known.
        contrast_answer: "Yes" or "No" about another image; None where the batch has none.
        contrast_probability: of that "Yes".
        is_exact: whether coherence_probability is exact, see `ChoiceTree.weigh_choices`.
    """

    consistency_answer: str | None = None
    coherence_answer: str | None = None
    consistency_probability: float | None = None
    coherence_probability: float | None = None
    contrast_answer: str | None = None
    contrast_probability: float | None = None
    is_exact: bool | None = None


Asked = tuple[Question | None, Question | None, Question | None]  # consistency, contrast, coherence


@dataclass
class Reflector:
    """Asks the policy the reflection questions about its completions.

    Args:
        engine: with the policy's current weights.
        options: the switches; the paper's by default.
        gather: returns the items of all processes, for the prior of the judge; those of this one by default.

    `last_cost` is what the last call cost, and `contrast_requests` how many of its questions were about other images.
    """

    engine: Engine
    options: ReflectionOptions = field(default_factory=ReflectionOptions)
    gather: Callable[[list], list] = list
    last_cost: ChoiceCost = field(default_factory=ChoiceCost)
    contrast_requests: int = 0

    def reflect(
        self,
        images: Sequence[Any | None],
        completions: Sequence[str],
        label_spaces: Sequence[str | Sequence[str] | LabelSpace],
        emotions: Sequence[str | None] | None = None,
    ) -> list[Reflection]:
        """Ask about each completion (paper, Eq. 3 and 4); nothing is asked about a malformed one, or a wordless step 1.

        Args:
            images: the PIL image of each completion's prompt, or None (then consistency is not asked).
            completions: the completions, as text.
            label_spaces: the label space of each row, whose labels are the choices of the coherence question.
            emotions: the ground truth, for the switches; None where it is not known.

        Returns:
            One `Reflection` per completion, in order.
        """
        emotions = [None] * len(completions) if emotions is None else emotions
        contrasts: list[Any | None] = [None] * len(completions)
        if self.options.contrastive_consistency:
            contrasts = choose_other_images(images, emotions, same_emotion=True)
        rows = [self._list_questions(*row) for row in zip(images, contrasts, completions, label_spaces, strict=True)]
        distinct: dict[Any, Question] = {}
        for question in (question for row in rows for question in row if question is not None):
            distinct.setdefault(_identify(question), question)
        shown = {_identify(row[0]) for row in rows if row[0] is not None}
        others = {_identify(row[1]) for row in rows if row[1] is not None}
        self.contrast_requests = len(others - shown)
        weighed = dict(zip(distinct, self._ask(list(distinct.values())), strict=True))
        answers = [[None if part is None else weighed[_identify(part)] for part in row] for row in rows]
        if self.options.soft_reflection == "calibrated":
            answers = self._calibrate(rows, answers)
        return [_read_answers(*row) for row in zip(answers, label_spaces, emotions, strict=True)]

    def _list_questions(self, image: Any | None, contrast: Any | None, completion: str, space: Any) -> Asked:
        """Return the questions about a completion: about its image, about another one, and about its emotion."""
        thinking = parse(completion)
        if thinking is None or not says_something(thinking.trigger):
            return None, None, None
        labels = LabelSpace.of(space).labels
        described = mask_thinking(thinking, labels) if self.options.masked_coherence else thinking
        shown = None if image is None else consistency_question(thinking, image)
        other = None if image is None or contrast is None else consistency_question(thinking, contrast)
        return shown, other, coherence_question(described, labels)

    def _ask(self, questions: list[Question]) -> list[WeighedAnswer]:
        """Return the answers, without probabilities where the switches need none."""
        # Ranks that hold one engine together call it together, with questions or without
        if not questions and self.engine.group is None:
            self.last_cost = ChoiceCost()
            return []
        if self.options.soft_reflection != "none":
            weighed, self.last_cost = self.engine.weigh(questions)
            return weighed
        answers, self.last_cost = self.engine.choose(questions)
        return [WeighedAnswer(answer, (), ()) for answer in answers]

    def _calibrate(
        self, rows: Sequence[Asked], answers: Sequence[Sequence[WeighedAnswer | None]]
    ) -> list[list[WeighedAnswer | None]]:
        """Return the answers with calibrated probabilities; what is answered stays as it is."""
        told = [
            (question.choices, answer.probabilities)
            for row, parts in zip(rows, answers, strict=True)
            for question, answer in zip(row, parts, strict=True)
            if question is not None and answer is not None
        ]
        priors = measure_priors(self.gather(told))

        def calibrate(question: Question | None, answer: WeighedAnswer | None) -> WeighedAnswer | None:
            if question is None or answer is None:
                return None
            calibrated = calibrate_probabilities(answer.probabilities, priors[question.choices])
            return replace(answer, probabilities=tuple(calibrated))

        return [list(map(calibrate, row, parts)) for row, parts in zip(rows, answers, strict=True)]


def _identify(question: Question) -> Any:
    return question.text, question.choices, id(question.image)


def _read_answers(parts: Sequence[WeighedAnswer | None], space: Any, emotion: str | None) -> Reflection:
    shown, other, read = parts
    probability, is_exact = None, None
    if read is not None and read.probabilities:
        known = LabelSpace.of(space)
        label = known.normalise(emotion)
        if label is not None:
            probability, is_exact = soften_answer(read, known.labels, label), read.exact[known.labels.index(label)]
    return Reflection(
        consistency_answer=None if shown is None else shown.answer,
        coherence_answer=None if read is None else read.answer,
        consistency_probability=soften_answer(shown, CONSISTENCY_CHOICES, "Yes"),
        coherence_probability=probability,
        contrast_answer=None if other is None else other.answer,
        contrast_probability=soften_answer(other, CONSISTENCY_CHOICES, "Yes"),
        is_exact=is_exact,
    )
