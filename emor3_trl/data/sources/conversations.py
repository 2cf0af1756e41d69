"""Rows of other trainers, whose image and answer stand in a conversation.

LLaVA writes `conversations` of `from` and `value`; TRL, ms-swift and LLaMA-Factory write `messages` of `role` and
`content`, or `prompt` and `completion`. The emotion is what the assistant says last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from emor3_trl.data.sources.columns import is_usual_emotion, is_usual_image
from emor3_trl.data.sources.tables import Table

TURNS = ("messages", "conversations", "conversation", "completion", "response")
_ASSISTANTS = ("assistant", "gpt", "model", "bot")
ANSWER, PICTURE = "assistant's answer", "image of the conversation"


def add_conversation(table: Table) -> Table:
    """Add columns for the answer and the image of a table of conversations, where it has no column of its own."""
    turns = next((name for name in TURNS if name in table.columns), None)
    if turns is not None and not any(map(is_usual_emotion, table.columns)):
        answers = [read_answer(cell) for cell in table.columns[turns]]
        if any(answers):
            table.columns[ANSWER] = answers
            table.notes.append(f"{table.where}: the emotion is the assistant's last answer in '{turns}'.")
    prompts = [name for name in (*TURNS, "prompt") if name in table.columns]
    if prompts and not any(map(is_usual_image, table.columns)):
        images = [read_images(cell) for cell in table.columns[prompts[-1]]]
        if any(images):
            table.columns[PICTURE] = images
            table.notes.append(f"{table.where}: the image is the one in '{prompts[-1]}'.")
    return table


def read_answer(turns: Any) -> str | None:
    """Return what the assistant says last in a conversation, or None.

    >>> read_answer([{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "awe"}])
    'awe'
    """
    if isinstance(turns, str):
        return turns or None
    for turn in reversed(_list_turns(turns)):
        if turn.get("role", turn.get("from")) in _ASSISTANTS:
            return _join_text(turn.get("content", turn.get("value")))
    return None


def read_images(turns: Any) -> list[Any]:
    """Return the images in the parts of a conversation's turns."""
    images = []
    for turn in _list_turns(turns):
        content = turn.get("content", turn.get("value"))
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
                value = part.get("image") or part.get("image_url") or part.get("path") or part.get("url")
                images.append(value.get("url") if isinstance(value, Mapping) and "url" in value else value)
    return [image for image in images if image]


def _list_turns(turns: Any) -> list[Mapping[str, Any]]:
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        return []
    return [turn for turn in turns if isinstance(turn, Mapping)]


def _join_text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return " ".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping)).strip() or None
