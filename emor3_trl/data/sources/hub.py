"""A data set as `datasets` reads it: on the Hub, or a folder or file of Parquet, Arrow, WebDataset or images.

By default its columns are `image` and `label`. An image may be an `Image`, a list of one, bytes, or a path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.utils.logging import CRITICAL, get_verbosity, set_verbosity
from huggingface_hub.constants import HF_HUB_CACHE

from emor3_trl.data.sources.candidates import FolderImages, Source, Unusable
from emor3_trl.data.sources.cells import MAX_PATH, NO_CELL, OddCell, holds_images
from emor3_trl.data.sources.columns import choose_columns
from emor3_trl.data.sources.conversations import add_conversation
from emor3_trl.data.sources.labels import LabelReader
from emor3_trl.data.sources.listing import Listing, build_source
from emor3_trl.data.sources.messages import build_error, join_examples, quote, shorten
from emor3_trl.data.sources.split_names import Reading
from emor3_trl.data.sources.table_rows import add_rows, read_rows, start_listing
from emor3_trl.data.sources.tables import Table, add_inner_columns
from emor3_trl.emotions import LabelSpace

_POOLS = {"validation": "val"}


@dataclass(frozen=True)
class HubImages:
    """Images in the rows of a data set. A place is `<split>/<row>`.

    Args:
        splits: the data set.
        column: column of the images.
        files: reads images that rows name by path; None follows no path, as it could lead anywhere.
    """

    splits: DatasetDict
    column: str
    files: FolderImages | None = None

    def read_image(self, place: str) -> bytes:
        """Return the bytes of a row's image.

        Raises:
            Unusable: if the row holds none, or a path that is not followed.
        """
        split, _, row = place.rpartition("/")
        value: Any = self.splits[split][int(row)][self.column]
        if isinstance(value, list):
            value = value[0] if value else None
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes) and content:
            return content
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or self.files is None:
            raise Unusable("its row holds no picture (if it names a file: download the data set, and give --source)")
        try:
            return self.files.read_image(path)
        except Unusable as reason:
            raise Unusable(f"its row holds no picture but a path, and {reason}") from None


def list_candidates(
    hub_id: str,
    space: LabelSpace,
    reading: Reading | None = None,
    name: str = "own",
    sizes: Mapping[str, int | None] | None = None,
    spelled: Mapping[str, str | None] | None = None,
) -> Source:
    """List the candidates of a data set on the Hub; it is downloaded if the machine may.

    Args:
        hub_id: such as Woleek/EmoSet-118K, or a folder that `datasets.load_dataset` understands.
        space: the label space of its labels.
        reading: the columns and splits that the user named. Labels are names, or a `ClassLabel`.
        name: what the rows' source is called.
        sizes: how many are drawn unless the user says otherwise (see `Source`).
        spelled: labels of other spellings (see `LabelReader`).

    Raises:
        ValueError: if it cannot be loaded, a column is missing or of another kind, or a label is outside the space.
    """
    reading = reading or Reading()
    listing = list_rows(hub_id, reading, LabelReader(space, spelled), "label")
    return build_source(listing, reading, space, spelled, name, sizes)


def list_rows(hub_id: str, reading: Reading, reader: LabelReader | None, default: str) -> Listing:
    """List the rows of a data set.

    Args:
        hub_id: its name, or a folder or file of it.
        reading: the columns and splits that the user named.
        reader: the label space, if there is one.
        default: how the column of the emotions is called, where the user does not say.
    """
    splits, is_image_folder = _load(hub_id)
    where, path = quote(hub_id, 100), Path(hub_id)
    folder = path if path.is_dir() else path.parent
    listing = start_listing(where, folder, reading)
    listing.keeps_splits = True
    for split, rows in splits.items():
        table = add_conversation(_read_columns(rows, split, f"{where}, split {split}" if len(splits) > 1 else where))
        columns = choose_columns(table.columns, reading, reader, table.where, default)
        named = _POOLS.get(split, split) if len(splits) > 1 or columns.split is None else None
        if columns.image not in rows.features or not _holds_images(rows.features[columns.image]):
            _check_paths(table.columns[columns.image], path.exists(), columns.image, table.where)
            add_rows(listing, table, folder, replace(reading, image_column=columns.image), reader, named)
            continue
        found, dropped = read_rows(table, columns, {}, reader, _list_places(rows, columns.image, split))
        for row in found:
            row.split = named or row.split
        listing.rows += found
        listing.dropped += [
            replace(item, reason="has no label") if item.reason == NO_CELL else item for item in dropped
        ]
        listing.notes += [*table.notes, *columns.notes]
        splits[split] = _hide_images(rows.select_columns([columns.image]), columns.image)
        files = _allow_files(hub_id, reading, is_image_folder)
        listing.images = HubImages(splits, columns.image, files)
    return listing


def _load(hub_id: str) -> tuple[DatasetDict, bool]:
    """Return the splits of a data set, and whether they are a folder of images."""
    path, verbosity = Path(hub_id), get_verbosity()
    set_verbosity(CRITICAL)  # what it logs as an error is raised as well
    try:
        if path.suffix.lower() == ".parquet":
            loaded = load_dataset("parquet", data_files=hub_id)
        elif any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = load_from_disk(hub_id)
        else:
            loaded = load_dataset(hub_id)
    except Exception as error:  # the Hub's client raises many kinds
        hint = "Check its name and the network (HF_HUB_OFFLINE must not be 1), or download it and give it as --source."
        if path.is_dir():
            hint = "Give one of its tables, or its folder of images, as --source."
        elif path.is_file():
            hint = "Download or write it again."
        raise build_error(
            f"{quote(hub_id, 80)} cannot be loaded ({type(error).__name__}: {shorten(error, 150)}).", hint
        ) from error
    finally:
        set_verbosity(verbosity)
    splits = loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    return splits, any(rows.info.builder_name == "imagefolder" for rows in splits.values())


def _allow_files(hub_id: str, reading: Reading, is_image_folder: bool) -> FolderImages | None:
    """Return what reads images that rows name by path.

    A folder of images names files of its own. A table may name any file of this machine, so its paths are followed only
    below the folder that the user gave.
    """
    others = () if reading.image_folder is None else (reading.image_folder,)
    path = Path(hub_id)
    if path.exists():
        return FolderImages(path if path.is_dir() else path.parent, others)
    return FolderImages(Path(HF_HUB_CACHE), others) if is_image_folder else None


def _read_columns(rows: Dataset, split: str, where: str) -> Table:
    """Return the columns of a split, those of images without their cells."""
    table = Table(where, [f"{split}/{number}" for number in range(len(rows))], {})
    nothing = [None] * len(rows)
    for name, feature in rows.features.items():
        if _holds_images(feature):
            table.columns[name] = nothing
            continue
        cells = rows[name][:]
        if isinstance(feature, ClassLabel):
            # -1 stands for the labels of a test set that are kept back
            cells = [None if cell is None or cell < 0 else feature.int2str(cell) for cell in cells]
        table.columns[name] = cells
    return add_inner_columns(table)  # WebDataset keeps a JSON file of each image in one column


def _holds_images(feature: Any) -> bool:
    inner = feature.feature if isinstance(feature, List | LargeList) else feature
    if getattr(inner, "dtype", "") in ("binary", "large_binary"):
        return True
    if isinstance(inner, dict):
        return set(inner) == {"bytes", "path"}
    return isinstance(inner, ImageFeature)


def _check_paths(cells: Sequence[Any], is_local: bool, column: str, where: str) -> None:
    """Raise if a column that holds no images does not name files either."""
    sample = [cell for cell in cells[:100] if cell is not None]
    images = [str(cell) for cell in sample if holds_images([cell])]
    if not images or not (is_local or len(images[0]) > MAX_PATH):
        raise build_error(
            f"Column '{column}' of {where} holds no pictures but {join_examples(sample)}.",
            "Name another --image_column.",
        )


def _list_places(rows: Dataset, column: str, split: str) -> list[str | OddCell]:
    """Return the place of each row's image; a row with several images, or none, is an `OddCell`."""
    feature = rows.features.get(column)
    places: list[str | OddCell] = [f"{split}/{number}" for number in range(len(rows))]
    if isinstance(feature, List | LargeList):
        lengths = pc.list_value_length(rows.data.column(column)).to_pylist()
        for number, length in enumerate(lengths):
            if length != 1:
                places[number] = OddCell(f"holds {length} images" if length else "holds no image")
    return places


def _hide_images(rows: Dataset, column: str) -> Dataset:
    """Return a data set whose images are bytes and paths, not decoded."""
    feature = rows.features[column]
    if isinstance(feature, ImageFeature):
        return rows.cast_column(column, ImageFeature(decode=False))
    if isinstance(feature, List | LargeList) and isinstance(feature.feature, ImageFeature):
        return rows.cast_column(column, type(feature)(ImageFeature(decode=False)))
    return rows
