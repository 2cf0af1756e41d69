"""A data set on the Hub, or one that `datasets` loads from a folder: columns `image` and `label`."""

from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, DatasetDict, load_dataset
from datasets import Image as ImageFeature

from emor3_trl.data.candidates import Source, Unusable, labelled
from emor3_trl.emotions import LabelSpace

_POOLS = {"train": "train", "test": "test", "validation": "val"}


@dataclass(frozen=True)
class HubPictures:
    """Pictures in the rows of a data set; a place is `<split>/<row>`."""

    splits: DatasetDict
    column: str

    def read(self, place: str) -> bytes:
        """Return the bytes of a row's picture.

        Raises:
            Unusable: if it has none.
        """
        split, _, row = place.rpartition("/")
        value: Any = self.splits[split][int(row)][self.column]
        if value and value.get("bytes"):
            return value["bytes"]
        raise Unusable("has no picture in its row")


def read(
    hub_id: str, space: LabelSpace, image_column: str = "image", label_column: str = "label", name: str | None = None
) -> Source:
    """List the candidates of a data set on the Hub; it is downloaded if the machine may.

    Args:
        hub_id: such as Woleek/EmoSet-118K, or a folder that `datasets.load_dataset` understands.
        space: the label space of its labels.
        image_column, label_column: its columns.
        name: what the rows' source is called.

    Raises:
        ValueError: if it cannot be loaded, or a column is missing.
    """
    try:
        splits = load_dataset(hub_id)
    except Exception as error:  # the Hub's client raises many kinds
        raise ValueError(
            f"'{hub_id}' cannot be loaded ({type(error).__name__}: {str(error)[:200]}). Check its name and the network "
            "(HF_HUB_OFFLINE must not be 1), or download it and give its folder as --source."
        ) from error
    pools = {}
    for split, rows in splits.items():
        absent = {image_column, label_column} - set(rows.column_names)
        if absent:
            raise ValueError(f"'{hub_id}' has the columns {', '.join(rows.column_names)}, not {', '.join(absent)}.")
        splits[split] = rows.cast_column(image_column, ImageFeature(decode=False))
        feature = rows.features[label_column]
        values = rows[label_column]
        written = [feature.int2str(value) if isinstance(feature, ClassLabel) else str(value) for value in values]
        places = [(f"{split}/{number}", f"{split}/{number}", label) for number, label in enumerate(written)]
        pools[_POOLS.get(split, split)] = labelled(places, space, f"'{hub_id}', split {split}")
    return Source(
        name or hub_id.rsplit("/", 1)[-1].lower(), space, pools, HubPictures(splits, image_column),
        {"train": 2000, "test": 2000},
    )  # fmt: skip
