"""Which folder is meant where another level was given: "did you mean …/images?"."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from emor3_trl.data.sources.folder_names import is_hidden
from emor3_trl.data.sources.messages import quote
from emor3_trl.data.sources.split_names import find_kind

DEPTH, MAX_FOLDERS = 3, 2_000
_MEANT, _BESIDE = (
    ("image", "img", "photo", "picture", "data", "train"),
    ("ground", "annot", "mask", "label", "map", "gt"),
)


def find_levels(root: Path, knows: Callable[[str], bool]) -> list[Path]:
    """Return the folders near a folder that hold folders of emotions or of splits, the likeliest first.

    Args:
        root: the folder that was given.
        knows: tells whether a folder's name is an emotion.
    """
    found = [folder for folder in _list_below(root) if _holds_emotions(folder, knows)]
    if not found:
        found = [folder for folder in _list_below(root) if _holds_splits(folder)]
    outermost = [folder for folder in found if not any(other in folder.parents for other in found)]
    parent = Path(os.path.abspath(root)).parent
    if not outermost and knows(Path(os.path.abspath(root)).name) and _holds_emotions(parent, knows):
        outermost = [parent]
    return sorted(outermost, key=_rank)


def advise_level(root: Path, levels: Sequence[Path]) -> str:
    """Return the question which folder is meant."""
    inside = ", ".join(quote(name, 30) for name in _list_names(levels[0])[:4])
    advice = f"Did you mean --source {levels[0]} ? It holds {inside}."
    if len(levels) > 1:
        also = ", ".join(quote(os.path.relpath(level, root), 40) for level in levels[1:3])
        advice += f" Such folders lie in {also}, too; a CSV with the header image,emotion,split can list them all."
    lists = [name for name in _list_names(root) if "split" in name.lower()]
    return advice + (f" {quote(lists[0])} may hold the split." if lists else "")


def find_holding(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder near a folder, above or below it, that holds all of some files or folders."""
    near = [*_list_below(root), Path(os.path.abspath(root)).parent] if root.is_dir() else []
    return next((folder for folder in near if all((folder / name).exists() for name in names)), None)


def _list_below(root: Path) -> list[Path]:
    """Return the folders below a folder, nearest first."""
    found, level = [], [root]
    for _ in range(DEPTH):
        level = [Path(folder, name) for folder in level for name in _list_names(folder)]
        found += level
        if len(found) > MAX_FOLDERS:
            break
    return found[:MAX_FOLDERS]


def _list_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    except OSError:
        return []


def _holds_emotions(folder: Path, knows: Callable[[str], bool]) -> bool:
    names = _list_names(folder)
    return len(names) > 1 and 2 * sum(map(knows, names)) >= len(names)


def _holds_splits(folder: Path) -> bool:
    """Return whether a folder holds at least two splits that hold folders."""
    names = [name for name in _list_names(folder) if find_kind(name)]
    return len(names) > 1 and all(len(_list_names(folder / name)) > 1 for name in names)


def _rank(folder: Path) -> tuple[int, int, str]:
    name = folder.name.lower()
    kind = 0 if name.startswith(_MEANT) else 2 if name.startswith(_BESIDE) else 1
    return kind, len(folder.parts), str(folder)
