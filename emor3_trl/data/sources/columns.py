"""Which columns of a table hold the image, the emotion and the split: as the user says, or by their usual names.

A column of another name is taken only if it is the one usual column, or the one whose cells are all images or
emotions, and the run prints it. A column whose cells are names of splits is kept to, whatever it is called.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emor3_trl.data.sources.cells import OddCell, holds_images, is_blank, read_label_cell
from emor3_trl.data.sources.emotion_words import EMOTION_WORDS, names_emotion
from emor3_trl.data.sources.labels import LabelReader, is_missing, split_labels
from emor3_trl.data.sources.messages import build_error, join_counts, join_examples, quote, shorten
from emor3_trl.data.sources.split_names import Reading, find_kind
from emor3_trl.data.sources.votes import find_votes, holds_numbers
from emor3_trl.emotions import canonical

SAMPLE = 50  # cells that are looked at to tell what a column holds
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
_TRUTH = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}


@dataclass
class Columns:
    """The columns of a table.

    Args:
        image: column of the images.
        emotion: column of the labels, or None where people's votes are counted.
        votes: columns that count votes, with the label of each (`votes`).
        split: the split of each row as written, or None.
        notes: what was understood of them.
    """

    image: str
    emotion: str | None = None
    votes: dict[str, str | None] = field(default_factory=dict)
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
    wanted = reading.emotion_column or default
    image = _find_image(columns, reading.image_column, where)
    if reading.emotion_column is None:
        emotion = _find_emotion(columns, wanted, where)
    else:
        emotion = _find_column(list(columns), wanted, _NONE, where)
    votes: dict[str, str | None] = {}
    if emotion is None or emotion == image:
        emotion, votes = None, find_votes(columns, image, reading, reader)
    if emotion is None and not votes and reading.emotion_column is None:
        emotion = _find_by_cells(columns, image, reader, where)
    if image is None or (emotion is None and not votes):
        absent = [name for name, found in ((reading.image_column, image), (wanted, emotion or votes)) if not found]
        raise build_error(
            f"Row 1 of {where} has the columns {shorten(', '.join(columns), 120)}, not {' and '.join(absent)}.",
            "Name them with --image_column and --emotion_column.",
        )
    chosen = Columns(image, emotion, votes)
    if votes:
        source = "" if image == reading.image_column else f", the image is taken from column '{image}'"
        chosen.notes.append(
            f"{where} counts votes in the columns {shorten(', '.join(votes), 120)}{source}: the most frequent emotion "
            "is taken, ties are left out."
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


def _find_image(columns: Mapping[str, Sequence[Any]], wanted: str, where: str) -> str | None:
    """Return the column of the images: as the user named it, or the one whose cells name images, or the usual one."""
    if wanted != "image":
        return _find_column(list(columns), wanted, _NONE, where)
    named = _find_column(list(columns), wanted, _NONE, where)
    if named is not None and (holds_images(columns[named]) or not any(columns[named][:SAMPLE])):
        return named
    holding = [
        name
        for name, cells in columns.items()
        if (holds_images(cells) and len(set(map(str, cells[:SAMPLE]))) > 1)
        or (is_usual_image(name) and not any(cells[:SAMPLE]))  # images are not read yet
    ]
    if len(holding) == 1:
        return holding[0]
    usual = named or _find_column(list(columns), wanted, _USUAL_IMAGE, where)
    if usual is None and holding:
        raise build_error(
            f"{where} has several columns of images: {join_examples(holding, 5)}.",
            "Name the right one with --image_column.",
        )
    return usual


def _find_emotion(columns: Mapping[str, Sequence[Any]], wanted: str, where: str) -> str | None:
    """Return the column of the emotions where the user named none: of several, the one that holds words for them."""
    words = [name for name in columns if is_usual_emotion(name) and _holds_emotions(columns[name])]
    named = _find_column(list(columns), wanted, _NONE, where)
    if len(words) == 1 and (named is None or holds_numbers(columns[named])):
        return words[0]
    return named or _find_column(list(columns), wanted, _USUAL_EMOTION, where)


def _find_by_cells(
    columns: Mapping[str, Sequence[Any]], image: str | None, reader: LabelReader | None, where: str
) -> str | None:
    """Return the one column whose cells are all emotions, whatever it is called."""
    holding = [name for name, cells in columns.items() if name != image and _lists_emotions(cells, reader)]
    if len(holding) > 1:
        raise build_error(
            f"{where} has several columns of emotions: {join_examples(holding, 5)}.",
            "Name the right one with --emotion_column; several, joined by commas, are votes on an image.",
        )
    return holding[0] if holding else None


def _lists_emotions(cells: Sequence[Any], reader: LabelReader | None) -> bool:
    """Return whether the first cells are emotions or lists of them, and nothing else."""
    labels: set[str] = set()
    for cell in cells[:SAMPLE]:
        if is_blank(cell) or is_missing(str(cell)[:40]):
            continue
        try:
            text, votes = read_label_cell(cell)
        except OddCell:
            return False
        labels.update(split_labels(text) if votes is None else votes)
    known = (canonical(label) in EMOTION_WORDS or (reader and reader.read_label(label)) for label in labels)
    return len(labels) > 1 and all(known)


def _holds_emotions(cells: Sequence[Any]) -> bool:
    values = [cell for cell in cells[:100] if cell is not None and not is_missing(str(cell)[:40])]
    return bool(values) and all(isinstance(cell, str) and names_emotion(cell[:100]) for cell in values)


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
    flags = {name: kind for name in columns if name not in taken and (kind := _find_flag(name, columns[name]))}
    if flags:
        listed = join_examples(flags, 3)
        chosen.notes.append(f"{where}: column {listed} says which rows are of train and of test.")
        return _set_split(chosen, _read_flags(columns, flags))
    for name, cells in columns.items():
        if name not in taken and _simplify(name) in _USUAL_SPLIT and len(set(map(str, cells))) > 1:
            chosen.notes.append(
                f"{where}: column '{name}' ({_count_cells(cells)}) is not used. If it is the split: --split_column "
                f"{name}, --train_split and --test_split."
            )
    return chosen


def _find_flag(name: str, cells: Sequence[Any]) -> str | None:
    """Return "train", "test" or "val" for a column of 0 and 1 that says whether a row is of it, as `is_test`."""
    kind = find_kind(re.sub(r"^(?:is|in)(?=[^a-z]|t|v)[\s_-]*", "", name.strip().lower()))
    return kind if kind and {str(cell).strip().lower() for cell in cells} <= set(_TRUTH) else None


def _read_flags(columns: Mapping[str, Sequence[Any]], flags: Mapping[str, str]) -> list[str | None]:
    """Return the split of each row: the first that is flagged, else the one that has no flag."""
    has_train = "train" in flags.values()
    rest = None if len(flags) > 1 and has_train else "test" if has_train else "train"
    rows = zip(*([_TRUTH[str(cell).strip().lower()] for cell in columns[name]] for name in flags), strict=True)
    return [next((kind for kind, flag in zip(flags.values(), row, strict=True) if flag), rest) for row in rows]


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
