"""The options of `recipes/prepare_data.py`."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from emor3_trl.data.pictures import Budget
from emor3_trl.data.sampling import Sampling
from emor3_trl.data.sources.candidates import Source
from emor3_trl.data.sources.split_names import Reading

DEMO_DIR = "runs/demo"
DOWNLOADS = ("emoset", "emotion6", "webemo", "own")
# The data sets that an option is for. An option that is not listed is for all that are downloaded.
_DATASETS_OF = {
    **dict.fromkeys(("dataset", "output_dir", "seed"), ("demo", *DOWNLOADS)),
    **dict.fromkeys(("hub_id", "image_column", "emotion_column"), ("emoset", "own")),
    **dict.fromkeys(("label_space", "split_column", "train_split", "test_split"), ("own",)),
    "label_from": ("emotion6",),
}


@dataclass
class PreparationArguments:
    """A preparation: which data set, from where, how much of it, and at which size."""

    dataset: Literal["demo", "emoset", "emotion6", "webemo", "own"] = field(
        default="demo", metadata={"help": "'demo' draws and teaches the demo; the others read what you downloaded."}
    )
    source: str | None = field(
        default=None,
        metadata={
            "help": "The downloaded folder; for 'own' a folder of folders, or a .csv, .json, .jsonl or .parquet."
        },
    )
    hub_id: str | None = field(
        default=None, metadata={"help": "Instead of source: a data set on the Hub, e.g. Woleek/EmoSet-118K."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": f"Where it is written (default: {DEMO_DIR}, or data/<dataset>)."}
    )
    train: int | None = field(
        default=None, metadata={"help": "Pictures for training (paper: 2,000; Emotion6: the rest). 0 for none."}
    )
    test: int | None = field(
        default=None, metadata={"help": "Pictures for testing (paper: 2,000; Emotion6: 594; own: a fifth). 0 for none."}
    )
    sampling: Literal["stratified", "natural"] = field(
        default="stratified",
        metadata={
            "help": "'stratified': equally many of each emotion. 'natural': as often as they occur, as the reference's "
            "2,100 of EmoSet do (the paper does not say)."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the draw (of the demo: of pictures and base model)."})
    min_pixels: int = field(default=Budget.min_pixels, metadata={"help": "Smallest picture (reference: 262,144)."})
    max_pixels: int = field(
        default=Budget.max_pixels,
        metadata={"help": "Largest picture; the default keeps prompts within 2,048 tokens (reference: 4,194,304)."},
    )
    label_from: Literal["folder", "votes", "folder_and_votes"] = field(
        default="folder",
        metadata={
            "help": "Emotion6: the folder is the label, or what most people said. folder_and_votes: the folder, with "
            "people's votes beside it."
        },
    )
    label_space: str | None = field(
        default=None,
        metadata={"help": "Own pictures: emoset_8, emotion6, webemo_7, or a YAML file with name, labels and map."},
    )
    image_column: str = field(default="image", metadata={"help": "Column of a table, or of a data set on the Hub."})
    emotion_column: str | None = field(
        default=None,
        metadata={
            "help": "The same (default: 'emotion' of a table, 'label' of a data set on the Hub). Several, joined by "
            "commas, count people's votes."
        },
    )
    split_column: str | None = field(
        default=None,
        metadata={"help": "Own: column of the split, or 'none' (default: one that holds names of splits)."},
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Own: the split that train is drawn from, where it is not called so."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Own: the split that test is drawn from, e.g. val."})
    image_folder: str | None = field(
        default=None,
        metadata={
            "help": "A folder that images may lie in, besides source: a table's paths may start there, and links may "
            "lead there. Nothing else is opened."
        },
    )
    multiple_of: int = field(
        default=Budget.multiple_of,
        metadata={"help": "Sides are multiples of it, so that no model resizes again: Qwen2.5-VL 28, Qwen3-VL 32."},
    )
    workers: int | None = field(default=None, metadata={"help": "Threads (default: all cores)."})
    overwrite: bool = field(default=False, metadata={"help": "Prepare again what is there."})

    def __post_init__(self) -> None:
        demo = self.dataset == "demo"
        self.output_dir = self.output_dir or (DEMO_DIR if demo else f"data/{self.dataset}")
        for option in fields(self):
            datasets = _DATASETS_OF.get(option.name, DOWNLOADS)
            if self.dataset not in datasets and getattr(self, option.name) != option.default:
                raise ValueError(
                    f"{option.name} is set, but dataset is '{self.dataset}', which has no use for it. "
                    f"It goes with --dataset {' or '.join(datasets)}."
                )
        if not demo and bool(self.source) == bool(self.hub_id):
            needed = "--source, the folder that you downloaded"
            needed = f"either {needed}, or --hub_id" if self.dataset in _DATASETS_OF["hub_id"] else needed
            raise ValueError(f"dataset '{self.dataset}' needs {needed}.")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}. Expected 1 or more.")
        if not 28 * 28 <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}. Expected 784 (one image token) <= "
                "min_pixels <= max_pixels."
            )
        if self.multiple_of < 1 or self.multiple_of**2 > self.max_pixels:
            raise ValueError(
                f"multiple_of is {self.multiple_of} and max_pixels {self.max_pixels}. Expected 1 or more, and a "
                "square of that side within max_pixels."
            )
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"image_folder is '{self.image_folder}', which is no folder.")
        self._check_output_dir()
        self.build_sampling()

    def _check_output_dir(self) -> None:
        """Raise if the written images would be listed as the user's own the next time."""
        source, output_dir = Path(self.source or "").resolve(), Path(self.output_dir or "").resolve()
        if self.dataset == "own" and self.source and source.is_dir() and output_dir.is_relative_to(source):
            raise ValueError(
                f"output_dir '{self.output_dir}' lies in source '{self.source}', whose pictures are read. Choose an "
                "--output_dir beside it."
            )

    def build_sampling(self) -> Sampling:
        """Return how much is drawn, and how."""
        return Sampling(self.train, self.test, self.sampling, self.seed)

    def build_budget(self) -> Budget:
        """Return the size of stored pictures."""
        return Budget(self.min_pixels, self.max_pixels, self.multiple_of)

    def build_reading(self) -> Reading:
        """Return what the user says about their own data."""
        return Reading(
            self.image_column,
            self.emotion_column,
            self.split_column,
            self.train_split,
            self.test_split,
            Path(self.image_folder) if self.image_folder else None,
        )

    def describe_origin(self) -> dict[str, Any]:
        """Return what else decides the result. It stands in the manifest."""
        described: dict[str, Any] = {
            "from": self.hub_id or str(Path(self.source or "")),
            "label_from": self.label_from,
            "labels_from": self.label_space,
            "columns": [self.image_column, self.emotion_column],
        }
        # What was not set stands in no manifest, so that data that an older version prepared count as prepared
        options = ("split_column", "train_split", "test_split", "image_folder")
        return described | {name: getattr(self, name) for name in options if getattr(self, name) is not None}


def open_source(args: PreparationArguments) -> Source:
    """List the candidates of a data set.

    Raises:
        FileNotFoundError: if a file of the download is missing.
        ValueError: if one cannot be read, or a label is outside the label space.
    """
    from emor3_trl.data.sources import emoset, emotion6, hub, own, webemo
    from emor3_trl.data.sources.label_space import read_label_space
    from emor3_trl.emotions import EMOSET_8

    reading = args.build_reading()
    if args.hub_id:
        if args.dataset == "emoset":
            return hub.list_candidates(args.hub_id, EMOSET_8, reading, "emoset", emoset.SIZES)
        if args.label_space is None:
            raise ValueError(
                "hub_id of your own data needs --label_space: emoset_8, emotion6, webemo_7 or a YAML file."
            )
        space, spelled = read_label_space(args.label_space)
        return hub.list_candidates(args.hub_id, space, reading, spelled=spelled)
    assert args.source is not None
    if args.dataset == "emoset":
        return emoset.list_candidates(args.source, reading.image_folder)
    if args.dataset == "emotion6":
        return emotion6.list_candidates(args.source, args.label_from, reading.image_folder)
    if args.dataset == "webemo":
        return webemo.list_candidates(args.source, reading.image_folder)
    return own.list_candidates(args.source, args.label_space, reading)
