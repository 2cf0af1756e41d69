"""Your own pictures: a folder of folders (label = folder), or a CSV or JSONL file with image and emotion columns.

The label space is one of the known ones, a YAML file (`name`, `labels` and, if spellings differ, `map` from what is
written to a label, or to null for what shall be left out), or the labels that occur.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from emor3_trl.data.sources.candidates import (
    SUFFIXES,
    Candidate,
    Dropped,
    FolderImages,
    Source,
    label_rows,
    require_path,
)
from emor3_trl.emotions import LabelSpace, canonical

SIZES: dict[str, int | None] = {"train": None, "test": None}
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_OTHER_SPLITS = ("val", "valid", "validation", "dev")  # beside folders train and test; nothing is drawn from them

_NO_PICTURE = f"is not named like a picture ({', '.join(SUFFIXES)})"

_Row = tuple[str, str, str, str | None]  # id, path, written label, split


def list_candidates(
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
    path = require_path(Path(path), "a folder of folders, or a .csv or .jsonl file, as --source")
    if path.is_dir():
        root, (rows, dropped) = path, _folder_rows(path)
    else:
        root, (rows, dropped) = path.parent, _table_rows(path, image_column, emotion_column)
    splits = {split for *_, split in rows}
    if {"train", "test"} <= splits:  # what is of neither is never drawn, and its labels do not count
        dropped += [Dropped(name, "is of no split, and others are") for name, *_, split in rows if split is None]
        rows = [row for row in rows if row[3] is not None]
    if not rows:
        raise ValueError(f"{path} offers no labelled picture ({', '.join(SUFFIXES)}).")
    spelled: dict[str, str | None] = {}
    if space is None:
        spoken = LabelSpace("own", tuple(sorted({canonical(label) for _, _, label, _ in rows})))
    else:
        spoken, spelled = read_label_space(space)
    candidates, left_out = label_rows([row[:3] for row in rows], spoken, str(path), spelled)
    dropped += left_out
    split_of = {name: split or "all" for name, *_, split in rows}
    pools: dict[str, list[Candidate]] = {split: [] for split in sorted(set(split_of.values()))}
    for one in candidates:
        pools[split_of[one.id]].append(one)
    if not any(pools.values()):
        raise ValueError(f"{path} offers no labelled picture: all {len(dropped)} are left out by `map` or their split.")
    return Source("own", spoken, pools, FolderImages(root), dict(SIZES), dropped)


def read_label_space(space: str | Path) -> tuple[LabelSpace, dict[str, str | None]]:
    """Return a label space by its name or from a YAML file, and what the file's `map` says of other spellings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such name, it is no such file, or `map` leads to no label.
    """
    if not str(space).endswith((".yaml", ".yml")):
        return LabelSpace.of(str(space)), {}
    path = require_path(Path(space), "a label space's name or a YAML file")
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
    odd = [word for word in (*content["labels"], *written) if isinstance(word, bool) or not isinstance(word, str | int)]
    if odd:
        raise ValueError(
            f'{path} holds {odd[0]!r}, which YAML does not read as a word. Quote it, as in "no" or "null".'
        )
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

    def leave_out(path: Path | str, reason: str) -> None:
        dropped.append(Dropped(Path(path).relative_to(root).as_posix(), reason))

    def folders_in(folder: Path) -> list[Path]:
        found = []
        for item in sorted(folder.iterdir()):
            if _hidden(item.name):
                continue
            if not item.is_dir():
                leave_out(item, "lies in no emotion's folder" if _named_as_picture(item) else _NO_PICTURE)
            elif not item.resolve().is_relative_to(root.resolve()):
                leave_out(item, "is a symbolic link that leads out of the folder")
            else:
                found.append(item)
        return found

    folders = folders_in(root)
    has_splits = any(folder.name.lower() in _SPLITS for folder in folders)
    for folder in folders:
        split = _SPLITS.get(folder.name.lower())
        other = has_splits and folder.name.lower() in _OTHER_SPLITS
        for label in folders_in(folder) if split else [folder]:
            for file in _files(label, leave_out):
                place = file.relative_to(root).as_posix()
                if not _named_as_picture(file):
                    leave_out(file, _NO_PICTURE)
                elif other:
                    leave_out(file, f"is of split '{folder.name}'")
                else:
                    rows.append((place, place, label.name, split))
    return rows, dropped


def _files(folder: Path, leave_out: Callable[[Path | str, str], None]) -> list[Path]:
    """Return the files below a folder, in order; a folder that cannot be opened, or is a link, is left out."""
    files = []
    walk = os.walk(folder, onerror=lambda error: leave_out(error.filename, f"cannot be opened: {error.strerror}"))
    for place, folders, names in walk:
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                leave_out(Path(place, name), "is a symbolic link to a folder, which is not followed")
        files += [Path(place, name) for name in names if not _hidden(name)]
    return sorted(files)


def _hidden(name: str) -> bool:
    """Whether it is what systems leave behind: .DS_Store, ._photo.jpg, __MACOSX/."""
    return name.startswith((".", "__MACOSX"))


def _named_as_picture(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


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
        if any(value is None or not str(value).strip() for value in (image, emotion)):
            dropped.append(Dropped(name, "has no image or no emotion"))
        elif split and split not in _SPLITS:
            dropped.append(Dropped(name, f"is of split '{split}'"))
        else:
            rows.append((name, _place(str(image), path.parent), str(emotion), _SPLITS.get(split)))
    return rows, dropped


def _place(image: str, folder: Path) -> str:
    """Return a path as it is written, or with slashes for backslashes, which tables of Windows have."""
    return image if "\\" not in image or os.path.exists(folder / image) else image.replace("\\", "/")


def _table(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl", ".json"):
        raise ValueError(f"--source is '{path}'. Expected a folder, or a .csv, .tsv or .jsonl file.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if suffix in (".csv", ".tsv"):
                header = file.readline()
                file.seek(0)
                # Excel writes semicolons where numbers have commas; a quote that is not closed would swallow rows
                delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
                yield from csv.DictReader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
            else:
                yield from _objects(file, path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no such table in UTF-8 ({error}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no such table ({error}). Cells that begin with a quote end with one.") from error


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
