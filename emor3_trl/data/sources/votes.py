"""Columns that count votes: a number for each emotion, or the label of each annotator.

The most frequent label of a row is taken, and ties are left out (`listing`).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from emor3_trl.data.sources.emotion_words import names_emotion
from emor3_trl.data.sources.labels import LabelReader, is_missing
from emor3_trl.data.sources.split_names import Reading
from emor3_trl.emotions import canonical

_NO_EMOTION = {"unknown", "nf", "none", "other", "no face", "not a face", "something else", "unsure", "uncertain"}
_AFFIX = re.compile(
    r".*\.|(?:is|has|p|prob|score|n|num|votes?|emotion|label)[\s_-]+|[\s_-]+(?:prob|score|count|votes?|share|percent)$",
    re.I,
)
_DECIMAL_COMMA = re.compile(r"(\d+),(\d+)")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")
_TRUTH = {"true": 1.0, "false": 0.0}


def find_votes(
    columns: Mapping[str, Sequence[Any]], image: str | None, reading: Reading, reader: LabelReader | None
) -> dict[str, str | None]:
    """Return the columns that count votes, with the label of each; "" for votes that name no emotion.

    They are those that the user named, or all that are named after emotions and hold numbers. The label of a column
    whose cells are labels, one of each annotator, is None.
    """
    named = [name.strip() for name in (reading.emotion_column or "").split(",")]
    if len(named) > 1 and all(name in columns for name in named):
        return {name: _strip_affix(name) if holds_numbers(columns[name]) else None for name in named}
    if reading.emotion_column is not None:
        return {}
    found: dict[str, str | None] = {}
    for name, cells in columns.items():
        label = _strip_affix(name)
        known = names_emotion(label) if reader is None else reader.read_label(label)
        if (known or canonical(label) in _NO_EMOTION) and name != image and holds_numbers(cells):
            found[name] = label if known else ""
    return found if sum(map(bool, found.values())) > 1 else {}


def _strip_affix(name: str) -> str:
    """Return the emotion in the name of a column.

    >>> _strip_affix("is_joy"), _strip_affix("scores.awe"), _strip_affix("fear_count"), _strip_affix("very happy")
    ('joy', 'awe', 'fear', 'very happy')
    """
    return _AFFIX.sub("", name.strip())


def holds_numbers(cells: Sequence[Any]) -> bool:
    """Return whether the first cells of a column are numbers."""
    values = [cell for cell in cells[:100] if cell is not None and str(cell).strip()]
    return bool(values) and all(read_number(value) is not None for value in values)


def read_number(cell: Any) -> float | None:
    """Return the number of a cell, or None. A comma that may stand for thousands makes no number.

    >>> read_number("70%"), read_number("0,25"), read_number(True), read_number("1,250")
    (70.0, 0.25, 1.0, None)
    """
    text = str(cell).strip().rstrip("%").lower()
    if text in _TRUTH:
        return _TRUTH[text]
    if not _THOUSANDS.fullmatch(text):
        text = _DECIMAL_COMMA.sub(r"\1.\2", text)
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def read_votes(
    columns: Mapping[str, Sequence[Any]], votes: Mapping[str, str | None], row: int
) -> dict[str, float] | None:
    """Return the votes of a row by label; "" counts those for no emotion. None: a cell holds no number."""
    counts: Counter[str] = Counter()
    for name, label in votes.items():
        cell = columns[name][row]
        if cell is None or is_missing(str(cell)):
            continue
        number = 1.0 if label is None else read_number(cell)
        if number is None:
            return None
        counts[str(cell) if label is None else label] += number  # type: ignore[assignment]  # shares are fractions
    return dict(counts)
