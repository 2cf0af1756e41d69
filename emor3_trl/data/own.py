"""Your own pictures: a folder of folders (label = folder), or a CSV or JSONL file with image and emotion columns.

The label space is one of the known ones, a YAML file (`name`, `labels` and, if spellings differ, `map` from what is
written to a label, or to null for what shall be left out), or the labels that occur.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from emor3_trl.data.candidates import SUFFIXES, Dropped, FolderPictures, Source, labelled, need
from emor3_trl.emotions import LabelSpace, canonical, label_space

SIZES: dict[str, int | None] = {"train": None, "test": None}
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_OTHER_SPLITS = ("val", "valid", "validation", "dev")  # beside folders train and test; nothing is drawn from them

_Row = tuple[str, str, str, str | None]  # id, path, written label, split


def read(
    path: str | Path,
    space: str | None = None,
    image_column: str = "image",
    emotion_column: str = "emotion",
) -> Source:
    """List the candidates of a folder or a table.

    Args:
        path: a folder of folders, or a .csv, .tsv or .jsonl file; a table's image paths are relative to its folder.
        space: name of a label space, or path of a YAML file; None takes the labels that occur.
        image_column, emotion_column: names in a table. A column `split` (train or test), if there is one, is kept to.

    Raises:
        FileNotFoundError: if there is no such folder, table or YAML file.
        ValueError: if a column is missing, nothing is offered, or a label is outside the label space.
    """
    path = need(Path(path), "a folder of folders, or a .csv or .jsonl file, as --source")
    if path.is_dir():
        root, (rows, dropped) = path, _folder_rows(path)
    else:
        root, (rows, dropped) = path.parent, _table_rows(path, image_column, emotion_column)
    if not rows:
        raise ValueError(f"{path} offers no labelled picture ({', '.join(SUFFIXES)}).")
    spelled: dict[str, str | None] = {}
    if space is None:
        spoken = LabelSpace("own", tuple(sorted({canonical(label) for _, _, label, _ in rows})))
    else:
        spoken, spelled = read_label_space(space)
    pools = {}
    for split in sorted({split for *_, split in rows}, key=str):
        of_split = [row[:3] for row in rows if row[3] == split]
        pools[split or "all"], left_out = labelled(of_split, spoken, str(path), spelled)
        dropped += left_out
    if not any(pools.values()):
        raise ValueError(f"{path} offers no labelled picture: all {len(dropped)} are left out by `map` or their split.")
    return Source("own", spoken, pools, FolderPictures(root), dict(SIZES), dropped)


def read_label_space(space: str | Path) -> tuple[LabelSpace, dict[str, str | None]]:
    """Return a label space by its name or from a YAML file, and what the file's `map` says of other spellings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such name, it is no such file, or `map` leads to no label.
    """
    if not str(space).endswith((".yaml", ".yml")):
        return label_space(str(space)), {}
    path = need(Path(space), "a label space's name or a YAML file")
    expected = "Expected `name: …`, `labels: [joy, anger, …]` and, if spellings differ, `map: {happy: joy, …}`"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({error}). {expected}.") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("labels"), list):
        raise ValueError(f"{path} is not a label space. {expected}.")
    written = content.get("map") or {}
    if not isinstance(written, Mapping):
        raise ValueError(f"`map` of {path} is {written!r}. {expected}.")
    labels = LabelSpace(str(content.get("name", path.stem)), tuple(map(str, content["labels"])))
    spelled = {}
    for word, label in written.items():
        meant = None if label is None else labels.normalise(str(label))
        if label is not None and meant is None:
            raise ValueError(f"{path} maps '{word}' to '{label}', which is none of {', '.join(labels.labels)}.")
        spelled[canonical(str(word))] = meant
    return labels, spelled


def _folder_rows(root: Path) -> tuple[list[_Row], list[Dropped]]:
    """Return the rows of root/<label>/…, or of root/<train|test>/<label>/…, and what is no picture by its name."""
    rows: list[_Row] = []
    dropped: list[Dropped] = []
    folders = [item for item in _visible(root.iterdir(), root) if item.is_dir()]
    has_splits = any(folder.name.lower() in _SPLITS for folder in folders)
    for folder in folders:
        split = _SPLITS.get(folder.name.lower())
        other = has_splits and folder.name.lower() in _OTHER_SPLITS
        labels = [item for item in _visible(folder.iterdir(), root) if item.is_dir()] if split else [folder]
        for label in labels:
            for file in _visible(label.rglob("*"), root):
                place = file.relative_to(root).as_posix()
                if not file.name.lower().endswith(SUFFIXES):
                    if not file.is_dir():
                        dropped.append(Dropped(place, f"is not named like a picture ({', '.join(SUFFIXES)})"))
                elif other:
                    dropped.append(Dropped(place, f"is of split '{folder.name}'"))
                else:
                    rows.append((place, place, label.name, split))
    return rows, dropped


def _visible(paths: Iterable[Path], root: Path) -> list[Path]:
    """Return the paths in order, without what systems leave behind (.DS_Store, ._photo.jpg, __MACOSX/)."""
    hidden = (".", "__MACOSX")
    return sorted(path for path in paths if not any(part.startswith(hidden) for part in path.relative_to(root).parts))


def _table_rows(path: Path, image_column: str, emotion_column: str) -> tuple[list[_Row], list[Dropped]]:
    rows: list[_Row] = []
    dropped = []
    for number, row in enumerate(_table(path), start=1):
        absent = [column for column in (image_column, emotion_column) if column not in row]
        if absent:
            raise ValueError(
                f"Row {number} of {path} has the columns {', '.join(map(str, row))}, not {' and '.join(absent)}. "
                "Name them with --image_column and --emotion_column."
            )
        name, image, emotion = f"{path.name}:{number}", row[image_column], row[emotion_column]
        split = str(row.get("split") or "").strip().lower()
        if image in (None, "") or emotion in (None, ""):
            dropped.append(Dropped(name, "has no image or no emotion"))
        elif split and split not in _SPLITS:
            dropped.append(Dropped(name, f"is of split '{split}'"))
        else:
            rows.append((name, str(image), str(emotion), _SPLITS.get(split)))
    return rows, dropped


def _table(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl", ".json"):
        raise ValueError(f"--source is '{path}'. Expected a folder, or a .csv, .tsv or .jsonl file.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if suffix in (".csv", ".tsv"):
                yield from csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
            else:
                yield from _objects(file, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no such table in UTF-8 ({error}). Save it as UTF-8.") from error


def _objects(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"Line {number} of {path} is {line[:80]!r}. Expected one JSON object per line.")
            yield row
