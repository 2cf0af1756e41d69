"""EmoSet-118K as it is downloaded: `train.json`, `val.json`, `test.json`, `image/`, `annotation/`.

Each JSON file is a list of `[label, "image/…/….jpg", "annotation/…/….json"]`; one variant puts the picture's id behind
the label. Annotations are optional and not read.
"""

import json
from pathlib import Path
from typing import Any

from emor3_trl.data.sources.candidates import SUFFIXES, Dropped, FolderImages, Source, label_rows, require_path
from emor3_trl.emotions import EMOSET_8

SIZES = {"train": 2000, "test": 2000}  # paper, Sec. 4.1


def list_candidates(folder: str | Path) -> Source:
    """List the candidates of EmoSet; `val.json` is offered as a pool of its own where it exists.

    Args:
        folder: the folder that holds the JSON files and `image/`.

    Raises:
        FileNotFoundError: if `train.json` or `test.json` is missing.
        ValueError: if one is no list of rows, or a label is none of EmoSet's.
    """
    folder = Path(folder)
    pools, dropped = {}, []
    for split in ("train", "val", "test"):
        path = folder / f"{split}.json"
        if split == "val" and not path.is_file():
            continue
        require_path(path, "EmoSet's folder with train.json, test.json and image/ as --source")
        rows = []
        for number, row in enumerate(_rows(path)):
            image = _image(row)
            if image is None:
                dropped.append(Dropped(f"{split}.json row {number}", "names no picture"))
            else:
                rows.append((f"{split}/{Path(image).stem}-{number}", image, str(row[0])))
        pools[split], _ = label_rows(rows, EMOSET_8, str(path))
    return Source("emoset", EMOSET_8, pools, FolderImages(folder), dict(SIZES), dropped)


def _rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, list) and row for row in rows):
        raise ValueError(f'{path} is not a list of rows such as ["awe", "image/awe/awe_1.jpg", "annotation/…"].')
    return rows


def _image(row: list[Any]) -> str | None:
    """Return the path of the picture; an id before it may look like one."""
    paths = [item for item in row[1:] if isinstance(item, str) and item.lower().endswith(SUFFIXES)]
    return paths[-1] if paths else None
