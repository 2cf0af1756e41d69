"""WebEmo as it is downloaded: `train25.txt`, `test25.txt` (URL and label per line) and `category.txt`.

The 25 labels are taken to the seven groups of the second level (paper, Sec. 4.1). The pictures are fetched by the user
into `images/`, each under the last part of its URL, or as `images.csv` (columns url, path) says; many links are dead,
and a picture that is not there is left out. Spellings are those of the files.
"""

import csv
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from emor3_trl.data.candidates import Candidate, Dropped, FolderPictures, Source, need
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


def read(folder: str | Path) -> Source:
    """List the candidates of WebEmo.

    Args:
        folder: the folder that holds the text files and `images/`.

    Raises:
        FileNotFoundError: if a text file is missing.
        ValueError: if a line cannot be read.
    """
    folder = Path(folder)
    what = "WebEmo's folder with train25.txt, test25.txt, category.txt and the fetched pictures in images/ as --source"
    groups = _categories(need(folder / "category.txt", what))
    fetched = _fetched(folder)
    pools, dropped = {}, []
    for split in ("train", "test"):
        path = need(folder / f"{split}25.txt", what)
        rows = list(_lines(path, len(groups)))
        twice = {name for name, count in Counter(_name(url) for url, _ in rows).items() if count > 1}
        candidates = []
        for number, (url, label) in enumerate(rows, start=1):
            row, name = f"{split}25.txt:{number}", _name(url)
            if url in fetched:
                candidates.append(Candidate(row, fetched[url], groups[label]))
            elif name in twice:
                dropped.append(Dropped(row, f"shares its file name {name} with another URL; list it in images.csv"))
            elif not name or not (folder / "images" / name).exists():
                dropped.append(Dropped(row, "was not fetched (many links are dead)"))
            else:
                candidates.append(Candidate(row, f"images/{name}", groups[label]))
        pools[split] = candidates
    return Source("webemo", WEBEMO_7, pools, FolderPictures(folder), dict(SIZES), dropped)


def _name(url: str) -> str:
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def _lines(path: Path, labels: int) -> list[tuple[str, int]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        url, _, label = line.strip().rpartition(" ")
        if not url or not label.isdigit() or int(label) >= labels:
            raise ValueError(
                f"Line {number} of {path} is {line[:100]!r}. Expected a URL and a label of 0 to {labels - 1}."
            )
        rows.append((url.strip(), int(label)))
    return rows


def _categories(path: Path) -> list[str]:
    """Return the group of each of the 25 labels, in order."""
    groups = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = [word.strip().lower() for word in line.replace(",", " ").split() if not word.strip(".:").isdigit()]
        if not words:
            continue
        group = words[-1] if words[-1] in WEBEMO_7.labels else GROUP_OF.get(words[0])
        if group is None:
            raise ValueError(
                f"Line {number} of {path} is {line[:80]!r}. Expected one of the 25 labels and its group, one of "
                f"{', '.join(WEBEMO_7.labels)}."
            )
        groups.append(group)
    return groups


def _fetched(folder: Path) -> dict[str, str]:
    """Return the path of each URL in `images.csv`, if there is one."""
    path = folder / "images.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"url", "path"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {rows.fieldnames}. Expected url and path.")
        return {row["url"]: row["path"] for row in rows if row["path"]}
