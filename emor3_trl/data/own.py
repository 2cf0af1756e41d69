"""Your own pictures: a folder of folders (label = folder), or a CSV or JSONL file with image and emotion columns.

The label space is one of the known ones, a YAML file (`name`, `labels` and, if spellings differ, `map` from what is
written to a label, or to null for what shall be left out), or the labels that occur.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from emor3_trl.data.candidates import SUFFIXES, Dropped, FolderPictures, Source, labelled, need
from emor3_trl.emotions import LabelSpace, canonical, label_space

SIZES: dict[str, int | None] = {"train": None, "test": None}
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}


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
    dropped: list[Dropped] = []
    if path.is_dir():
        root, rows = path, _folder_rows(path)
    else:
        root = path.parent
        rows, dropped = _table_rows(path, image_column, emotion_column)
    spoken, spelled = _label_space(space, {label for _, _, label, _ in rows})
    kept = []
    for name, place, label, split in rows:
        if canonical(label) in spelled:
            meant = spelled[canonical(label)]
            if meant is None:
                dropped.append(Dropped(name, f"'{label}' is mapped to null"))
                continue
            label = meant
        kept.append((name, place, label, split))
    if not kept:
        raise ValueError(f"{path} offers no labelled picture ({', '.join(SUFFIXES)}).")
    splits = {split for *_, split in kept}
    pools = {
        split or "all": labelled([row[:3] for row in kept if row[3] == split], spoken, str(path))
        for split in sorted(splits, key=str)
    }
    return Source("own", spoken, pools, FolderPictures(root), dict(SIZES), dropped)


def read_label_space(path: str | Path) -> tuple[LabelSpace, dict[str, str | None]]:
    """Return the label space of a YAML file, and what its `map` says of other spellings.

    Raises:
        ValueError: if it is no such file, or `map` leads to no label.
    """
    content = yaml.safe_load(need(Path(path), "a label space's name or a YAML file").read_text(encoding="utf-8"))
    if not isinstance(content, Mapping) or not isinstance(content.get("labels"), list):
        raise ValueError(f"{path} is not a label space. Expected `name: …` and `labels: [joy, anger, …]`.")
    space = LabelSpace(str(content.get("name", Path(path).stem)), tuple(map(str, content["labels"])))
    spelled = {}
    for written, label in (content.get("map") or {}).items():
        meant = None if label is None else space.normalise(str(label))
        if label is not None and meant is None:
            raise ValueError(f"{path} maps '{written}' to '{label}', which is none of {', '.join(space.labels)}.")
        spelled[canonical(str(written))] = meant
    return space, spelled


def _label_space(space: str | None, written: set[str]) -> tuple[LabelSpace, dict[str, str | None]]:
    if space is None:
        return LabelSpace("own", tuple(sorted({canonical(label) for label in written}))), {}
    if space.endswith((".yaml", ".yml")):
        return read_label_space(space)
    return label_space(space), {}


def _folder_rows(root: Path) -> list[tuple[str, str, str, str | None]]:
    """Return (id, path, label, split) of root/<label>/…, or of root/<train|test>/<label>/…."""
    rows: list[tuple[str, str, str, str | None]] = []
    for folder in sorted(item for item in root.iterdir() if item.is_dir()):
        split = _SPLITS.get(folder.name.lower())
        labels = sorted(item for item in folder.iterdir() if item.is_dir()) if split else [folder]
        for label in labels:
            for file in sorted(label.rglob("*")):
                if file.name.lower().endswith(SUFFIXES):
                    place = file.relative_to(root).as_posix()
                    rows.append((place, place, label.name, split))
    return rows


def _table_rows(
    path: Path, image_column: str, emotion_column: str
) -> tuple[list[tuple[str, str, str, str | None]], list[Dropped]]:
    rows: list[tuple[str, str, str, str | None]] = []
    dropped = []
    for number, row in enumerate(_table(path), start=1):
        absent = [column for column in (image_column, emotion_column) if column not in row]
        if absent:
            raise ValueError(
                f"Row {number} of {path} has the columns {', '.join(map(str, row))}, not {' and '.join(absent)}. "
                "Name them with --image_column and --emotion_column."
            )
        name, image, emotion = f"{path.name}:{number}", row[image_column], row[emotion_column]
        if not image or not emotion:
            dropped.append(Dropped(name, "has no image or no emotion"))
            continue
        split = str(row.get("split") or "").lower()
        if split and split not in _SPLITS:
            dropped.append(Dropped(name, f"is of split '{split}'"))
            continue
        rows.append((name, str(image), str(emotion), _SPLITS.get(split)))
    return rows, dropped


def _table(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    if path.suffix.lower() not in (".jsonl", ".json"):
        raise ValueError(f"--source is '{path}'. Expected a folder, or a .csv, .tsv or .jsonl file.")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"Line {number} of {path} is {line[:80]!r}. Expected one JSON object per line.")
            rows.append(row)
    return rows
