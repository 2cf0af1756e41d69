"""The rows of one table or of several: their images, labels, votes and splits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from emor3_trl.data.sources.candidates import Dropped, FolderImages
from emor3_trl.data.sources.cells import OddCell, read_image_cell, read_label_cell
from emor3_trl.data.sources.columns import Columns, choose_columns
from emor3_trl.data.sources.conversations import add_conversation
from emor3_trl.data.sources.emotion_words import names_emotion
from emor3_trl.data.sources.folder_names import is_image_name
from emor3_trl.data.sources.labels import LabelReader
from emor3_trl.data.sources.listing import Listing, Row
from emor3_trl.data.sources.messages import build_error, join_counts, shorten
from emor3_trl.data.sources.paths import ImagePaths
from emor3_trl.data.sources.split_names import Reading, find_kind
from emor3_trl.data.sources.tables import Table, add_inner_columns, read_table
from emor3_trl.data.sources.votes import read_votes


def list_tables(
    tables: Sequence[tuple[Path, str | None]], root: Path, reading: Reading, reader: LabelReader | None
) -> Listing:
    """List the rows of one table, or of one table for each split.

    Args:
        tables: paths, each with the split that it is of, or None.
        root: the folder of the whole; paths in a table start at the table's own folder.
        reading: what the user said about them.
        reader: the label space, if there is one.

    Raises:
        ValueError: if one cannot be read, or a column is missing.
    """
    where = shorten(tables[0][0] if len(tables) == 1 else root, 100)
    listing = start_listing(where, root, reading)
    for path, split in tables:
        table = add_conversation(add_inner_columns(read_table(path, path.relative_to(root).as_posix())))
        add_rows(listing, table, path.parent, reading, reader, split)
    if reading.split_column is None:
        _split_by_folder(listing)
    return listing


def start_listing(where: str, root: Path, reading: Reading) -> Listing:
    """Return an empty listing of a folder, whose images may also lie where the user says."""
    others = () if reading.image_folder is None else (reading.image_folder,)
    return Listing(where, [], FolderImages(root, others, {}))


def add_rows(
    listing: Listing, table: Table, folder: Path, reading: Reading, reader: LabelReader | None, split: str | None = None
) -> None:
    """Add the rows of a table to a listing.

    Args:
        listing: takes the rows; its images lie in a folder.
        table: the table.
        folder: where its paths start.
        reading: what the user said about it.
        reader: the label space, if there is one.
        split: the split that all rows are of, if they are of one.

    Raises:
        ValueError: if it has no rows, or a column is missing.
    """
    if not table.ids:
        raise build_error(f"{table.where} offers no labelled picture: it has no rows.")
    assert isinstance(listing.images, FolderImages)
    root, embedded = listing.images.root, cast(dict[str, bytes], listing.images.embedded)
    columns = choose_columns(table.columns, reading, reader, table.where)
    rows, dropped = read_rows(table, columns, embedded, reader)
    paths = [row.place for row in rows if row.place not in embedded]
    finder = ImagePaths(_choose_folder(folder, split, paths), reading.image_folder, table.where)
    resolved = dict(zip(paths, finder.find_all(paths), strict=True))
    for row in rows:
        if row.place in resolved:
            row.place = _join_place(resolved[row.place], finder.roots[0], root)
        row.split = row.split if split is None else split
    listing.rows += rows
    listing.dropped += dropped
    listing.notes += [*table.notes, *columns.notes, *finder.notes]
    if paths:
        first_row = {name: str(cells[0]) for name, cells in table.columns.items()}
        listing.advise = lambda: finder.advise(paths, first_row)


def _choose_folder(folder: Path, split: str | None, places: Sequence[str]) -> Path:
    """Return the folder of a split's images: the table's own, or the one in it that is called after the split."""
    if split is None or any(os.path.isfile(os.path.join(folder, place)) for place in places[:8]):
        return folder
    called = [path for path in folder.iterdir() if path.is_dir() and find_kind(path.name) == find_kind(split)]
    holding = [path for path in called if any(os.path.isfile(os.path.join(path, place)) for place in places[:8])]
    return holding[0] if len(holding) == 1 else folder


def _join_place(place: str, folder: Path, root: Path) -> str:
    """Return a path relative to the root of all tables."""
    if folder == root or os.path.isabs(place):
        return place
    if folder.is_relative_to(root):
        return os.path.join(os.path.relpath(folder, root), place)
    return os.path.join(os.path.abspath(folder), place)


def read_rows(
    table: Table,
    columns: Columns,
    embedded: dict[str, bytes],
    reader: LabelReader | None = None,
    places: Sequence[Any] | None = None,
) -> tuple[list[Row], list[Dropped]]:
    """Return the rows of a table that name an image and an emotion, and the others with the reason.

    Args:
        table: the table.
        columns: which of its columns are read.
        embedded: takes the images that stand in the table itself, by place.
        reader: the label space, if there is one.
        places: the image of each row, where it is no cell that can be read, or `OddCell`.
    """
    rows, dropped = [], []
    for number, name in enumerate(table.ids):
        try:
            image = read_image_cell(table.columns[columns.image][number]) if places is None else places[number]
            if isinstance(image, OddCell):
                raise image
            if isinstance(image, bytes):
                embedded[f"{name} {columns.image}"], image = image, f"{name} {columns.image}"
            label, votes = _read_emotion(table, columns, number)
            if number in table.surplus and not _is_whole(image, label, table.surplus[number], reader):
                raise OddCell("has more cells than the header")
        except OddCell as reason:
            dropped.append(Dropped(name, str(reason)))
            continue
        rows.append(Row(name, image, label, votes, columns.split[number] if columns.split else None))
    return rows, dropped


def _is_whole(image: str, label: str, surplus: Sequence[str], reader: LabelReader | None) -> bool:
    """Return whether a row with more cells than the header has its image and label in the right columns.

    A separator that nobody quoted cuts a path, or moves a label or a split behind the last column.
    """
    knows = names_emotion if reader is None else reader.read_label
    moved = any(knows(cell) or find_kind(cell) for cell in surplus)
    return is_image_name(image) and bool(knows(label)) and not moved


def _read_emotion(table: Table, columns: Columns, number: int) -> tuple[str, dict[str, float] | None]:
    if columns.emotion is not None:
        return read_label_cell(table.columns[columns.emotion][number])
    votes = read_votes(table.columns, columns.votes, number)
    if votes is None:
        raise OddCell("has a vote that is no number")
    if not any(votes.values()):
        raise OddCell("has no vote")
    return "", votes


def _split_by_folder(listing: Listing) -> None:
    """Take the split from the paths, where no column says it and each path has a folder that is called so."""
    if not listing.rows or any(row.split is not None for row in listing.rows):
        return
    kinds = []
    for row in listing.rows:
        kinds.append(next((part for part in row.place.split("/")[:-1] if find_kind(part)), None))
        if kinds[-1] is None:
            return
    counts = {str(kind): kinds.count(kind) for kind in dict.fromkeys(kinds)}
    if len(counts) > 1:
        for row, kind in zip(listing.rows, kinds, strict=True):
            row.split = kind
        listing.notes.append(
            f"{listing.where}: the folders in its paths are kept to as splits ({join_counts(counts)}). --split_column "
            "none ignores them."
        )
