"""What the policy is used for, whatever runs it: write completions, choose among answers, score tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Args:
        text: without special tokens.
        tokens: how many it wrote, the one that ends a completion included.
        finished: whether it ended by itself, not at the limit.
    """

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Question:
    """One question with its choices.

    Args:
        text: the text of the user turn, data that may hold anything.
        choices: the permitted answers, two or more.
        image: a PIL image that stands before the text, or None.
    """

    text: str
    choices: tuple[str, ...]
    image: Any | None = None


@dataclass(frozen=True)
class WeighedAnswer:
    """The chosen answer to a question, and how likely each choice is under the constraint to give one of them.

    Args:
        answer: one of the choices.
        probabilities: of the choices, in their order; they add up to 1.
        exact: whether each is exact, see `ChoiceTree.weigh_choices`.
    """

    answer: str
    probabilities: tuple[float, ...]
    exact: tuple[bool, ...]


@dataclass
class ChoiceCost:
    """What one call of `Engine.choose` cost.

    Args:
        requests: questions that the engine answered.
        prompt_tokens: tokens of their prompts, images included.
        cached_tokens: how many of those came from the prefix cache.
        generated_tokens: tokens of the answers.
        seconds: wall-clock time.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Continuation:
    """The beginning of a completion, of which the next token is asked for.

    Args:
        text: the text of the prompt.
        image: its image.
        prefix: tokens of the completion so far.
        candidates: tokens that may come next.
    """

    text: str
    image: Any
    prefix: tuple[int, ...]
    candidates: tuple[int, ...]


class Engine(Protocol):
    """The policy with its processor: training, evaluation and reflection use it through these four methods.

    `group` is the process group whose ranks hold one engine together and call it together; None for an engine each.
    """

    processor: Any
    group: Any | None

    def generate(
        self, texts: Sequence[str], images: Sequence[Any], *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """Return `n` completions for each question about an image; greedy at temperature 0."""

    def choose(self, questions: Sequence[Question]) -> tuple[list[str], ChoiceCost]:
        """Return the chosen answer to each question, greedily, and what that cost."""

    def weigh(self, questions: Sequence[Question]) -> tuple[list[WeighedAnswer], ChoiceCost]:
        """Return what `choose` does, with the probability of each choice; it decodes no token more."""

    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[list[float]]:
        """Return the natural log-probability of each candidate of each continuation, at temperature 1."""
