"""Reflection: the policy looks again at its own first two steps (paper, Sec. 3.3).

Two questions are asked of every well-formed completion: can step 1 describe the image (consistency, Eq. 3, with the
image), and which emotion do steps 1 and 2 describe (coherence, Eq. 4, text only). Both questions of all completions go
to the engine in one call, identical ones once. Answers are decoded greedily under the constraint that they are one of
the choices, so there is nothing to parse and an answer costs as few tokens as tell it from the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.engine import ChoiceCost, Engine, Question
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
from emor3_trl.thinking import StructuredThinking, parse, says_something

CONSISTENCY_CHOICES = ("Yes", "No")


def consistency_question(thinking: StructuredThinking, image: Any) -> Question:
    """Return the question whether step 1 can describe an image (paper, Eq. 3)."""
    return Question(CONSISTENCY_QUESTION.format(trigger=thinking.trigger), CONSISTENCY_CHOICES, image)


def coherence_question(thinking: StructuredThinking, labels: tuple[str, ...]) -> Question:
    """Return the question which emotion steps 1 and 2 describe (paper, Eq. 4)."""
    text = COHERENCE_QUESTION.format(trigger=thinking.trigger, feeling=thinking.feeling, labels=", ".join(labels))
    return Question(text, labels)


@dataclass(frozen=True)
class Reflection:
    """What the policy answers about one completion; None where it was not asked.

    Args:
        consistency_answer: "Yes" or "No".
        coherence_answer: a label of the row's label space.
    """

    consistency_answer: str | None = None
    coherence_answer: str | None = None


@dataclass
class Reflector:
    """Asks the policy both reflection questions about its completions.

    Args:
        engine: with the policy's current weights.

    `last_cost` is what the last call cost.
    """

    engine: Engine
    last_cost: ChoiceCost = field(default_factory=ChoiceCost)

    def reflect(
        self,
        images: Sequence[Any | None],
        completions: Sequence[str],
        label_spaces: Sequence[str | Sequence[str] | LabelSpace],
    ) -> list[Reflection]:
        """Ask about each completion (paper, Eq. 3 and 4); nothing is asked about a malformed one, or a wordless step 1.

        Args:
            images: the PIL image of each completion's prompt, or None (then consistency is not asked).
            completions: the completions, as text.
            label_spaces: the label space of each row, whose labels are the choices of the coherence question.

        Returns:
            One `Reflection` per completion, in order.
        """
        distinct: dict[Any, int] = {}
        questions: list[Question] = []
        numbers: list[tuple[int | None, int | None]] = []  # of the two questions about each completion

        def ask(question: Question) -> int:
            key = (question.text, question.choices, id(question.image))
            if key not in distinct:
                distinct[key] = len(questions)
                questions.append(question)
            return distinct[key]

        for image, completion, space in zip(images, completions, label_spaces, strict=True):
            thinking = parse(completion)
            if thinking is None or not says_something(thinking.trigger):
                numbers.append((None, None))
                continue
            numbers.append(
                (
                    None if image is None else ask(consistency_question(thinking, image)),
                    ask(coherence_question(thinking, LabelSpace.of(space).labels)),
                )
            )
        # Ranks that hold one engine together call it together, with questions or without
        joint = self.engine.group is not None
        answers, self.last_cost = self.engine.choose(questions) if questions or joint else ([], ChoiceCost())
        return [Reflection(None if i is None else answers[i], None if j is None else answers[j]) for i, j in numbers]
