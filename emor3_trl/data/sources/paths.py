"""Where the images of a table lie: as written, or as another system, another disk or another folder would write it.

Only names are looked at, and only below the table's folder and the folder that the user named (`--image_folder`).
"""

import contextlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from emor3_trl.data.sources.candidates import SUFFIXES, lies_within
from emor3_trl.data.sources.folder_names import is_hidden, is_image_name, is_thumbnails
from emor3_trl.data.sources.messages import join_examples, quote

SAMPLE = 64  # paths that are looked up before all are taken as written
MAX_ENTRIES = 50_000  # names that are looked at for advice
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class ImagePaths:
    """Finds the files that the paths of a table mean.

    Args:
        folder: the table's folder.
        image_folder: the folder that the user named for images, or None.
        where: what the paths are of, for messages.
    """

    def __init__(self, folder: Path, image_folder: Path | None, where: str) -> None:
        self.roots = [folder] if image_folder is None else [image_folder, folder]
        self.image_folder, self.where = image_folder, where
        self.notes: list[str] = []
        self._names: dict[str, dict[str, list[str]]] = {}  # by folder, then by simplified spelling
        self._folders: dict[tuple[str, str], str | None] = {}  # of a root, as written: as it is spelled
        self._real_roots = [os.path.realpath(root) for root in self.roots]

    def find_all(self, places: Sequence[str]) -> list[str]:
        """Return each path relative to the first root where it exists, else as it was written.

        A path that means no file is not dropped here; it is when it is drawn.
        """
        step = max(1, len(places) // SAMPLE)
        sample = [place for place in places[::step] if _is_plain(place)]
        if all(os.path.isfile(os.path.join(self.roots[0], place)) for place in sample):
            found = [place if _is_plain(place) else self._find(place) for place in places]
        else:
            found = [self._find(place) for place in places]
        missing = [place for place, path in zip(places, found, strict=True) if path is None]
        elsewhere = self._find_by_tail(missing) or self._find_by_name(missing)
        return [
            elsewhere.get(place, _slash(place)) if path is None else path
            for place, path in zip(places, found, strict=True)
        ]

    def _find(self, place: str) -> str | None:
        """Return the path of a file as written, without spaces around it, with other slashes, or spelled alike."""
        if _is_plain(place):
            variants = {place: None}
        else:
            bare = place.strip().strip("'\"")
            variants = dict.fromkeys((place, place.strip(), bare, _slash(place), _slash(bare), unquote(_slash(bare))))
        for variant in variants:
            for root in self.roots:
                path = self._check(root, variant)
                if path is not None:
                    return path
        for root in self.roots:
            alike = self._find_alike(root, list(variants)[-1])
            if alike is not None:
                return self._check(root, alike)
        return None

    def _find_alike(self, root: Path, place: str) -> str | None:
        """Return the one path that is spelled alike: with accents composed or not, in capitals or not."""
        folder, _, name = place.rpartition("/")
        actual = self._find_folder(root, folder)
        if actual is None:
            return None
        found = self._choose_alike(os.path.join(root, actual), name)
        return None if found is None else os.path.join(actual, found)

    def _find_folder(self, root: Path, folder: str) -> str | None:
        """Return the one folder that is spelled alike, relative to the root."""
        key = (str(root), folder)
        if key not in self._folders:
            self._folders[key] = self._spell_folder(root, folder)
        return self._folders[key]

    def _spell_folder(self, root: Path, folder: str) -> str | None:
        actual = ""
        for part in filter(None, folder.split("/")):
            found = self._choose_alike(os.path.join(root, actual), part)
            if found is None:
                return None
            actual = os.path.join(actual, found)
        return actual

    def _choose_alike(self, folder: str, name: str) -> str | None:
        """Return the one name in a folder that is spelled alike."""
        if folder not in self._names:
            names: dict[str, list[str]] = defaultdict(list)
            with contextlib.suppress(OSError, ValueError):
                for entry in os.listdir(folder):
                    names[_simplify(entry)].append(entry)
            self._names[folder] = names
        alike = self._names[folder].get(_simplify(name), [])
        if len(alike) > 1:
            alike = [
                entry for entry in alike if unicodedata.normalize("NFC", entry) == unicodedata.normalize("NFC", name)
            ]
        return alike[0] if len(alike) == 1 else None

    def _check(self, root: Path, place: str) -> str | None:
        """Return a path relative to the first root, or absolute, if it is a file that lies in a root."""
        path = os.path.join(root, place)
        if not os.path.isfile(path):
            return None
        if (os.path.isabs(place) or ".." in place) and not self._allows(path):
            return None
        if os.path.isabs(place):
            return place
        return os.path.normpath(place) if root == self.roots[0] else os.path.abspath(path)

    def _allows(self, path: str) -> bool:
        return any(lies_within(os.path.realpath(path), root) for root in self._real_roots)

    def _find_by_tail(self, places: Sequence[str]) -> dict[str, str]:
        """Return files for paths that begin elsewhere: all of them without the same first folders.

        "/Run_1/a.jpg" of a download and "C:\\data\\a.jpg" of another machine mean files below the root.
        """
        parts = {place: _split_path(place) for place in places}
        if not parts:
            return {}
        common = _find_common([split[:-1] for split in parts.values()])
        for length in range(1, len(common) + 1):
            if not any(self._find("/".join(split[length:])) for split in list(parts.values())[:SAMPLE]):
                continue
            found = {place: self._find("/".join(split[length:])) for place, split in parts.items()}
            self.notes.append(
                f"{self.where}: paths begin with {quote('/'.join(common[:length]) or '/')}, which is left out (e.g. "
                f"{join_examples(places, 1, 80)})."
            )
            return {place: path for place, path in found.items() if path is not None}
        return {}

    def _find_by_name(self, places: Sequence[str]) -> dict[str, str]:
        """Return files by their names alone, below the folder that the user named, where a name is there once.

        A name without a suffix is that of the one image which is called so.
        """
        if self.image_folder is None or not places:
            return {}
        index: dict[str, list[str]] = defaultdict(list)
        for path in walk_files(self.image_folder):
            name = _simplify(os.path.basename(path))
            index[name].append(path)
            if is_image_name(name):
                index[os.path.splitext(name)[0]].append(path)
        found = {}
        for place in places:
            matches = index.get(_simplify(_split_path(place)[-1]), [])
            if len(matches) == 1:
                found[place] = matches[0]
        used = Counter(found.values())
        found = {place: path for place, path in found.items() if used[path] == 1}
        if found:
            place, path = next(iter(found.items()))
            self.notes.append(
                f"{self.where}: {len(found):,} images are found by their names in the folders of "
                f"{quote(self.image_folder)} (e.g. {quote(place)} as {quote(path)})."
            )
        return found

    def advise(self, places: Sequence[str], columns: dict[str, str] | None = None) -> str:
        """Say what to do if none of the paths means a file that may be opened.

        Args:
            places: the paths as written.
            columns: the other cells of the first row, in which a folder may stand.
        """
        folder = " or ".join(quote(root) for root in self.roots)
        looked = f"Paths were looked up in {folder}, and nothing outside is opened."
        outside = [os.path.join(self.roots[-1], place) for place in places[:SAMPLE]]
        outside = [os.path.realpath(path) for path in outside if os.path.isfile(path) and not self._allows(path)]
        if outside:
            common = os.path.commonpath([os.path.dirname(path) for path in outside])
            return f"{looked} These lie in {quote(common, 120)}: allow it with --image_folder {common}"
        for below in (self.roots[0], Path(os.path.realpath(self.roots[-1])).parent):
            advice = self._advise_below(below, places, columns or {})
            if advice:
                return f"{looked} {advice}"
        return f"{looked} Name the folder of the images with --image_folder."

    def _advise_below(self, below: Path, places: Sequence[str], columns: dict[str, str]) -> str:
        """Say which folder below another one holds the images, if their names are found there."""
        parts = _split_path(places[0])
        name, stem = _simplify(parts[-1]), _simplify(os.path.splitext(parts[-1])[0])
        wanted = {_simplify(_split_path(place)[-1]) for place in places[:SAMPLE]}
        first, tops = "", defaultdict(set)
        for count, path in enumerate(walk_files(below)):
            if count > MAX_ENTRIES:
                break
            file = _simplify(os.path.basename(path))
            if file in wanted:
                tops[path.split("/")[0]].add(file)
                first = first or (path if file == name else "")
            elif not parts[-1].lower().endswith(SUFFIXES) and os.path.splitext(file)[0] == stem:
                folder = os.path.basename(os.path.dirname(path))
                column = next((column for column, cell in columns.items() if cell == folder), None)
                also = f" and its folder stands in column '{column}'" if column else ""
                return (
                    f"{quote(path, 100)} has a suffix that the path lacks{also}: write whole paths into one column, or "
                    f"let names be found with --image_folder {Path(below, path.split('/')[0])}"
                )
        if not first:
            return ""
        found, top = first.split("/"), first.split("/")[0]
        tail = next(n for n in range(len(parts), 0, -1) if found[-n:] == list(parts[-n:]) or n == 1)
        base = Path(below, *found[:-tail])
        if tail == 1 and len(found) > 1:  # the names alone are the same
            base = below / top if tops[top] == set().union(*tops.values()) else below
        return f"{quote(first, 100)} lies in {quote(below)}: --image_folder {base}"


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it and in order, without hidden ones and folders of thumbnails."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name) and not is_thumbnails(name))
        for name in sorted(names):
            if not is_hidden(name):
                yield os.path.relpath(os.path.join(place, name), folder)


def _is_plain(place: str) -> bool:
    """Return whether a path is one that every system writes alike."""
    odd = any(mark in place for mark in ("\\", "./", "//", "%", "'", '"'))
    return place.isascii() and not odd and not place.startswith("/") and place == place.strip()


def _slash(place: str) -> str:
    return place.replace("\\", "/")


def _split_path(place: str) -> list[str]:
    """Return the parts of a path; the first is empty or a drive if it is absolute."""
    return [part for part in re.split(r"[\\/]+", place.strip()) if part != "."] or [place]


def _simplify(name: str) -> str:
    """Return a file name as all systems spell it: letters composed, in lower case."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _find_common(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the first parts that all paths share."""
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
