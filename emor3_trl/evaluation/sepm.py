"""SEPM, the training-free baseline of the paper's Table 1: decide the polarity first, then ask among its labels.

Stage 1 asks whether the emotion is positive or negative. Stage 2 asks for the emotion among the labels of that
polarity, without the image tokens that stage 1's question attended least. What the method leaves open is decided here,
with the reason beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from emor3_trl.checkpoints import find_base
from emor3_trl.emotions import VALENCE, canonical
from emor3_trl.engines.engine import Completion, Question
from emor3_trl.engines.image_tokens import FAMILIES, Look, complete_without, look
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.prompts import SEPM_AMBIGUOUS, SEPM_POLARITIES, SEPM_QUESTION, PromptStyle, prompt_text

Polarity = Literal["positive", "negative", "ambiguous"]

# An image is ambiguous below this variance of the two probabilities (see `judge_polarity`)
MIN_VARIANCE = 0.1
# Of an image's tokens, rounded down: never more than a tenth is lost, and an image of fewer than ten tokens stays whole
REMOVED_PERCENT = 10

_OPPOSITE = {"positive": "negative", "negative": "positive"}


@dataclass(frozen=True)
class Decision:
    """What stage 1 decides about one image.

    Args:
        positive_probability: of "positive" against "negative".
        polarity: what the image counts as.
        removed: the image tokens that stage 2 does without, counted from 0, in ascending order.
        image_tokens: how many the image has.
    """

    positive_probability: float
    polarity: Polarity
    removed: tuple[int, ...]
    image_tokens: int

    @property
    def kept_tokens(self) -> int:
        """How many image tokens stage 2 sees."""
        return self.image_tokens - len(self.removed)


def check_family(model: str, base_model: str | None = None) -> None:
    """Make sure that a model is of a family whose image tokens can be removed, from its configuration.

    Args:
        model: a checkpoint, an adapter or a Hub name (see `check_checkpoint`).
        base_model: the model under an adapter; by default, the one that the adapter recorded.

    Raises:
        ValueError: if it is of another family.
    """
    from transformers import AutoConfig

    family = AutoConfig.from_pretrained(find_base(model, base_model), trust_remote_code=False).model_type
    if family not in FAMILIES:
        raise ValueError(
            f"method is 'sepm', but the model '{model}' is of the family {family}. Expected one of "
            f"{', '.join(FAMILIES)} (LLaVA-1.5, Qwen2.5-VL). Choose another model, or set --method ask."
        )


def judge_polarity(logits: Sequence[float]) -> tuple[float, Polarity]:
    """Return the probability of "positive", and what an image counts as.

    The variance is the population's, ((p - 1/2)² + (1/2 - p)²) / 2 = (p - 1/2)²: the two probabilities are all that
    there are, no sample of more. So an image is ambiguous for p between 0.184 and 0.816. (With the sample's variance,
    which is twice as large, it would be between 0.276 and 0.724.)

    Args:
        logits: of the first token of "positive" and of "negative".

    >>> judge_polarity([2.0, 0.0])
    (0.8807970285415649, 'positive')
    >>> judge_polarity([0.0, 1.0])[1]
    'ambiguous'
    """
    probabilities = torch.tensor(logits, dtype=torch.float32).softmax(dim=0)
    positive = float(probabilities[0])
    if float(probabilities.var(correction=0)) < MIN_VARIANCE:
        return positive, "ambiguous"
    return positive, "positive" if positive > 0.5 else "negative"


def select_least_attended(attention: Sequence[float]) -> tuple[int, ...]:
    """Return the places of the `REMOVED_PERCENT` least attended tokens, in ascending order; of equals, the earlier.

    >>> select_least_attended([0.3, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    (1,)
    """
    ascending = sorted(range(len(attention)), key=lambda place: attention[place])
    return tuple(sorted(ascending[: len(attention) * REMOVED_PERCENT // 100]))


def select_labels(labels: Sequence[str], polarity: Polarity) -> list[str]:
    """Return the labels of a polarity, in their order.

    Labels that can be either (surprise, confusion) and labels whose valence is not known stay in both. All labels
    stay for an ambiguous image, and where none would be left.

    >>> select_labels(["anger", "joy", "surprise", "nostalgia"], "positive")
    ['joy', 'surprise', 'nostalgia']
    """
    opposite = _OPPOSITE.get(polarity)
    return [label for label in labels if opposite is None or VALENCE.get(canonical(label)) != opposite] or list(labels)


def write_question(labels: Sequence[str], polarity: Polarity, style: PromptStyle) -> str:
    """Return stage 2's question."""
    question = prompt_text(style, select_labels(labels, polarity))
    return f"{SEPM_AMBIGUOUS}\n{question}" if polarity == "ambiguous" else question


def decide(seen: Look) -> Decision:
    """Return what stage 1's forward decides.

    The attention is the mean over all layers and heads. The method names no layer, and a mean needs none to be chosen
    for each family and depth.
    """
    positive, polarity = judge_polarity(seen.choice_logits)
    return Decision(positive, polarity, select_least_attended(seen.attention), len(seen.attention))


def ask_in_two_stages(
    engine: Any,
    images: Sequence[Any],
    label_spaces: Sequence[Sequence[str]],
    style: PromptStyle,
    *,
    n: int,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> tuple[list[list[Completion]], list[Decision]]:
    """Ask for the emotion of images as SEPM does.

    Args:
        engine: a `TransformersEngine`, with a model of one of `FAMILIES`.
        images: the images.
        label_spaces: the labels to choose from, for each.
        style: how stage 2 asks.
        n, temperature, max_tokens, seed: of stage 2, see `Engine.generate`; stage 1 draws nothing.

    Returns:
        `n` completions of stage 2 for each image, and what stage 1 decided.

    Raises:
        TypeError: if the engine is another one, which has no attention to show.
    """
    if not isinstance(engine, TransformersEngine):
        raise TypeError(f"SEPM needs the attention of a TransformersEngine, but was given a {type(engine).__name__}.")
    decisions = [decide(seen) for seen in look(engine, [Question(SEPM_QUESTION, SEPM_POLARITIES, i) for i in images])]
    texts = [
        write_question(labels, decision.polarity, style)
        for labels, decision in zip(label_spaces, decisions, strict=True)
    ]
    completions = complete_without(
        engine, texts, images, [decision.removed for decision in decisions],
        n=n, temperature=temperature, max_tokens=max_tokens, seed=seed,
    )  # fmt: skip
    return completions, decisions
