"""Images of one's own, without labels: which there are, how large the model sees them, and from what it chooses."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import yaml
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from emor3_trl.data import load_split
from emor3_trl.data.pictures import Budget, prepare_image
from emor3_trl.data.sources.candidates import FolderImages, Unusable
from emor3_trl.data.sources.folder_names import is_image_name
from emor3_trl.data.sources.label_space import read_label_space
from emor3_trl.data.sources.paths import walk_files
from emor3_trl.emotions import LabelSpace
from emor3_trl.evaluation.label_probabilities import MAX_LABELS
from emor3_trl.files import read_mapping
from emor3_trl.printing import escape_controls
from emor3_trl.prompts import PromptStyle, prompt_text

_WRITTEN_AT_ONCE = 16
_PHOTO = Features(
    {
        "id": Value("string"),
        "image": ImageFeature(),
        "emotion": Value("string"),
        "label_space": List(Value("string")),
        "prompt": List({"role": Value("string"), "content": Value("string")}),
    }
)
SIZES_READ = 32  # training images whose sizes are looked at
LONGEST_LABEL = 40  # characters of a label that a person writes
_LABEL = re.compile(rf"\w[\w '’&/-]{{0,{LONGEST_LABEL - 1}}}")


@dataclass(kw_only=True)
class AskingArguments:
    """Which model, and how it is asked about an image."""

    model: str = field(metadata={"help": "A checkpoint, a LoRA adapter or a Hub name."})
    label_space: str | None = field(
        default=None,
        metadata={
            "help": "The emotions to choose from: emoset_8, emotion6, webemo_7, a YAML file with labels, or the labels "
            "themselves: joy,anger,awe (default: those that the model was trained on, where its data are there)."
        },
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model under a LoRA adapter, if it is not where training found it."}
    )
    prompt_style: Literal["set", "think", "direct"] = field(
        default="set",
        metadata={"help": "'set': Structured Emotional Thinking. 'think': plain thinking. 'direct': the answer only."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Compute type. 'auto': bfloat16 on a GPU, float32 on a CPU."}
    )
    max_tokens: int | None = field(
        default=None, metadata={"help": "Longest completion in tokens (default: what fits, at most 2,048)."}
    )
    min_pixels: int | None = field(
        default=None, metadata={"help": "Smallest image (default: as in the model's training, else 262,144)."}
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "Largest image (default: as in the model's training, else 1,048,576)."}
    )

    def __post_init__(self) -> None:
        for name in ("max_tokens", "min_pixels", "max_pixels"):
            _check_positive(name, getattr(self, name))


@dataclass(kw_only=True)
class PhotoArguments(AskingArguments):
    """Which images, which model, and how it is asked."""

    images: list[str] = field(metadata={"help": "Images, or folders of them; they may stand before all options."})
    output_dir: str = field(default="runs/predictions", metadata={"help": "Where predictions are written."})
    engine: Literal["auto", "vllm", "transformers"] = field(
        default="auto", metadata={"help": "What generates. 'auto': vLLM if it is installed, else Transformers."}
    )
    batch_size: int = field(default=64, metadata={"help": "Images per call of the engine."})
    reflect: bool = field(default=True, metadata={"help": "Ask the model about its own steps."})
    overwrite: bool = field(default=False, metadata={"help": "Predict again what is finished."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("batch_size", self.batch_size)


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}. Expected 1 or more.")


def list_images(places: Sequence[str]) -> list[str]:
    """Return the image files that are named, and those below the folders that are named, each once.

    Raises:
        FileNotFoundError: if one is not there.
        ValueError: if a folder holds no image.
    """
    missing = [place for place in places if not Path(place).exists()]
    if missing:
        raise FileNotFoundError(
            f"There is no {', '.join(map(repr, missing[:3]))}. Expected images, or folders of them."
        )
    files: dict[str, str] = {}  # as they are named, by their real path
    for place in places:
        if Path(place).is_dir():
            found = [str(Path(place, name)) for name in walk_files(Path(place)) if is_image_name(name)]
            if not found:
                raise ValueError(f"The folder '{place}' holds no image. Expected .jpg, .png and the like in it.")
        else:
            found = [place]
        for file in found:
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def find_training_data(model: str) -> Dataset | None:
    """Return a few rows that a model was trained on, if its run's configuration and the data are there."""
    for folder in (Path(model), Path(model).parent):
        if (folder / "config.yaml").is_file():
            config = read_mapping(folder / "config.yaml", "Name the emotions with --label_space.")
            try:
                return load_split(config["data"], config.get("train_split", "train"), max_samples=SIZES_READ)
            except (KeyError, TypeError, OSError, ValueError, yaml.YAMLError):
                return None
    return None


def choose_label_space(args: AskingArguments, training: Dataset | None) -> LabelSpace:
    """Return the emotions that the model chooses from.

    Raises:
        ValueError: if the user names none and the training data does not tell.
    """
    if args.label_space is None:
        if training is None:
            raise ValueError(
                f"label_space is not set, and the data that '{args.model}' was trained on is not here. Set "
                "--label_space to emoset_8, emotion6, webemo_7, a YAML file, or the labels, as in joy,anger,awe."
            )
        return LabelSpace.of(training[0]["label_space"])
    if "," in args.label_space and not args.label_space.endswith((".yaml", ".yml")):
        return read_labels(args.label_space)
    return read_label_space(args.label_space)[0]


def read_labels(text: str) -> LabelSpace:
    """Return the label space that a person writes as joy, anger, awe.

    Raises:
        ValueError: if that makes no label space, or a label holds what no word has: a prompt's control tokens, say.
    """
    labels = tuple(label.strip() for label in re.split(r"[,;\n]", text) if label.strip())
    strange = next((label for label in labels if not _is_word(label)), None)
    if strange is not None:
        raise ValueError(
            f"The label '{strange[:60]}' is not a word or a few words of at most {LONGEST_LABEL} letters. Expected "
            "labels as in joy, anger, awe."
        )
    if len(labels) > MAX_LABELS:
        raise ValueError(f"There are {len(labels)} labels. Expected {MAX_LABELS} at most.")
    return LabelSpace("named", labels)


def _is_word(label: str) -> bool:
    """Return whether a label is a word or a few; in many scripts, marks that are no letters belong to a word."""
    letters = "".join(character for character in label if not unicodedata.category(character).startswith("M"))
    return len(label) <= LONGEST_LABEL and _LABEL.fullmatch(letters) is not None


def choose_budget(args: AskingArguments, training: Dataset | None, token_side: int) -> Budget:
    """Return how large images are shown: as large as those of the training, unless the user says otherwise.

    Args:
        args: the user's bounds.
        training: the rows that the model was trained on; None where they are not known.
        token_side: of the model's family, so that the model does not resize again.

    Raises:
        ValueError: if the bounds exclude each other.
    """
    areas = [image.width * image.height for image in training["image"]] if training is not None else []
    low = args.min_pixels or min(areas, default=Budget.min_pixels)
    high = args.max_pixels or max(areas, default=Budget.max_pixels)
    if args.min_pixels is None or args.max_pixels is None:  # the bound that the user sets moves the other one
        low, high = (low, max(low, high)) if args.max_pixels is None else (min(low, high), high)
    smallest = token_side**2
    if not smallest <= low <= high:
        raise ValueError(f"min_pixels is {low} and max_pixels {high}. Expected {smallest} <= min_pixels <= max_pixels.")
    return Budget(low, high, token_side)


def read_photos(
    files: Sequence[str], space: LabelSpace, budget: Budget, prompt_style: PromptStyle
) -> tuple[Dataset, dict[str, str]]:
    """Read images as preparation does; they lie in a temporary file, of which memory holds what is looked at.

    Args:
        files: the images.
        space: the emotions to choose from.
        budget: how large the images are shown.
        prompt_style: how the model is asked.

    Returns:
        Rows as `predict_emotions` takes them, without a true emotion; and why the other images cannot be used, by file,
        whose name is written without control characters.
    """

    def read_photo(file: str) -> bytes | Unusable:
        if not _is_text(file):
            return Unusable("has a name that is not UTF-8: rename it")
        try:
            content = FolderImages(Path(file).resolve().parent).read_image(str(Path(file).resolve()))
            return prepare_image(content, budget).data
        except Unusable as reason:
            return reason

    prompt = [{"role": "user", "content": prompt_text(prompt_style, space.labels)}]
    asked = {"emotion": "", "label_space": list(space.labels), "prompt": prompt}
    faults: dict[str, str] = {}
    with TemporaryDirectory(prefix="emor3-photos-") as scratch, ThreadPoolExecutor() as threads:
        place = str(Path(scratch, "photos.arrow"))
        contents = threads.map(read_photo, files)
        bar = tqdm(contents, total=len(files), desc="reading", unit="picture", leave=False, disable=len(files) == 1)
        with ArrowWriter(path=place, features=_PHOTO, writer_batch_size=_WRITTEN_AT_ONCE) as writer:
            for file, content in zip(files, bar, strict=True):
                if isinstance(content, bytes):
                    writer.write({"id": file, "image": {"bytes": content, "path": None}, **asked})
                else:
                    faults[escape_controls(file)] = str(content)
            writer.finalize()
        return Dataset.from_file(place), faults  # it is mapped: the name may go, the data stay until nobody looks


def _is_text(name: str) -> bool:
    """Return whether a file's name can be written anywhere: the system allows bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest_photos(photos: Dataset) -> str:
    """Return what identifies the images of `read_photos`: a file may hold another image under the same name."""
    digest = hashlib.sha256()
    for image in photos.cast_column("image", ImageFeature(decode=False))["image"]:
        digest.update(hashlib.sha256(image["bytes"]).digest())
    return digest.hexdigest()


def count_answers(answers: Sequence[str | None]) -> str:
    """Return how often each answer occurs, the most frequent first, as in "awe 3, joy 1, none 1"."""
    return ", ".join(f"{answer or 'none'} {count}" for answer, count in Counter(answers).most_common())
