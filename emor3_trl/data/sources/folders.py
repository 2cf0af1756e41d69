"""A folder of folders: train/<emotion>/…, <emotion>/… or <emotion>/train/…; and what else may lie in a folder.

A folder's name is taken for an emotion only if it looks like one. A table beside the images, a level too high and a
folder without emotions are named, with the option that settles it.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from emor3_trl.data.sources.candidates import SUFFIXES as IMAGE_SUFFIXES
from emor3_trl.data.sources.candidates import Dropped, FolderImages, lies_within
from emor3_trl.data.sources.emotion_words import names_emotion, names_structure
from emor3_trl.data.sources.folder_names import is_hidden, is_image_name, is_smaller, is_thumbnail_of, is_thumbnails
from emor3_trl.data.sources.labels import LabelReader, is_number
from emor3_trl.data.sources.levels import advise_level, find_levels
from emor3_trl.data.sources.listing import Listing, Row
from emor3_trl.data.sources.messages import build_error, join_counts, join_examples, quote, shorten
from emor3_trl.data.sources.split_names import Reading, find_kind, find_kind_within
from emor3_trl.data.sources.tables import ARCHIVES, TABLE_SUFFIXES

_NOT_AN_IMAGE = f"is not named like a picture ({', '.join(IMAGE_SUFFIXES)})"
_WRITE_ONE = "Write a CSV with the header image,emotion, and give it as --source; or make a folder of each emotion."
_DATASET_SUFFIXES = (".parquet", ".arrow", ".tar")


def holds_dataset(root: Path) -> bool:
    """Return whether a folder holds the files of a data set (Parquet, Arrow, WebDataset) and no images of its own."""
    found = False
    for entry in _walk(root, 3):
        if is_image_name(entry):
            return False
        found = found or (entry.lower().endswith(_DATASET_SUFFIXES) and not _is_metadata(os.path.basename(entry)))
    return found


def find_tables(root: Path) -> list[tuple[Path, str | None]]:
    """Return the tables that say what the images of a folder are, each with the split that it is of.

    They are called metadata, as `datasets` expects it, or are called after splits, or one lies beside the images of
    each split.

    Raises:
        ValueError: if several could be meant.
    """
    tables = [path for path in _list_files(root) if path.suffix.lower() in (*TABLE_SUFFIXES, ".parquet")]
    metadata = [path for path in tables if _is_metadata(path.name)]
    if len(metadata) > 1:
        names = join_examples((path.name for path in metadata), 5)
        raise build_error(
            f"{shorten(root, 100)} holds {names}. One of them is enough.", f"Name it: --source {metadata[0]}"
        )
    if metadata:
        return [(metadata[0], None)]
    kinds = [find_kind_within(path.stem) for path in tables]
    if tables and all(kinds) and not any(map(is_image_folder, _list_folders(root))):
        splits = [path.stem if find_kind(path.stem) else kind for path, kind in zip(tables, kinds, strict=True)]
        return list(zip(tables, splits, strict=True)) if len(tables) > 1 else []
    found: list[tuple[Path, str | None]] = []
    for folder in (folder for folder in _list_folders(root) if find_kind(folder.name)):
        inside = [path for path in _list_files(folder) if path.suffix.lower() in TABLE_SUFFIXES]
        if len(inside) == 1 and any(is_image_name(path.name) for path in _list_files(folder)):
            found.append((inside[0], folder.name))
    return found


def is_image_folder(folder: Path) -> bool:
    """Return whether a folder is called after an emotion and holds images."""
    return names_emotion(folder.name) and any(map(is_image_name, _walk(folder, 2)))


def _is_metadata(name: str) -> bool:
    return name.lower() in ("metadata.csv", "metadata.jsonl", "metadata.parquet", "metadata.json", "metadata.tsv")


def list_folder(root: Path, reading: Reading, reader: LabelReader | None) -> Listing:
    """List the images of root/<label>/…, or of root/<split>/<label>/…, and what is no image by its name.

    Args:
        root: the folder.
        reading: what the user said about it.
        reader: the label space, if there is one.

    Raises:
        ValueError: if its folders are no emotions, with the folder that is meant if one is found.
    """
    images = FolderImages(root, () if reading.image_folder is None else (reading.image_folder,))
    listing = Listing(shorten(root, 100), [], images, what="folders")
    scan = _Scan(root, images.list_roots(), listing)
    folders = scan.list_folders(root)
    has_splits = any(find_kind(folder.name) for folder in folders)
    for folder in folders:
        split = folder.name if has_splits and find_kind(folder.name) else None
        for label in scan.list_folders(folder) if split else [folder]:
            for place in scan.list_images(label):
                listing.rows.append(Row(place, place, label.name, None, split))
    if not has_splits:
        _split_by_folder(listing)
    if scan.links and not listing.rows:
        raise build_error(f"{scan.describe_links()}, and nothing outside is opened.", scan.advise_links())
    knows: Callable[[str], bool] = names_emotion if reader is None else lambda name: reader.read_label(name) is not None
    _check_folders(root, listing, knows)
    if scan.links:
        listing.notes.append(f"{scan.describe_links()} and are not followed. {scan.advise_links()}")
    return listing


class _Scan:
    """Walks a folder, and records what is left out."""

    def __init__(self, root: Path, real_roots: list[str], listing: Listing) -> None:
        self.root, self.listing, self._real_roots = root, listing, real_roots
        self.links: dict[str, str] = {}  # those that lead out, with where they lead

    def leave_out(self, path: Path | str, reason: str) -> None:
        """Record a file or folder that is not taken."""
        self.listing.dropped.append(Dropped(Path(path).relative_to(self.root).as_posix(), reason))

    def list_folders(self, folder: Path) -> list[Path]:
        """Return the folders in a folder, in order; files beside them are left out."""
        found = []
        for item in sorted(folder.iterdir()):
            if is_hidden(item.name):
                continue
            if self._leads_out(item):
                self.leave_out(item, "is a symbolic link that leads out of the folder")
            elif not item.is_dir():
                self.leave_out(item, "lies in no emotion's folder" if is_image_name(item.name) else _NOT_AN_IMAGE)
            elif is_thumbnails(item.name):
                self.leave_out(item, "is a folder of thumbnails")
            elif item.is_symlink() and lies_within(os.path.realpath(folder), os.path.realpath(item)):
                self.leave_out(item, "is a symbolic link to a folder around it")
            else:
                found.append(item)
        return found

    def _leads_out(self, path: Path | str) -> bool:
        if not os.path.islink(path):
            return False
        target = os.path.realpath(path)
        if any(lies_within(target, root) for root in self._real_roots):
            return False
        self.links[str(Path(path).relative_to(self.root))] = target
        return True

    def describe_links(self) -> str:
        """Say which links lead out."""
        example = next(iter(self.links.items()))
        return (
            f"{len(self.links):,} symbolic links of {self.listing.where} lead out of it (e.g. {quote(example[0])} to "
            f"{quote(example[1], 80)})"
        )

    def advise_links(self) -> str:
        """Say which option lets links lead out."""
        common = os.path.commonpath([os.path.dirname(target) for target in self.links.values()])
        return f"If they may lead there: --image_folder {common}"

    def list_images(self, folder: Path) -> list[str]:
        """Return the images below a folder, in order; a folder that cannot be opened, or is a link, is left out."""
        places, paths = [], sorted(self._walk(folder))
        names: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            names[os.path.dirname(path)].add(os.path.basename(path).lower())
        for path in paths:
            name = os.path.basename(path)
            if self._leads_out(path):
                self.leave_out(path, "is a symbolic link that leads out of the folder")
            elif is_thumbnail_of(name, names[os.path.dirname(path)]):
                self.leave_out(path, "is a smaller copy, by its name, of an image beside it")
            elif is_image_name(name):
                places.append(Path(path).relative_to(self.root).as_posix())
            elif name.lower().endswith((".heic", ".heif")):
                self.leave_out(path, "is a HEIC image, which is not read: save it as JPEG")
            else:
                self.leave_out(path, _NOT_AN_IMAGE)
        return places

    def _walk(self, folder: Path) -> Iterator[Path]:
        def refuse(error: OSError) -> None:
            self.leave_out(error.filename, f"cannot be opened: {error.strerror}")

        for place, folders, names in os.walk(folder, onerror=refuse):
            for name in list(folders):
                if is_hidden(name) or is_thumbnails(name):
                    folders.remove(name)
                if is_hidden(name):
                    continue
                if is_thumbnails(name):
                    self.leave_out(Path(place, name), "is a folder of thumbnails")
                elif os.path.islink(os.path.join(place, name)):
                    self.leave_out(Path(place, name), "is a symbolic link to a folder, which is not followed")
                elif is_smaller(name) and set(os.listdir(os.path.join(place, name))) <= set(names):
                    folders.remove(name)
                    self.leave_out(Path(place, name), "is a folder of smaller copies, by its name, of images beside it")
            yield from (Path(place, name) for name in names if not is_hidden(name))


def _split_by_folder(listing: Listing) -> None:
    """Take the split from <emotion>/<split>/…, where each image has one."""
    names = [row.place.split("/")[1] for row in listing.rows]
    if names and all(map(find_kind, names)) and len(set(map(find_kind, names))) > 1:
        for row, name in zip(listing.rows, names, strict=True):
            row.split = name
        listing.notes.append(f"{listing.where}: {join_counts(Counter(names))} are kept to as splits.")


def _check_folders(root: Path, listing: Listing, knows: Callable[[str], bool]) -> None:
    """Raise if a table beside the folders, or a folder below, says what the images are; or if there are no folders."""
    counts = Counter(row.label for row in listing.rows)
    known = [name for name in counts if knows(name)]
    tables = _list_label_tables(root)
    structure = [name for name in counts if names_structure(name) and name not in known and not is_number(name)]
    looks_right = 2 * len(known) >= len(counts) > 1 and not structure
    if counts and looks_right:
        return
    levels = find_levels(root, knows)
    if levels:
        raise build_error(_describe_folders(listing, counts), advise_level(root, levels))
    if tables:
        names = join_examples((os.path.relpath(path, root) for path in tables), 3)
        raise build_error(
            _describe_folders(listing, counts) + f" {names} beside them may say which emotion an image has.",
            f"Give it: --source {tables[0]} If the folders are the emotions, say so with a --label_space.",
        )
    loose = [item.id for item in listing.dropped if item.reason == "lies in no emotion's folder"]
    if not counts and loose:
        named = [name for name in loose if names_emotion(os.path.basename(name))]
        also = f" The names of {len(named):,} begin like emotions." if 2 * len(named) >= len(loose) else ""
        raise build_error(
            f"{len(loose):,} images of {listing.where} lie in no folder of an emotion ({join_examples(loose)}), and no "
            f"table was found.{also}",
            _WRITE_ONE,
        )
    archives = [path.name for path in _list_files(root) if path.suffix.lower() in ARCHIVES]
    if not counts and archives:
        raise build_error(
            f"{listing.where} offers no labelled picture. It holds archives: {join_examples(archives)}.", "Unpack them."
        )
    if structure and len(structure) == len(counts):
        raise build_error(_describe_folders(listing, counts) + " No table of labels was found.", _WRITE_ONE)


def _list_label_tables(root: Path) -> list[Path]:
    """Return the tables in a folder, or in the folders below it where it holds none."""
    suffixes = (*TABLE_SUFFIXES, ".xlsx", ".parquet")
    tables = [path for path in _list_files(root) if path.suffix.lower() in suffixes and not _describes(path)]
    return tables or sorted(
        Path(path)
        for path in _walk(root, 3)
        if path.lower().endswith(suffixes) and not _describes(Path(path)) and not is_hidden(os.path.basename(path))
    )


def _describes(path: Path) -> bool:
    """Return whether a file describes a data set and holds no rows."""
    return path.name.lower() in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "info.json")


def _describe_folders(listing: Listing, counts: Counter[str]) -> str:
    folders = join_counts(counts, 4) if counts else "none with images"
    return f"The folders of {listing.where} do not look like emotions: {folders}."


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_file())


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


def _walk(folder: Path, depth: int) -> Iterator[str]:
    """Yield the files below a folder, down to some levels."""
    for place, folders, names in os.walk(folder):
        if len(Path(place).relative_to(folder).parts) >= depth:
            folders.clear()
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (os.path.join(place, name) for name in names)
