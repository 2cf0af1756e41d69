"""What a model says about a picture, as HTML; whatever it wrote is text there."""

import html
import re

from emor3_trl.app.asking import AskedModel, Progress
from emor3_trl.report.photo_page import describe_reflection, format_probabilities

STEPS = ("What may trigger an emotion", "How a person would feel", "What follows")
STATES = {"writing": "writing", "reflecting": "looking back at its steps", "done": "done"}


def split_steps(completion: str) -> list[str]:
    r"""Return the text of each step that a completion has begun, in order; empty if it does not begin with one.

    For the eye, while a completion is being written: what counts is `emor3_trl.thinking.parse`.

    >>> split_steps("<step1>A dog</step1><step2>War")
    ['A dog', 'War']
    """
    texts: list[str] = []
    rest = completion
    for number in range(1, len(STEPS) + 1):
        before, opening, rest = rest.partition(f"<step{number}>")
        if not opening or before.strip():
            break
        text, closing, rest = rest.partition(f"</step{number}>")
        texts.append(re.sub(r"<[^>\s]*$", "", text).strip() if not closing else text.strip())
        if not closing:
            break
    return texts


def format_answer(model: AskedModel, progress: Progress | None) -> str:
    """Return a model's part of the page.

    Args:
        model: which one.
        progress: what it has said so far; None before it is asked.
    """
    role = f" <small>{model.role}</small>" if model.role != model.name else ""
    heading = f"<h2>{html.escape(model.name)}{role}</h2>"
    if progress is None:
        return f"<section class='answer' data-state='waiting'>{heading}<p class='note'>waits for its turn</p></section>"
    prediction, done = progress.prediction, progress.state == "done"
    texts = split_steps(prediction.completion)
    if texts and (prediction.well_formed or not done):
        steps = "".join(
            f"<li><strong>{title}</strong> {html.escape(text)}</li>" for title, text in zip(STEPS, texts, strict=False)
        )
        body = f"<ol class='steps'>{steps}</ol>"
    else:
        body = f"<p class='completion'>{html.escape(prediction.completion)}</p>"
    answer = prediction.answer or ("no answer" if done else "…")
    parts = [heading, f"<p class='emotion'>{html.escape(answer)}</p>", body]
    if done and not prediction.well_formed:
        parts.append("<p class='note'>This is not the form that was asked for: it is shown as it was written.</p>")
    if done:
        parts.append(format_probabilities(prediction) or "<p class='note'>No probabilities: it names no label.</p>")
        parts.append(f"<p class='reflection'>{html.escape(describe_reflection(prediction))}</p>")
    note = f"{STATES[progress.state]}: {progress.tokens} tokens in {progress.seconds:.1f} s"
    parts.append(f"<p class='note'>{note}</p>")
    return f"<section class='answer' data-state='{progress.state}'>{''.join(parts)}</section>"
