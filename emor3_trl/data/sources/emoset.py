"""EmoSet-118K as it is downloaded: `train.json`, `val.json`, `test.json`, `image/`, `annotation/`.

Each JSON file is a list of `[label, "image/…/….jpg", "annotation/…/….json"]`; one variant puts the image's id behind
the label, another writes the label as the number that it has in `info.json`. Annotations are not read.
"""

import json
from pathlib import Path
from typing import Any

from emor3_trl.data.sources.candidates import SUFFIXES, Dropped, FolderImages, Source, require_path
from emor3_trl.data.sources.labels import LabelReader, is_number
from emor3_trl.data.sources.levels import find_holding
from emor3_trl.data.sources.listing import Row, read_emotions
from emor3_trl.data.sources.messages import build_error, join_examples, quote, shorten
from emor3_trl.data.sources.paths import ImagePaths
from emor3_trl.emotions import EMOSET_8

SIZES = {"train": 2000, "test": 2000}  # paper, Sec. 4.1


def list_candidates(folder: str | Path, image_folder: Path | None = None) -> Source:
    """List the candidates of EmoSet; `val.json` is offered as a pool of its own where it exists.

    Args:
        folder: the folder that holds the JSON files and `image/`.
        image_folder: a folder that images may lie in, besides the first.

    Raises:
        FileNotFoundError: if `train.json` or `test.json` is missing.
        ValueError: if one is no list of rows, or a label is none of EmoSet's.
    """
    folder = Path(folder)
    images = FolderImages(image_folder or folder, (folder,))
    source = Source("emoset", EMOSET_8, {}, images, dict(SIZES))
    reader, names = LabelReader(EMOSET_8), _read_numbers(folder / "info.json")
    missing: list[str] = []
    has_numbers = False
    for split in ("train", "val", "test"):
        path = folder / f"{split}.json"
        if split == "val" and not path.is_file():
            continue
        require_path(path, "EmoSet's folder with train.json, test.json and image/ as --source", _advise(folder))
        rows = []
        for number, row in enumerate(_read_rows(path)):
            image = _find_image(row)
            if image is None:
                source.dropped.append(Dropped(f"{split}.json row {number}", "names no picture"))
            else:
                label = str(row[0])
                has_numbers = has_numbers or label in names
                rows.append(Row(f"{split}/{_stem(image)}-{number}", image, names.get(label, label)))
        if any(map(is_number, {row.label for row in rows})):
            raise build_error(
                f"{shorten(path, 100)} holds numbers for labels ({join_examples({row.label for row in rows}, 4)}).",
                "Put EmoSet's info.json beside it, which says what they mean.",
            )
        finder = ImagePaths(folder, image_folder, shorten(path, 100))
        for row, place in zip(rows, finder.find_all([row.place for row in rows]), strict=True):
            row.place = place
        missing = missing or [row.place for row in rows]
        candidates, dropped, notes = read_emotions(rows, reader, shorten(path, 100))
        source.pools[split] = [candidate for _, candidate in candidates]
        source.dropped += dropped
        source.notes += finder.notes + notes
    if has_numbers:
        source.notes.append(f"Labels that are numbers are read as {quote(str(folder / 'info.json'))} says.")
    source.advise = lambda: ImagePaths(folder, image_folder, "").advise(missing)
    return source


def _advise(folder: Path) -> str:
    """Return which folder is meant where the lists are missing."""
    other = find_holding(folder, ["train.json", "test.json"])
    if other is not None:
        return f"Did you mean --source {other} ?"
    near = (folder / "image", folder, find_holding(folder, EMOSET_8.labels))
    images = next((path for path in near if path is not None and (path / "amusement").is_dir()), None)
    if images is None:
        return ""
    return f"For the images without the lists: --dataset own --source {images} --label_space emoset_8"


def _read_numbers(path: Path) -> dict[str, str]:
    """Return the label of each number in `info.json`, if there is one."""
    if not path.is_file():
        return {}
    try:
        numbers = json.loads(path.read_text(encoding="utf-8-sig"))["emotion"]["label2idx"]
        return {str(int(number)): str(label) for label, number in numbers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _read_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise build_error(f"{shorten(path, 100)} is not JSON ({shorten(error, 120)}).", "Download it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, list) and row for row in rows):
        raise build_error(
            f'{shorten(path, 100)} is not a list of rows such as ["awe", "image/awe/awe_1.jpg", "annotation/…"].'
        )
    return rows


def _find_image(row: list[Any]) -> str | None:
    """Return the path of the image; an id before it may look like one."""
    paths = [item for item in row[1:] if isinstance(item, str) and item.lower().endswith(SUFFIXES)]
    return paths[-1] if paths else None


def _stem(image: str) -> str:
    name = image.replace("\\", "/").rsplit("/", 1)[-1]
    return name[: name.rindex(".")]
