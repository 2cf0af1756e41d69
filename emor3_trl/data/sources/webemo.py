"""WebEmo as it is downloaded: `train25.txt`, `test25.txt` (URL and label per line) and `category.txt`.

The 25 labels are taken to the seven groups of the second level (paper, Sec. 4.1). The user fetches the images: each
under the last part of its URL in any folder below, or as `images.csv` (columns url, path) says. Many links are dead,
and an image that is not there is left out. Spellings are those of the files.
"""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from emor3_trl.data.sources.candidates import Candidate, Dropped, FolderImages, Source, require_path
from emor3_trl.data.sources.levels import find_holding
from emor3_trl.data.sources.messages import build_error, join_counts, quote, shorten
from emor3_trl.data.sources.paths import walk_files
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
_EXPECTED = "WebEmo's folder with train25.txt, test25.txt, category.txt and the fetched images as --source"
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def list_candidates(folder: str | Path, image_folder: Path | None = None) -> Source:
    """List the candidates of WebEmo.

    Args:
        folder: the folder that holds the text files and, anywhere below it, the fetched images.
        image_folder: the folder of the images, where it is another one.

    Raises:
        FileNotFoundError: if a text file is missing.
        ValueError: if a line cannot be read.
    """
    folder = Path(folder)
    advice = _advise(folder)
    groups = _read_categories(require_path(folder / "category.txt", _EXPECTED, advice))
    listed = _read_places(folder / "images.csv")
    lines = {
        split: list(_read_lines(require_path(folder / f"{split}25.txt", _EXPECTED, advice), len(groups)))
        for split in ("train", "test")
    }
    root = image_folder or folder
    fetched = _Fetched(root, {(url, label) for rows in lines.values() for _, url, label in rows})
    source = Source("webemo", WEBEMO_7, {}, FolderImages(root, (folder,)), dict(SIZES))
    for split, rows in lines.items():
        source.pools[split] = []
        for number, url, label in rows:
            row = f"{split}25.txt:{number}"
            place, reason = (listed[url], "") if url in listed else fetched.find(url, label, split)
            if place is None:
                source.dropped.append(Dropped(row, reason))
            elif url in listed and root != folder:
                source.pools[split].append(Candidate(row, os.path.abspath(folder / place), groups[label]))
            else:
                source.pools[split].append(Candidate(row, place, groups[label]))
    source.notes += fetched.describe()
    return source


class _Fetched:
    """Finds the files that were fetched: under the last part of a URL, in any folder, with or without the label.

    Download scripts leave images/<name>, images/<label>_<name>, <split>/<label>/<name> and the like. Where several URLs
    end alike, the label in the path tells which of them a file is of.
    """

    def __init__(self, root: Path, urls: set[tuple[str, int]]) -> None:
        self.root = root
        self._files: dict[str, list[str]] = defaultdict(list)
        for path in walk_files(root):
            self._files[path.rsplit("/", 1)[-1]].append(path)
        names = Counter(_name(url) for url in {url for url, _ in urls})
        self._shared = {name for name, count in names.items() if count > 1}
        self._labels = Counter((_name(url), label) for url, label in urls)
        self._folders: Counter[str] = Counter()

    def find(self, url: str, label: int, split: str) -> tuple[str | None, str]:
        """Return the path of a URL's image, or None and why there is none."""
        name = _name(url)
        plain = self._files.get(name, []) if name else []
        labelled = [path for path in plain if f"/{path}".split("/")[-2] == str(label)]
        labelled += self._files.get(f"{label}_{name}", [])
        if name in self._shared:
            # Two URLs that end alike cannot both be a file of that name, and it is not known which one is
            found = labelled if self._labels[name, label] == 1 else []
            if not found:
                return None, f"shares its file name {name} with another URL; list it in images.csv"
        else:
            found = labelled or plain
        found = [path for path in found if split in path] or found
        if not found:
            return None, "was not fetched (many links are dead)"
        path = min(found, key=lambda path: (path != f"images/{name}", path))
        self._folders[path.split("/", 1)[0]] += 1
        return path, ""

    def describe(self) -> list[str]:
        """Return a note of where the images were found."""
        if not self._folders or set(self._folders) == {"images"}:
            return []
        return [f"The images of {quote(self.root)} are found by their names in {join_counts(self._folders, 4)}."]


def _advise(folder: Path) -> str:
    other = find_holding(folder, ["train25.txt", "test25.txt"])
    return "" if other is None or other == folder else f"Did you mean --source {other} ?"


def _name(url: str) -> str:
    return unquote(re.split("[?#]", url)[0]).rsplit("/", 1)[-1]


def _read_lines(path: Path, labels: int) -> Iterator[tuple[int, str, int]]:
    """Yield number, URL and label of each line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            url, *label = line.strip().rsplit(maxsplit=1)
            if not label or not label[0].isdecimal() or int(label[0]) >= labels:
                raise build_error(
                    f"Line {number} of {shorten(path, 100)} is {quote(line, 80)}. Expected a URL and a label of 0 to "
                    f"{labels - 1}."
                )
            yield number, url, int(label[0])


def _read_categories(path: Path) -> list[str]:
    """Return the group of each of the 25 labels, in order."""
    groups = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = [word.lower() for word in re.findall(r"[^\W\d_]+", line)]
        named = [GROUP_OF[word] for word in words if word in GROUP_OF]
        named += [word for word in words if word in WEBEMO_7.labels]  # of a label that is spelled otherwise
        if words and not named:
            raise build_error(
                f"Line {number} of {shorten(path, 100)} is {quote(line, 80)}. Expected one of the 25 labels and its "
                "group.",
                f"The groups are {', '.join(WEBEMO_7.labels)}.",
            )
        groups += named[:1]
    if len(groups) != len(GROUP_OF):
        raise build_error(
            f"{shorten(path, 100)} names {len(groups)} labels. Expected the {len(GROUP_OF)}, in order, one per line."
        )
    return groups


def _read_places(path: Path) -> dict[str, str]:
    """Return the path of each URL in `images.csv`, if there is one."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"url", "path"} <= set(rows.fieldnames or ()):
                raise build_error(
                    f"{shorten(path, 100)} has the columns {quote(rows.fieldnames)}. Expected url and path."
                )
            return {row["url"]: row["path"] for row in rows if row["path"]}
    except (UnicodeDecodeError, csv.Error) as error:
        raise build_error(
            f"{shorten(path, 100)} is no such table in UTF-8 ({shorten(error, 100)}).",
            "Expected the columns url and path.",
        ) from error
