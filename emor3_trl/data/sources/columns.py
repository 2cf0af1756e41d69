"""Which columns of a table hold the image, the emotion and the split: as the user says, or by their usual names.

A column of another name is taken only if it is the one usual column, and the run prints it. A column whose cells are
names of splits is kept to, whatever it is called.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emor3_trl.data.sources.emotion_words import names_emotion
from emor3_trl.data.sources.labels import LabelReader, is_missing
from emor3_trl.data.sources.messages import build_error, join_counts, join_examples, quote, shorten
from emor3_trl.data.sources.split_names import Reading, find_kind
from emor3_trl.emotions import canonical

_IMAGE_NAMES = """
image images img imgs picture pictures photo filename filepath imagepath imgpath imagefile imagename imgname path pth
subdirectoryfilepath pixels jpg jpeg png webp imageoftheconversation
"""
_EMOTION_NAMES = """
emotion emotions label labels answer solution category class expression cls emotionlabel labelname emotionname classname
gt groundtruth target output txt assistantsanswer
"""
_SPLIT_NAMES = "split splits usage set subset partition fold phase datasplit datasetsplit"
_USUAL_IMAGE, _USUAL_EMOTION, _USUAL_SPLIT = (
    frozenset(names.split()) for names in (_IMAGE_NAMES, _EMOTION_NAMES, _SPLIT_NAMES)
)
_NONE: frozenset[str] = frozenset()
_FLAGS = {  # columns of 0 and 1, and what they mean
    "istest": ("train", "test"),
    "istrain": ("test", "train"),
    "istraining": ("test", "train"),
    "istrainingimage": ("test", "train"),
}
_NO_EMOTION = {"unknown", "nf", "none", "other", "no face", "not a face", "something else", "unsure", "uncertain"}


@dataclass
class Columns:
    """The columns of a table.

    Args:
        image: column of the images.
        emotion: column of the labels, or None where people's votes are counted.
        votes: columns that count votes, with the label of each.
        split: the split of each row as written, or None.
        notes: what was understood of them.
    """

    image: str
    emotion: str | None = None
    votes: dict[str, str] = field(default_factory=dict)
    split: Sequence[str | None] | None = None
    notes: list[str] = field(default_factory=list)


def is_usual(name: str) -> bool:
    """Return whether a column is usually called so."""
    return is_usual_image(name) or is_usual_emotion(name) or _simplify(name) in _USUAL_SPLIT


def is_usual_image(name: str) -> bool:
    """Return whether a column of images is usually called so."""
    return _simplify(name) in _USUAL_IMAGE


def is_usual_emotion(name: str) -> bool:
    """Return whether a column of emotions is usually called so."""
    return _simplify(name) in _USUAL_EMOTION


def choose_columns(
    columns: Mapping[str, Sequence[Any]],
    reading: Reading,
    reader: LabelReader | None,
    where: str,
    default: str = "emotion",
) -> Columns:
    """Return the columns of a table.

    Args:
        columns: its cells.
        reading: what the user said about it.
        reader: the label space, if there is one.
        where: what it is, for messages.
        default: how the column of the emotions is called.

    Raises:
        ValueError: if a column is missing or more than one could be meant.
    """
    header, wanted = list(columns), reading.emotion_column or default
    image = _find_column(
        header, reading.image_column, _USUAL_IMAGE if reading.image_column == "image" else _NONE, where
    )
    emotion = _find_emotion(columns, wanted, where) if reading.emotion_column is None else None
    if reading.emotion_column is not None:
        emotion = _find_column(header, wanted, _NONE, where)
    votes = {}
    if emotion is None or emotion == image:
        emotion, votes = None, _find_votes(columns, image, reading, reader)
    if image is None or (emotion is None and not votes):
        absent = [name for name, found in ((reading.image_column, image), (wanted, emotion or votes)) if not found]
        raise build_error(
            f"Row 1 of {where} has the columns {shorten(', '.join(header), 120)}, not {' and '.join(absent)}.",
            "Name them with --image_column and --emotion_column.",
        )
    chosen = Columns(image, emotion, votes)
    if votes:
        chosen.notes.append(
            f"{where} counts votes in the columns {shorten(', '.join(votes), 120)}: the most frequent emotion is "
            "taken, ties are left out."
        )
    elif (image, emotion) != (reading.image_column, wanted):
        chosen.notes.append(f"{where}: the image is taken from column '{image}', the emotion from '{emotion}'.")
    return _add_split(chosen, columns, reading, where)


def _simplify(name: str) -> str:
    return re.sub(r"[^\w]|_", "", str(name).lower())


def _find_column(header: Sequence[str], wanted: str, usual: Collection[str], where: str) -> str | None:
    """Return a column by its name, by its name in other letters, or the one that is usually called so."""
    if wanted in header:
        return wanted
    alike = [name for name in header if _simplify(name) == _simplify(wanted)]
    if len(alike) == 1:
        return alike[0]
    others = [name for name in header if _simplify(name) in usual]
    if len(others) > 1:
        option = "--image_column" if "image" in usual else "--emotion_column"
        raise build_error(
            f"{where} has no column '{wanted}', but {join_examples(others, 5)}, which could all be meant.",
            f"Name the right one with {option}.",
        )
    return others[0] if others else None


def _find_emotion(columns: Mapping[str, Sequence[Any]], wanted: str, where: str) -> str | None:
    """Return the column of the emotions where the user named none: of several, the one that holds words for them."""
    words = [name for name in columns if is_usual_emotion(name) and _holds_emotions(columns[name])]
    named = _find_column(list(columns), wanted, _NONE, where)
    if len(words) == 1 and (named is None or _holds_numbers(columns[named])):
        return words[0]
    return named or _find_column(list(columns), wanted, _USUAL_EMOTION, where)


def _holds_emotions(cells: Sequence[Any]) -> bool:
    values = [cell for cell in cells[:100] if cell is not None and not is_missing(str(cell)[:40])]
    return bool(values) and all(isinstance(cell, str) and names_emotion(cell[:100]) for cell in values)


def _find_votes(
    columns: Mapping[str, Sequence[Any]], image: str | None, reading: Reading, reader: LabelReader | None
) -> dict[str, str]:
    """Return the columns that count votes, with the label of each; "" for votes that name no emotion.

    They are those that the user named, or all that are named after emotions and hold numbers.
    """
    named = [name.strip() for name in (reading.emotion_column or "").split(",")]
    if len(named) > 1 and all(name in columns for name in named):
        return {name: name for name in named}
    if reading.emotion_column is not None:
        return {}
    found = {}
    for name, cells in columns.items():
        known = names_emotion(name) if reader is None else reader.read_label(name)
        if (known or canonical(name) in _NO_EMOTION) and name != image and _holds_numbers(cells):
            found[name] = name if known else ""
    return found if sum(map(bool, found.values())) > 1 else {}


def _holds_numbers(cells: Sequence[Any]) -> bool:
    values = [cell for cell in cells[:100] if cell is not None and str(cell).strip()]
    return bool(values) and all(read_number(value) is not None for value in values)


def read_number(cell: Any) -> float | None:
    """Return the number of a cell, or None."""
    try:
        number = float(str(cell).strip().rstrip("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def read_votes(columns: Mapping[str, Sequence[Any]], votes: Mapping[str, str], row: int) -> dict[str, float] | None:
    """Return the votes of a row by label; "" counts those for no emotion. None: a cell holds no number."""
    counts: Counter[str] = Counter()
    for name, label in votes.items():
        cell = columns[name][row]
        number = 0.0 if cell is None or is_missing(str(cell)) else read_number(cell)
        if number is None:
            return None
        counts[label] += number  # type: ignore[assignment]  # shares are fractions
    return dict(counts)


def _add_split(chosen: Columns, columns: Mapping[str, Sequence[Any]], reading: Reading, where: str) -> Columns:
    """Add the split of each row, if a column says so."""
    if reading.split_column == "none":
        return chosen
    taken = {chosen.image, chosen.emotion, *chosen.votes}
    if reading.split_column is not None:
        name = _find_column(list(columns), reading.split_column, _NONE, where)
        if name is None:
            listed = shorten(", ".join(columns), 150)
            raise build_error(f"--split_column is {quote(reading.split_column)}, but {where} has the columns {listed}.")
        return _set_split(chosen, columns[name])
    usual = _find_column(list(columns), "split", _NONE, where)
    if usual is not None:
        if usual != "split":
            chosen.notes.append(f"{where}: column '{usual}' is kept to as the split ({_count_cells(columns[usual])}).")
        return _set_split(chosen, columns[usual])
    holding = {name: cells for name, cells in columns.items() if name not in taken and _holds_splits(cells)}
    if len({tuple(map(_read_split, cells)) for cells in holding.values()}) > 1:
        raise build_error(
            f"{where} has several columns of splits, {join_examples(holding, 5)}, and they differ.",
            "Name the right one with --split_column.",
        )
    for name, cells in holding.items():
        chosen.notes.append(f"{where}: column '{name}' is kept to as the split ({_count_cells(cells)}).")
        return _set_split(chosen, cells)
    for name, cells in columns.items():
        meanings = _FLAGS.get(_simplify(name))
        if meanings and {str(cell).strip().lower() for cell in cells} <= {"0", "1", "true", "false", "0.0", "1.0"}:
            chosen.notes.append(f"{where}: column '{name}' says which rows are of train and of test.")
            flags = [str(cell).strip().lower() in ("1", "true", "1.0") for cell in cells]
            return _set_split(chosen, [meanings[flag] for flag in flags])
    for name, cells in columns.items():
        if name not in taken and _simplify(name) in _USUAL_SPLIT and len(set(map(str, cells))) > 1:
            chosen.notes.append(
                f"{where}: column '{name}' ({_count_cells(cells)}) is not used. If it is the split: --split_column "
                f"{name}, --train_split and --test_split."
            )
    return chosen


def _set_split(chosen: Columns, cells: Sequence[Any]) -> Columns:
    chosen.split = [_read_split(cell) for cell in cells]
    return chosen


def _read_split(cell: Any) -> str | None:
    text = "" if cell is None else str(cell).strip().lower()
    return None if text in ("", "nan", "none") else text


def _holds_splits(cells: Sequence[Any]) -> bool:
    """Return whether all cells are names of splits, and at least two kinds of them."""
    kinds: set[str | None] = set()
    for cell in cells:
        if cell is not None and not is_missing(str(cell)[:40]):
            kinds.add(find_kind(str(cell)[:40]))
            if None in kinds:
                return False
    return len(kinds) > 1


def _count_cells(cells: Sequence[Any]) -> str:
    return join_counts(Counter(str(cell).strip() for cell in cells), 5, 80)
