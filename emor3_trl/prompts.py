"""Every literal prompt of the project, in one place.

The question and the structured prompt follow the paper's Sec. 3.2 and Fig. 2 in this project's own words; the two
reflection questions are those of Sec. 3.3, after the text. An image always stands first in a user turn, so that a
rollout and the consistency question about it share the image as a common prefix.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

PromptStyle = Literal["set", "think", "direct"]
PROMPT_STYLES: tuple[str, ...] = get_args(PromptStyle)

QUESTION = "Which emotion does this picture evoke most? Choose one of: {labels}."

SET_INSTRUCTION = """Think in three steps before you answer.
In <step1> </step1>, name what in the picture may trigger an emotion: objects, actions, surroundings, faces.
In <step2> </step2>, describe how a person who sees this would feel.
In <step3> </step3>, conclude whether the emotion is positive or negative, and whether it is calm or excited.
Then give one emotion from the list in \\boxed{}."""

THINK_INSTRUCTION = "Think first, inside <think> </think>. Then give one emotion from the list in \\boxed{}."

DIRECT_INSTRUCTION = "Answer at once with one emotion from the list in \\boxed{}."

# Sec. 3.3: "Can the following text describe the image?"
CONSISTENCY_QUESTION = "{trigger}\n\nCan the text above describe the image? Answer Yes or No."

# Sec. 3.3: "Which emotion best describes the text above?"
COHERENCE_QUESTION = "{trigger}\n{feeling}\n\nWhich emotion best describes the text above? Choose one of: {labels}."

# SEPM, the training-free baseline of Table 1: stage 1, its two options, and what stage 2 says of an undecided picture
SEPM_QUESTION = "Is the emotion that this picture evokes positive or negative? Answer Positive or Negative."
SEPM_POLARITIES = ("Positive", "Negative")
SEPM_AMBIGUOUS = "This picture is ambiguous: its emotion may be positive or negative."

_INSTRUCTIONS = {"set": SET_INSTRUCTION, "think": THINK_INSTRUCTION, "direct": DIRECT_INSTRUCTION}


def prompt_text(style: PromptStyle, labels: Sequence[str]) -> str:
    """Return the text of a user turn that asks for the emotion of a picture.

    Args:
        style: "set" (Structured Emotional Thinking), "think" (plain thinking, the GRPO baseline) or "direct".
        labels: the emotions to choose from, in the order to list them.

    Raises:
        ValueError: if `style` is not one of the three.
    """
    if style not in _INSTRUCTIONS:
        raise ValueError(f"Unknown prompt style '{style}'. Expected one of {', '.join(PROMPT_STYLES)}.")
    return QUESTION.format(labels=", ".join(labels)) + "\n" + _INSTRUCTIONS[style]


def messages(text: str, image: Any | None = None) -> list[dict[str, Any]]:
    """Return a conversation of one user turn: the image placeholder, if there is an image, then `text`."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    return [{"role": "user", "content": content}]


def render(processor: Any, text: str, with_image: bool = True) -> str:
    """Return a user turn as the chat template writes it, up to where the assistant's turn begins.

    Args:
        processor: a vision-language model's processor, or the tokenizer of a text model.
        text: the text of the turn.
        with_image: whether an image stands before the text, as one placeholder.
    """
    conversation: list[dict[str, Any]] = [{"role": "user", "content": text}]
    if hasattr(processor, "tokenizer"):
        images = [{"type": "image"}] if with_image else []
        conversation[0]["content"] = [*images, {"type": "text", "text": text}]
    return str(processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def answer_text(label: str) -> str:
    r"""Return the answer as a completion writes it, `\boxed{label}`."""
    return f"\\boxed{{{label}}}"
