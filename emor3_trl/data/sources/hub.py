"""A data set on the Hub: its columns of pictures and labels, by default `image` and `label`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, DatasetDict, load_dataset
from datasets import Image as ImageFeature

from emor3_trl.data.sources.candidates import Dropped, Source, Unusable, label_rows
from emor3_trl.emotions import LabelSpace

_POOLS = {"validation": "val"}


@dataclass(frozen=True)
class HubImages:
    """Pictures in the rows of a data set; a place is `<split>/<row>`."""

    splits: DatasetDict
    column: str

    def read_image(self, place: str) -> bytes:
        """Return the bytes of a row's picture.

        Raises:
            Unusable: if the row holds none; a path in it is not followed, as it could lead anywhere.
        """
        split, _, row = place.rpartition("/")
        value: Any = self.splits[split][int(row)][self.column]
        if value and value.get("bytes"):
            return value["bytes"]
        raise Unusable("its row holds no picture (if it names a file: download the data set, and give --source)")


def list_candidates(
    hub_id: str,
    space: LabelSpace,
    image_column: str = "image",
    label_column: str = "label",
    name: str = "own",
    sizes: Mapping[str, int | None] | None = None,
    spelled: Mapping[str, str | None] | None = None,
) -> Source:
    """List the candidates of a data set on the Hub; it is downloaded if the machine may.

    Args:
        hub_id: such as Woleek/EmoSet-118K, or a folder that `datasets.load_dataset` understands.
        space: the label space of its labels.
        image_column, label_column: its columns. Labels are names, or a `ClassLabel`.
        name: what the rows' source is called.
        sizes: how many are drawn unless the user says otherwise (see `Source`).
        spelled: labels of other spellings (see `candidates.labelled`).

    Raises:
        ValueError: if it cannot be loaded, a column is missing or of another kind, or a label is outside the space.
    """
    try:
        splits = load_dataset(hub_id)
    except Exception as error:  # the Hub's client raises many kinds
        raise ValueError(
            f"'{hub_id}' cannot be loaded ({type(error).__name__}: {str(error)[:200]}). Check its name and the network "
            "(HF_HUB_OFFLINE must not be 1), or download it and give its folder as --source."
        ) from error
    pools, dropped = {}, []
    for split, rows in splits.items():
        absent = {image_column, label_column} - set(rows.column_names)
        if absent:
            raise ValueError(
                f"'{hub_id}' has the columns {', '.join(rows.column_names)}, not {', '.join(sorted(absent))}. "
                "Name them with --image_column and --emotion_column."
            )
        if not isinstance(rows.features[image_column], ImageFeature):
            raise ValueError(
                f"Column '{image_column}' of '{hub_id}' holds no pictures but {rows.features[image_column]}."
            )
        written = _labels(rows, label_column)
        dropped += [Dropped(f"{split}/{row}", "has no label") for row, label in enumerate(written) if label is None]
        places = [(f"{split}/{row}",) * 2 + (label,) for row, label in enumerate(written) if label is not None]
        splits[split] = rows.select_columns([image_column]).cast_column(image_column, ImageFeature(decode=False))
        pool = "all" if len(splits) == 1 else _POOLS.get(split, split)
        pools[pool], left_out = label_rows(places, space, f"'{hub_id}', split {split}", spelled)
        dropped += left_out
    return Source(name, space, pools, HubImages(splits, image_column), dict(sizes or {}), dropped)


def _labels(rows: Any, column: str) -> list[str | None]:
    """Return the name of each row's label; None where it has none (-1 in a test set whose labels are kept back)."""
    feature = rows.features[column]
    values = rows[column][:]
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    return [None if value is None else str(value) for value in values]
