"""WebEmo as it is downloaded: `train25.txt`, `test25.txt` (URL and label per line) and `category.txt`.

The 25 labels are taken to the seven groups of the second level (paper, Sec. 4.1). The pictures are fetched by the user
into `images/`, each under the last part of its URL, or as `images.csv` (columns url, path) says; many links are dead,
and a picture that is not there is left out. Spellings are those of the files.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from emor3_trl.data.sources.candidates import Candidate, Dropped, FolderImages, Source, require_path
from emor3_trl.emotions import WEBEMO_7

SIZES = {"train": 2000, "test": 2000}
GROUPS = {
    "love": ("affection", "gratitude", "lust"),
    "joy": ("cheerfullness", "contentment", "enthrallment", "optimism", "pride", "relief", "zest"),
    "confusion": ("confusion",),
    "sadness": ("disappointment", "neglect", "sadness", "shame", "suffering", "sympathy"),
    "anger": ("disgust", "envy", "exasperation", "irritabilty", "rage"),
    "fear": ("horror", "nervousness"),
    "surprise": ("surprise",),
}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def list_candidates(folder: str | Path) -> Source:
    """List the candidates of WebEmo.

    Args:
        folder: the folder that holds the text files and `images/`.

    Raises:
        FileNotFoundError: if a text file is missing.
        ValueError: if a line cannot be read.
    """
    folder = Path(folder)
    what = "WebEmo's folder with train25.txt, test25.txt, category.txt and the fetched pictures in images/ as --source"
    groups = _categories(require_path(folder / "category.txt", what))
    fetched = _fetched(folder)
    there = set(os.listdir(folder / "images")) if (folder / "images").is_dir() else set()
    lines = {
        split: list(_lines(require_path(folder / f"{split}25.txt", what), len(groups))) for split in ("train", "test")
    }
    # Two URLs that end alike cannot both be in images/ under that name, and it is not known which one is
    urls = {url for rows in lines.values() for _, url, _ in rows}
    shared = {name for name, count in Counter(map(_name, urls)).items() if count > 1}
    pools: dict[str, list[Candidate]] = {}
    dropped = []
    for split, rows in lines.items():
        pools[split] = []
        for number, url, label in rows:
            row, name = f"{split}25.txt:{number}", _name(url)
            if url in fetched:
                pools[split].append(Candidate(row, fetched[url], groups[label]))
            elif name in shared:
                dropped.append(Dropped(row, f"shares its file name {name} with another URL; list it in images.csv"))
            elif name not in there:
                dropped.append(Dropped(row, "was not fetched (many links are dead)"))
            else:
                pools[split].append(Candidate(row, f"images/{name}", groups[label]))
    return Source("webemo", WEBEMO_7, pools, FolderImages(folder), dict(SIZES), dropped)


def _name(url: str) -> str:
    return unquote(re.split("[?#]", url)[0]).rsplit("/", 1)[-1]


def _lines(path: Path, labels: int) -> Iterator[tuple[int, str, int]]:
    """Yield number, URL and label of each line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            url, *label = line.strip().rsplit(maxsplit=1)
            if not label or not label[0].isdecimal() or int(label[0]) >= labels:
                raise ValueError(
                    f"Line {number} of {path} is {line.strip()[:100]!r}. Expected a URL and a label of 0 to "
                    f"{labels - 1}."
                )
            yield number, url, int(label[0])


def _categories(path: Path) -> list[str]:
    """Return the group of each of the 25 labels, in order."""
    groups = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = [word.lower() for word in re.findall(r"[^\W\d_]+", line)]
        named = [GROUP_OF[word] for word in words if word in GROUP_OF]
        named += [word for word in words if word in WEBEMO_7.labels]  # of a label that is spelled otherwise
        if words and not named:
            raise ValueError(
                f"Line {number} of {path} is {line[:80]!r}. Expected one of the 25 labels and its group, one of "
                f"{', '.join(WEBEMO_7.labels)}."
            )
        groups += named[:1]
    if len(groups) != len(GROUP_OF):
        raise ValueError(f"{path} names {len(groups)} labels. Expected the {len(GROUP_OF)}, in order, one per line.")
    return groups


def _fetched(folder: Path) -> dict[str, str]:
    """Return the path of each URL in `images.csv`, if there is one."""
    path = folder / "images.csv"
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"url", "path"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{path} has the columns {rows.fieldnames}. Expected url and path.")
            return {row["url"]: row["path"] for row in rows if row["path"]}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no such table in UTF-8 ({error}). Expected the columns url and path.") from error
